"""The grid of an experiment: axes with several values become points, one recipe each.

Plain data: what varies between trials, how axes combine, and random search over ranges.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mnist_jax import UserError

SCHEDULES = ("constant", "cosine", "linear")
GRIDS = ("product", "list", "random", "halton")


class Point(NamedTuple):
    """One value of everything that may vary between trials, the seed apart.

    Attributes:
        conv_features: Features of each convolutional block; none makes an MLP.
        hidden_sizes: Units of each hidden layer.
        num_epochs: Epochs of training, and the length of the schedule.
        batch_size: Images in a training step.
        nesterov: Whether the momentum is Nesterov's.
        learning_rate: Its peak.
        schedule: How the learning rate falls, one of `SCHEDULES`.
        warmup_steps: Steps over which it first rises.
        momentum: Share of the last update that is kept.
        l2: Factor of the penalty, `l2 * sum(kernel ** 2)`.
        l2_on_output: Whether the output kernel is penalised, and decays, as the others.
        weight_decay: Decoupled decay of the same kernels, by `learning_rate * weight_decay`.
        label_smoothing: Share of each target that is spread evenly over the classes.
    """

    conv_features: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    num_epochs: int
    batch_size: int
    nesterov: bool
    learning_rate: float
    schedule: str
    warmup_steps: int
    momentum: float
    l2: float
    l2_on_output: bool
    weight_decay: float
    label_smoothing: float

    @property
    def static(self) -> tuple:
        """What points must have in common to share a program, and train together."""
        return self[: len(STATIC_AXES)]


AXES = Point._fields
STATIC_AXES = AXES[: AXES.index("learning_rate")]
"""The axes that split a run into parts; of the others one program serves all values."""

# How a search spreads its points between the two ends of a range; of other axes it takes a value.
_LOG = (math.log, math.exp)
_RANGES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "learning_rate": _LOG,
    "warmup_steps": (float, round),
    "momentum": (lambda x: math.log(1 - x), lambda x: 1 - math.exp(x)),
    "l2": _LOG,
    "weight_decay": _LOG,
    "label_smoothing": (float, float),
}


def make_points(
    axes: Mapping[str, Sequence[Any]], grid: str, num_points: int, seed: int
) -> list[Point]:
    """Returns the distinct points of a grid.

    Args:
        axes: By name of `AXES`, the values.
        grid: `product` takes every combination, the last axis varying fastest. `list` reads the
            axes side by side: point i has the i-th value of every axis with more than one.
            `random` and `halton` (low discrepancy) draw `num_points` points: of a number the two
            values are the ends of a range, on a log scale for rates and factors and for
            1 - momentum; of anything else one of the values is taken.
        num_points: Points of a search; 0 without one.
        seed: Of the search.

    Raises:
        UserError: The axes do not fit the grid.
    """
    if grid == "product":
        return [Point(*values) for values in itertools.product(*(axes[name] for name in AXES))]
    several = {name: len(axes[name]) for name in AXES if len(axes[name]) > 1}
    if grid == "list":
        if len(set(several.values())) > 1:
            lengths = ", ".join(f"{name} {n}" for name, n in several.items())
            raise UserError(
                f"--config.grid=list: expected as many values of every axis that has several, got "
                f"{lengths}; give each the same number, or use --config.grid=product"
            )
        rows = zip(*(axes[name] for name in several), strict=True) if several else [()]
        points = [dict(zip(several, row, strict=True)) for row in rows]
    else:
        points = _search(axes, several, grid, num_points, seed)
    fixed = {name: axes[name][0] for name in AXES}
    return list(dict.fromkeys(Point(**(fixed | point)) for point in points))


def _search(axes, several, grid: str, num_points: int, seed: int) -> list[dict[str, Any]]:
    for name, n in several.items():
        log = name in _RANGES and _RANGES[name] is _LOG
        if name in _RANGES and (n > 2 or (log and min(axes[name]) <= 0)):
            expected = "two positive numbers" if log else "two numbers"
            raise UserError(
                f"--config.{name}={tuple(axes[name])}: expected {expected}, the ends of the range "
                f"that --config.grid={grid} searches, or a single number"
            )
    if not several:
        raise UserError(
            f"--config.grid={grid}: nothing to search; give an axis two values, the ends of its "
            "range, as in --config.learning_rate=0.01,1"
        )
    if (most := math.prod(_most(name, axes[name]) for name in several)) < num_points:
        raise _too_many(num_points, f"at most {most} different points")
    import numpy as np
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)
    halton = qmc.Halton(len(several), rng=rng) if grid == "halton" else None
    points: dict[tuple, None] = {}
    for _ in range(10):  # some that are drawn may round to the same
        cube = halton.random(num_points) if halton else rng.random((num_points, len(several)))
        for row in cube:
            values = zip(several, row, strict=True)
            points[tuple(_between(name, axes[name], float(u)) for name, u in values)] = None
        if len(points) >= num_points:
            return [dict(zip(several, point, strict=True)) for point in points][:num_points]
    raise _too_many(num_points, f"{len(points)} different points, or hardly more")


def _too_many(num_points: int, there: str) -> UserError:
    return UserError(
        f"--config.num_points={num_points}: the ranges hold {there}; give at most as many, or "
        "wider ranges"
    )


def _most(name: str, values: Sequence[Any]) -> int:
    """Returns how many values of an axis a search can draw, or a few more."""
    if name not in _RANGES:
        return len(values)
    low, high = sorted(values)
    if isinstance(low, int):
        return high - low + 1

    def place(x: float) -> float:
        """Counts numbers of three digits, of which each decade has 900."""
        decade = math.floor(math.log10(x := max(x, 2**-60)))
        return 900 * decade + 100 * x / 10.0**decade

    num = place(high) - place(low)
    if name == "momentum":
        num += place(1 - low) - place(1 - high)
    return int(num) + 3


def _between(name: str, values: Sequence[Any], u: float) -> Any:
    """Places `u`, from 0 to below 1, between the ends of a range or among the values."""
    if name not in _RANGES:
        return values[int(u * len(values))]
    to, back = _RANGES[name]
    low, high = (to(value) for value in values)
    value = back(low + u * (high - low))
    if isinstance(value, int):
        return value
    # Short enough to be typed; of a momentum near 1 it is the distance from 1 that counts.
    near_1 = name == "momentum" and value > 0.9
    short = round(value, 2 - math.floor(math.log10(1 - value))) if near_1 else float(f"{value:.3g}")
    return min(max(short, min(values)), max(values))
