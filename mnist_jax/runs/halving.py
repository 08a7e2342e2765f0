"""Successive halving in a run: which points are still in, and how far these train next.

A stage lies between two rungs. What it decides at its end follows from `metrics.jsonl` alone, so a
run that is resumed, or has grown, decides again from what was measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax.config import rungs
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.runs.choosing import best_points
from mnist_jax.runs.records import Row
from mnist_jax.runs.unfinished import read_epochs, rows_so_far


class Stage(NamedTuple):
    """What trains from one rung to the next; without halving there is one stage."""

    start: int  # the epoch of the rung before it; 0: there is none
    end: int  # the epoch of the rung at its end; 0: there is none, and trials train to their end
    groups: list[list[int]]  # of trials that have a program in common


def read_stages(
    workdir: Path, experiment: Experiment, names: Sequence[Row]
) -> tuple[list[Stage], list[Row], dict[int, int]]:
    """Returns the stages of a run up to the one that is not done, and the trials that stopped.

    Args:
        workdir: Of the run.
        experiment: That it runs.
        names: The rows that name its trials.

    Returns:
        The stages in order, of which the last is not done or the last of the run; rows of
        `results.csv`; and how many epochs can be read of each trial, if that was needed.

    Raises:
        BadFileError: `metrics.jsonl` cannot be read.
    """
    groups = list(experiment.parts.values())
    if not experiment.halving:
        return [Stage(0, 0, groups)], [], {}
    progress, measured = read_epochs(workdir, dict(enumerate(names)), experiment, None)
    done = progress.done
    stages, stopped = [], list[Row]()
    start, ends = 0, [*experiment.rungs, 0]
    for end in ends:
        stages.append(Stage(start, end, groups))
        there = sorted(trial for group in groups for trial in group)
        if not end or min(done[trial] for trial in there) < end:
            break
        go_on, out = _judge([names[i] for i in there], measured, experiment, end)
        stopped += out
        groups = [kept for group in groups if (kept := [i for i in group if i in go_on])]
        start = end
    return stages, stopped, dict(done)


def _judge(
    trials: Sequence[Row],
    measured: Mapping[int, Mapping[str, np.ndarray]],
    experiment: Experiment,
    rung: int,
) -> tuple[set[int], list[Row]]:
    """Returns the numbers of the trials that go on after a rung, and the rows of the others."""
    until = {
        trial["trial"]: {k: x[:rung] for k, x in measured[trial["trial"]].items()}
        for trial in trials
    }
    rows = rows_so_far(trials, until, {}, experiment, stopped=rung)
    order = best_points(rows, str(PROTOCOLS[experiment.protocol].criterion))
    kept = {*order[: rungs.num_kept(len(order), experiment.halving)]}
    go_on = {row["trial"] for row in rows if row["point"] in kept}
    return go_on, [row for row in rows if row["trial"] not in go_on]
