"""Accuracy along one axis of a grid."""

import itertools
from typing import Any

import numpy as np

from mnist_jax.report.figures.canvas import (
    COLORS,
    MARKERS,
    View,
    add_legend,
    add_title,
    interval_words,
    lost_words,
    mean_interval,
    sound_trials,
    subplots,
)
from mnist_jax.report.figures.scales import having, set_scale
from mnist_jax.runs.choosing import ranked
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol


def draw_axis(run: Run, axis: str):
    """Draws test accuracy against one axis of the grid, one line per combination of the others."""
    from matplotlib.transforms import ScaledTranslation

    p, dataset = protocol(run), run.summary["dataset"]
    grid = having(run.summary["grid"], axis)
    rest = tuple(other for other in varying(grid) if other != axis)

    def key(point):
        return tuple(point[other] for other in rest)

    lines: dict[tuple, list[Row]] = {}
    for point in ranked(grid, p.criterion):
        lines.setdefault(key(point), []).append(point)
    best = set(itertools.islice(lines, len(COLORS)))
    kept = [lines[values] for values in dict.fromkeys(map(key, grid)) if values in best]
    trials = sound_trials(run, [point for line in kept for point in line])
    figure, [ax] = subplots((6.4, 4.2))
    places, view, means = set_scale(ax, axis, grid, 5.5), View(), []

    def moved(points):  # to the right, so that lines and trials do not hide each other
        return ax.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)

    for i, line in enumerate(kept):
        line.sort(key=lambda point: places[point[axis]])
        x = [places[point[axis]] for point in line]
        mean, low, high = np.array([mean_interval(point, p.column) for point in line]).T
        shift = 9 * (i - (len(kept) - 1) / 2)
        look: dict[str, Any] = {"color": COLORS[i], "transform": moved(shift)}
        ax.plot(x, mean, f"{MARKERS[i]}-", ms=5, lw=0.8, label=label(line[0], rest), **look)
        ax.vlines(x, low, high, lw=1.4, **look)
        rows = [(places[point[axis]], row) for point in line for row in trials[point["point"]]]
        dots = [100 * row[p.column] for _, row in rows]
        if len(dots) > len(line):
            look |= {"transform": moved(shift + 5), "alpha": 0.6, "rasterized": len(dots) > 2000}
            ax.plot([place for place, _ in rows], dots, ".", ms=4, **look)
        view.add([*dots, *low, *high])
        means += [(place, value, shift, COLORS[i]) for place, value in zip(x, mean, strict=True)]
    ax.set(ylim=view.limits(), ylabel=f"{p.measure} (%)")
    for place, value, shift, color in means:
        if text := view.missing(value):
            spot = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
            look = {"rotation": 90, "color": color, "fontsize": 7, "ha": "center", "va": "bottom"}
            ax.annotate(text, (place, 0.01), (shift, 0), **spot, **look)
    add_title(figure, f"{dataset}: {p.measure} ({p.words})")
    if rest:
        add_legend(figure, [ax])
    caption = f"Against {axis}, on {dataset}: {p.measure} ({p.words})."
    caption += interval_words(grid)
    if rest:
        caption += " One line per combination of the other axes, moved apart."
    if len(kept) < len(lines):
        which = "those with the best points" if p.criterion else "the first"
        caption += f" Of {len(lines)} combinations, {len(kept)} are drawn, {which}."
    if without := len(run.summary["grid"]) - len(grid):
        caption += f" Left out: {count(without, 'grid point')} without {axis}."
    return figure, caption + lost_words(grid) + view.words()
