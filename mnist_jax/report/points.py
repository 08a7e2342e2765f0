"""The grid points that a report shows, and how the first compares with the others."""

from collections.abc import Sequence
from typing import NamedTuple

from mnist_jax.config.protocol import Protocol
from mnist_jax.runs.choosing import is_as_far, is_finite, ranked
from mnist_jax.runs.comparing import compare_points
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol

MAX_POINTS = 20  # in a table; or pairs of runs


class NamedPoint(NamedTuple):
    """A grid point of a run, with a name that tells it from the others."""

    name: str
    run: Run
    point: Row


class BestPoint(NamedTuple):
    """The best grid point of a run, or the first where nothing was chosen."""

    point: Row
    others: Sequence[tuple[Row, Row]]  # those shown after it, each with its test

    @property
    def judged(self) -> list[tuple[Row, Row]]:
        """The others whose test has a p-value."""
        return [(point, test) for point, test in self.others if is_finite(test["p_holm"])]


def criterion_words(p: Protocol) -> str:
    """Names the accuracy that chooses grid point and trial."""
    return f"{'best' if p.choose_epoch else 'last'}-epoch {p.held_out} accuracy"


def spanned_axes(run: Run) -> list[str]:
    """Returns the axes with several values in the config, whichever points have begun."""
    return [axis for axis in run.axes if len(set(map(str, run.config[axis]))) > 1]


def shown_points(run: Run) -> list[Row]:
    """Returns the points that tables show: from best to worst, or in order if nothing chooses."""
    return ranked(run.summary["grid"], protocol(run).criterion)[:MAX_POINTS]


def compared(run: Run, with_stopped: bool = False) -> Run:
    """Returns a run without the grid points that are not as far as the first one that is shown.

    Of a finished run these are the ones that halving stopped; `with_stopped` leaves them in.
    """
    grid, first = run.summary["grid"], shown_points(run)[0]
    grid = [
        point
        for point in grid
        if is_as_far(point, first) or (with_stopped and point.get("stopped_epoch"))
    ]
    numbers = {point["point"] for point in grid}
    results = [row for row in run.results if row["point"] in numbers]
    return run._replace(results=results, summary=run.summary | {"grid": grid})


def compare_best(run: Run) -> BestPoint:
    """Compares the first of the points that are shown with the others that are as far."""
    run = compared(run)
    point, *others = shown_points(run)
    return BestPoint(point, list(zip(others, compare_points(run, point, others), strict=True)))
