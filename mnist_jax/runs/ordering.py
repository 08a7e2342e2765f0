"""The rows of `metrics.jsonl` in the order of a run that trained all its trials at once.

That is: by compiled program, in the order of the grid; by epoch; by trial. Shards that are merged,
runs that are pooled or grow, and a run that memory divided have them in another order, and
perhaps under other names.
"""

import array
import itertools
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import run_files
from mnist_jax.config.experiment import Experiment
from mnist_jax.disk import replace, to_json
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import results
from mnist_jax.runs.choosing import trained_epochs
from mnist_jax.runs.labels import varying
from mnist_jax.runs.records import Row

_ROW = {"trial": int, "epoch": int}


class Source(NamedTuple):
    """A `metrics.jsonl` that holds some trials of the whole run, every epoch of each."""

    workdir: Path
    epochs: Mapping[int, int]  # of each trial, by its number there
    numbers: Mapping[int, int] | None = None  # in the whole run, if that has other names


def in_order(
    sources: Sequence[Source], experiment: Experiment, names: Sequence[Row]
) -> Iterator[bytes]:
    """Returns the lines of several files in the order of the whole run.

    `names` are the rows that name the trials of the `experiment`. Files are mapped into memory and
    only the places of rows are held, so that there may be millions.

    Raises:
        UserError: A file does not hold what it should.
    """
    contents: list[bytes | mmap.mmap] = []
    tables = []
    for index, source in enumerate(sources):
        path, places, start = source.workdir / "metrics.jsonl", array.array("q"), 0
        whole: bytes | mmap.mmap
        try:
            for line in run_files.lines(path):
                row, end = run_files.parse_json(line, _ROW), start + len(line)
                places.extend((row["trial"], row["epoch"], index, start, end))
                start = end
            with run_files.opened(path) as file:  # an empty one cannot be mapped
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if start else b""
                contents.append(whole)
        except (ValueError, RecursionError) as error:
            raise results.unreadable(source.workdir, BadFileError(path, error)) from None
        except BadFileError as error:
            raise results.unreadable(source.workdir, error) from None
        table = np.array(places, np.int64).reshape(-1, 5)
        there = sorted(map(tuple, table[:, :2].tolist()))
        by_number = sorted(source.epochs.items())
        wanted = ((trial, e + 1) for trial, num_epochs in by_number for e in range(num_epochs))
        if there != list(itertools.islice(wanted, len(there) + 1)) or whole[-1:] != b"\n":
            raise results.unreadable(
                source.workdir, "metrics.jsonl does not hold every epoch of its trials once"
            )
        if source.numbers is not None:
            table[:, 0] = [source.numbers[trial] for trial in table[:, 0].tolist()]
        tables.append(table)
    trial, epoch, index, start, end = np.concatenate(tables).T
    program = _programs(experiment)
    order = np.lexsort((trial, epoch, program[trial]))
    lines = ((i, contents[index[i]][start[i] : end[i]]) for i in order)
    axes = varying(names)
    return (
        line
        if sources[index[i]].numbers is None
        else _renamed(line, {k: names[trial[i]][k] for k in ("trial", "seed", *axes)})
        for i, line in lines
    )


def put_in_order(workdir: Path, experiment: Experiment, rows: Sequence[Row]) -> None:
    """Puts the rows of a run in order; `rows` are those of `results.csv`, of all its trials."""
    source = Source(workdir, {row["trial"]: trained_epochs(row) for row in rows})
    replace(workdir / "metrics.jsonl", in_order([source], experiment, ()))


def _programs(experiment: Experiment) -> np.ndarray:
    """Returns the number of each trial's program: an array over all trials of the whole run."""
    static, programs = experiment.static, dict[tuple, int]()
    of_points = [
        programs.setdefault(tuple(point[axis] for axis in static), len(programs))
        for point in experiment.points
    ]
    return np.repeat(np.array(of_points, np.int64), experiment.num_seeds)


def _renamed(line: bytes, name: Row) -> bytes:
    """Returns a row with another trial's name before its epoch and metrics."""
    pairs = list(json.loads(line).items())
    place = next(i for i, (key, _) in enumerate(pairs) if key == "epoch")
    return f"{to_json(name | dict(pairs[place:]))}\n".encode()
