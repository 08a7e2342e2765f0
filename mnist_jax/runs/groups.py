"""Groups of trials that train together: how a run is divided, and where each group is on disk.

Trials of a group share a compiled program, as many as memory holds.
"""

import itertools
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np

from mnist_jax import UserError, disk, run_files
from mnist_jax.runs.checkpoints import MANIFEST
from mnist_jax.training import hosts

TrialGroup = list[int]
"""The numbers of the trials, in order."""


class DoesNotFitError(Exception):
    """Memory holds only `most` trials of a group."""

    def __init__(self, most: int):
        super().__init__(most)
        self.most = most


TOO_LARGE = (DoesNotFitError, hosts.OutOfMemoryError, jax.errors.JaxRuntimeError)
"""What a group that memory does not hold may raise; see `divide`."""


def divide(group: TrialGroup, error: Exception) -> list[TrialGroup]:
    """Divides a group for which memory was too small; `error` is one of `TOO_LARGE`.

    Raises:
        UserError: Memory does not hold a single trial.
        JaxRuntimeError: The error has another reason.
    """
    if isinstance(error, DoesNotFitError):
        size = error.most
    elif hosts.is_out_of_memory(error):
        size = len(group) // 2
    else:
        raise error
    num_groups = math.ceil(len(group) / max(size, 1))
    if not size or len(group) // num_groups < jax.process_count():
        raise UserError(
            "the memory of a device does not hold a single trial; give a smaller network, or more "
            "memory"
        )
    return [piece.tolist() for piece in np.array_split(group, num_groups)]


def read_groups(workdir: Path, whole: list[TrialGroup], start: int = 0) -> list[TrialGroup]:
    """Returns the groups of a run: one for each program, or smaller ones that memory holds.

    A `parts.json` that says anything else is ignored with a warning. The groups of halving's later
    stages have one each, by the epoch after which it starts.

    Args:
        workdir: Of the run.
        whole: The trials of each program.
        start: Of the stage.
    """
    path = _record(workdir, start)
    reason = "it does not hold the run's trials in groups that train together"
    try:
        if _divides(groups := run_files.read_json(path, [[int]]), whole):
            return groups
    except run_files.BadFileError as error:
        if error.missing:
            return whole
        reason = str(error)
    print(f"warning: {path} is ignored ({reason})", file=sys.stderr, flush=True)
    return whole


def write_groups(workdir: Path, groups: list[TrialGroup], start: int = 0) -> None:
    """Writes what `read_groups` reads."""
    (workdir / "checkpoints").mkdir(exist_ok=True)
    disk.write_text(_record(workdir, start), json.dumps(groups))


def _divides(groups: list[TrialGroup], whole: list[TrialGroup]) -> bool:
    """Says whether groups divide the whole ones: those of a program follow each other, and have
    all of its trials, each in order.

    A group across the border of two programs would train with one that is not its own.
    """
    program = {trial: number for number, part in enumerate(whole) for trial in part}
    found = list(itertools.chain(*groups))
    if sorted(found) != sorted(program) or not all(groups):
        return False
    numbers = [[program[trial] for trial in group] for group in groups]
    return (
        all(
            group == sorted(group) and len({*of}) == 1
            for group, of in zip(groups, numbers, strict=True)
        )
        and sorted(numbers, key=lambda of: of[0]) == numbers
    )


def saved_epochs(workdir: Path, group: TrialGroup, start: int = 0) -> set[int]:
    """Returns the epochs after which a group, of the stage after `start`, has whole checkpoints."""
    manifests = checkpoint_folder(workdir, group, start).glob(f"*/{MANIFEST}")
    names = [manifest.parent.name for manifest in manifests]
    return {int(name) for name in names if name.isdecimal()}


def are_recorded(workdir: Path, start: int = 0) -> bool:
    """Says whether a run has groups of its own, of which it was divided or has grown."""
    return _record(workdir, start).exists()


def _record(workdir: Path, start: int) -> Path:
    return workdir / "checkpoints" / (_prefix(start) + "parts.json")


def checkpoint_folder(workdir: Path, group: TrialGroup, start: int = 0) -> Path:
    """Returns the folder of a group's checkpoints, which trains in a stage of halving."""
    return workdir / "checkpoints" / f"{_prefix(start)}trials_{group[0]}_to_{group[-1]}"


def _prefix(start: int) -> str:
    return f"after_{start}_" if start else ""
