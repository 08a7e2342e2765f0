"""The weights of all trials, where a run keeps them: `weights/trial_N.npz`.

A file holds the variables that count, named as in `chosen_trial.npz`. Beside them, under `state/`,
is what training on needs: the number of `epoch`s, the `columns` of `results.csv` after them, and
the arrays of the trial's state.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import run_files
from mnist_jax.arrays import npz_bytes
from mnist_jax.disk import write_bytes
from mnist_jax.run_files import BadFileError
from mnist_jax.runs.chosen_trial import flat_weights

FOLDER = "weights"
PyTree = Any  # of jaxtyping, which imports JAX
_STATE, _EPOCH, _COLUMNS = "state/", "state/epoch", "state/columns/"


class Kept(NamedTuple):
    """What training on needs of a trial."""

    epoch: int
    state: PyTree  # arrays of NumPy
    columns: dict[str, Any]  # as `Recorder.columns`, of this trial


def kept(workdir: Path) -> list[int]:
    """Returns the numbers of the trials whose weights are in a work directory."""
    folder = workdir / FOLDER
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    found = (re.fullmatch(r"trial_(0|[1-9][0-9]*)\.npz", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def write_weights(
    workdir: Path, trial: int, state: PyTree, epoch: int, columns: Mapping[str, Any]
) -> None:
    """Writes `weights/trial_N.npz` of a trial, whose `state` is arrays of NumPy."""
    from mnist_jax.training.trial import chosen_variables

    arrays = flat_weights(chosen_variables(state)) | {_EPOCH: epoch}
    arrays |= {_COLUMNS + name: value for name, value in columns.items()}
    path = file(workdir, trial)
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, npz_bytes(arrays | named_arrays(state)))


def read_variables(workdir: Path, trial: int) -> dict[str, np.ndarray]:
    """Returns the variables that count of a trial, by names such as `params/LAYER/NAME`.

    Raises:
        BadFileError: They are not there, or the file is damaged.
    """
    path = file(workdir, trial)
    arrays = run_files.read_arrays(path)
    found = {name: array for name, array in arrays.items() if not name.startswith(_STATE)}
    if not any(name.startswith("params/") for name in found):
        raise BadFileError(path, "it holds no parameters")
    return found


def read_state(workdir: Path, trial: int, like: PyTree) -> Kept:
    """Returns the state of a trial, whose arrays have the shapes and types of `like`.

    Raises:
        BadFileError: It is not there, the file is damaged, or the state is of another network.
    """
    import jax

    path = file(workdir, trial)
    arrays = run_files.read_arrays(path)
    run_files.check_arrays(path, arrays, {_EPOCH: ("i", ())})
    found = []
    for name, wanted in named_arrays(like).items():
        array = array_of(arrays, name)
        if array is not None and array.dtype.kind == "V":  # a type that NumPy's files do not know
            array = array.view(wanted.dtype)
        if array is None or (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise BadFileError(path, f"{name} is missing, or not of this network")
        found.append(array)
    columns = {
        name.removeprefix(_COLUMNS): array
        for name, array in arrays.items()
        if name.startswith(_COLUMNS) and not array.ndim
    }
    state = jax.tree.unflatten(jax.tree.structure(like), found)
    return Kept(int(arrays[_EPOCH]), state, columns)


def array_of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """Returns an array of the state of trials by its name in a file, or in a checkpoint.

    Trials of a program average their weights, or have a momentum, if one of them does. The average
    of one that does not is its parameters; the momentum of one whose factor is 0 counts nothing.
    """
    parts = re.fullmatch(r"(state/|\.)(average|opt_state\W+\d+\W+trace)\b(.*)", name)
    if name in arrays or not parts:
        return arrays.get(name)
    root, what, leaf = parts.groups()
    params = arrays.get(f"{root}params{leaf}")
    return params if params is None or what == "average" else np.zeros_like(params)


def kept_epoch(workdir: Path, group: Sequence[int]) -> int:
    """Returns the epoch after which the states of all trials of a group are kept, or 0."""
    if not {*group} <= {*kept(workdir)}:
        return 0
    epochs = {epoch_of(workdir, trial) for trial in group}
    return epochs.pop() if len(epochs) == 1 else 0


def epoch_of(workdir: Path, trial: int) -> int:
    """Returns the epoch after which the state of a trial is kept, or 0."""
    try:
        arrays = run_files.read_arrays(file(workdir, trial), only=_EPOCH)
        run_files.check_arrays(file(workdir, trial), arrays, {_EPOCH: ("i", ())})
    except BadFileError:
        return 0
    return int(arrays[_EPOCH])


def file(workdir: Path, trial: int) -> Path:
    """Returns the path of a trial's weights."""
    return workdir / FOLDER / f"trial_{trial}.npz"


def named_arrays(state: PyTree) -> dict[str, Any]:
    """Returns the arrays of a trial's state by their names in a file."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        _STATE + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def copy(workdir: Path, trial: int, folder: Path, number: int) -> None:
    """Gives weights that are kept to another run, as those of its trial `number`."""
    there = file(folder, number)
    there.parent.mkdir(exist_ok=True)
    try:
        os.link(file(workdir, trial), there)
    except OSError:  # a file system that has no links, or another one
        shutil.copyfile(file(workdir, trial), there)
