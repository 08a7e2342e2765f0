"""Which axes of a search matter: how much worse a forest foretells ranks without each of them.

A random forest learns the ranks of some points and is judged by others, whose values on an axis are
then shuffled (L. Breiman, "Random forests", Machine Learning 45, 2001). Ranks, since a few networks
that did not learn would else be all the scatter that there is.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.report.epochs import read_criterion
from mnist_jax.report.figures.canvas import sound_trials
from mnist_jax.report.figures.scales import having, places_of, spread_of
from mnist_jax.report.formatting import listed
from mnist_jax.report.halving import rungs_of
from mnist_jax.report.points import criterion_words
from mnist_jax.report.tables import Table, ungrouped
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.labels import varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol
from mnist_jax.stats import mean_of

MIN_POINTS = 40  # with fewer, a forest sometimes explains pure noise
MAX_POINTS = 2000  # which take seconds
MIN_EXPLAINED = 0.3  # of the scatter among unseen points; of noise it is below 0.15
MIN_LOSS = 0.01  # of the scatter, that an axis must explain
PARTS, REPEATS, SHUFFLES, TREES = 5, 2, 2, 50


class Found(NamedTuple):
    """What forests have found in the points of a search."""

    explained: float  # share of the scatter among points that they had not seen; may be below 0
    losses: np.ndarray  # [forests, axes], of that share, where the values of an axis are shuffled

    def is_told(self) -> np.ndarray:
        """Says of each axis whether it can be told from one that does nothing: [axes] bools."""
        return (self.losses.min(0) > 0) & (self.losses.mean(0) >= MIN_LOSS)


def make_blocks(run: Run) -> list[str | Table]:
    """Returns what a report says of the axes of a finished search; nothing of another run.

    Raises:
        UserError: The epochs of the run cannot be read.
    """
    grid, axes = run.summary["grid"], varying(run.summary["grid"])
    is_search = run.config["grid"] in ("random", "halton")
    # The axes of a list may go together, and then nothing tells them apart.
    is_many = run.config["grid"] == "product" and len(grid) >= MIN_POINTS
    if run.progress or len(axes) < 2 or not (is_search or is_many):
        return []
    if len(grid) < MIN_POINTS:
        return [f"This cannot be told from {len(grid)} points; it takes {MIN_POINTS} or more."]
    p, rungs = protocol(run), rungs_of(run)
    what = f"mean {criterion_words(p) if p.criterion else p.measure}"
    if rungs:
        what += f" after epoch {rungs[0].epoch}, up to which all points were trained"
    found = find(places(grid, axes), ranks(run))
    size = f"{len(grid)} points"
    if len(grid) > MAX_POINTS:
        size = f"{MAX_POINTS} of the {len(grid)} points, drawn at random,"
    method = (
        f"Random forests (scikit-learn) learned from {PARTS - 1} of {PARTS} parts of the {size}"
        f" which rank a point has by its {what}, given its values on the axes."
        " Points with trials that diverged rank last. Of the scatter of the ranks among the points"
        f" that a forest had not seen, they explain {max(0, 100 * found.explained):.0f} %."
    )
    if found.explained < MIN_EXPLAINED:
        return [
            f"{method} That is too little to tell which axes matter: of chance alone it may be"
            f" some percent, and {100 * MIN_EXPLAINED:.0f} % are asked for here."
        ]
    order, told = np.argsort(-found.losses.mean(0), kind="stable"), found.is_told()
    rows = []
    for i in order:
        mean, low, high = (f(100 * found.losses[:, i]) for f in (np.mean, np.min, np.max))
        ends = f"{_whole(low)} to {_whole(high)}"
        rows.append([axes[i], _whole(mean), ends, "yes" if told[i] else "no"])
    group = "share of the scatter, %"
    columns = [*ungrouped(["axis"]), (group, "mean"), (group, "of single forests")]
    meaning = (
        "By so much less of the scatter is explained if the values of the axis are shuffled among"
        f" the unseen points: mean, lowest and highest of {len(found.losses)} forests. Axes that"
        " act together count in full each, so shares may add up to more than 100 %. An axis is told"
        f" from one that does nothing if every forest lost by shuffling it, and the mean is"
        f" {100 * MIN_LOSS:.0f} % or more. This is no test. It holds for the ranges that were"
        " searched; how far an axis matters among good points alone may be otherwise, and which of"
        " its values are good is what the figures show."
    )
    if not told.all():
        names = listed([axes[i] for i in order if not told[i]])
        meaning += f" Nothing can be told of {names}: this may matter less, or not at all."
    if rungs:
        meaning += " What matters after more epochs may be something else."
    return [method, Table([*columns, ("", "told from no effect")], rows), meaning]


def _whole(percent: float) -> str:
    return f"{round(percent) + 0:d}"


def ranks(run: Run) -> np.ndarray:
    """Returns the rank of each grid point, from 1 for the worst: [points]; equal ones share theirs.

    Where halving stopped some, they are ranked after the first rung, by the same number of epochs.
    """
    from scipy.stats import rankdata

    p, grid, rungs = protocol(run), run.summary["grid"], rungs_of(run)
    means = [point["statistics"][p.criterion or p.column]["mean"] for point in grid]
    if rungs:
        read = read_criterion(run, grid, sound_trials(run, grid))
        means = [mean_of(curves[:, rungs[0].epoch - 1]) for curves in read]
    keys = [
        (-len(point["diverged_seeds"]), mean if is_finite(mean) else -math.inf)
        for point, mean in zip(grid, means, strict=True)
    ]
    places = {key: i for i, key in enumerate(sorted(set(keys)))}
    return rankdata([places[key] for key in keys])


def places(grid: Sequence[Row], axes: Sequence[str]) -> np.ndarray:
    """Returns the points as numbers [points, axes]: names by their place, numbers as they are.

    A point that does not have an axis has the value of any other there, so that it says nothing.
    """
    rng, columns = np.random.default_rng(0), []
    for axis in axes:
        known: dict[Any, int] = places_of(grid, axis)
        is_names = spread_of(axis, list(known)) == "names"
        there = [known[x[axis]] if is_names else x[axis] for x in having(grid, axis)]
        column = rng.choice(np.array(there, float), len(grid))
        column[[point.get(axis) is not None for point in grid]] = there
        columns.append(column)
    return np.stack(columns, axis=1)


def find(points: np.ndarray, ranks: np.ndarray) -> Found:
    """Returns what forests find in points [points, axes] and their ranks [points]."""
    with _same_environment():
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.inspection import permutation_importance
        from sklearn.model_selection import RepeatedKFold

    if len(points) > MAX_POINTS:
        drawn = np.random.default_rng(0).permutation(len(points))[:MAX_POINTS]
        points, ranks = points[drawn], ranks[drawn]
    errors, losses = [], []
    parts = RepeatedKFold(n_splits=PARTS, n_repeats=REPEATS, random_state=0)
    for seen, unseen in parts.split(points):
        forest = RandomForestRegressor(TREES, random_state=0).fit(points[seen], ranks[seen])
        errors.append(np.square(forest.predict(points[unseen]) - ranks[unseen]))
        options = {"scoring": "neg_mean_squared_error", "n_repeats": SHUFFLES, "random_state": 0}
        shuffled = permutation_importance(forest, points[unseen], ranks[unseen], **options)
        losses.append(shuffled.importances_mean)
    scatter = max(float(ranks.var()), 1e-9)  # of equal ranks, nothing is explained
    explained = 1 - float(np.concatenate(errors).mean()) / scatter
    return Found(explained if ranks.std() else 0.0, np.array(losses) / scatter)


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Removes the variables that importing scikit-learn sets, which child processes would see."""
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]
