"""Kept states of trials, put together for a program that trains them on."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from mnist_jax.run_files import BadFileError
from mnist_jax.runs import groups, weights
from mnist_jax.runs.checkpoints import Checkpoints, Restored, leaf_names, place_rows
from mnist_jax.runs.groups import TrialGroup
from mnist_jax.runs.halving import Stage
from mnist_jax.training import hosts

_State = tuple[int, Mapping[str, np.ndarray], Mapping[str, Any]]
"""A trial's number, the arrays of its state by name, and its columns as `Recorder.columns`."""


def kept_epoch(workdir: Path, group: TrialGroup, stages: Sequence[Stage]) -> int:
    """Returns the newest epoch after which the states of all trials of a group are kept, or 0.

    The checkpoints of the group itself do not count.
    """
    return weights.kept_epoch(workdir, group) or max(
        (max(_epochs(workdir, group, stage), default=0) for stage in stages[:-1]), default=0
    )


def restore(
    workdir: Path,
    group: TrialGroup,
    like: PyTree,
    newest: int,
    stages: Sequence[Stage],
    run: str,
) -> Restored | None:
    """Returns the state of trials that train on together, where all are kept after one epoch.

    They are kept one by one, or in the checkpoints of an earlier stage of halving. `like` and
    `newest` are as in `Checkpoints.restore`, `run` as in `Checkpoints`. What cannot be read costs a
    line on stderr.
    """
    if found := _restore_weights(workdir, group, like, newest):
        return found
    for stage in reversed(stages[:-1]):
        if found := _restore_survivors(workdir, group, like, newest, stage, run):
            return found
    return None


def _epochs(workdir: Path, group: TrialGroup, stage: Stage) -> set[int]:
    """Returns the epochs after which a stage has saved all trials of a group."""
    trained = groups.read_groups(workdir, stage.groups, stage.start)
    saved = [
        groups.saved_epochs(workdir, other, stage.start)
        for other in trained
        if not {*other}.isdisjoint(group)
    ]
    is_whole = {*group} <= {trial for other in trained for trial in other}
    return set.intersection(*saved) if is_whole else set()


def _restore_weights(
    workdir: Path, group: TrialGroup, like: PyTree, newest: int
) -> Restored | None:
    import jax

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like)

    def read(_epoch: int) -> Iterator[_State]:
        for trial in group:
            found = weights.read_state(workdir, trial, one)
            columns = {name: value.item() for name, value in found.columns.items()}
            yield trial, weights.named_arrays(found.state), columns

    def epoch_of_all() -> int:
        kept = weights.kept_epoch(workdir, group)
        return kept if kept <= newest else 0

    return _restore(group, like, epoch_of_all, read)


def _restore_survivors(
    workdir: Path, group: TrialGroup, like: PyTree, newest: int, stage: Stage, run: str
) -> Restored | None:
    """Returns the state from the checkpoints of a stage in which others trained with the group."""
    import jax

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like)
    names = dict(zip(leaf_names(like), weights.named_arrays(one).items(), strict=True))

    def newest_epoch() -> int:
        return max((x for x in _epochs(workdir, group, stage) if x <= newest), default=0)

    def read(epoch: int) -> Iterator[_State]:
        for other in groups.read_groups(workdir, stage.groups, stage.start):
            if {*other}.isdisjoint(group):
                continue
            folder = groups.checkpoint_folder(workdir, other, stage.start)
            with Checkpoints(folder, run=run, num_trials=len(other), keep=1) as checkpoints:
                try:
                    arrays, record = checkpoints.read(epoch)
                except Exception as error:  # damage can make the reader fail in any way
                    raise BadFileError(folder / str(epoch), error) from None
            found = {}
            for name, (kept, leaf) in names.items():
                array = weights.array_of(arrays, name)
                if array is None or (array[0].shape, array.dtype) != (leaf.shape, leaf.dtype):
                    raise BadFileError(folder / str(epoch), f"{name} is not of this network")
                found[kept] = array
            for place, trial in enumerate(other):
                if trial in group:
                    columns = {name: values[place] for name, values in record["columns"].items()}
                    yield trial, {name: array[place] for name, array in found.items()}, columns

    return _restore(group, like, newest_epoch, read)


def _restore(
    group: Sequence[int],
    like: PyTree,
    epoch_of: Callable[[], int],
    read: Callable[[int], Iterator[_State]],
) -> Restored | None:
    """Puts states together that the first process reads, of the epoch that it finds; 0: none."""
    import jax

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like)
    kinds = {
        name: ((len(group), *x.shape), x.dtype) for name, x in weights.named_arrays(one).items()
    }
    arrays: dict[str, np.ndarray] = {}

    def find() -> list[Any] | None:
        if not (epoch := epoch_of()):
            return None
        columns: dict[str, list] = {}
        places = {trial: place for place, trial in enumerate(group)}
        try:
            for trial, state, values in read(epoch):
                for name, array in state.items():
                    arrays.setdefault(name, np.empty(*kinds[name]))[places[trial]] = array
                for name, value in values.items():
                    columns.setdefault(name, [None] * len(group))[places[trial]] = value
        except BadFileError as error:
            print(
                f"warning: {error.path.parent}/{error}, so its trials begin further back",
                file=sys.stderr,
                flush=True,
            )
            return None
        return [epoch, columns]

    if (found := hosts.first(find)) is None:
        return None
    epoch, columns = found
    arrays = hosts.arrays_of_first(arrays, kinds)
    rows = [place_rows(arrays[name], x) for name, x in weights.named_arrays(like).items()]
    return Restored(epoch, jax.tree.unflatten(jax.tree.structure(like), rows), {"columns": columns})
