"""Accuracy by recipe: along the axes of a grid or a search, and of points below each other."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_jax.config.axes import MODELS, OPTIMIZERS, SMOOTHING, TRAINING
from mnist_jax.config.values import LINEAR, LOG, LOG_OF_REST
from mnist_jax.report.canvas import (
    COLORS,
    MARKERS,
    Line,
    View,
    add_legend,
    add_title,
    criterion_words,
    cut,
    lost_words,
    mean_interval,
    num_columns_of,
    seeds_words,
    sound_trials,
    subplots,
)
from mnist_jax.runs.choosing import ranked
from mnist_jax.runs.labels import count, label, num_digits, shown, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol

MAX_CELLS = 100  # of a heat map, with numbers in them
_KNOWN = {
    axis.name: axis.scale
    for axes in (TRAINING, SMOOTHING, *MODELS.values(), *OPTIMIZERS.values())
    for axis in axes
    if axis.scale
}
_KNOWN |= {"num_epochs": LOG, "batch_size": LOG}
_SHARES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def _values(grid: Sequence[Row], axis: str) -> list[Any]:
    """Returns the values of an axis in the order of the points, without None."""
    return list(dict.fromkeys(point[axis] for point in having(grid, axis)))


def having(grid: Sequence[Row], axis: str) -> list[Row]:
    """Returns the points that have a value of an axis; the optimizers of others do not take it."""
    return [point for point in grid if point.get(axis) is not None]


def is_crossed(grid: Sequence[Row], axis: str) -> bool:
    """Says whether the points that have an axis take all its values with whatever else varies."""
    there = having(grid, axis)
    rest = [other for other in varying(there) if other != axis]
    combinations = {tuple(point[other] for other in rest) for point in there}
    return len(there) == len(combinations) * len(_values(grid, axis))


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
    places, view, means = _set_scale(ax, axis, grid, 5.5), View(), []

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
    caption = f"Against {axis.replace('_', ' ')}, on {dataset}: {p.measure} ({p.words})."
    caption += _interval_words(grid)
    if rest:
        caption += " One line per combination of the other axes, moved apart."
    if len(kept) < len(lines):
        which = "those with the best points" if p.criterion else "the first"
        caption += f" Of {len(lines)} combinations, {len(kept)} are drawn, {which}."
    if without := len(run.summary["grid"]) - len(grid):
        caption += f" Left out: {count(without, 'grid point')} without {axis.replace('_', ' ')}."
    return figure, caption + lost_words(grid) + view.words()


def draw_search(run: Run):
    """Draws the accuracy that chose, of every point, against each axis; one panel per axis."""
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    column, words = p.criterion or p.column, criterion_words(p) if p.criterion else p.measure
    accuracies = np.array([mean_interval(point, column)[0] for point in grid])
    sound = np.array([not point["diverged_seeds"] for point in grid])
    chosen = np.array([point["point"] == run.summary["chosen_point"] for point in grid])
    view = View()
    view.add(accuracies[sound])
    low, high = view.limits()
    outside = ~(sound & (accuracies >= low))
    heights = np.where(outside, low + 0.03 * (high - low), accuracies)
    panelled = varying(grid)
    num_columns = num_columns_of(len(panelled))
    num_rows = math.ceil(len(panelled) / num_columns)
    size = (max(2.7 * num_columns + 0.5, 4.5), 2.5 * num_rows + 0.8)
    figure, panels = subplots(size, num_rows, num_columns, sharey=True)
    panels[0].set_ylim(low, high)
    scatter = np.random.default_rng(0).uniform(-0.2, 0.2, len(grid))
    for ax in panels[len(panelled) :]:
        ax.set_visible(False)
    for i, (ax, axis) in enumerate(zip(panels, panelled, strict=False)):
        places = _set_scale(ax, axis, grid, 2.3)
        x = np.array([places.get(point[axis], math.nan) for point in grid])
        x += scatter * (_spread_of(axis, list(places)) == "names")
        many = len(grid) > 1000
        look: dict[str, Any] = {"alpha": 0.7, "mew": 0, "rasterized": many}
        ax.plot(x[~outside], heights[~outside], "o", color=COLORS[0], ms=2 if many else 4, **look)
        ax.plot(x[outside], heights[outside], "v", color=COLORS[1], ms=6, **look)
        ax.plot(x[chosen], heights[chosen], "o", color="black", ms=9, mfc="none", mew=1.5)
        ax.set_ylabel(f"{words} (%)" if i % num_columns == 0 else "")
    add_title(figure, f"{dataset}: {words} of {count(len(grid), 'point')} ({p.words})")
    caption = (
        f"Each point of the search on {dataset}, against each axis: mean {words} over"
        f" {seeds_words(grid)} ({p.words})."
    )
    if chosen.any():
        caption += " Ring: the chosen point."
    if any(_spread_of(axis, _values(grid, axis)) == "names" for axis in panelled):
        caption += " Over names, points are scattered sideways."
    if any(len(having(grid, axis)) < len(grid) for axis in panelled):
        caption += " A panel leaves out the points that do not have its axis."
    if outside.any():
        caption += " Triangles at the lower edge: points below the axis, or with diverged trials."
    return figure, caption


def draw_heat_map(run: Run):
    """Draws the mean test accuracy of a grid that is the product of two axes."""
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    down, across = varying(grid)
    rows, columns = _order(grid, down), _order(grid, across)
    size = (min(max(1.8 + 0.85 * len(columns), 4.5), 9.0), min(2 + 0.5 * len(rows), 9.0))
    figure, [ax] = subplots(size)
    cells = {(rows[point[down]], columns[point[across]]): point for point in grid}
    means = np.full((len(rows), len(columns)), math.nan)
    for cell, point in cells.items():
        means[cell] = mean_interval(point, p.column)[0]
    view = View()
    view.add(means)
    low, high = (min(max(limit, 0), 100) for limit in view.limits())
    image = ax.imshow(means, "cividis", vmin=low, vmax=high, origin="lower", aspect="auto")
    for (y, x), point in cells.items():
        mean, bottom, _ = mean_interval(point, p.column)
        text = "diverged" if math.isnan(mean) else f"{mean:.2f}"
        if math.isfinite(bottom):
            text += f"\n± {mean - bottom:.2f}"
        if 0 < (lost := len(point["diverged_seeds"])) < point["num_trials"]:
            text += f"\n{lost} diverged"
        if len(cells) <= MAX_CELLS:
            color = "white" if mean < (low + high) / 2 else "black"
            ax.text(x, y, text, ha="center", va="center", color=color, fontsize=7)
        if point["point"] == run.summary["chosen_point"]:
            frame = ([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5])
            ax.fill(*frame, fill=False, ec=COLORS[1], lw=2.5, clip_on=False, zorder=3)
    ax.grid(False)
    wide = 0.7 * size[0] / len(columns)  # inches
    for values, inches, set_ticks in ((rows, 3.0, ax.set_yticks), (columns, wide, ax.set_xticks)):
        step = math.ceil(len(values) / 20)
        texts, is_flat = _tick_texts(list(values), inches * step)
        set_ticks(range(0, len(values), step), texts[::step], rotation=0 if is_flat else 90)
    names = (textwrap.fill(axis.replace("_", " "), 40) for axis in (across, down))
    ax.set(**dict(zip(("xlabel", "ylabel"), names, strict=True)))
    extend = "min" if view.words() else "neither"
    figure.colorbar(image, ax=ax, label=f"{p.measure} (%)", extend=extend)
    add_title(figure, f"{dataset}: mean {p.measure} ({p.words})")
    caption = f"Mean {p.measure} on {dataset} by {down} and {across} ({p.words})".replace("_", " ")
    caption += ", with the half-width of its 95 % interval (Student) where there are several seeds."
    if p.criterion:
        caption += f" Framed: the chosen point, best by mean {criterion_words(p)}."
    return figure, caption + lost_words(grid) + view.words("colour scale")


def draw_points(lines: Sequence[Line], title: str):
    """Draws test accuracies with their intervals below each other, a row per line."""
    names = [textwrap.fill(line.name, 48) for line in lines]
    tallest = 1 + max(name.count("\n") for name in names)
    figure, [ax] = subplots((7.2, 1.3 + max(0.32, 0.08 + 0.145 * tallest) * len(lines)))
    protocols = list(dict.fromkeys(protocol(line.run) for line in lines))
    points, view, means = [line.point for line in lines], View(), []
    for y, (_, run, point) in enumerate(lines):
        p = protocol(run)
        i = protocols.index(p)
        mean, low, high = mean_interval(point, p.column)
        dots = [100 * row[p.column] for row in sound_trials(run, [point])[point["point"]]]
        look: dict[str, Any] = {"alpha": 0.6, "rasterized": len(dots) > 2000}
        if len(dots) > 1:
            ax.plot(dots, np.full(len(dots), y + 0.25), ".", color=COLORS[i], ms=4, **look)
        ax.hlines(y, low, high, color=COLORS[i], lw=1.4)
        ax.plot(mean, y, MARKERS[i], color=COLORS[i], ms=5, label=f"{p.measure} ({p.words})")
        view.add([*dots, low, high])
        means.append(mean)
    ax.set_yticks(range(len(lines)), names, fontsize=8)
    ax.set(ylim=(len(lines) - 0.5, -0.5), xlim=view.limits())
    ax.set_xlabel(f"{', '.join(dict.fromkeys(p.measure for p in protocols))} (%)")
    for y, mean in enumerate(means):
        if text := view.missing(mean):
            ax.text(0.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    add_title(figure, title)
    if len(protocols) > 1:
        add_legend(figure, [ax])
    return figure, f"{title}.{_interval_words(points)}{lost_words(points)}{view.words()}"


def _interval_words(points: Sequence[Row]) -> str:
    if (seeds := seeds_words(points)) == "1 seed":
        return " One seed each, so nothing is known of the scatter between seeds."
    return (
        f" Markers: means over {seeds}, with 95 % intervals of the mean (Student). Small points"
        " beside them: single trials."
    )


def _spread_of(axis: str, values: Sequence[Any]) -> str:
    """Returns how an axis spreads its values: log, linear, as the log of 1 - x, or as names."""
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        return "names"
    positive = [value for value in values if value > 0]
    wide = bool(positive) and max(positive) >= 10 * min(positive)
    spread = _KNOWN.get(axis, LOG if wide else LINEAR)
    if spread is LOG and min(values) >= 0:
        return "log"
    return "1 - x" if spread is LOG_OF_REST and max(values) < 1 else "linear"


def _order(grid: Sequence[Row], axis: str) -> dict[Any, int]:
    """Returns the place of each value: of numbers by size, of names as the config has them."""
    values = _values(grid, axis)
    is_names = _spread_of(axis, values) == "names"
    return {v: i for i, v in enumerate(values if is_names else sorted(values))}


_LOG_STEPS = {0.6: (1, 1.5, 2, 3, 5, 7), 1.2: (1, 2, 5), 2.4: (1, 3), math.inf: (1,)}
"""By the most decades that an axis has, which multiples of powers of ten are marked."""


def _set_scale(ax, axis: str, grid: Sequence[Row], inches: float) -> dict[Any, float]:
    """Scales and names the x axis, and returns the place of each value on it.

    Args:
        ax: The axes of a figure.
        axis: Of the grid.
        grid: Its points.
        inches: The width. Where there is room in it, the values themselves are marked.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    order = _order(grid, axis)
    name, values = axis.replace("_", " "), list(order)
    spread = _spread_of(axis, values)
    places = {value: float(i if spread == "names" else value) for value, i in order.items()}
    if spread == "log":
        positive = [value for value in values if value > 0]
        ax.set_xscale("log")
        if len(positive) == len(values):
            name += " (log scale)"
        elif positive:  # zero has a place of its own, left of the dotted line
            width = max(math.log10(max(positive) / min(positive)) / 6, 0.5)
            ax.set_xscale("symlog", linthresh=min(positive), linscale=width)
            ax.axvline(min(positive) / 2, color="#999999", lw=0.8, ls=":")
            name += " (log scale, 0 set apart)"
    elif spread == "1 - x":
        ax.set_xscale("function", functions=(_spread_share, lambda place: 1 - 10.0**-place))
        ax.set_xticks([m for m in _SHARES if values[0] <= m <= values[-1]])
        name += f" (log scale of 1 - {name})"
    ax.set_xlabel(textwrap.fill(name, int(16 * inches)), fontsize=8)
    transform = ax.xaxis.get_transform()
    spots = transform.transform(np.array(list(places.values())))
    width = spots[-1] - spots[0]
    margin = 0.5 if spread == "names" else 0.08 * width
    ends = np.array([spots[0] - margin, spots[-1] + margin])
    ax.set_xlim(transform.inverted().transform(ends))
    gap = inches * np.diff(spots).min() / (width + 2 * margin)
    if gap > 0.16:
        texts, is_flat = _tick_texts(values, gap)
        ax.set_xticks(list(places.values()), texts, rotation=0 if is_flat else 90)
        ax.set_xticks([], minor=True)
    elif ax.get_xscale() == "log":
        decades = float(width + 2 * margin)
        steps = next(s for most, s in _LOG_STEPS.items() if decades < most)
        ax.xaxis.set_major_locator(LogLocator(subs=steps))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    elif ax.get_xscale() == "symlog":
        ax.xaxis.set_major_formatter("{x:g}")
    return places


def _tick_texts(values: Sequence[Any], inches: float) -> tuple[list[str], bool]:
    """Returns what stands below the ticks of values, and whether it has room from left to right.

    Args:
        values: All of an axis.
        inches: From tick to tick.
    """
    texts, room = [cut(shown(value, num_digits(values))) for value in values], int(13 * inches) - 1
    if room > 8:  # characters; names go on in a second line, numbers do not
        texts = [
            textwrap.fill(text, room) if isinstance(value, str) else text
            for text, value in zip(texts, values, strict=True)
        ]
    return texts, all(len(line) <= room for text in texts for line in text.splitlines())


def _spread_share(share):
    return -np.log10(np.maximum(1 - share, 1e-9))
