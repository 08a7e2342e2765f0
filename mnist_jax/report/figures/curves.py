"""Accuracy and loss by epoch: of the grid points of a run, and of several runs over each other."""

import itertools
import math
import textwrap
from collections.abc import Sequence

import numpy as np

from mnist_jax.config.columns import split_column
from mnist_jax.report.epochs import read_curves
from mnist_jax.report.figures import canvas
from mnist_jax.report.points import NamedPoint, criterion_words
from mnist_jax.runs.choosing import epochs_done, ranked
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol

MAX_PANELS = 9


def draw_curves(run: Run, what: str = "accuracy"):
    """Draws training and held-out accuracy, or loss, against epoch; one panel per grid point."""
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    points, which = grid, "one panel per grid point"
    if len(grid) > MAX_PANELS:
        order = ranked(grid, p.criterion)
        points = [order[0], order[len(grid) // 2], order[-1]]
        which = f"of {len(grid)} grid points the first, the middle one and the last"
        if p.criterion and not run.progress:
            words = f"the best, the median and the worst by mean {criterion_words(p)}"
            which = f"of {len(grid)} grid points {words}"
    num_rows, num_columns = canvas.rows_and_columns(len(points))
    size = (6.4, 4.2) if len(points) == 1 else (2.7 * num_columns + 0.5, 2.3 * num_rows + 1.1)
    title = f"{dataset}: {what} by epoch ({p.words})"
    figure, panels = canvas.subplots(title, size, len(points), sharex=True, sharey=True)
    trials, is_loss = canvas.sound_trials(run, points), what == "loss"
    view, unit = canvas.View(), 1 if is_loss else 100
    read = read_curves(run, points, trials, what)
    for ax, point, curves in zip(panels, points, read, strict=True):
        title = label(point, varying(grid))
        if lost := len(point["diverged_seeds"]):
            title += f" ({lost} of {point['num_trials']} diverged)"
        ax.set_title(textwrap.fill(title.strip(), 34 if len(points) > 1 else 80))
        for split, values in curves.items():
            name, color, dash = split, canvas.COLORS[1], "-"
            if split == "train":
                name, color, dash = "training", canvas.COLORS[0], "--"
            _plot_band(ax, unit * values, view, f"{name} {what}", color, dash)
        rows = trials[point["point"]]
        if rows and (p.choose_epoch or not run.progress):
            name, epochs = f"test {what} at the end", [row["num_epochs"] for row in rows]
            dots = unit * np.array([row["test_loss" if is_loss else p.column] for row in rows])
            if p.choose_epoch:
                name, epochs = "chosen epochs", [row[f"best_{p.held_out}_epoch"] for row in rows]
                dots = unit * curves[str(p.held_out)][range(len(rows)), np.array(epochs) - 1]
            ax.plot(epochs, dots, "o", color="black", ms=3, label=name)
            view.add(dots)
    _finish_epochs(panels, points, view, is_loss)
    for i, (ax, point) in enumerate(zip(panels, points, strict=True)):
        ax.set_ylabel(f"{what} ({'nats' if is_loss else '%'})" if i % num_columns == 0 else "")
        if i + num_columns >= len(points):  # no panel below
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
        text = "every trial diverged"
        if trials[point["point"]]:
            mean = canvas.mean_interval(point, p.column)[0]
            text = f"below the axis\n({mean:.1f} % {split_column(p.column)[0]} accuracy)"
        if not ax.lines or ax.dataLim.y1 < ax.get_ylim()[0]:
            ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center")
    canvas.add_legend(figure, panels)
    name = "Loss (cross-entropy in nats an image, log scale)" if is_loss else "Accuracy"
    caption = (
        f"{name} on {dataset} against epoch, {which} ({p.words}). Dashed: training {what}, the"
        " running mean over the epoch while the weights change, as Keras reports it."
    )
    if p.held_out:
        caption += f" Solid: {p.held_out} {what} after the epoch."
    caption += _band_words(points)
    if p.choose_epoch or not run.progress:
        dots_are = "best epoch" if p.choose_epoch else f"test {what}, scored once at its end"
        caption += f" Dots: each trial's {dots_are}."
    return figure, caption + ("" if is_loss else view.words())


def draw_overlay(named: Sequence[NamedPoint], title: str):
    """Draws curves of several runs over each other: training on the left, held-out on the right."""
    figure, panels = canvas.subplots(title, (7.6, 4.4), 2, sharex=True, sharey=True)
    styles = list(itertools.product(("-", "--"), zip(canvas.COLORS, canvas.MARKERS, strict=True)))
    view, drawn = canvas.View(), named[: len(styles)]
    points = [each.point for each in drawn]
    for (name, run, point), (dash, (color, marker)) in zip(drawn, styles, strict=False):
        p, trials = protocol(run), canvas.sound_trials(run, [point])
        [curves] = read_curves(run, [point], trials)
        for split, values in curves.items():
            _plot_band(panels[split != "train"], 100 * values, view, name, color, dash)
        if not p.held_out and trials[point["point"]]:
            mean = canvas.mean_interval(point, p.column)[0]
            panels[1].plot(point["num_epochs"], mean, marker, color=color, ms=5)
            view.add([mean])
    _finish_epochs(panels, points, view)
    for ax, name in zip(panels, ("training", "held-out images"), strict=True):
        ax.set(title=name, xlabel="epoch")
    panels[0].set_ylabel("accuracy (%)")
    canvas.add_legend(figure, panels)
    caption = (
        f"{title}. Left: training accuracy, the running mean over the epoch. Right: accuracy after"
        " the epoch on the images that the run's protocol scores then, of the test set or for"
        " validation; of a run that scores none, a marker for the mean test accuracy at the end."
        f"{_band_words(points)}"
    )
    if len(drawn) < len(named):
        caption += f" Of {len(named)} curves the first {len(drawn)} are drawn."
    return figure, caption + view.words()


def _plot_band(ax, curves: np.ndarray, view: canvas.View, name: str, color: str, dash: str) -> None:
    """Plots the mean of curves [trials, epochs], with a band from the lowest to the highest."""
    num_trials, num_epochs = curves.shape
    if num_trials:
        epochs = np.arange(1, num_epochs + 1)
        marker = "." if num_epochs < 3 else None
        name = f" {name}" if name.startswith("_") else name  # a legend leaves out those with _
        ax.plot(epochs, curves.mean(0), dash, color=color, marker=marker, label=name)
        if num_trials > 1:
            ax.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
        # The steep first epochs would hide the differences after them.
        view.add(curves[:, num_epochs // 5 :], curves)


def _finish_epochs(panels, points: Sequence[Row], view: canvas.View, is_loss: bool = False) -> None:
    """Sets the scales, limits and ticks that panels share."""
    from matplotlib.ticker import MaxNLocator

    longest = max(map(epochs_done, points))
    panels[0].set_xlim(0.5, longest + 0.5)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if is_loss:
        panels[0].set_yscale("log")
        low, high = panels[0].get_ylim()
        canvas.mark_decades(panels[0].yaxis, math.log10(high / low))
    else:
        panels[0].set_ylim(view.limits())


def _band_words(points: Sequence[Row]) -> str:
    """Says what lines and bands are, and what is missing from them."""
    lines = " Every line is one seed."
    if (seeds := canvas.seeds_words(points)) != "1 seed":
        lines = f" Lines are means over {seeds}, bands reach from the lowest to the highest."
    return lines + canvas.lost_words(points)
