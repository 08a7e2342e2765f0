"""Reports of runs with halving: what stopped is told everywhere, and compared nowhere."""

import math
import re

import numpy as np
import pytest
from halved import halve
from test_figures import drawn
from test_report import cells, make_run, page, verdict_of
from test_so_far import stop

from mnist_jax.report import (
    halving,
    one_run,
    pairs,
    points,
    reading,
    sections,
    several_runs,
    standing,
    tables,
    terminal,
)
from mnist_jax.report.figures import canvas, parallel_coordinates, search
from mnist_jax.report.figures import halving as halving_figure
from mnist_jax.runs import results
from mnist_jax.runs.made_files import NAMES

SEARCH = {
    "grid": "halton",
    "num_points": 12,
    "learning_rate": (0.01, 1.0),
    "l2": (1e-6, 1e-3),
    "momentum": (0.0, 0.9),
    "num_epochs": (9,),
}


def halved_run(path, protocol="validation", seeds=3, **options):
    return halve(make_run(path, protocol, seeds=seeds, **SEARCH | options))


def by_stop(run):
    found = {}
    for point in run.summary["grid"]:
        found.setdefault(point["stopped_epoch"], []).append(point)
    return found


@pytest.mark.parametrize("protocol", ["validation", "validation_last_epoch"])
def test_what_stopped_is_told_and_not_compared(tmp_path, protocol):
    run = halved_run(tmp_path / "run", protocol, metrics=("confidence",))
    assert {stop: len(x) for stop, x in by_stop(run).items()} == {0: 2, 1: 8, 3: 2}
    assert halving.rungs_of(run) == [(1, 12, 4), (3, 4, 2)]
    said = verdict_of(run)
    assert said.startswith(
        "Of 12 grid points halving stopped 8 after epoch 1 and 2 after epoch 3; they are not"
        " compared with the 2 that were trained to the end. Best of 2 grid points by validation"
    )
    assert "Holm" not in said  # there is one pair
    best = points.compare_best(run)
    assert [point["stopped_epoch"] for point in [best.point, *(x for x, _ in best.others)]] == [
        0,
        0,
    ]
    assert best.point["point"] == run.summary["chosen_point"]
    text = page(run)
    assert "they are not compared with the 2" in text.split("## Figures")[1]
    assert "12 grid points, 36 trials, 9 epochs (halving=3)" in text
    assert "halving stopped are those after the epochs that they were trained" in text
    assert "Trials without a finite number" not in text
    assert tables.lost_metrics(run) == []
    assert f"train, by trial and epoch | {3.0 / (3 * (8 + 2 * 3 + 2 * 9)):.4f} |" in text


def test_tables_show_epochs_and_no_test_accuracy_of_what_stopped(tmp_path):
    run = halved_run(tmp_path / "run", metrics=("confidence",))
    for table in (tables.results_table(run), tables.metrics_table(run)):
        rows = cells(table)
        assert [row["epochs"] for row in rows] == ["9 of 9"] * 2 + ["3 of 9"] * 2 + ["1 of 9"] * 8
        for row in rows:
            test = [x for name, x in row.items() if re.search("test|confidence", name)]
            assert ("—" in test) is (row["epochs"] != "9 of 9")
            assert all("nan" not in x for x in row.values())
    means = [x["best-epoch validation accuracy % mean"] for x in cells(tables.results_table(run))]
    assert "—" not in means
    assert means[2:4] == sorted(means[2:4], reverse=True)
    assert "first" not in terminal.results(run)
    many = halved_run(tmp_path / "many", seeds=1, num_points=30)
    shown = terminal.results(many)
    assert max(map(len, shown.splitlines())) <= 80
    assert "These are the first 20 of 30 grid points" in shown


def test_lines_stop_at_the_rungs(tmp_path):
    run = halved_run(tmp_path / "run")
    assert re.fullmatch(NAMES["figures"], "halving.png")
    figure, caption = one_run.figures_of_run(run)["halving"]()
    [ax] = drawn(figure).axes
    assert [text.get_text() for text in ax.texts] == ["4 of 12\ngo on", "2 of 4\ngo on"]
    assert [text.get_position()[0] for text in ax.texts] == [1, 3]
    lines = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in lines] == [1] * 8 + [3] * 2 + [9] * 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "stopped after epoch 1 (8)",
        "stopped after epoch 3 (2)",
        "trained to the end (2)",
        "chosen",
    ]
    assert lines[-1].get_label() == "chosen"
    at = {(row["trial"], row["epoch"]): row["validation_accuracy"] for row in run.metrics}
    trials = [x["trial"] for x in run.results if x["point"] == run.summary["chosen_point"]]
    so_far = [[max(at[i, e] for e in range(1, n + 1)) for n in range(1, 10)] for i in trials]
    np.testing.assert_allclose(lines[-1].get_ydata(), np.mean(so_far, 0))
    greys = [float(line.get_color()) for line in lines[:10]]
    assert greys[0] > greys[-1]
    assert "what they would have reached is not known" in caption


def test_without_halving_there_are_no_rungs(tmp_path):
    run = make_run(tmp_path / "run", "validation", seeds=1, **SEARCH)
    assert halving.rungs_of(run) == []
    assert standing.compared_words(run) == ""
    assert "halving" not in one_run.figures_of_run(run)
    assert "halving" not in page(run).split("## Config")[0]
    figure, caption = search.draw_search(run)
    assert not figure.legends
    assert "halving" not in caption


def test_where_all_diverged_no_empty_figure_is_drawn(tmp_path):
    run = halved_run(tmp_path / "run")
    for row in run.results:
        row["diverged_epoch"] = 1
    with pytest.raises(canvas.NothingToDrawError, match="all trials diverged"):
        halving_figure.draw_halving(run)


def test_search_has_shades_for_the_rungs(tmp_path):
    last = by_stop(halved_run(tmp_path / "sound"))[0][-1]["point"]
    run = halved_run(tmp_path / "run", diverging=[3 * last])
    figure, caption = search.draw_search(run)
    ax = drawn(figure).axes[0]
    assert ax.get_yscale() == "function"
    shown = {line.get_label(): line for line in ax.lines}
    for epoch, grid in by_stop(run).items():
        words = f"stopped after epoch {epoch}" if epoch else "trained to the end"
        line = shown[f"{words} ({len(grid)})"]
        expected = {
            (x["learning_rate"], x["statistics"]["best_validation_accuracy"]["mean"])
            for x in grid
            if not x["diverged_seeds"]
        }
        assert set(map(tuple, line.get_xydata())) == expected
    assert "can be compared within its shade alone" in caption
    assert "with diverged trials" in caption


def test_lines_of_what_stopped_end_before_the_accuracy(tmp_path):
    run = halved_run(tmp_path / "run")
    figure, caption = parallel_coordinates.draw_lines(run)
    [ax] = figure.axes
    lengths = [len(line) for line in ax.collections[0].get_segments()]
    assert lengths == [3] * 10 + [4] * 2
    [black] = [line for line in ax.lines if line.get_color() == "black"]
    assert len(black.get_xdata()) == 4
    assert "They end before the accuracy" in caption
    # The scale is that of points that were trained to the end.
    ticks = [float(t.get_text()) for t in ax.texts if t.get_position()[1] > 3]
    means = [x["statistics"]["best_validation_accuracy"]["mean"] for x in by_stop(run)[0]]
    assert min(ticks) > 100 * min(means) - 1


def test_every_figure_of_a_product_is_of_what_was_trained_to_the_end(tmp_path):
    axes = {"learning_rate": (0.1, 0.2, 0.3), "l2": (0.0, 1e-3, 1e-2), "num_epochs": (9,)}
    run = halve(make_run(tmp_path / "run", "validation", **axes))
    drawings = one_run.figures_of_run(*reading.with_weights(run))
    assert {"halving", "search", "accuracy_curves", "classes"} <= set(drawings)
    assert "heat_map" not in drawings  # of one point
    for draw in drawings.values():
        drawn(draw()[0])
    figure, _ = drawings["accuracy_curves"]()
    assert len(figure.axes) == len(by_stop(run)[0]) == 1
    [best] = by_stop(run)[0]
    values = f"learning_rate={best['learning_rate']:g}, l2={best['l2']:g}"
    assert f"with the 1 that was trained to the end ({values}). Mean chosen" in verdict_of(run)
    wide = halve(make_run(tmp_path / "wide", "validation_last_epoch", **SEARCH), 2)
    _, caption = one_run.figures_of_run(wide)["accuracy_by_point"]()
    assert f"of {len(by_stop(wide)[0])} grid points that were not stopped" in caption


def test_diverged_trials_of_what_stopped_are_told(tmp_path):
    run = halved_run(tmp_path / "run")
    stopped = by_stop(run)[1][0]
    for row in run.results:
        row["diverged_epoch"] = int(row["point"] == stopped["point"])
    stopped["diverged_seeds"] = [0, 1, 2]
    assert "Of 36 trials, 3 diverged and are left out of means" in verdict_of(run)


def test_where_what_was_trained_to_the_end_diverged_there_is_no_result(tmp_path):
    run = halved_run(tmp_path / "run")
    for row in run.results:
        row["diverged_epoch"] = 0 if row["stopped_epoch"] else 5
    for point in run.summary["grid"]:
        point["diverged_seeds"] = [] if point["stopped_epoch"] else [0, 1, 2]
    said = verdict_of(run)
    assert "Every trial that is compared diverged, so there is no result. Of 36 trials, 6" in said


def test_runs_with_halving_are_told_what_stopped_and_not_to_pool(tmp_path):
    runs = [halved_run(tmp_path / "a"), halved_run(tmp_path / "b", seed=3)]
    several_runs.write_comparison(runs, tmp_path / "c")
    text = (tmp_path / "c/report.md").read_text()
    assert text.count("Of 12 grid points halving stopped 8 after epoch 1 and 2 after epoch 3;") == 2
    assert "give more seeds to one of them, which cannot be pooled" in text


def test_a_run_with_halving_is_compared_by_its_chosen_point(tmp_path):
    runs = [halved_run(tmp_path / "a"), make_run(tmp_path / "b", "validation", l2=(0.0,))]
    named = pairs.name_points(pairs.name_runs(runs))
    assert [named[0].point["point"], len(named)] == [runs[0].summary["chosen_point"], 2]
    [pair] = pairs.compare_pairs(named)
    assert math.isfinite(pair.test["difference"])
    said = " ".join(several_runs.write_verdict(runs, named, [pair]))
    assert "did not learn" not in said
    [chosen_of, _] = [row["chosen of"] for row in cells(tables.runs_table(named))]
    assert chosen_of == "12 points"


def stopped_at(path, epoch):
    """Makes a run one that was stopped after an epoch, when halving had stopped some points."""
    whole = halved_run(path)
    table = (path / "results.csv").read_text().splitlines(keepends=True)
    stops = {row["trial"]: row["stopped_epoch"] for row in whole.results}
    stop(path, lambda trial: stops[trial] or epoch)
    rows = [line for line in table[1:] if stops[int(line.split(",")[0])]]
    (path / "results.csv").write_text("".join([table[0], *rows]))
    return results.read_so_far(path)


def test_a_run_that_is_not_finished_says_what_halving_has_stopped(tmp_path):
    run = stopped_at(tmp_path / "run", 5)
    said = standing.standing(run)
    assert "36 trials: 30 stopped by halving, 6 after epoch 5 of 9" in said
    assert "12 grid points, 36 trials, 9 epochs (halving=3)" in sections.headline(run)
    assert verdict_of(run).startswith("Only the 2 of 12 grid points that are after epoch 5")
    drawings = one_run.figures_of_run(run)
    assert {"halving", "search", "parallel_coordinates"} < set(drawings)
    for name in ("halving", "search"):
        figure, _ = drawings[name]()
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "still in (2)" in names
    figure, _ = halving_figure.draw_halving(run)
    assert figure.axes[0].get_xlim()[1] < 9
    one_run.write_report(tmp_path / "run")


def test_what_stopped_at_a_rung_is_told_from_what_is_there_still(tmp_path):
    run = stopped_at(tmp_path / "run", 3)
    figure, _ = one_run.figures_of_run(run)["parallel_coordinates"]()
    grid, segments = run.summary["grid"], figure.axes[0].collections[0].get_segments()
    still = [point["momentum"] for point in grid if not point["stopped_epoch"]]
    assert [len(line) for line in segments] == [3] * 10 + [4] * 2
    momenta = sorted(point["momentum"] for point in grid)
    places = np.argsort(np.argsort([line[1, 0] for line in segments]))
    assert sorted(places[10:]) == sorted(map(momenta.index, still))
