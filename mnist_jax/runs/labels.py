"""Grid points and trials in words: the axes that vary, values, counts."""

import itertools
from collections.abc import Iterable, Sequence

from mnist_jax.runs.records import Row
from mnist_jax.text import one_line


class Axis(str):
    """The name of an axis, which knows how many digits tell its values apart."""

    digits: int

    def __new__(cls, name: str, digits: int):
        """Adds the digits to the name."""
        axis = super().__new__(cls, name)
        axis.digits = digits
        return axis


_BESIDE_AXES = {"trial", "point", "seed", "dataset", "num_trials", "diverged_seeds", "statistics"}
_BESIDE_AXES |= {"epochs_done", "stopped_epoch"}
"""What a grid point, or what names a trial, has beside the axes."""


def varying(grid: Sequence[Row]) -> tuple[Axis, ...]:
    """Returns the axes on which grid points, or trials, have more than one value.

    A point that lacks an axis, or has None there, has no value: its optimizer does not take it.
    """
    axes = [name for name in dict.fromkeys(itertools.chain(*grid)) if name not in _BESIDE_AXES]
    values = {
        axis: {str(point[axis]): point[axis] for point in grid if point.get(axis) is not None}
        for axis in axes
    }
    return tuple(
        Axis(axis, num_digits(found.values())) for axis, found in values.items() if len(found) > 1
    )


def label(point: Row, axes: Sequence[Axis]) -> str:
    """Names a grid point, or a trial, by its values on those of the axes that it has."""
    return ", ".join(
        f"{axis}={shown(point[axis], axis.digits)}" for axis in axes if point.get(axis) is not None
    )


def shown(value: object, digits: int | None = None) -> str:
    """Writes the value of an axis; by default with the digits that it needs if it is alone."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.{digits or num_digits([value])}g}"
    return one_line(str(value)) or "none"


def num_digits(values: Iterable[object]) -> int:
    """Returns how many digits, 6 or more, tell the numbers among values from each other and 1."""
    numbers = {value for value in values if isinstance(value, float)} | {1.0}
    texts = ({f"{number:.{digits}g}" for number in numbers} for digits in range(6, 18))
    return next((6 + i for i, found in enumerate(texts) if len(found) == len(numbers)), 17)


def count(n: int, noun: str) -> str:
    """Writes a number of things, as in 1 trial, 2 trials."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
