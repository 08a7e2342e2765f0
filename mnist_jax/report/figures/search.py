"""The points of a random or quasi-random search, against each of their axes."""

import math
from typing import Any

import numpy as np

from mnist_jax.report.figures import canvas
from mnist_jax.report.figures.scales import having, set_scale, set_share_scale, spread_of
from mnist_jax.report.points import criterion_words
from mnist_jax.runs.labels import count, varying
from mnist_jax.runs.results import Run, protocol


def draw_search(run: Run):
    """Draws the accuracy that chose, of every point, against each axis; one panel per axis.

    Points that halving stopped are grey, at their last accuracy.
    """
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    column, words = p.criterion or p.column, criterion_words(p) if p.criterion else p.measure
    accuracies = np.array([canvas.mean_interval(point, column)[0] for point in grid])
    sound = np.array([not point["diverged_seeds"] for point in grid])
    chosen = np.array([point["point"] == run.summary["chosen_point"] for point in grid])
    axes, stops = varying(grid), np.array([point.get("stopped_epoch", 0) for point in grid])
    num_rows, num_columns = canvas.rows_and_columns(len(axes))
    title = f"{dataset}: {words} of {count(len(grid), 'point')} ({p.words})"
    size = (max(2.7 * num_columns + 0.5, 4.5), 2.5 * num_rows + 0.8)
    figure, panels = canvas.subplots(title, size, len(axes), sharey=True)
    y_name = f"{words} (%)"
    if stops.any():  # which makes low accuracies a part of what is shown
        accuracies = np.minimum(accuracies / 100, canvas.highest_share(run))
        set_share_scale(panels[0], accuracies[sound])
        low = panels[0].get_ylim()[0]
        outside = ~sound
        y_name = f"{words}\n(%, log scale of errors)"
        edge = accuracies[sound].min(initial=1.0)
    else:
        view = canvas.View()
        view.add(accuracies[sound])
        low, high = view.limits()
        panels[0].set_ylim(low, high)
        outside = ~(sound & (accuracies >= low))
        edge = low + 0.03 * (high - low)
    heights = np.where(outside, edge, accuracies)
    scatter = np.random.default_rng(0).uniform(-0.2, 0.2, len(grid))
    over_names = False
    groups = canvas.stopped_groups(run)
    many = len(grid) > 1000
    look: dict[str, Any] = {"alpha": 0.7, "mew": 0, "rasterized": many, "ms": 2 if many else 4}
    for i, (ax, axis) in enumerate(zip(panels, axes, strict=True)):
        places = set_scale(ax, axis, grid, 2.3)
        x = np.array([places.get(point[axis], math.nan) for point in grid])
        if spread_of(axis, list(places)) == "names":
            x += scatter
            over_names = True
        for stop, (color, name) in groups.items():
            there = ~outside & (stops == stop)
            ax.plot(x[there], heights[there], "o", color=color, label=name, **look)
        ax.plot(x[outside], heights[outside], "v", color=canvas.COLORS[1], **look | {"ms": 6})
        ax.plot(x[chosen], heights[chosen], "o", color="black", ms=9, mfc="none", mew=1.5)
        ax.set_ylabel(y_name if i % num_columns == 0 else "")
    if stops.any():
        canvas.add_legend(figure, panels)
    caption = (
        f"Each point of the search on {dataset}, against each axis: mean {words} over"
        f" {canvas.seeds_words(grid)} ({p.words})."
    )
    if stops.any():
        caption += (
            " Grey points are those that halving stopped, each at its accuracy after that epoch,"
            " lighter the earlier it was: that is no accuracy of a network that was trained to the"
            " end, and can be compared within its shade alone."
        )
    if chosen.any():
        caption += f" Ring: the {'best' if run.progress else 'chosen'} point."
    if over_names:
        caption += " Over names, points are scattered sideways."
    if any(len(having(grid, axis)) < len(grid) for axis in axes):
        caption += " A panel leaves out the points that do not have its axis."
    if outside.any():
        caption += " Triangles at the lower edge: points below the axis, or with diverged trials."
    return figure, caption
