"""Tests between grid points, seed by seed."""

import math
from collections.abc import Sequence

from mnist_jax import stats
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, by_seed, protocol, trials_of
from mnist_jax.runs.summaries import measured, scale_of


def compare(run: Run, point: Row, other_run: Run, other: Row) -> Row:
    """Compares two grid points, of one run or two, by the test accuracies that count.

    Returns:
        The fields of `stats.Comparison`, of the first less the second, and `identical`: whether
        they are the same, trial by trial, of which nothing is judged.
    """
    sides = [(run, point), (other_run, other)]
    columns = [protocol(side).column for side, _ in sides]
    scales = [
        scale_of(c, side.summary["num_images"]) for c, (side, _) in zip(columns, sides, strict=True)
    ]
    values, others = (by_seed(*side, c) for c, side in zip(columns, sides, strict=True))
    numbers = [
        {row["seed"]: str([row[c] for c in measured(row, side.axes)]) for row in trials_of(side, p)}
        for side, p in sides
    ]
    found = stats.compare(values, others, max(scales, key=lambda scale: scale.step))
    if identical := numbers[0] == numbers[1] and is_finite(found.difference):
        found = found._replace(low=math.nan, high=math.nan, p=math.nan, std=math.nan)
    return found._asdict() | {"identical": identical}


def compare_points(run: Run, point: Row, others: Sequence[Row]) -> list[Row]:
    """Compares a grid point with others, seed by seed, by the test accuracy that counts.

    Returns:
        Per other point, what `compare` returns of it, `point`, its number, and `p_holm`, corrected
        for every pair of points, since the point that is compared has usually been found by
        looking at all of them. Where nothing chooses, a report compares the first, for which the
        pairs with it would do. But its table shows every mean, so the reader, too, finds the best
        by looking: the same family holds whichever point is asked about.
    """
    found = [compare(run, point, run, other) for other in others]
    num_points = len(run.summary["grid"])
    adjusted = stats.holm([test["p"] for test in found], num_points * (num_points - 1) // 2)
    return [
        test | {"point": other["point"], "p_holm": float(p)}
        for test, other, p in zip(found, others, adjusted, strict=True)
    ]
