"""What halving stopped in a run: after which epochs, how many points, in numbers and words."""

from typing import NamedTuple

from mnist_jax.report.formatting import listed
from mnist_jax.runs.labels import count
from mnist_jax.runs.results import Run


class Rung(NamedTuple):
    """An epoch after which halving stopped points of a run."""

    epoch: int
    num_points: int  # that were still in
    num_kept: int  # of them that went on


def rungs_of(run: Run) -> list[Rung]:
    """Returns the rungs at which points of a run have stopped, in order; none without halving."""
    stops = [point.get("stopped_epoch", 0) for point in run.summary["grid"]]
    passed = []
    for epoch in sorted({*stops} - {0}):
        there = [stop for stop in stops if not 0 < stop < epoch]
        passed.append(Rung(epoch, len(there), sum(stop != epoch for stop in there)))
    return passed


def num_stopped(run: Run) -> int:
    """Counts the trials that halving stopped."""
    return sum(bool(row.get("stopped_epoch")) for row in run.results)


def stopped_words(run: Run) -> str:
    """Says how many grid points of a finished run halving stopped, and when; without a dot."""
    rungs = rungs_of(run)
    num_points, left = len(run.summary["grid"]), rungs[-1].num_kept
    stops = [f"{rung.num_points - rung.num_kept} after epoch {rung.epoch}" for rung in rungs]
    text = f"Of {count(num_points, 'grid point')} halving stopped {listed(stops, len(stops))}"
    they = "it is" if num_points - left == 1 else "they are"
    were = "was" if left == 1 else "were"
    return f"{text}; {they} not compared with the {left} that {were} trained to the end"
