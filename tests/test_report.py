"""Reports of synthetic runs: numbers, words, figures and files."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import UserError, figures, report, results
from mnist_jax.data import Dataset

ROOT = Path(__file__).parent.parent
L2S = (1e-3, 7.5e-4, 1e-6)


def make_run(path, l2=L2S, learning_rate=(0.1,), momentum=(0.0,), seeds=3, epochs=6, **options):
    """Writes the files of a run with made-up numbers; `diverging` names trials that end in NaN."""
    validation, diverging = options.get("validation", False), options.get("diverging", [])
    points = [(r, m, w) for r in learning_rate for m in momentum for w in l2 for _ in range(seeds)]
    rates, momenta, penalties = map(np.array, zip(*points, strict=True))
    trials = {"seed": np.arange(len(points)) % seeds, "l2": penalties}
    trials |= {"learning_rate": rates, "momentum": momenta}
    path.mkdir()
    config = {"name": options.get("name", "made_up"), "num_epochs": epochs, "hidden_sizes": [8]}
    results.write_config(path, config)
    generator = np.random.default_rng(0)

    def made_up():
        for epoch in range(epochs):
            metrics = {}
            for split in ("train", "test", *["validation"] * validation):
                noise = generator.random(len(points))
                metrics[f"{split}_loss"] = 0.1 + 0.1 * noise / (epoch + 1)
                metrics[f"{split}_accuracy"] = 0.98 - 0.4 * 0.4**epoch - 0.01 * noise
                if split != "train":
                    metrics[f"{split}_objective"] = metrics[f"{split}_loss"] + 100 * penalties
            if epoch == epochs - 1:
                for values in metrics.values():
                    values[diverging] = math.nan
            yield metrics

    rows = results.record(path, results.trial_rows(trials, "digits"), made_up())
    none, some = np.zeros(0), np.zeros(5 if validation else 0)
    arrays = [none, none, some, some, none, none]
    dataset = Dataset("digits", *arrays, tuple("0123456789"), "sha256:<made & up>", "made up")
    seconds = {"load": 1.0, "compile": 2.0, "train": 3.0, "total": 6.0}
    made = results.provenance() | {"devices": {"platform": "cpu"}, "seconds": seconds}
    results.write_summary(path, rows, dataset, made)
    return results.read_run(path)


def cells(run):
    table = report.results_table(run)
    names = [f"{group} {name}".strip() for group, name in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


class Balanced(HTMLParser):
    """Fails on tags that do not nest; collects attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("validation", [False, True])
def test_table_equals_what_the_rows_give(tmp_path, validation):
    run = make_run(tmp_path / "run", validation=validation)
    text = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    chooser = "validation" if validation else "test"
    words = "chosen-epoch" if validation else "best-epoch"
    shown = cells(run)
    assert [row["l2"] for row in shown] == ["0.001", "0.00075", "1e-06"]
    for l2, row in zip(L2S, shown, strict=True):
        accuracies, last = [], []
        for seed in range(3):
            trial = [line for line in lines if (line["l2"], line["seed"]) == (l2, seed)]
            best = max(trial, key=lambda line: line[f"{chooser}_accuracy"])
            accuracies.append(100 * best["test_accuracy"])
            last.append(trial[-1])
        assert row["trials"] == "3"
        assert row[f"{words} test accuracy % mean"] == f"{np.mean(accuracies):.2f}"
        assert row[f"{words} test accuracy % std (ddof=0)"] == f"{np.std(accuracies):.2f}"
        highest = row[f"{words} test accuracy % {'max' if validation else 'best'}"]
        assert highest == f"{max(accuracies):.2f}"
        final = [100 * line["test_accuracy"] for line in last]
        assert row["last-epoch test accuracy % mean"] == f"{np.mean(final):.2f}"
        assert row["last-epoch test accuracy % std (ddof=0)"] == f"{np.std(final):.2f}"
        for name in ("loss", "objective"):
            mean = np.mean([line[f"test_{name}"] for line in last])
            assert row[f"last-epoch test {name}"] == f"{mean:.4f}"


def test_returned_text_names_run_best_trial_and_files(tmp_path):
    run = make_run(tmp_path / "run")
    text = report.write_report(tmp_path / "run")
    assert text.startswith("made_up on digits: epoch chosen on the test set; ")
    assert "3 grid points, 9 trials, 6 epochs" in text
    best = max(run.results, key=lambda row: row["best_test_accuracy"])
    assert f"Best trial: {best['trial']} (seed {best['seed']}, l2 {best['l2']:g}, " in text
    assert f"{100 * best['best_test_accuracy']:.2f} % test accuracy at epoch" in text
    files = [Path(line.strip()) for line in text.split("Written:\n")[1].splitlines()]
    names = [str(file.relative_to(tmp_path / "run")) for file in files]
    figures = [f"figures/accuracy_{x}.{k}" for x in ("curves", "vs_l2") for k in ("png", "svg")]
    assert names == ["report.html", "report.md", *figures]
    assert all(file.stat().st_size > 500 for file in files)
    assert not list((tmp_path / "run").rglob(".*"))  # no temporary file is left


@pytest.mark.parametrize("validation", [False, True])
def test_every_place_says_the_protocol_of_the_run(tmp_path, validation):
    run = make_run(tmp_path / "run", validation=validation)
    page = report.to_markdown("", report.make_sections(run, []))
    drawn = [figures.draw_curves(run), figures.draw_axis(run, "l2")]
    places = [report.headline(run), page, *(caption for _, caption in drawn)]
    places += [figure.get_suptitle() for figure, _ in drawn]
    right = "chosen on validation images" if validation else "chosen on the test set"
    wrong = "chosen on the test set" if validation else "validation"
    for place in places:
        assert right in place
        assert wrong not in place
    assert ("biased upwards" in page) is not validation
    assert ("best-epoch" in page) is not validation


def test_validation_chooses_the_grid_point_and_the_test_set_does_not(tmp_path):
    run = make_run(tmp_path / "run", validation=True)
    for i, point in enumerate(run.summary["grid"]):
        point["statistics"]["best_validation_accuracy"]["mean"] = 0.9 - i / 10
        point["statistics"]["test_accuracy_at_best_validation"]["mean"] = 0.5 + i / 10
    assert "Best of 3 grid points: l2 0.001, mean 50.00 % chosen-epoch" in report.verdict(run)


@pytest.mark.parametrize(
    ("gaps", "said"),
    [  # less of the best point's accuracy; its seeds scatter by 0.01, the gaps by 0.001 (n = 3)
        ((0.0, 0.001, 0.0015), "includes 0 for every other point: they cannot be told apart."),
        ((0.0, 0.001, 0.02), "It cannot be told apart from l2 0.00075: the 95 % interval"),
        ((0.0, 0.005, 0.02), "It differs from every other point: the 95 % interval"),
    ],
)
def test_verdict_compares_points_seed_by_seed(tmp_path, gaps, said):
    run = make_run(tmp_path / "run")
    for point, gap in zip(run.summary["grid"], gaps, strict=True):
        trials = results.trials_of(run, point)
        for i, row in enumerate(trials):
            row["best_test_accuracy"] = 0.97 + 0.01 * i - gap + 0.001 * (i == 1) * (gap > 0)
        point["statistics"]["best_test_accuracy"] |= {"mean": 0.98 - gap, "std_ddof0": 0.0101}
    assert said in report.verdict(run)
    assert "standard deviation 1.01 points (population, ddof=0), n = 3 seeds" in report.verdict(run)


def test_single_trial_has_no_spread(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), seeds=1, epochs=1)
    report.write_report(run.workdir)
    [row] = cells(run)
    assert row["l2"] == "0"
    assert row["best-epoch test accuracy % std (ddof=0)"] == "—"
    accuracy = f"{100 * run.results[0]['best_test_accuracy']:.2f} %"
    assert report.verdict(run).startswith(f"{accuracy} best-epoch test accuracy")
    assert "deviation" not in report.verdict(run)
    assert len(list((run.workdir / "figures").iterdir())) == 2


def test_one_trial_a_point_says_that_the_noise_is_unknown(tmp_path):
    run = make_run(tmp_path / "run", seeds=1)
    assert "the scatter between seeds is unknown" in report.verdict(run)


def test_diverged_trials_are_shown_as_such(tmp_path):
    run = make_run(tmp_path / "run", diverging=[1])
    assert run.metrics[-8]["test_loss"] is None
    first, second, _ = cells(run)
    assert first["trials"] == "3 (1 diverged)"
    assert first["last-epoch test loss"] == first["last-epoch test accuracy % mean"] == "diverged"
    assert "diverged" not in second.values()
    assert report.verdict(run).endswith("Of 9 trials, 1 diverged.")
    page = report.to_html("", report.make_sections(run, []))
    assert not re.search(r"\b(nan|None|inf)\b", page)
    figure, _ = figures.draw_curves(run)
    assert "1 of 3" in figure.axes[0].get_title()


def test_run_in_which_everything_diverged_at_once(tmp_path):
    run = make_run(tmp_path / "run", diverging=range(9), epochs=1)
    report.write_report(run.workdir)
    assert "No grid point has a finite mean" in report.verdict(run)


def test_page_is_balanced_escaped_and_self_contained(tmp_path):
    run = make_run(tmp_path / "run", name="<b>&'x'")
    report.write_report(run.workdir)
    page = (run.workdir / "report.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert "http" not in page
    assert "<script" not in page
    sources = [value for _, name, value in parser.attributes if name in ("src", "href")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    text = " ".join(parser.text)
    assert "<b>&'x' on digits" in text
    assert "sha256:<made & up>" in text
    assert "epoch chosen on the test set" in text


def test_markdown_escapes_and_links_the_pictures(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), name="a|b<c>")
    report.write_report(run.workdir)
    page = (run.workdir / "report.md").read_text(encoding="utf-8")
    assert page.startswith(r"# a\|b\<c\> on digits")
    for link in re.findall(r"\]\((.*?)\)", page):
        assert (run.workdir / link).exists()
    header, rule, *rows = [line for line in page.splitlines() if line.startswith("|")][:3]
    assert header.count("|") == rule.count("|") == rows[0].count("|")


def test_same_run_gives_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run")

    def written():
        report.write_report(run.workdir)
        files = [*run.workdir.glob("report.*"), *run.workdir.glob("figures/*")]
        return {file.name: file.read_bytes() for file in files}

    first = written()
    assert {name.rpartition(".")[2] for name in first} == {"md", "html", "png", "svg"}
    assert written() == first
    svg = first["accuracy_curves.svg"].decode()
    assert "<text" in svg
    assert "dc:date" not in svg


def test_users_matplotlib_settings_do_not_reach_the_figures(tmp_path):
    import matplotlib

    run = make_run(tmp_path / "run", l2=(0.0,), epochs=1)
    report.write_report(run.workdir)
    before = (run.workdir / "figures/accuracy_curves.png").read_bytes()
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):
        report.write_report(run.workdir)
        assert matplotlib.rcParams["font.size"] == 20
    assert (run.workdir / "figures/accuracy_curves.png").read_bytes() == before


def test_curves_show_both_splits_of_each_grid_point(tmp_path):
    run = make_run(tmp_path / "run", validation=True)
    figure, caption = figures.draw_curves(run)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == ["l2 0.001", "l2 0.00075", "l2 1e-06"]
    for i, ax in enumerate(panels):
        lines = {line.get_label(): line for line in ax.lines}
        assert set(lines) == {"training accuracy", "validation accuracy", "chosen epochs"}
        metrics = np.array([row["validation_accuracy"] for row in run.metrics]).reshape(6, 3, 3)
        np.testing.assert_allclose(
            lines["validation accuracy"].get_ydata(), 100 * metrics[:, i].mean(1)
        )
        expected = [r["best_validation_epoch"] for r in run.results[3 * i : 3 * i + 3]]
        assert list(lines["chosen epochs"].get_xdata()) == expected
    # The first epoch (0.58) is left out of view, and the caption says so; the later ones are in it.
    low, high = panels[0].get_ylim()
    assert 70 < low < 82
    assert 97 < high < 100
    assert "leaves out lower values" in caption
    assert "means over 3 seeds" in caption


def test_large_grid_shows_best_median_and_worst(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0, 1e-4, 1e-3), learning_rate=(0.1, 0.2, 0.3, 0.4))
    assert len(cells(run)) == 12
    figure, caption = figures.draw_curves(run)
    means = [p["statistics"]["best_test_accuracy"]["mean"] for p in run.summary["grid"]]
    order = [run.summary["grid"][i] for i in np.argsort(means)[::-1]]
    wanted = [results.label(order[i], ("l2", "learning_rate")) for i in (0, 6, 11)]
    assert [ax.get_title() for ax in figure.axes] == wanted
    assert "of 12 grid points the best, the median and the worst" in caption


def test_axis_figure_shows_means_deviations_and_trials(tmp_path):
    run = make_run(tmp_path / "run")
    figure, caption = figures.draw_axis(run, "l2")
    [ax] = figure.axes
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1e-06", "0.00075", "0.001"]
    assert ax.get_xlabel().startswith("l2")
    assert ax.get_ylabel() == "best-epoch test accuracy (%)"
    assert figure.get_suptitle() == (
        "digits: best-epoch test accuracy (epoch chosen on the test set)"
    )
    accuracies = 100 * np.array([row["best_test_accuracy"] for row in run.results])
    by_point = accuracies.reshape(3, 3)[::-1]
    [bars] = ax.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata(), by_point.mean(1))
    spans = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    means, stds = by_point.mean(1), by_point.std(1)
    np.testing.assert_allclose(spans, np.stack([means - stds, means + stds], 1))
    [points] = [line for line in ax.lines if line.get_marker() == "."]
    np.testing.assert_allclose(points.get_ydata(), by_point.ravel())
    low, high = ax.get_ylim()
    assert low < np.min(spans)
    assert high > np.max(spans)
    assert "population, ddof=0" in caption


def test_error_bars_longer_than_the_trials_range_are_in_view(tmp_path):
    run = make_run(tmp_path / "run")
    for row in run.results:
        row["best_test_accuracy"] = 0.99 if row["seed"] == 2 else 0.97
    run.summary["grid"][:] = results.summarise(run.results)
    figure, _ = figures.draw_axis(run, "l2")
    values = 100 * np.array([0.97, 0.97, 0.99])
    assert figure.axes[0].get_ylim()[0] < values.mean() - values.std() < 97


def test_zero_has_a_place_on_the_axis(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0, 1e-4, 1e-3))
    figure, _ = figures.draw_axis(run, "l2")
    [ax] = figure.axes
    figure.draw_without_rendering()
    assert ax.get_xscale() == "symlog"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.0001", "0.001"]
    places = ax.transAxes.inverted().transform(
        ax.transData.transform([(x, 97) for x in (0, 1e-4, 1e-3)])
    )[:, 0]
    assert places[0] > 0
    assert places[-1] < 1
    assert np.diff(places).min() > 0.15


def test_other_axes_become_lines(tmp_path):
    run = make_run(tmp_path / "run", learning_rate=(0.1, 0.2), momentum=(0.0, 0.9), seeds=1)
    report.write_report(run.workdir)
    names = {path.stem for path in (run.workdir / "figures").iterdir()}
    assert names == {"accuracy_curves", *(f"accuracy_vs_{a}" for a in results.GRID_AXES)}
    figure, caption = figures.draw_axis(run, "momentum")
    assert figure.axes[0].get_xscale() == "linear"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    wanted = [f"l2 {w}, learning rate {r}" for w in (1e-6, 0.00075, 0.001) for r in (0.1, 0.2)]
    assert labels == wanted
    assert "combinations" not in caption


def test_only_the_best_lines_of_many_are_drawn(tmp_path):
    run = make_run(tmp_path / "run", l2=np.arange(8) * 1e-3, learning_rate=(0.1, 0.2), seeds=1)
    figure, caption = figures.draw_axis(run, "learning_rate")
    assert len(figure.axes[0].containers) == 6
    assert "Of 8 combinations, the 6 with the best points are drawn." in caption
    best = results.ranked(run)[0]["l2"]
    assert f"l2 {best:g}" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_unwritable_place_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), epochs=1)
    (run.workdir / "figures").write_text("in the way")
    with pytest.raises(UserError, match=r"figures.* cannot be written") as error:
        report.write_report(run.workdir)
    assert "\n" not in str(error.value)


def command(*arguments):
    call = [sys.executable, "-m", "mnist_jax.report", *map(str, arguments)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bad_directory_is_one_line_and_status_2(tmp_path):
    for arguments, said in (
        ([tmp_path / "nothing"], "nothing holds no finished run"),
        ([], "0 arguments: expected one"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(r"error: .*\n", done.stderr)
        assert said in done.stderr


WATCH = """
import runpy, sys
sys.modules["jax"] = None  # an import raises
{extra}
sys.argv = ["report", {argument!r}]
try:
    runpy.run_module("mnist_jax.report", run_name="__main__", alter_sys=True)
except SystemExit as end:
    sys.exit(end.code)
"""


@pytest.mark.parametrize("extra", ["sys.modules['matplotlib'] = None", ""])
def test_help_is_light_and_a_report_needs_no_jax(tmp_path, extra):
    run = make_run(tmp_path / "run", l2=(0.0,), epochs=1)
    argument = "--help" if extra else str(run.workdir)
    code = WATCH.format(extra=extra, argument=argument)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if extra:
        assert "python -m mnist_jax.report DIR" in done.stdout
    else:
        assert done.stdout == report.write_report(run.workdir) + "\n"


def test_fill_in_replaces_what_stands_between_the_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x -->\nold\n<!-- end x -->\nb\n")
    for _ in range(2):
        report.fill_in(path, {"x": report.markdown_table(["h", "n"], [["1", "`2`"]])})
    expected = "| h | n |\n| --- | ---: |\n| 1 | `2` |"
    assert path.read_text() == f"a\n<!-- x -->\n{expected}\n<!-- end x -->\nb\n"
