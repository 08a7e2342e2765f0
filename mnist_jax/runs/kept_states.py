"""Kept states of trials, put together for a program that trains them on."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from mnist_jax.run_files import BadFileError
from mnist_jax.runs import weights
from mnist_jax.runs.checkpoints import Restored, place_rows
from mnist_jax.training import hosts


def restore_group(
    workdir: Path, group: Sequence[int], like: PyTree, newest: int
) -> Restored | None:
    """Returns the state of trials that train on together, if all are kept after the same epoch.

    `like` and `newest` are as in `Checkpoints.restore`. A damaged file costs a line on stderr.
    """
    import jax

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like)
    kinds = {
        name: ((len(group), *x.shape), x.dtype) for name, x in weights.named_arrays(one).items()
    }
    arrays: dict[str, np.ndarray] = {}

    def find() -> list[Any] | None:
        if not 0 < weights.kept_epoch(workdir, group) <= newest:
            return None
        columns: dict[str, list] = {}
        for place, trial in enumerate(group):
            try:
                found = weights.read_state(workdir, trial, one)
            except BadFileError as error:
                print(f"warning: {workdir / weights.FOLDER}/{error}", file=sys.stderr, flush=True)
                return None
            for name, array in weights.named_arrays(found.state).items():
                whole = arrays.setdefault(name, np.empty(*kinds[name]))
                whole[place] = array
            for name, value in found.columns.items():
                columns.setdefault(name, []).append(value.item())
        return [found.epoch, columns]

    if (found := hosts.first(find)) is None:
        return None
    epoch, columns = found
    arrays = hosts.arrays_of_first(arrays, kinds)
    rows = [place_rows(arrays[name], x) for name, x in weights.named_arrays(like).items()]
    return Restored(epoch, jax.tree.unflatten(jax.tree.structure(like), rows), {"columns": columns})
