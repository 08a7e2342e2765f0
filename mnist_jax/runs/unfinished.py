"""A run that goes on or was stopped: whether it runs, how far its trials are, their rows so far.

Nothing is locked, and nothing is written: the run does not notice that it is read.
"""

import array
import contextlib
import math
import os
import re
import shlex
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import run_files
from mnist_jax.config import rungs
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import provenance
from mnist_jax.runs.choosing import trained_epochs
from mnist_jax.runs.records import Recorder, Row, columns_of


class Progress(NamedTuple):
    """How far a run is that has not finished."""

    is_running: bool | None  # whether a process has locked its directory; None if not known
    num_points: int  # of its grid
    epochs: Mapping[int, int]  # that each trial is to train, by its number
    done: Mapping[int, int]  # that each of them has trained; 0 if it has not begun
    num_bytes: int  # of `metrics.jsonl` that were there when it was read
    num_epochs: int  # of all trials in all; halving trains fewer than each trial might

    @property
    def finished(self) -> int:
        """The number of trials that have trained all their epochs."""
        return sum(self.done[trial] == epochs for trial, epochs in self.epochs.items())

    @property
    def share(self) -> float:
        """The share of all epochs of all trials that are done."""
        return sum(self.done.values()) / self.num_epochs


def is_locked(workdir: Path) -> bool | None:
    """Says whether a process has locked a run's directory, without trying to; None if not known.

    It is known where the system lists its locks: those of this machine, and on NFS of others too.
    """
    import fcntl

    try:
        file = open(workdir / ".lock", "rb")  # noqa: SIM115
    except OSError as error:
        return False if isinstance(error, FileNotFoundError | NotADirectoryError) else None
    with file:
        try:
            locks = Path("/proc/locks").read_bytes()
            # On NFS the system makes such a lock one of a range of bytes.
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
        except OSError:
            return None
        if struct.unpack_from("h", answer) != (fcntl.F_UNLCK,):
            return True
        return bool(re.search(rb"FLOCK\s.*:%d\s" % os.fstat(file.fileno()).st_ino, locks))


def read_epochs(
    workdir: Path, trials: Mapping[int, Row], experiment: Experiment, is_running: bool | None
) -> tuple[Progress, dict[int, dict[str, np.ndarray]]]:
    """Reads what was measured in the epochs that are done, as far as a resumed run would keep them.

    Args:
        workdir: Of the run.
        trials: The rows that name its trials, by their numbers.
        experiment: That it runs.
        is_running: Whether it does.

    Returns:
        How far it is; and of each trial that has begun, in order, the measured columns as arrays
        [epochs done].

    Raises:
        BadFileError: `metrics.jsonl` cannot be read, or holds something else.
    """
    splits = list(filter(None, ("train", PROTOCOLS[experiment.protocol].held_out)))
    always = {f"{split}_{what}" for split in splits for what in ("loss", "accuracy")}
    path, kinds = workdir / "metrics.jsonl", columns_of(experiment.protocol, (), experiment.metrics)
    names, lacks = list[str](), set[str]()
    values: dict[int, array.array] = {}
    done, num_bytes = dict.fromkeys(trials, 0), 0
    for line in run_files.lines(path) if os.path.lexists(path) else ():
        if not line.endswith(b"\n"):  # it is being written
            break
        num_bytes += len(line)
        try:
            row = run_files.parse_json(line, {"trial": int, "epoch": int})
            if not names and not (lacks := always.difference(row)):
                names = [name for name, kind in kinds.items() if kind is float and name in row]
            number = row["trial"]
            numbers = [math.nan if row[name] is None else float(row[name]) for name in names]
            follows = done[number] + 1 == row["epoch"] <= trials[number]["num_epochs"]
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        if follows and names:
            done[number] = row["epoch"]
            values.setdefault(number, array.array("d")).extend(numbers)
    if lacks:
        raise BadFileError(path, f"its rows lack {', '.join(sorted(lacks))}")
    tables = {i: np.reshape(values[i], (done[i], -1)).T for i in sorted(values)}
    measured = {i: dict(zip(names, table, strict=True)) for i, table in tables.items()}
    epochs = {number: trial["num_epochs"] for number, trial in trials.items()}
    num_points = len({trial["point"] for trial in trials.values()})
    whole = _all_epochs(experiment) if experiment.halving else sum(epochs.values())
    return Progress(is_running, num_points, epochs, done, num_bytes, whole), measured


def _all_epochs(experiment: Experiment) -> int:
    """Returns how many epochs a run with halving trains, of all trials together."""
    num_points, start, whole = len(experiment.points), 0, 0
    for end in (*experiment.rungs, experiment.values["num_epochs"][0]):
        whole += num_points * (end - start)
        num_points, start = rungs.num_kept(num_points, experiment.halving), end
    return whole * experiment.num_seeds


def read_results_so_far(
    workdir: Path, axes: Sequence[str], experiment: Experiment
) -> dict[int, Row]:
    """Returns the rows of `results.csv`, by trial: of those that are done, if it can be read."""
    columns = columns_of(experiment.protocol, axes, experiment.metrics, experiment.halving)
    with contextlib.suppress(BadFileError):  # what it has beside `metrics.jsonl` is not needed
        return {row["trial"]: row for row in run_files.read_table(workdir / "results.csv", columns)}
    return {}


def rows_so_far(
    trials: Sequence[Row],
    measured: Mapping[int, Mapping[str, np.ndarray]],
    results: Mapping[int, Row],
    experiment: Experiment,
    stopped: int = 0,
) -> list[Row]:
    """Returns the rows of `results.csv` as they would be if trials ended where they are.

    What the end of a trial scores is NaN for those that are not done. Those that halving has
    stopped, as their results say, are as they will be; `stopped` is the epoch after which it stops
    all others.

    Args:
        trials: The rows that name the trials, in order, all of which have begun.
        measured: As `read_epochs` returns it.
        results: As `read_results_so_far` returns it.
        experiment: What is run.
    """
    together: dict[int, list[Row]] = {}
    for trial in trials:
        together.setdefault(len(measured[trial["trial"]]["train_loss"]), []).append(trial)
    kinds = columns_of(experiment.protocol, (), experiment.metrics)
    rows: list[Row] = []
    for num_epochs, group in together.items():
        recorder = Recorder(None, group, (), experiment.protocol, experiment.metrics)
        tables = [measured[trial["trial"]] for trial in group]
        stacked = {name: np.stack([table[name] for table in tables]) for name in tables[0]}
        for i in range(num_epochs):
            recorder.add(i + 1, {name: values[:, i] for name, values in stacked.items()})
        for row in recorder.rows({}, stopped if experiment.halving else None):
            found = results.get(row["trial"], {})
            if num_epochs != (trained_epochs(found) if found else 0):
                found = {}
            if "stopped_epoch" in found:
                row["stopped_epoch"] = found["stopped_epoch"]
            last = [name for name, kind in kinds.items() if kind is float and name not in row]
            last = [*last, *["diverged_epoch"] * bool(found)]
            rows.append(row | {name: found.get(name, math.nan) for name in last})
    return sorted(rows, key=lambda row: row["trial"])


def provenance_so_far(workdir: Path, data_checksum: str) -> Row:
    """Returns the provenance of a run, as far as its processes have noted it."""
    processes = provenance.read_processes(workdir)
    known = {key: value for record in processes for key, value in record.items()}
    made = {"seconds": {"train": 0.0}} | (provenance.combine(processes) if processes else {})
    return {
        "command": how_to_go_on(workdir),
        **made,
        "data_checksum": known.get("data_checksum", data_checksum),
    }


def how_to_go_on(workdir: Path) -> str:
    """Returns the command that goes on with a run that was stopped."""
    words = ["python", "-m", "mnist_jax.main"]
    return shlex.join([*words, f"--config={workdir}/config.json", f"--workdir={workdir}"])
