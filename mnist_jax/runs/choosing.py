"""Which grid point and which trial are best, by the criterion of a protocol."""

import math
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from mnist_jax import stats
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.runs.records import Row


def ranked(grid: Sequence[Row], criterion: str | None) -> list[Row]:
    """Returns the grid points from best to worst by the mean of the criterion, if there is one.

    Those with trials that diverged come last; in a run that is not finished, those that have most
    epochs left.
    """
    if criterion is None:
        return sorted(grid, key=epochs_left)

    def rank(point):
        mean = point["statistics"][criterion]["mean"]
        return epochs_left(point), *_rank(len(point["diverged_seeds"]), mean)

    return sorted(grid, key=rank)


def epochs_left(point: Row) -> int:
    """Returns how many epochs a grid point has still to train."""
    left: int = point["num_epochs"] - point["epochs_done"] if "epochs_done" in point else 0
    return left


def epochs_done(point: Row) -> int:
    """Returns how many epochs the trials of a grid point have trained."""
    done: int = point["epochs_done" if "epochs_done" in point else "num_epochs"]
    return done


def is_as_far(point: Row, other: Row) -> bool:
    """Says whether grid points can be compared: both are done, or have done the same epochs."""
    return epochs_left(point) == epochs_left(other) == 0 or epochs_done(point) == epochs_done(other)


def _rank(num_diverged: int, mean: object) -> tuple[int, float]:
    """Returns a key that sorts grid points from best to worst."""
    return num_diverged, -mean if is_finite(mean) else math.inf


def choose_trial(rows: Sequence[Row], protocol: str) -> Row:
    """Returns the best trial of the best grid point, by the protocol's criterion alone.

    Without a criterion it is the first sound trial; if all diverged, the first.
    """
    criterion, trials = PROTOCOLS[protocol].criterion, rows
    if criterion is not None:

        def rank(trials):
            return _rank(count_diverged(trials), stats.mean_of(sound_values(trials, criterion)))

        trials = min(by_point(rows).values(), key=rank)
    sound = [row for row in trials if not row["diverged_epoch"]]
    if not sound:
        return trials[0]
    return sound[0] if criterion is None else max(sound, key=lambda row: row[criterion])


def by_point(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Returns the trials of each grid point, by its number."""
    points: dict[int, list[Row]] = {}
    for row in rows:
        points.setdefault(row["point"], []).append(row)
    return points


def sound_values(trials: Sequence[Row], column: str) -> np.ndarray:
    """Returns a column of the trials that did not diverge."""
    return np.array([row[column] for row in trials if not row["diverged_epoch"]], float)


def count_diverged(trials: Sequence[Row]) -> int:
    """Counts the trials that diverged."""
    return sum(bool(row["diverged_epoch"]) for row in trials)


def is_finite(value: object) -> TypeGuard[float]:
    """Says whether a value, which may be missing, is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
