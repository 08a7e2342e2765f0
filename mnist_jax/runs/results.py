"""A run, read back from its work directory: one that is finished, or what there is of another.

The directory of a finished one holds `config.json` (the resolved experiment), the rows of
`records.py`, `summary.json` (`summaries.py`) and `chosen_trial.npz` (`chosen_trial.py`).
"""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mnist_jax import UserError, run_files
from mnist_jax.config.experiment import read_experiment
from mnist_jax.config.old_records import axes_of, upgrade_record, upgrade_rows
from mnist_jax.config.protocol import PROTOCOLS, Protocol, so_far
from mnist_jax.data.datasets import CLASS_NAMES, FACTS, name_of
from mnist_jax.run_files import BadFileError
from mnist_jax.runs.choosing import choose_trial, is_as_far, ranked, trained_epochs
from mnist_jax.runs.labels import count
from mnist_jax.runs.records import Row, columns_of, trial_rows
from mnist_jax.runs.summaries import FORMAT, summarise
from mnist_jax.runs.unfinished import (
    Progress,
    how_to_go_on,
    is_locked,
    provenance_so_far,
    read_epochs,
    read_results_so_far,
    rows_so_far,
)
from mnist_jax.runs.workdirs import digest
from mnist_jax.text import one_line

CUT_TEST = "test images cut from the training set"
"""What is said wherever such images are scored."""


class NothingYetError(UserError):
    """No epoch of a run has ended.

    Attributes:
        is_running: Whether a process trains it; None if not known.
    """

    is_running: bool | None = None


class Run(NamedTuple):
    """A run, as read back from its work directory."""

    workdir: Path
    config: Row  # the resolved experiment, in the keys of this version
    results: list[Row]  # one row per trial; see `read_so_far`
    summary: dict  # statistics per grid point under `grid`, and `provenance`
    progress: Progress | None = None  # how far it is; None if it is finished

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of its axes."""
        return axes_of(self.config)

    @property
    def class_names(self) -> Sequence[str]:
        """The names of its data set's classes; none if they are not known."""
        names: Sequence[str] = CLASS_NAMES.get(self.summary["dataset"], ())
        if "data" in self.summary:  # older versions did not record them
            names = self.summary["data"]["class_names"]
        return list(map(one_line, names))

    @property
    def num_classes(self) -> int:
        """The number of classes of its data set."""
        return len(self.class_names) or self.config["data"]["num_classes"]

    @property
    def metrics(self) -> list[Row]:
        """One row per trial and epoch, in the order of training; read each time."""
        return [json.loads(line) for line in self.lines()]

    def lines(self) -> Iterator[bytes]:
        """Yields the lines of `metrics.jsonl`: as many as there were when the run was read."""
        place = 0
        for line in run_files.lines(self.workdir / "metrics.jsonl"):
            place += len(line)
            if self.progress and place > self.progress.num_bytes:
                return
            yield line


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run back.

    Raises:
        UserError: The directory holds no finished run, or a file in it does not parse.
    """
    path = Path(workdir)
    try:
        config = run_files.read_json(path / "config.json", run_files.CONFIG)
        summary = run_files.read_json(path / "summary.json", run_files.SUMMARY)
        with run_files.opened(path / "metrics.jsonl"):
            pass
        if summary.get("format", 1) > FORMAT:
            raise BadFileError(path / "summary.json", "a later version wrote it")
        if summary["protocol"] not in PROTOCOLS:
            raise BadFileError(path / "summary.json", "the protocol is unknown")
        columns = columns_of(
            summary["protocol"],
            axes_of(config),
            config.get("metrics", ()),
            upgrade_record(config)["halving"],
        )
        results = run_files.read_table(path / "results.csv", columns)
        run = Run(path, config, results, summary)
        _check_origin(run)
        run = _in_keys_of_today(run)
        _restate(run)
    except BadFileError as error:
        raise unreadable(path, error) from None
    return run


def is_finished(workdir: str | os.PathLike) -> bool:
    """Says whether a directory holds a finished run, sound or not."""
    return os.path.lexists(Path(workdir) / "summary.json")


def read_so_far(workdir: str | os.PathLike) -> Run:
    """Reads what there is of a run that goes on or was stopped; a finished one as `read_run`.

    Its results are those of the trials that have begun, as if they ended where they are; trials
    that are behind others of their grid point are left out. What the end of a trial scores is NaN
    until then. The points of the grid are those of these trials, and have `epochs_done`.

    Raises:
        UserError: The directory holds no run, no epoch of it has ended, or a file does not parse.
    """
    path = Path(workdir)
    if is_finished(path):
        return read_run(path)
    is_running = is_locked(path)  # before its files are read: it may end meanwhile
    try:
        recorded = run_files.read_json(path / "config.json", run_files.CONFIG)
        experiment = read_experiment(str(path / "config.json"), {})
        names = trial_rows(experiment.points, experiment.seeds, name_of(experiment.dataset))
        trials = {i: names[i] for i in sorted(itertools.chain(*experiment.parts.values()))}
        progress, measured = read_epochs(path, trials, experiment, is_running)
        if not measured:
            raise _nothing_yet(path, is_running)
        results = read_results_so_far(path, axes_of(recorded), experiment)
        stopped = {i: trained_epochs(row) for i, row in results.items() if row.get("stopped_epoch")}
        progress = progress._replace(epochs={**progress.epochs, **stopped})
    except BadFileError as error:
        raise unreadable(path, error) from None
    furthest: dict[int, int] = {}
    for number in measured:
        point = trials[number]["point"]
        furthest[point] = max(furthest.get(point, 0), progress.done[number])
    there = [trials[i] for i in measured if progress.done[i] == furthest[trials[i]["point"]]]
    rows = rows_so_far(there, measured, results, experiment)
    num_images = {
        "train": experiment.data.num_train - experiment.num_test - experiment.num_validation,
        "validation": experiment.num_validation,
        "test": experiment.data.num_test or experiment.num_test,
    }
    config = upgrade_record(recorded)
    grid = summarise(rows, axes_of(config), num_images)
    for point in grid:
        point["epochs_done"] = furthest[point["point"]]
    criterion = PROTOCOLS[experiment.protocol].criterion
    first = ranked(grid, criterion)[0]
    compared = {point["point"] for point in grid if is_as_far(point, first)}
    chosen = choose_trial([row for row in rows if row["point"] in compared], experiment.protocol)
    summary = {
        "dataset": name_of(experiment.dataset),
        "num_images": num_images,
        "protocol": experiment.protocol,
        "chosen_point": chosen["point"] if criterion else None,
        "chosen_trial": chosen["trial"],
        "grid": grid,
        "provenance": provenance_so_far(path, experiment.data.checksum),
    }
    return Run(path, config, rows, summary, progress)


def _nothing_yet(path: Path, is_running: bool | None) -> NothingYetError:
    cure = "wait for the end of the first one" if is_running else f"{how_to_go_on(path)} trains it"
    problem = "there is nothing to report yet, since no epoch has ended"
    error = NothingYetError(f"{path}: {problem}; {cure}")
    error.is_running = is_running
    return error


def _check_origin(run: Run) -> None:
    """Raises `BadFileError` if another run wrote summary.json, after its folder was moved, say."""
    known = digest(run.config, run.summary["provenance"]["data_checksum"])
    if run.summary.get("run", known) != known:  # older versions did not note it
        raise BadFileError(run.workdir / "summary.json", "it is of another run than config.json")


def _in_keys_of_today(run: Run) -> Run:
    """Returns a run as if this version had written it."""
    value = (bool, int, float, str, None)
    for point in run.summary["grid"]:
        if not all(run_files.fits(point.get(axis), value) for axis in run.axes):
            raise BadFileError(run.workdir / "summary.json", "a point has a value that is none")
    config = upgrade_record(run.config)
    grid = upgrade_rows(run.summary["grid"], run.config, config)
    rows = upgrade_rows(run.results, run.config, config)
    return Run(run.workdir, config, rows, run.summary | {"grid": grid})


def _restate(run: Run) -> None:
    """Recomputes the statistics of a run's grid points, as this version understands them."""
    summary = run.summary
    num_images = summary.setdefault("num_images", _num_images_of_old(run))
    splits = filter(None, ("train", "test", protocol(run).held_out))
    if not all(num_images.get(split, 0) > 0 for split in splits):
        raise BadFileError(run.workdir / "summary.json", "its numbers of images are missing")
    grid = summarise(run.results, run.axes, num_images) if run.results else []
    none: Row = {}
    for point, fresh in itertools.zip_longest(summary["grid"], grid, fillvalue=none):
        if any(point.get(k) != fresh.get(k) for k in ("point", "num_trials", "diverged_seeds")):
            problem = "it does not hold the trials that summary.json counts"
            raise BadFileError(run.workdir / "results.csv", problem)
        point["statistics"] = fresh["statistics"]
    if not run.results:
        raise BadFileError(run.workdir / "results.csv", "it has no rows")
    chosen = choose_trial(run.results, summary["protocol"])
    summary["chosen_trial"] = chosen["trial"]
    summary["chosen_point"] = chosen["point"] if protocol(run).criterion else None


def _num_images_of_old(run: Run) -> dict[str, int]:
    """Returns how many images the splits have in a run of a version that did not record it."""
    name, num_validation = run.summary["dataset"], run.config.get("num_validation", 0)
    if name not in FACTS:
        return {}
    train, test = FACTS[name].num_train, FACTS[name].num_test
    return {"train": train - num_validation, "validation": num_validation, "test": test}


def unreadable(workdir: str | os.PathLike, problem: BadFileError | str) -> UserError:
    """Returns the error for a finished run that is expected in a directory and cannot be read."""
    path = Path(workdir)
    if isinstance(problem, BadFileError) and problem.missing:
        cure = "name the work directory that a run printed"
        if problem.path.name == "chosen_trial.npz":
            return UserError(
                f"{workdir} lacks chosen_trial.npz, the weights of its chosen trial: expected it"
                f" beside summary.json; put it back, or train it again with --workdir={workdir}"
                " --overwrite"
            )
        if problem.path.name == "summary.json":
            cure = f"it has not ended; python -m mnist_jax.report {workdir} shows how far it is"
        expected = f"expected {problem.path.name} in it"
        return UserError(f"{workdir} holds no finished run: {expected}; {cure}")
    with contextlib.suppress(BadFileError):
        if run_files.read_json(path / "summary.json", {"format": int})["format"] > FORMAT:
            return UserError(f"{workdir}: written by a later version; update mnist_jax")
    if isinstance(problem, BadFileError) and problem.denied:
        reason = "make it readable, or ask its owner to"
        return UserError(f"{workdir} cannot be read as a run: {problem}; {reason}")
    return UserError(
        f"{workdir} cannot be read as a run: {problem}; train it again with --workdir={workdir} "
        "--overwrite, or put its shards together again"
    )


def protocol(run: Run) -> Protocol:
    """Returns how the run was scored and what chose; if its test images were cut, it says so.

    Before the end of a run that scores test images only then, what is held out is in their place,
    or, where nothing is, the training images.
    """
    p = PROTOCOLS[run.summary["protocol"]]
    if run.progress:
        p = so_far(p)
    if not (number := run.config.get("num_test")):
        return p
    cut = (
        f" {name_of(run.config['dataset'])} has no test images: {count(number, 'image')} of it, a"
        " share of each class, were cut before the rest was used for training."
    )
    return p._replace(words=f"{p.words}; {CUT_TEST}", note=p.note + cut)


def trials_of(run: Run, point: Row) -> list[Row]:
    """Returns the trials of a grid point, as rows of `results.csv`."""
    return [row for row in run.results if row["point"] == point["point"]]


def by_seed(run: Run, point: Row, column: str) -> dict[int, float]:
    """Returns a column of `results.csv` by seed, of a grid point's trials; NaN if one diverged."""
    return values_by_seed(trials_of(run, point), column)


def values_by_seed(trials: Sequence[Row], column: str) -> dict[int, float]:
    """Returns a column of some trials by seed; NaN if one diverged."""
    return {row["seed"]: math.nan if row["diverged_epoch"] else row[column] for row in trials}
