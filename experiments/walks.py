"""What studies of recipes share: a search's best points, a winner's score, and what led to it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import studies
from matplotlib.figure import Figure

from mnist_jax import stats
from mnist_jax.report.figures import canvas
from mnist_jax.report.formatting import interval, percent, signed
from mnist_jax.report.render import markdown_table
from mnist_jax.runs import choosing, labels, results
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run

TEST_IMAGES = stats.Scale(step=1 / 10_000, low=0.0, high=1.0)
BySeed = dict[int, float]
"""Test accuracy after the last epoch, by seed."""


def show_recipe(point: Row, axes: Sequence[str]) -> list[str]:
    """Returns the cells of a grid point's values; one that its optimizer does not take is blank."""
    return [labels.shown(point[axis]) if point.get(axis) is not None else "" for axis in axes]


def rank(run: Run, axes: Sequence[str], most: int) -> str:
    """Lists the best points of a search, by their accuracy on validation images."""
    ended = [point for point in run.summary["grid"] if not point.get("stopped_epoch")]
    rows = []
    for point in choosing.ranked(ended, results.protocol(run).criterion)[:most]:
        found = point["statistics"]["validation_accuracy"]
        accuracy = percent(found["mean"])
        if found["n"] > 1:
            accuracy += f" ± {percent(found['std_ddof1'])}"
        rows.append([*show_recipe(point, axes), str(found["n"]), accuracy])
    names = [axis.replace("_", " ") for axis in axes]
    return markdown_table([*names, "seeds", "validation accuracy, %: mean ± sd"], rows)


def describe(run: Run) -> list[str]:
    """Returns the cells of a winner: seeds, and its test accuracy."""
    found = run.summary["grid"][0]["statistics"]["test_accuracy"]
    return [
        *(str(found["n"]), percent(found["mean"]), interval(found["interval_95"])),
        *(percent(found["std_ddof1"]), interval((found["min"], found["max"]))),
    ]


DESCRIBED = ["seeds", "mean, %", "95 % interval of the mean", "sd (ddof=1)", "range"]
"""The header of `describe`."""


def steps(*runs: Run) -> list[BySeed]:
    """Returns the accuracies of each point of each run, with the seeds that all have."""
    accuracies = [
        results.by_seed(run, point, "test_accuracy")
        for run in runs
        for point in run.summary["grid"]
    ]
    common = set.intersection(*map(set, accuracies))
    return [{seed: x for seed, x in each.items() if seed in common} for each in accuracies]


def show_gain(gain: stats.Comparison) -> str:
    """Returns a difference in accuracy with its interval, in points."""
    return f"{signed(gain.difference)} ({interval((gain.low, gain.high), signed)})"


def tabulate(words: Sequence[str], accuracies: Sequence[BySeed]) -> str:
    """Compares each step with the one before, seed by seed."""
    pairs = list(zip(accuracies[1:], accuracies, strict=False))
    gains = [stats.compare(now, before, TEST_IMAGES) for now, before in pairs]
    adjusted = stats.holm([gain.p for gain in gains])
    rows = []
    for i, (change, values) in enumerate(zip(words, accuracies, strict=True)):
        found = stats.describe(list(values.values()), TEST_IMAGES)
        low, high = found["interval_95"]
        cells = [change, f"{percent(found['mean'])} ± {percent((high - low) / 2)}", "", ""]
        if i:
            cells[2:] = show_gain(gains[i - 1]), f"{adjusted[i - 1]:.1g}"
        rows.append(cells)
    header = ["change", "test accuracy, %: mean ± 95 %", "gain, points (95 % interval)", "p (Holm)"]
    return markdown_table(header, rows)


def show(
    file: Path,
    title: str,
    words: Sequence[str],
    runs: Sequence[Run],
    published: float | None = None,
) -> str:
    """Returns what each step of a walk gains, with the figure of it, which is saved in a file."""
    accuracies = steps(*runs)
    studies.save_figure(file, draw, title, words, accuracies, published)
    return f"{tabulate(words, accuracies)}\n\n![{title}]({file.name})"


def draw(
    title: str,
    words: Sequence[str],
    accuracies: Sequence[BySeed],
    published: float | None = None,
) -> Figure:
    """Draws the mean and the trials of each step, and what it gains, with 95 % intervals.

    `published` is an accuracy to compare with, in percent.
    """
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, values in enumerate(accuracies):
        found = stats.describe(list(values.values()), TEST_IMAGES)
        low, high = found["interval_95"]
        left.plot([100 * v for v in values.values()], [place + 0.22] * len(values), ".",
                  color=canvas.COLORS[5], ms=5, alpha=0.6)  # fmt: skip
        _draw_interval(left, place, found["mean"], low, high, percent)
        if place:
            gain = stats.compare(values, accuracies[place - 1], TEST_IMAGES)
            _draw_interval(right, place, gain.difference, gain.low, gain.high, signed)
    for ax, x in ((left, published), (right, 0)):
        if x is not None:
            ax.axvline(x, color="#666666", lw=1, ls="--")
        ax.grid(axis="y", visible=False)
    if published is not None:
        left.annotate(f"published\n{published} ", (published, -0.5), ha="right", va="top",
                      fontsize=8, color="#444444")  # fmt: skip
    left.set(ylim=(len(accuracies) - 0.5, -0.7), xlabel="last-epoch test accuracy (%)")
    left.set_yticks(range(len(accuracies)), [f"{'+ ' * bool(i)}{s}" for i, s in enumerate(words)])
    right.set(xlabel="gain over the line above (points)")
    n = len(accuracies[0])
    figure.suptitle(f"{title} (means of {n} seeds, 95 % intervals; dots: single trials)")
    return figure


def _draw_interval(
    ax: Any, place: int, mean: float, low: float, high: float, shown: Callable[[float], str]
) -> None:
    """Draws a mean with its interval, both shares of 1, and writes its percentage over it."""
    ends = [[100 * (mean - low)], [100 * (high - mean)]]
    ax.errorbar(100 * mean, place, xerr=ends, fmt="o", color=canvas.COLORS[0], ms=5, capsize=3)
    over = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # lines that it would cross
    ax.annotate(shown(mean), (100 * mean, place - 0.2), ha="center", va="bottom", fontsize=8,
                bbox=over)  # fmt: skip
