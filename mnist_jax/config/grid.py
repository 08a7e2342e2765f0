"""The grid of an experiment: how axes with several values become points, a recipe each."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mnist_jax import UserError
from mnist_jax.config.values import LOG, LOG_OF_REST, SearchScale

GRIDS = ("product", "list", "random", "halton")
Point = dict[str, Any]
"""One value of every axis; what varies between trials, except the seed."""


def make_points(
    axes: Mapping[str, Sequence[Any]],
    scales: Mapping[str, SearchScale | None],
    grid: str,
    num_points: int,
    seed: int,
) -> list[Point]:
    """Returns the points of a grid; those of a list or a search are distinct.

    Args:
        axes: The values of each, by name.
        scales: Of each, as `Axis.scale`.
        grid: `product` takes every combination, the last axis varying fastest. `list` reads the
            axes side by side: point i has the i-th value of every axis with more than one.
            `random` and `halton` (low discrepancy) draw `num_points` points.
        num_points: Points of a search; 0 without one.
        seed: Of the search.

    Raises:
        UserError: The axes do not fit the grid.
    """
    if grid == "product":
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]
    several = {name: len(values) for name, values in axes.items() if len(values) > 1}
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
        points = _search(axes, several, scales, grid, num_points, seed)
    fixed = {name: values[0] for name, values in axes.items()}
    return distinct([fixed | point for point in points])


def distinct(points: Iterable[Point]) -> list[Point]:
    """Returns the points without repetitions."""
    return list({tuple(point.values()): point for point in points}.values())


def _search(axes, several, scales, grid: str, num_points: int, seed: int) -> list[dict[str, Any]]:
    for name, n in several.items():
        log = scales[name] is LOG
        no_range = n > 2 or None in axes[name] or (log and min(axes[name]) <= 0)
        if scales[name] and no_range:
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
    if (most := math.prod(_most(scales[name], axes[name]) for name in several)) < num_points:
        raise _too_many(num_points, f"at most {most} different points")
    import numpy as np
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)
    halton = qmc.Halton(len(several), rng=rng) if grid == "halton" else None
    points: dict[tuple, None] = {}
    for _ in range(10):  # several draws may round to the same point
        cube = halton.random(num_points) if halton else rng.random((num_points, len(several)))
        for row in cube:
            values = zip(several, row, strict=True)
            drawn = (_between(scales[name], axes[name], float(u)) for name, u in values)
            points[tuple(drawn)] = None
        if len(points) >= num_points:
            return [dict(zip(several, point, strict=True)) for point in points][:num_points]
    raise _too_many(num_points, f"about {len(points)} different points")


def _too_many(num_points: int, there: str) -> UserError:
    return UserError(
        f"--config.num_points={num_points}: the ranges hold {there}; give at most as many, or "
        "wider ranges"
    )


def _most(scale: SearchScale | None, values: Sequence[Any]) -> int:
    """Returns an upper bound of the number of values of an axis that a search can draw."""
    if scale is None:
        return len(values)
    low, high = sorted(values)
    if isinstance(low, int):
        return high - low + 1

    def place(x: float) -> float:
        """Counts the numbers of three digits up to x; each decade has 900."""
        decade = math.floor(math.log10(x := max(x, 2**-60)))
        return 900 * decade + 100 * x / 10.0**decade

    if low < 0:
        num = place(-low) + place(high) if high > 0 else place(-low) - place(-high)
    else:
        num = place(high) - place(low)
    if scale is LOG_OF_REST:
        num += place(1 - low) - place(1 - high)
    return int(num) + 3


def _between(scale: SearchScale | None, values: Sequence[Any], u: float) -> Any:
    """Places `u`, from 0 to below 1, between the ends of a range or among the values."""
    if scale is None:
        return values[int(u * len(values))]
    low, high = map(scale.forward, values)
    value = scale.inverse(low + u * (high - low))
    if isinstance(value, int):
        return value
    # Short enough to be typed; for a momentum near 1 the distance from 1 matters.
    near_1 = scale is LOG_OF_REST and value > 0.9
    short = round(value, 2 - math.floor(math.log10(1 - value))) if near_1 else float(f"{value:.3g}")
    return min(max(short, min(values)), max(values))
