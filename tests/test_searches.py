"""Reports of searches: lines across all axes, and which axes matter."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from halved import halve
from server import ROOT
from test_figures import drawn
from test_report import OPTIMIZERS, cells, make_run, own_run, page

from mnist_jax.report import importance, one_run
from mnist_jax.report.figures import parallel_coordinates
from mnist_jax.runs.made_files import NAMES

SEARCH = {
    "grid": "halton",
    "learning_rate": (0.01, 1.0),
    "l2": (1e-6, 1e-3),
    "schedule": ("constant", "cosine"),
    "momentum": (0.0, 0.9),
}


def rows_of(figure):
    """Returns the ticks of each axis, by its name: their places and texts."""
    [ax] = figure.axes
    rows, found = {}, [(*text.get_position(), text) for text in ax.texts]
    for _, y, name in [x for x in found if x[2].get_weight() == "bold"]:
        ticks = {text.get_text(): x for x, z, text in found if 0 < z - y < 0.3}
        rows[name.get_text()] = ticks
    return rows


def test_each_point_is_a_line_across_its_axes(tmp_path):
    run = make_run(tmp_path / "run", "validation", diverging=[5], seeds=2, num_points=9, **SEARCH)
    assert "parallel_coordinates" in one_run.figures_of_run(run)
    assert re.fullmatch(NAMES["figures"], "parallel_coordinates.svg")
    figure, caption = parallel_coordinates.draw_lines(run)
    rows = rows_of(drawn(figure))
    assert list(rows) == [
        "learning_rate (log scale)",
        "schedule",
        "momentum (log scale of 1 - momentum)",
        "l2 (log scale)",
        "mean best-epoch validation accuracy (%)",
    ]
    lines = np.array(figure.axes[0].collections[0].get_segments())
    assert lines.shape == (9, 5, 2)
    [black] = [line for line in figure.axes[0].lines if line.get_color() == "black"]
    grid = run.summary["grid"]
    [best] = [point for point in grid if point["point"] == run.summary["chosen_point"]]
    means = [x["statistics"]["best_validation_accuracy"]["mean"] for x in grid if x["point"] != 2]
    assert best["statistics"]["best_validation_accuracy"]["mean"] == max(means)
    np.testing.assert_array_equal(black.get_xydata(), lines[-1])

    def expected(row, value, scale):
        a, b = list(rows[row].items())[::3][:2]
        share = (scale(value) - scale(float(a[0]))) / (scale(float(b[0])) - scale(float(a[0])))
        return a[1] + share * (b[1] - a[1])

    place = expected("learning_rate (log scale)", best["learning_rate"], np.log)
    assert abs(place - lines[-1, 0, 0]) < 1e-6
    place = expected("mean best-epoch validation accuracy (%)", 100 * max(means), float)
    assert abs(place - lines[-1, 4, 0]) < 1e-6
    assert abs(lines[-1, 1, 0] - rows["schedule"][best["schedule"]]) < 0.1
    lost = lines[np.isclose(lines[:, :, 0].min(1), 0)]  # at the end of the last axis
    assert len(lost) == 1
    assert "Triangles at the left end: points below the axis, or with diverged" in caption
    assert "Black: the chosen point" in caption
    assert "Over names, lines are scattered sideways" in caption


def test_lines_pass_an_axis_that_their_points_do_not_have(tmp_path):
    rates = {"learning_rate": (1e-3, 2e-3, 0.1, 0.2, 0.3)}
    run = own_run(tmp_path / "run", grid="halton", **OPTIMIZERS | rates)
    figure, caption = one_run.figures_of_run(run)["parallel_coordinates"]()
    rows = rows_of(drawn(figure))
    names = [name.split(" (")[0] for name in rows]
    lacked = [name for name, row in zip(names, rows.values(), strict=True) if "—" in row]
    assert lacked == ["momentum", "b2"]
    momentum = names.index("momentum")
    segments = figure.axes[0].collections[0].get_segments()
    passing = [line for line in segments if line[momentum, 0] == parallel_coordinates.NONE]
    assert len(passing) == 3
    assert "At —, lines pass an axis that their points do not have." in caption


def test_lines_are_drawn_where_points_or_axes_are_many(tmp_path):
    for i, (options, is_drawn) in enumerate([
        ({"schedule": ("constant", "cosine"), "momentum": (0.0, 0.5)}, False),
        ({"schedule": ("constant", "cosine"), "momentum": (0.0, 0.3, 0.5, 0.9)}, True),
        ({"momentum": tuple(x / 30 for x in range(15))}, False),
        ({"grid": "random", "num_points": 5, "l2": (0.1, 1.0), "momentum": (0.0, 0.9)}, False),
    ]):  # fmt: skip
        run = make_run(tmp_path / str(i), seeds=1, **options)
        assert ("parallel_coordinates" in one_run.figures_of_run(run)) is is_drawn


def test_values_without_room_are_not_marked(tmp_path):
    run = make_run(tmp_path / "run", seeds=1, num_points=9, **SEARCH)
    ticks = rows_of(drawn(one_run.figures_of_run(run)["parallel_coordinates"]()[0]))
    assert list(ticks["learning_rate (log scale)"]) == ["0.03", "0.1", "0.3", "1"]
    assert list(ticks["momentum (log scale of 1 - momentum)"]) == ["0.5", "0.8"]


# --- which axes matter ---


def planted(path, effect, num_points=60, **options):
    """Writes a search whose accuracies are an effect of its points."""
    options = SEARCH | {"num_points": num_points} | options
    drawn = make_run(path / "points", seeds=1, **options).summary["grid"]
    return make_run(path / "run", seeds=1, accuracy=lambda i, _: effect(drawn[i]), **options)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_told_of_noise(tmp_path, seed):
    noise = np.random.default_rng(seed).random(importance.MIN_POINTS)
    run = planted(tmp_path, lambda x: 0.9 + 0.1 * noise[x["point"]], importance.MIN_POINTS)
    [said] = importance.make_blocks(run)
    assert "That is too little to tell which axes matter" in said
    assert not re.search("learning_rate|momentum", said)


def test_planted_axes_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "TREES", 15)  # which takes less time

    def effect(point):
        best = (np.log10(point["learning_rate"]) + 1) ** 2  # at 0.1
        return 0.95 - 0.1 * best - 0.05 * (point["schedule"] == "constant")

    run = planted(tmp_path, effect, diverging=[7])
    method, table, meaning = importance.make_blocks(run)
    assert "which rank a point has by its mean best-epoch test accuracy, given" in method
    assert "4 of 5 parts of the 60 points" in method
    assert int(re.search(r"they explain (\d+) %", method)[1]) > 60
    rows = {row["axis"]: row for row in cells(table)}
    assert next(iter(rows)) == "learning_rate"
    told = {axis: row["told from no effect"] for axis, row in rows.items()}
    assert told == {"learning_rate": "yes", "schedule": "yes", "l2": "no", "momentum": "no"}
    mean, low, high = map(int, re.findall(r"-?\d+", " ".join(list(rows["schedule"].values())[1:3])))
    assert 0 < low <= mean <= high
    assert re.search(r"Nothing can be told of (l2 and momentum|momentum and l2): ", meaning)
    assert "first rung" not in method
    assert "## Which axes matter" in page(run)
    assert importance.make_blocks(run) == [method, table, meaning]
    monkeypatch.setattr(importance, "MAX_POINTS", 50)
    method, *_ = importance.make_blocks(run)
    assert "4 of 5 parts of the 50 of the 60 points, drawn at random, which rank" in method


def test_of_few_points_or_a_list_nothing_is_told(tmp_path):
    few = make_run(tmp_path / "few", seeds=1, num_points=9, **SEARCH)
    assert importance.make_blocks(few) == [
        "This cannot be told from 9 points; it takes 40 or more."
    ]
    one = SEARCH | {"l2": (0.0,), "schedule": ("constant",), "momentum": (0.0,)}
    for name, options in {
        "one axis": one | {"num_points": 9},
        "product": {},
        "list": {
            "grid": "list",
            "momentum": tuple(x / 50 for x in range(40)),
            "l2": tuple(x / 100 for x in range(40)),
        },
    }.items():
        run = make_run(tmp_path / name, seeds=1, **options)
        assert importance.make_blocks(run) == []
        assert "Which axes matter" not in page(run)


def test_an_axis_is_told_if_every_forest_and_the_mean_tell_it():
    losses = np.array([[0.2, 0.2, 0.001], [0.1, 0.0, 0.015]])
    assert importance.Found(0.5, losses).is_told().tolist() == [True, False, False]


def test_ranks_are_by_accuracy_and_those_that_diverged_are_last(tmp_path):
    accuracy = (0.9, 0.8, 0.7, 0.8, 0.95, 0.6)
    run = make_run(
        tmp_path / "run",
        "validation",
        seeds=2,
        diverging=[8],
        l2=tuple(x / 10 for x in range(6)),
    )
    for point, value in zip(run.summary["grid"], accuracy, strict=True):
        point["statistics"]["best_validation_accuracy"]["mean"] = value
    assert importance.ranks(run).tolist() == [6, 4.5, 3, 4.5, 1, 2]


def test_with_halving_ranks_are_those_after_the_first_rung(tmp_path):
    options = SEARCH | {"num_epochs": (9,), "num_points": 12}
    run = halve(make_run(tmp_path / "run", "validation", seeds=2, **options), min_epochs=3)
    at = {(row["trial"], row["epoch"]): row["validation_accuracy"] for row in run.metrics}
    best = [max(at[trial, epoch] for epoch in (1, 2, 3)) for trial in range(24)]
    means = np.reshape(best, (12, 2)).mean(1)
    assert importance.ranks(run).tolist() == (1 + np.argsort(np.argsort(means))).tolist()
    assert "This cannot be told from 12 points" in page(run)


def test_what_a_point_does_not_have_says_nothing_of_it(tmp_path):
    run = own_run(tmp_path / "run", grid="halton", **OPTIMIZERS)
    grid = run.summary["grid"]
    numbers = importance.places(grid, ("optimizer", "momentum", "b2"))
    assert numbers[:, 0].tolist() == [0, 0, 1, 1, 2]
    assert numbers[:2, 1].tolist() == [0.0, 0.9]
    assert set(numbers[2:, 1]) <= {0.0, 0.9}
    assert set(numbers[:, 2]) == {0.99, 0.999}


@pytest.mark.slow
def test_the_environment_stays_as_it_was():
    code = (
        "import os; before = dict(os.environ);"
        "import numpy as np; from mnist_jax.report import importance;"
        "importance.find(np.random.default_rng(0).random((40, 2)), np.arange(40.0));"
        "assert dict(os.environ) == before"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KMP")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
