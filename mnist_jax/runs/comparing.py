"""Tests between grid points, seed by seed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mnist_jax import stats
from mnist_jax.runs.choosing import by_point, is_finite
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol, trials_of, values_by_seed
from mnist_jax.runs.summaries import measured, scale_of


def compare(run: Run, point: Row, other_run: Run, other: Row) -> Row:
    """Compares two grid points, of one run or two, by the test accuracies that count.

    Returns:
        The fields of `stats.Comparison`, of the first minus the second, and `identical`: whether
        they are the same, trial by trial. Identical points are not tested.
    """
    one = _measure(run, trials_of(run, point))
    return _compare(one, _measure(other_run, trials_of(other_run, other)))


def compare_points(run: Run, point: Row, others: Sequence[Row]) -> list[Row]:
    """Compares a grid point with others, as `compare` does.

    The p-values are corrected for every pair of points, since the point that is compared has
    usually been found by looking at all of them. Where nothing chooses, a report compares the first
    point with the others. But its table shows every mean, so readers find the best one by looking.

    Returns:
        Per other point, the result of `compare`, its number as `point`, and the corrected `p_holm`.
    """
    trials = by_point(run.results)
    one = _measure(run, trials[point["point"]])
    tests = [_compare(one, _measure(run, trials[other["point"]])) for other in others]
    num_tests = math.comb(len(run.summary["grid"]), 2)
    adjusted = stats.holm([test["p"] for test in tests], num_tests)
    return [
        test | {"point": other["point"], "p_holm": float(p)}
        for test, other, p in zip(tests, others, adjusted, strict=True)
    ]


class _Measured(NamedTuple):
    """The measurements of a grid point's trials, by seed."""

    accuracies: dict[int, float]  # on test images, those that count; NaN of diverged trials
    numbers: dict[int, str]  # everything measured, as text, where NaN equals NaN
    scale: stats.Scale  # of the accuracies


def _measure(run: Run, trials: Sequence[Row]) -> _Measured:
    column = protocol(run).column
    numbers = {row["seed"]: str([row[c] for c in measured(row, run.axes)]) for row in trials}
    scale = scale_of(column, run.summary["num_images"])
    return _Measured(values_by_seed(trials, column), numbers, scale)


def _compare(one: _Measured, other: _Measured) -> Row:
    scale = max(one.scale, other.scale, key=lambda scale: scale.step)
    result = stats.compare(one.accuracies, other.accuracies, scale)
    if identical := one.numbers == other.numbers and is_finite(result.difference):
        result = result._replace(low=math.nan, high=math.nan, p=math.nan, std=math.nan)
    return result._asdict() | {"identical": identical}
