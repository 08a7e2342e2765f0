"""Accuracy along one axis of a grid."""

from typing import Any

import numpy as np

from mnist_jax.report.figures import canvas
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
    best = list(lines)[: len(canvas.COLORS)]
    kept = [lines[values] for values in dict.fromkeys(map(key, grid)) if values in best]
    trials = canvas.sound_trials(run, [point for line in kept for point in line])
    figure, [ax] = canvas.subplots(f"{dataset}: {p.measure} ({p.words})", (6.4, 4.2))
    places, view, means = set_scale(ax, axis, grid, 5.5), canvas.View(), []

    def moved(points):  # to the right, so that lines and trials do not hide each other
        return ax.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)

    for i, line in enumerate(kept):
        line.sort(key=lambda point: places[point[axis]])
        x = [places[point[axis]] for point in line]
        mean, low, high = np.array([canvas.mean_interval(point, p.column) for point in line]).T
        shift, color = 9 * (i - (len(kept) - 1) / 2), canvas.COLORS[i]
        look: dict[str, Any] = {"color": color, "transform": moved(shift)}
        name = label(line[0], rest)
        ax.plot(x, mean, f"{canvas.MARKERS[i]}-", ms=5, lw=0.8, label=name, **look)
        ax.vlines(x, low, high, lw=1.4, **look)
        rows = [(places[point[axis]], row) for point in line for row in trials[point["point"]]]
        dots = [100 * row[p.column] for _, row in rows]
        if len(dots) > len(line):
            spots = [place for place, _ in rows]
            canvas.plot_trials(ax, spots, dots, color=color, transform=moved(shift + 5))
        view.add([*dots, *low, *high])
        means += [(place, value, shift, color) for place, value in zip(x, mean, strict=True)]
    ax.set(ylim=view.limits(), ylabel=f"{p.measure} (%)")
    for place, value, shift, color in means:
        if text := view.missing(value):
            spot = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
            look = {"rotation": 90, "color": color, "fontsize": 7, "ha": "center", "va": "bottom"}
            ax.annotate(text, (place, 0.01), (shift, 0), **spot, **look)
    caption = f"Against {axis}, on {dataset}: {p.measure} ({p.words})."
    caption += canvas.interval_words(grid)
    if rest:
        canvas.add_legend(figure, [ax])
        caption += " One line per combination of the other axes, moved apart."
    if len(kept) < len(lines):
        which = "those with the best points" if p.criterion else "the first"
        caption += f" Of {len(lines)} combinations, {len(kept)} are drawn, {which}."
    if without := len(run.summary["grid"]) - len(grid):
        caption += f" Left out: {count(without, 'grid point')} without {axis}."
    return figure, caption + canvas.lost_words(grid) + view.words()
