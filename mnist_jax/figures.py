"""Figures of a finished run: each function returns a matplotlib Figure and its caption."""

import itertools
import math
import textwrap
from collections.abc import Sequence

import numpy as np

from mnist_jax.results import (
    Row,
    Run,
    count,
    count_diverged,
    is_finite,
    label,
    protocol,
    ranked,
    trials_of,
    varying,
)

MAX_PANELS = 9
# Colour-blind safe: M. Okabe, K. Ito, "Color Universal Design", 2008.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mnist_jax",  # the same figure has the same bytes
}


def draw_curves(run: Run):
    """Draws training and held-out accuracy against epoch, one panel per grid point."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    p, dataset, split = protocol(run), run.summary["dataset"], protocol(run).held_out
    points, order, which = (
        run.summary["grid"],
        ranked(run.summary["grid"], p.criterion),
        "one panel per grid point",
    )
    if len(points) > MAX_PANELS:
        which = f"of {len(points)} grid points the best, the median and the worst (by their mean"
        which += f" {p.measure})"
        points = [order[0], order[len(order) // 2], order[-1]]
    num_columns = min(3, len(points))
    num_rows = math.ceil(len(points) / num_columns)
    size = (6.4, 4.2) if len(points) == 1 else (2.7 * num_columns + 0.5, 2.3 * num_rows + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
    by_trial: dict[object, list[Row]] = {}
    for row in run.metrics:
        by_trial.setdefault(row["trial"], []).append(row)
    epochs = np.arange(1, max(run.config["num_epochs"]) + 1)
    settled = len(epochs) // 5  # the steep first epochs would hide the differences after them
    in_view, drawn = [], []
    for ax, point in zip(axes, points, strict=False):
        trials = trials_of(run, point)
        lost = count_diverged(trials)
        title = label(
            point, varying(run.summary["grid"])
        ) + f" ({lost} of {len(trials)} diverged)" * bool(lost)
        ax.set_title(textwrap.fill(title.strip(), 30 if len(points) > 1 else 80))
        drawn_splits = [("train", COLORS[0], "--")] + [(split, COLORS[1], "-")] * bool(split)
        for name, color, dash in drawn_splits:
            rows = [[row[f"{name}_accuracy"] for row in by_trial[t["trial"]]] for t in trials]
            curves = 100 * np.array(rows, float)
            look = {"color": color, "marker": "." if len(epochs) < 3 else None}
            words = f"{name.replace('train', 'training')} accuracy"
            epochs = np.arange(1, curves.shape[1] + 1)
            ax.plot(epochs, curves.mean(0), dash, **look, label=words)
            ax.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
            drawn += curves.ravel().tolist()
            sound = [not count_diverged([trial]) for trial in trials]
            in_view += curves[sound, settled:].ravel().tolist()
        if p.choose_epoch:
            best = [(t[f"best_{split}_epoch"], 100 * t[p.criterion]) for t in trials]
            ax.plot(*zip(*best, strict=True), "o", color="black", ms=3, label="chosen epochs")
    limits, num_cut = _limits(in_view, drawn)
    axes[0].set(xlim=(0.5, len(epochs) + 0.5), ylim=limits)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for i, ax in enumerate(axes):
        ax.set_visible(i < len(points))
        ax.set_ylabel("accuracy (%)" if i % num_columns == 0 else "")
        if i + num_columns >= len(points):  # nothing stands below
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    figure.suptitle(f"{dataset}: accuracy by epoch ({p.words})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        f"Accuracy on {dataset} against epoch, {which}. Dashed: training accuracy, the running"
        " mean over the epoch while the weights change, as Keras reports it. Solid:"
        f" {split} accuracy after the epoch. Lines are means over"
        f" {count(points[0]['num_trials'], 'seed')}, bands reach from the lowest to the highest."
        f" Dots: each trial's best epoch ({p.words})."
    )
    if num_cut:
        caption += " The axis leaves out lower values, of the first epochs or of diverged trials."
    return figure, caption


def _limits(in_view: list[float], drawn: list[float]) -> tuple[tuple[float, float], int]:
    """Returns limits in percent that show `in_view`, and how many of `drawn` lie below them."""
    shown = (
        [v for v in in_view if is_finite(v)] or [v for v in drawn if is_finite(v)] or [0.0, 100.0]
    )
    pad = max(0.06 * (max(shown) - min(shown)), 0.05)
    low, high = max(min(shown) - pad, -1.0), min(max(shown) + pad, 101.0)
    return (low, high), sum(v < low for v in drawn)


def draw_axis(run: Run, axis: str):
    """Draws test accuracy against one axis of the grid, one line per combination of the others."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    p, dataset = protocol(run), run.summary["dataset"]
    rest = tuple(other for other in varying(run.summary["grid"]) if other != axis)
    lines: dict[tuple, list[Row]] = {}
    for point in ranked(run.summary["grid"], p.criterion):
        lines.setdefault(tuple(point[other] for other in rest), []).append(point)
    kept = sorted(itertools.islice(lines.items(), len(COLORS)), key=lambda line: line[0])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    in_view, drawn = [], []

    def moved(points):  # to the right, so that lines and trials do not hide each other
        return ax.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)

    for i, (_, line) in enumerate(kept):
        line = sorted(line, key=lambda point: point[axis])
        color, place = COLORS[i], 9 * (i - (len(kept) - 1) / 2)
        columns = [point["statistics"][p.column] for point in line]
        mean, std = 100 * np.array([(c["mean"], c["std_ddof0"]) for c in columns], float).T
        ax.errorbar(
            [point[axis] for point in line],
            mean,
            std,
            fmt=f"{MARKERS[i]}-",
            color=color,
            ms=5,
            lw=0.8,
            elinewidth=1.4,
            capsize=3,
            label=label(line[0], rest),
            transform=moved(place),
        )
        trials = [row for point in line for row in trials_of(run, point)]
        values = [100 * row[p.column] for row in trials]
        places = [row[axis] for row in trials]
        ax.plot(places, values, ".", color=color, ms=4, alpha=0.6, transform=moved(place + 5))
        drawn += values
        in_view += [v for v, row in zip(values, trials, strict=True) if not count_diverged([row])]
        whole = np.array([not count_diverged(trials_of(run, point)) for point in line])
        for ends in (mean - std, mean + std):  # which may lie outside of the trials
            in_view += ends[whole].tolist()
    limits, num_cut = _limits(in_view, drawn)
    ax.set(ylim=limits, ylabel=f"{p.measure} (%)")
    _set_scale(ax, axis, sorted({point[axis] for point in run.summary["grid"]}))
    figure.suptitle(f"{dataset}: {p.measure} ({p.words})")
    if rest:
        figure.legend(loc="outside lower center", ncols=max(1, 4 - len(rest)))
    caption = (
        f"Against {axis.replace('_', ' ')}, on {dataset}: {p.measure} ({p.words}). Large markers: means over"
        f" {count(run.summary['grid'][0]['num_trials'], 'seed')}, with error bars of one standard"
        " deviation (population, ddof=0). Small points, moved a little to the right: single trials."
    )
    if rest:
        caption += " One line per combination of the other axes, moved apart."
    if len(lines) > len(kept):
        caption += f" Of {len(lines)} combinations, the {len(kept)} with the best points are drawn."
    if num_cut:
        caption += f" {count(num_cut, 'trial')} below the axis cannot be seen."
    return figure, caption


def _set_scale(ax, axis: str, values: Sequence[float]) -> None:
    """Scales and names the x axis, and marks the grid's values where there is room."""
    name, positive = axis.replace("_", " "), [value for value in values if value > 0]
    if axis != "momentum":
        name += " (log scale)"
        ax.set_xscale("log")
        if len(positive) < len(values):  # zero has a place of its own, left of the dotted line
            width = max(math.log10(max(positive) / min(positive)) / 6, 0.5)
            ax.set_xscale("symlog", linthresh=min(positive), linscale=width)
            name = f"{axis} (log scale, 0 set apart)"
            ax.axvline(min(positive) / 2, color="#999999", lw=0.8, ls=":")
    ax.set_xlabel(name)
    transform = ax.xaxis.get_transform()
    places = transform.transform(np.array(values))
    width = places[-1] - places[0]
    ends = np.array([places[0] - 0.08 * width, places[-1] + 0.08 * width])
    ax.set_xlim(transform.inverted().transform(ends))
    gap = np.diff(places).min() / width
    if gap > 0.03:
        ax.set_xticks(values, [f"{value:g}" for value in values], rotation=0 if gap > 0.12 else 90)
        ax.set_xticks([], minor=True)
