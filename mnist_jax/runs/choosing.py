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

    Those with trials that diverged come last; in a run that is not finished, or has stopped points
    on their way, those that have most epochs left.
    """
    if criterion is None:
        return sorted(grid, key=epochs_left)

    def rank(point):
        mean = point["statistics"][criterion]["mean"]
        return epochs_left(point), *_rank(len(point["diverged_seeds"]), mean)

    return sorted(grid, key=rank)


def epochs_left(point: Row) -> int:
    """Returns how many epochs a grid point has still to train."""
    return int(point["num_epochs"]) - epochs_done(point)


def epochs_done(point: Row) -> int:
    """Returns how many epochs the trials of a grid point have trained."""
    so_far: int = point["epochs_done"] if "epochs_done" in point else point["num_epochs"]
    return point.get("stopped_epoch") or so_far


def trained_epochs(trial: Row) -> int:
    """Returns how many epochs a trial of a finished run was trained, given its row."""
    return int(trial.get("stopped_epoch") or trial["num_epochs"])


def best_points(rows: Sequence[Row], criterion: str) -> list[int]:
    """Returns the numbers of the grid points of some trials, from best to worst."""

    def rank(point: tuple[int, list[Row]]) -> tuple[int, float]:
        return _rank(count_diverged(point[1]), stats.mean_of(sound_values(point[1], criterion)))

    return [number for number, _ in sorted(by_point(rows).items(), key=rank)]


def is_as_far(point: Row, other: Row) -> bool:
    """Says whether grid points can be compared: both are done, or have done the same epochs."""
    return epochs_left(point) == epochs_left(other) == 0 or epochs_done(point) == epochs_done(other)


def _rank(num_diverged: int, mean: object) -> tuple[int, float]:
    """Returns a key that sorts grid points from best to worst."""
    return num_diverged, -mean if is_finite(mean) else math.inf


def choose_trial(rows: Sequence[Row], protocol: str) -> Row:
    """Returns the best trial of the best grid point, by the protocol's criterion alone.

    Those that halving stopped do not count. Without a criterion it is the first sound trial; if all
    diverged, the first.
    """
    trials = rows = [row for row in rows if not row.get("stopped_epoch")] or rows
    if (criterion := PROTOCOLS[protocol].criterion) is not None:
        trials = by_point(rows)[best_points(rows, criterion)[0]]
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
