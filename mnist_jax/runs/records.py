"""The rows of a run: `metrics.jsonl`, one per trial and epoch, and `results.csv`, one per trial."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import UserError, run_files
from mnist_jax.config.columns import at_best, metric_name, split_column
from mnist_jax.config.grid import Point
from mnist_jax.config.old_records import axes_of
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.disk import replace, to_json, write_text, writing
from mnist_jax.run_files import BadFileError

Row = dict[str, Any]


def trial_rows(
    points: Sequence[Point], seeds: Sequence[int], dataset: str, record: Row | None = None
) -> list[Row]:
    """Returns the names of all trials: every point with every seed, the seed varying fastest.

    With a `record`, the run's `config.json`, its axes name the trials. An older version, with other
    axes, may have written it.
    """
    record = record or {}
    names = axes_of(record) or tuple(points[0])
    return [
        {"trial": len(seeds) * number + i, "point": number, "seed": seed, "dataset": dataset}
        | {name: as_text(point[name] if name in point else record[name][0]) for name in names}
        for number, point in enumerate(points)
        for i, seed in enumerate(seeds)
    ]


def as_text(value: Any) -> Any:
    """Writes layers' sizes as 500-300, or none, and an empty string as '', as CSV needs."""
    if value == "":
        return "''"
    return "-".join(map(str, value)) or "none" if isinstance(value, tuple | list) else value


class Recorder:
    """Writes the rows of trials that train together, and keeps what `results.csv` needs of them.

    Attributes:
        columns: By column of `results.csv`, arrays of shape [trials]: the last epoch's metrics,
            the best epoch so far on the held-out split, and the epoch in which a trial diverged
            (its numbers ceased to be finite), 0 if it did not.
        written: How many epochs have their rows in `metrics.jsonl`, where they stay.
    """

    def __init__(
        self,
        workdir: Path | None,
        trials: Sequence[Row],
        axes: Sequence[str],
        protocol: str,
        metrics: Sequence[str] = (),
    ):
        """Prepares the columns, and writes nothing; without a `workdir`, nothing is ever written.

        `trials` are the rows that name them; of their axes, `metrics.jsonl` has the given ones.
        `protocol` is a key of `PROTOCOLS`; `metrics` are as the config names them.
        """
        self._path = workdir and workdir / "metrics.jsonl"
        self._trials = trials
        self._names = [{k: trial[k] for k in ("trial", "seed", *axes)} for trial in trials]
        self._protocol = PROTOCOLS[protocol]
        self._metrics = list(map(metric_name, metrics))
        self.columns = {"diverged_epoch": np.zeros(len(trials), int)}
        self.written = 0

    def add(self, epoch: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Appends an epoch's rows, one per trial, to `metrics.jsonl`, unless they are there."""
        if self._path and epoch > self.written:
            rows = _rows(self._names, {"epoch": epoch}, metrics)
            with writing(self._path), open(self._path, "a", encoding="utf-8") as file:
                file.write("".join(to_json(row) + "\n" for row in rows))
        diverged = self.columns["diverged_epoch"]
        diverged = np.where((diverged == 0) & ~is_sound(metrics), epoch, diverged)
        best = self._best(epoch, metrics) if self._protocol.choose_epoch else {}
        self.columns = {"diverged_epoch": diverged, **metrics, **best}

    def _best(self, epoch: int, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the best epoch so far; of equally good ones it is the earliest."""
        accuracy = metrics[f"{self._protocol.held_out}_accuracy"]
        split = self._protocol.held_out
        best, number = (f"best_{split}_{what}" for what in ("accuracy", "epoch"))
        now = {best: accuracy, number: np.full(len(accuracy), epoch)}
        if split == "test":
            now |= {at_best(split, name): metrics[f"test_{name}"] for name in self._metrics}
        if best not in self.columns:
            return now
        # Written so that a number replaces NaN, and NaN never a number.
        better = ~(self.columns[best] >= accuracy) & ~np.isnan(accuracy)
        return {name: np.where(better, now[name], self.columns[name]) for name in now}

    def sync(self) -> None:
        """Writes the rows to the disk itself, before a checkpoint relies on them."""
        if self._path:
            with writing(self._path), open(self._path, "rb") as file:
                os.fsync(file.fileno())

    def rows(self, test_scores: Mapping[str, np.ndarray], stopped: int | None = None) -> list[Row]:
        """Returns the rows of `results.csv`, with the scores of the finished trials.

        Where nothing else was scored after the last update, they show whether it diverged. In a run
        with halving, `stopped` is the epoch after which it stopped the trials, or 0.
        """
        columns = {**self.columns, **test_scores}
        last = np.array([trial["num_epochs"] for trial in self._trials])
        diverged = columns["diverged_epoch"]
        diverged = np.where((diverged == 0) & ~is_sound(columns), last, diverged)
        ends = {"diverged_epoch": diverged}
        if stopped is not None:
            ends["stopped_epoch"] = np.full(len(diverged), stopped)
        return _rows(self._trials, {}, {**ends, **columns, **ends})


def is_sound(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns whether each trial's losses, accuracies and objectives are finite: [trials] bools.

    If one is not, the trial has diverged. A metric of the user's may be anything.
    """
    judged = ("loss", "accuracy", "objective")
    values = [column for name, column in columns.items() if split_column(name)[1] in judged]
    return np.all(np.isfinite(values), axis=0)


def columns_of(
    protocol: str, axes: Sequence[str], metrics: Sequence[str] = (), halving: int = 0
) -> dict[str, type]:
    """Returns the columns of `results.csv` with their types."""
    p = PROTOCOLS[protocol]
    more = [metric_name(spec) for spec in metrics]
    names = [f"train_{what}" for what in ("loss", "accuracy", *more)]
    for split in dict.fromkeys(filter(None, (p.held_out, "test"))):
        names += [f"{split}_{what}" for what in ("loss", "accuracy", "objective", *more)]
    if p.choose_epoch:
        names += [f"best_{p.held_out}_accuracy", p.column]
        names += [at_best(p.held_out, name) for name in more]
    whole = ["trial", "point", "seed", "num_epochs", "diverged_epoch"]
    whole += [f"best_{p.held_out}_epoch"] * p.choose_epoch + ["stopped_epoch"] * bool(halving)
    named: dict[str, type] = dict.fromkeys(axes, object)
    return named | dict.fromkeys(names, float) | dict.fromkeys(whole, int) | {"dataset": str}


def write_results(workdir: Path, rows: Sequence[Row]) -> None:
    """Writes `results.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(workdir / "results.csv", text.getvalue())


def read_results(workdir: Path, trials: Sequence[Row], columns: Mapping[str, type]) -> list[Row]:
    """Returns the rows of `results.csv` that an interrupted run left, named as `trials` are.

    If it is damaged, a line says so and there are none: checkpoints hold the same.
    """
    path = workdir / "results.csv"
    try:
        rows = run_files.read_table(path, columns)
        numbers = [row["trial"] for row in rows]
        if len({*numbers} & {*range(len(trials))}) < len(numbers):
            raise BadFileError(path, "it holds a trial twice, or one that the run has not")
        return [{**row, **trials[row["trial"]]} for row in rows]
    except BadFileError as error:
        if not error.missing:
            warning = f"warning: {workdir}/{error}; its trials are restored from their checkpoints"
            print(warning, file=sys.stderr, flush=True)
        return []


def trim_metrics(workdir: Path, epochs: Mapping[int, int]) -> dict[int, int]:
    """Keeps in `metrics.jsonl` the rows of the first `epochs` of each trial, if complete.

    Returns:
        How many epochs there are, by number of the trial, as in `epochs`.

    Raises:
        UserError: It is no file, or may not be read.
    """
    path = workdir / "metrics.jsonl"
    with writing(path):
        path.touch()
        place = end = size = 0
        for line, is_kept in _judged(path, epochs, kept := dict.fromkeys(epochs, 0)):
            place += len(line)
            if is_kept:
                end, size = place, size + len(line)
        there = path.lstat()
        if size < end or there.st_nlink > 1 or path.is_symlink():
            lines = _judged(path, epochs, dict.fromkeys(epochs, 0))
            replace(path, (line for line, is_kept in lines if is_kept))
        elif end < place:  # in place: a full disk has no room for a copy
            with open(path, "rb+") as file:
                file.truncate(end)
                os.fsync(file.fileno())
    return kept


def _judged(
    path: Path, epochs: Mapping[int, int], kept: dict[int, int]
) -> Iterator[tuple[bytes, bool]]:
    """Yields the lines of `metrics.jsonl`, and whether `trim_metrics` keeps each; counts them."""
    try:
        for line in run_files.lines(path):
            try:
                row = run_files.parse_json(line, {"trial": int, "epoch": int})
                trial, epoch = row["trial"], row["epoch"]
                follows = kept[trial] + 1 == epoch <= epochs[trial]
            except (ValueError, KeyError, RecursionError):
                follows = False
            if is_kept := line.endswith(b"\n") and follows:
                kept[trial] = epoch
            yield line, is_kept
    except BadFileError as error:
        raise cannot_resume(path.parent, error) from None


def cannot_resume(workdir: Path, error: BadFileError) -> UserError:
    """Returns the error of a run whose rows cannot be read."""
    return UserError(
        f"--workdir={workdir} holds a run that cannot be resumed ({error}); make that file "
        "readable or delete it, choose another --workdir, or give --overwrite"
    )


def _rows(names: Sequence[Row], same: Row, columns: Mapping[str, np.ndarray]) -> list[Row]:
    lists = {name: column.tolist() for name, column in columns.items()}
    return [
        {**name, **same, **{column: values[i] for column, values in lists.items()}}
        for i, name in enumerate(names)
    ]
