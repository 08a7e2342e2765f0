"""What a work directory holds of a run when training begins, or goes on after a rung of halving."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mnist_jax.config.experiment import Experiment
from mnist_jax.config.old_records import axes_of
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import groups, halving, kept_states, labels, records, weights
from mnist_jax.runs.groups import TrialGroup
from mnist_jax.runs.halving import Stage
from mnist_jax.runs.records import Row


class Done(NamedTuple):
    """What is done of a run."""

    stages: list[Stage]  # up to the one that is not done, or is the last
    groups: list[TrialGroup]  # of that one
    epochs: dict[int, int]  # that each trial has trained
    rows: list[Row]  # of `results.csv`, of the trials that are done, in order


def read_done(
    path: Path,
    experiment: Experiment,
    record: Row,
    names: Sequence[Row],
    say: Callable[[str], object],
) -> Done:
    """Reads what is done, and leaves in the directory what agrees with that alone.

    Args:
        path: The directory, which is locked.
        experiment: That it runs.
        record: What `config.json` says.
        names: The rows that name its trials.
        say: Shows a line of progress.

    Raises:
        UserError: `metrics.jsonl` cannot be read.
    """
    ends = {name["trial"]: name["num_epochs"] for name in names}
    recorded = records.trim_metrics(path, ends)
    columns = records.columns_of(
        experiment.protocol, axes_of(record), experiment.metrics, experiment.halving
    )
    there = {row["trial"]: row for row in records.read_results(path, names, columns)}
    try:
        stages, out, measured = halving.read_stages(path, experiment, names)
    except BadFileError as error:
        raise records.cannot_resume(path, error) from None
    stopped = {row["trial"]: row for row in out}
    ends |= {trial: row["stopped_epoch"] for trial, row in stopped.items()}
    _drop_what_followed(path, stopped, recorded, say)
    readable = {trial: min(end, measured.get(trial, end)) for trial, end in ends.items()}
    if any(recorded[trial] > readable[trial] for trial in recorded):
        recorded = records.trim_metrics(path, readable)
    finished = {trial: row for trial, row in there.items() if not row.get("stopped_epoch")}
    rows = finished | stopped
    mine = _groups(path, stages, recorded, rows)
    _warn_of_lost(path, stages, mine, recorded, {trial: ends[trial] for trial in rows})
    done = {*stopped} | {
        trial
        for group in mine
        if all(trial in rows and recorded[trial] == ends[trial] for trial in group)
        for trial in group
    }
    result = Done(stages, mine, recorded, [rows[trial] for trial in sorted(done)])
    if any(
        there.get(trial, {}).get("stopped_epoch") != row["stopped_epoch"]
        for trial, row in stopped.items()
    ):
        records.write_results(path, result.rows)
    return result


def saved_epoch(path: Path, group: TrialGroup, stages: Sequence[Stage]) -> int:
    """Returns the newest epoch after which the state of a group is on disk, or 0."""
    own = groups.saved_epochs(path, group, stages[-1].start)
    return max(own, default=0) or kept_states.kept_epoch(path, group, stages)


def _groups(
    path: Path, stages: Sequence[Stage], recorded: Mapping[int, int], rows: Mapping[int, Row]
) -> list[TrialGroup]:
    """Returns the groups of the last stage.

    After a rung, a run that has grown divides them by what its trials have done before.
    """
    stage = stages[-1]
    if not stage.start or groups.are_recorded(path, stage.start):
        return groups.read_groups(path, stage.groups, stage.start)
    pieces: list[TrialGroup] = []
    for whole in stage.groups:
        by_state: dict[tuple, TrialGroup] = {}
        for trial in whole:
            is_done = recorded[trial] >= stage.end if stage.end else trial in rows
            known = groups.saved_epochs(path, whole, stage.start) or is_done
            state = (is_done, 0 if known else kept_states.kept_epoch(path, [trial], stages))
            by_state.setdefault(state, []).append(trial)
        pieces += by_state.values()
    if len(pieces) > len(stage.groups):
        groups.write_groups(path, pieces, stage.start)
    return pieces


def _drop_what_followed(
    path: Path,
    stopped: Mapping[int, Row],
    recorded: Mapping[int, int],
    say: Callable[[str], object],
) -> None:
    """Deletes weights of stopped trials that are of other epochs than their last one.

    A line says how many of a run that has grown stop earlier than before; the caller cuts their
    rows off. The others' last weights were not written before the run died.
    """
    trials = [trial for trial, row in stopped.items() if recorded[trial] > row["stopped_epoch"]]
    if trials:
        stop = "stops" if len(trials) == 1 else "stop"
        what = f"{labels.count(len(trials), 'trial')} that had gone on {stop} at a rung"
        say(f"{what}, since more points or seeds are compared there")
    for trial in stopped.keys() & {*weights.kept(path)}:
        if weights.epoch_of(path, trial) != stopped[trial]["stopped_epoch"]:
            weights.file(path, trial).unlink()


def _warn_of_lost(
    path: Path,
    stages: Sequence[Stage],
    mine: Sequence[TrialGroup],
    recorded: Mapping[int, int],
    rows: Mapping[int, int],
) -> None:
    """Says which epochs `metrics.jsonl` lacks of those that trials had done, if any."""
    known: dict[int, int] = {}
    for group in mine:
        saved = saved_epoch(path, group, stages)
        known |= {trial: rows.get(trial, saved) for trial in group}
    if short := [trial for trial in sorted(known) if recorded[trial] < known[trial]]:
        print(
            f"warning: {path / 'metrics.jsonl'} was lost or cut: it holds "
            f"{recorded[short[0]]} of {labels.count(known[short[0]], 'epoch')} that trial "
            f"{short[0]} had done{', and less of others' * (len(short) > 1)}; what is missing "
            "is trained again",
            file=sys.stderr,
            flush=True,
        )
