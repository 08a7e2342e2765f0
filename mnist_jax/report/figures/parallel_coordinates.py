"""The points of a search as lines across all of their axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_jax.report.figures import canvas
from mnist_jax.report.figures.scales import having, set_scale, spread_of
from mnist_jax.report.points import criterion_words
from mnist_jax.runs.choosing import ranked
from mnist_jax.runs.labels import count, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol

WIDTH = 7.6  # inches
ROW = 0.72  # inches from an axis to the next
NONE = 1.04  # where lines pass an axis that their points do not have; values are from 0 to 1
_HALO: Any = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8}  # behind text over lines


def draw_lines(run: Run):
    """Draws a line for each point, from axis to axis down to the accuracy that chose."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from scipy.stats import rankdata

    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    column, words = p.criterion or p.column, criterion_words(p) if p.criterion else p.measure
    axes, points = varying(grid), ranked(grid, column)[::-1]  # the best are drawn over the others
    last = len(axes)
    title = f"{dataset}: {words} of {count(len(grid), 'point')} ({p.words})"
    figure, [ax] = canvas.subplots(title, (WIDTH, 0.9 + ROW * (last + 1)))
    ax.set(xlim=(-0.05, NONE + 0.03), ylim=(last + 0.45, -0.35))
    ax.axis("off")
    x = [_draw_axis(ax, y, axis, grid, points) for y, axis in enumerate(axes)]
    stops, groups = [point.get("stopped_epoch", 0) for point in points], canvas.stopped_groups(run)
    ends = [point for point in points if not point.get("stopped_epoch")]
    places, outside = _draw_accuracies(ax, last, f"mean {words} (%)", ends, column)
    rank = rankdata(places) / len(ends)  # to 1; of many points, the best stand out
    shades = colormaps["Blues"](0.25 + 0.75 * rank ** max(1, len(ends) / 50))
    lines = [np.column_stack([line, range(last)]) for line in np.transpose(x)]
    first = len(points) - len(ends)  # what halving stopped was worse, and is drawn below
    lines[first:] = [
        np.vstack([line, (place, last)]) for line, place in zip(lines[first:], places, strict=True)
    ]
    colors = [*(groups[stop][0] for stop in stops[:first]), *shades]
    widths = [0.5] * first + (0.5 + rank).tolist()
    look = {"colors": colors, "lw": widths, "rasterized": len(points) > 1000}
    ax.add_collection(LineCollection(lines, **look))
    y = np.full(len(ends), last)
    ax.scatter(places[~outside], y[~outside], 14, shades[~outside], zorder=3)
    ax.plot(places[outside], y[outside], "v", color=canvas.COLORS[1], ms=6, mew=0, alpha=0.7)
    chosen = [point["point"] == run.summary["chosen_point"] for point in points]
    for line, is_chosen in zip(lines, chosen, strict=True):
        if is_chosen:
            ax.plot(*line.T, color="black", lw=2, zorder=4)
    caption = (
        f"Each point of the search on {dataset}: a line across its axes, down to its mean {words}"
        f" over {canvas.seeds_words(grid)} ({p.words}). The darker a line, the higher its rank."
    )
    if first:
        caption += (
            " Grey lines are of points that halving stopped, lighter the earlier it was. They end"
            " before the accuracy, since theirs are of fewer epochs."
        )
        for color, name in list(groups.values())[:-1]:
            ax.plot([], [], color=color, label=name)
        canvas.add_legend(figure, [ax])
    if any(chosen):
        caption += f" Black: the {'best' if run.progress else 'chosen'} point."
    if any(
        spread_of(axis, [point[axis] for point in having(grid, axis)]) == "names" for axis in axes
    ):
        caption += " Over names, lines are scattered sideways."
    if any(len(having(grid, axis)) < len(grid) for axis in axes):
        caption += " At —, lines pass an axis that their points do not have."
    if outside.any():
        caption += " Triangles at the left end: points below the axis, or with diverged trials."
    return figure, caption


def _draw_axis(ax, y: int, axis: str, grid: Sequence[Row], points: Sequence[Row]) -> np.ndarray:
    """Draws an axis of a grid as a horizontal line at y.

    Returns:
        The place of each point on it, from 0 to 1, or `NONE`.
    """
    from matplotlib.figure import Figure

    def scaled(inches: float) -> tuple[Any, dict[Any, float], list]:
        panel = Figure(figsize=(WIDTH, 1)).subplots()
        places = set_scale(panel, axis, grid, inches)
        return panel, places, panel.get_xticklabels()

    panel, places, labels = scaled(0.9 * WIDTH)  # which knows the scale, and what to mark
    name, is_names = panel.get_xlabel(), spread_of(axis, list(places)) == "names"
    if not is_names and any(label.get_rotation() for label in labels):
        panel, places, labels = scaled(0.1)  # values have no room: numbers of the scale are marked
    to_place = panel.transScale + panel.transLimits

    def place(values: Sequence[float]) -> np.ndarray:
        return to_place.transform([(value, 0) for value in values])[:, 0]

    ticks = dict(zip(place(panel.get_xticks()), (x.get_text() for x in labels), strict=True))
    x = place([places.get(point[axis], np.nan) for point in points])
    if is_names:
        scatter = np.random.default_rng(0).uniform(-0.2, 0.2, len(points))
        x += scatter / (len(places) + 1)
    ticks = {spot: text for spot, text in ticks.items() if 0 <= spot <= 1}
    if (lacking := np.isnan(x)).any():
        x[lacking] = NONE
        ticks[NONE] = "—"
    _draw_line(ax, y, name, ticks)
    return x


def _draw_accuracies(
    ax, y: int, name: str, points: Sequence[Row], column: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the axis of accuracies, as `_draw_axis`; returns places, and what is outside."""
    from matplotlib.ticker import MaxNLocator

    accuracies = np.array([canvas.mean_interval(point, column)[0] for point in points])
    sound, view = np.array([not point["diverged_seeds"] for point in points]), canvas.View()
    view.add(accuracies[sound])
    low, high = view.limits()
    spots = [
        spot
        for spot in MaxNLocator(8, steps=(1, 2, 5, 10)).tick_values(low, high)
        if low <= spot <= high
    ]
    _draw_line(ax, y, name, {(spot - low) / (high - low): f"{spot:g}" for spot in spots})
    outside = ~(sound & (accuracies >= low))
    return np.where(outside, 0, (accuracies - low) / (high - low)), outside


def _draw_line(ax, y: int, name: str, ticks: dict[float, str]) -> None:
    """Draws a horizontal line from 0 to 1 with its name above and ticks below."""
    ax.plot([0, 1], [y, y], color="#444444", lw=1, zorder=2.5)
    ax.plot([*ticks], [y] * len(ticks), "|", color="#444444", ms=7, mew=1, zorder=2.5)
    text: dict[str, Any] = {"fontsize": 8, "zorder": 5, "bbox": _HALO}
    name = canvas.cut(" ".join(name.split()), 90)
    ax.text(-0.04, y - 0.1, name, va="bottom", **text | {"weight": "bold"})
    for place, words in ticks.items():
        ax.text(place, y + 0.12, words, ha="center", va="top", **text | {"fontsize": 7})
