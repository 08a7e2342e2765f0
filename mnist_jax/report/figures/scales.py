"""The axes of a grid as the axes of a figure: their scales, values and ticks."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_jax.config.axes import MODELS, OPTIMIZERS, SMOOTHING, TRAINING
from mnist_jax.config.values import LINEAR, LOG, LOG_OF_REST
from mnist_jax.report.figures.canvas import cut, mark_decades
from mnist_jax.runs.labels import num_digits, shown, varying
from mnist_jax.runs.records import Row

_KNOWN = {
    axis.name: axis.scale
    for axes in (TRAINING, SMOOTHING, *MODELS.values(), *OPTIMIZERS.values())
    for axis in axes
    if axis.scale
}
_KNOWN |= {"num_epochs": LOG, "batch_size": LOG}
_SHARES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def having(grid: Sequence[Row], axis: str) -> list[Row]:
    """Returns the points that have a value of an axis; the optimizers of others do not take it."""
    return [point for point in grid if point.get(axis) is not None]


def is_crossed(grid: Sequence[Row], axis: str) -> bool:
    """Says whether the points that have an axis take all its values with whatever else varies."""
    there = having(grid, axis)
    rest = [other for other in varying(there) if other != axis]
    combinations = {tuple(point[other] for other in rest) for point in there}
    return len(there) == len(combinations) * len({point[axis] for point in there})


def spread_of(axis: str, values: Sequence[Any]) -> str:
    """Returns how an axis spreads its values: log, linear, as the log of 1 - x, or as names."""
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        return "names"
    positive = [value for value in values if value > 0]
    wide = bool(positive) and max(positive) >= 10 * min(positive)
    spread = _KNOWN.get(axis, LOG if wide else LINEAR)
    if spread is LOG and min(values) >= 0:
        return "log"
    return "1 - x" if spread is LOG_OF_REST and max(values) < 1 else "linear"


def places_of(grid: Sequence[Row], axis: str) -> dict[Any, int]:
    """Returns the place of each value: of numbers by size, of names as the config has them."""
    values = list(dict.fromkeys(point[axis] for point in having(grid, axis)))
    is_names = spread_of(axis, values) == "names"
    return {v: i for i, v in enumerate(values if is_names else sorted(values))}


def set_scale(ax, axis: str, grid: Sequence[Row], inches: float) -> dict[Any, float]:
    """Scales and names the x axis, and returns the place of each value on it.

    Where there is room in a width in inches, the values themselves are marked.
    """
    order = places_of(grid, axis)
    name, values = str(axis), list(order)
    spread = spread_of(axis, values)
    places = {value: float(i if spread == "names" else value) for value, i in order.items()}
    if spread == "log":
        positive = [value for value in values if value > 0]
        ax.set_xscale("log")
        if len(positive) == len(values):
            name += " (log scale)"
        else:  # zero is left of the dotted line
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
        texts, is_flat = tick_texts(values, gap)
        ax.set_xticks(list(places.values()), texts, rotation=0 if is_flat else 90)
        ax.set_xticks([], minor=True)
    elif ax.get_xscale() == "log":
        mark_decades(ax.xaxis, float(width + 2 * margin))
    elif ax.get_xscale() == "symlog":
        ax.xaxis.set_major_formatter("{x:g}")
    return places


def set_share_scale(ax, shares: Sequence[float] | np.ndarray) -> None:
    """Gives the y axis a log scale of errors, in percent, on which accuracies below 1 have room."""
    low, high = (min(shares), max(shares)) if len(shares) else (0.0, 0.9)
    ax.set_yscale("function", functions=(_spread_share, lambda place: 1 - 10.0**-place))
    bottom, top = _spread_share(np.array([low, high]))
    pad = 0.05 * max(top - bottom, 0.1)
    low, high = (1 - 10.0**-place for place in (bottom - pad, top + pad))
    ax.set_ylim(low, high)
    ticks = [share for share in (0.1, 0.3, *_SHARES[1:]) if low <= share <= high]
    ax.set_yticks(ticks, [f"{100 * share:g}" for share in ticks])


def tick_texts(values: Sequence[Any], inches: float) -> tuple[list[str], bool]:
    """Returns labels for ticks so many inches apart, and whether they have room horizontally."""
    texts, room = [cut(shown(value, num_digits(values))) for value in values], int(13 * inches) - 1
    if room > 8:  # characters; names go on in a second line, numbers do not
        texts = [
            textwrap.fill(text, room) if isinstance(value, str) else text
            for text, value in zip(texts, values, strict=True)
        ]
    return texts, all(len(line) <= room for text in texts for line in text.splitlines())


def _spread_share(share):
    return -np.log10(np.maximum(1 - share, 1e-9))
