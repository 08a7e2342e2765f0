"""Runs that grow: a directory that holds some trials of a run, or all with fewer epochs.

A run that is to grow is finished first. Then its files are made anew in the folder `growth`, under
the numbers that its trials have in the larger run; last comes `config.json`, with which that is
the run that the directory holds. From then on `finish` moves the files to their places, which can
be repeated from wherever it was interrupted. What is missing is trained as in any other run.
"""

import contextlib
import csv
import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax import UserError, disk, run_files
from mnist_jax.config.config_files import plain
from mnist_jax.config.experiment import Experiment, read_config
from mnist_jax.config.old_records import axes_of, upgrade_record
from mnist_jax.config.settings import SETTINGS
from mnist_jax.data.datasets import name_of
from mnist_jax.data.splits import Dataset
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import (
    choosing,
    chosen_trial,
    labels,
    made_files,
    ordering,
    provenance,
    records,
    results,
    weights,
    workdirs,
)
from mnist_jax.runs.progress import Display
from mnist_jax.runs.provenance import Process
from mnist_jax.runs.records import Row

_MAY_DIFFER = {"seed", "num_seeds", "grid", "num_points", "design_seed"}


class Growth(NamedTuple):
    """How a run that a directory holds becomes a larger one."""

    old: Experiment  # the run that it holds
    record: Row  # its `config.json`
    numbers: dict[int, int]  # of its trials, in the larger run
    more_epochs: bool  # whether all its trials train on, and no others


def why_not(
    path: Path, experiment: Experiment, recorded: Mapping[str, Any], differ: Collection[str]
) -> str | None:
    """Says why the run that a directory holds cannot grow to an experiment; "" if it can.

    `recorded` is its `config.json`, which differs in some keys. Returns None if these say that it
    is another run.
    """
    found = _compare(path, experiment, dict(recorded), differ)
    return "" if isinstance(found, Growth) else found


def _compare(
    path: Path, experiment: Experiment, recorded: Row, differ: Collection[str]
) -> Growth | str | None:
    record = upgrade_record(recorded)
    axes = {*experiment.values, *axes_of(record)}
    if not {*differ} <= axes | _MAY_DIFFER | {"shard"} or {*differ} == {"shard"}:
        return None
    if (record["shard"], experiment.shard) != ("0/1", "0/1"):
        return "a shard does not grow, but the run that its shards are merged into does"
    try:
        old = _read(experiment, record)
    except (UserError, TypeError, KeyError, AttributeError):  # it may hold anything
        return None
    numbers, missing = _match(old, experiment, {})
    more_epochs = False
    if missing and not _match(experiment, old, {})[1]:
        return (
            "it has more trials than these, and a run does not shrink:"
            f" --config={path}/config.json asks for all of them"
        )
    if missing and {*differ} == {"num_epochs"}:
        if reason := _no_more_epochs(old, experiment):
            return reason
        more_epochs = True
        numbers, _ = _match(old, experiment, {"num_epochs": experiment.values["num_epochs"][0]})
    elif missing:
        if "num_epochs" in differ:
            return "number of epochs and trials do not grow at once, and nothing else may differ"
        return f"a run grows if all its trials are asked for, and {missing} is not"
    if (more_epochs or experiment.keep_weights == "all") and _lacks_states(path, old, recorded):
        if more_epochs:
            return "the state of its trials, to train on, was not kept (keep_weights=all keeps it)"
        return "the weights of its trials were not kept: leave keep_weights=all out"
    return Growth(old, recorded, numbers, more_epochs)


def _read(experiment: Experiment, record: Row) -> Experiment:
    """Returns the experiment of a record that differs from another in the trials alone."""
    keys = [key for key in record if key in SETTINGS or key in axes_of(record)]
    if odd := experiment.values.keys() & record.keys() - {*keys}:
        raise TypeError(f"no values: {odd}")
    old = read_config(
        {key: plain(record[key]) for key in keys},
        record["name"],
        plain(record["seed"]),
        copies={file.name: file for file in experiment.own_files},
        data=experiment.data,
    )
    if lost := old.values.keys() - record.keys():
        raise KeyError(f"no axes: {lost}")
    # What changes no result is as the command asks.
    return dataclasses.replace(old, **{key: getattr(experiment, key) for key in workdirs.RESUMABLE})


def _match(
    some: Experiment, others: Experiment, changes: Mapping[str, Any]
) -> tuple[dict[int, int], str]:
    """Returns the numbers that trials have among others, and names the first that is not there."""
    axes = tuple(dict.fromkeys((*some.axes, *others.axes)))

    def keys(experiment: Experiment, changes: Mapping[str, Any]) -> list[tuple]:
        points = [{**point, **changes} for point in experiment.points]
        named = [tuple(point.get(axis) for axis in axes) for point in points]
        return [(point, seed) for point in named for seed in experiment.seeds]

    there = {key: number for number, key in enumerate(keys(others, {}))}
    numbers = {}
    for number, key in enumerate(keys(some, changes)):
        if key not in there:
            name = records.trial_rows(some.points, some.seeds, "")[number]
            varies = [x for x in axes if some.values.get(x) != others.values.get(x)]
            varies += [x for x in axes if x not in varies and len(some.values.get(x, ())) > 1]
            point = labels.label(name, [labels.Axis(axis, 6) for axis in varies])
            return {}, f"that of {point}{', ' * bool(point)}seed={name['seed']}"
        numbers[number] = there[key]
    return numbers, ""


def _no_more_epochs(old: Experiment, new: Experiment) -> str:
    """Says why the trials of a run cannot train on to other numbers of epochs; "" if they can."""
    before, now = old.values["num_epochs"], new.values["num_epochs"]
    if len(before) > 1 or len(now) > 1:
        return "epochs grow where all trials have the same number of them"
    if now < before:
        return "a run does not get shorter"
    if new.halving:
        return "with halving the number of epochs says which points stop, and when"
    if changing := [schedule for schedule in new.values["schedule"] if schedule != "constant"]:
        return (
            f"with schedule={changing[0]} the learning rate depends on the number of epochs from"
            " the first step on, so only a constant one lets epochs grow"
        )
    return ""


def _lacks_states(path: Path, old: Experiment, record: Row) -> bool:
    """Says whether the state of a trial that is done is neither kept nor in a checkpoint."""
    from mnist_jax.runs import groups

    done = {row["trial"] for row in _rows(path, old, record)}
    kept = {*weights.kept(path)}
    for group in groups.read_groups(path, [*old.parts.values()]):
        saved = old.point_of(group[0])["num_epochs"] in groups.saved_epochs(path, group)
        if not (done.isdisjoint(group) or saved or kept.issuperset(group)):
            return True
    return False


def _rows(path: Path, old: Experiment, record: Row) -> list[Row]:
    """Returns the rows of `results.csv` that a run has so far."""
    names = records.trial_rows(old.points, old.seeds, name_of(old.dataset), record)
    columns = records.columns_of(old.protocol, axes_of(record), old.metrics, old.halving)
    return records.read_results(path, names, columns)


def grow(
    path: Path,
    experiment: Experiment,
    config: Row,
    dataset: Dataset,
    process: Process,
    display: Display,
) -> bool:
    """Makes the run in a locked directory a part of a larger one; `config` is that one's record.

    Returns:
        Whether it was trained to its end before, by the `process`, which that is then the end of.

    Raises:
        UserError: It cannot grow, or was trained on other data; a file of it is damaged.
        StoppedError: As `Runner.train`.
    """
    recorded = run_files.read_json(path / "config.json", run_files.CONFIG)
    found = _compare(path, experiment, recorded, workdirs.differences(recorded, config))
    assert isinstance(found, Growth)
    old, is_finished = found.old, (path / "summary.json").exists()
    have, want = (len(x.points) * x.num_seeds for x in (old, experiment))
    if found.more_epochs:
        before, now = (x.values["num_epochs"][0] for x in (old, experiment))
        display.say(f"{path} holds this run with {labels.count(before, 'epoch')} of {now}")
    else:
        display.say(f"{path} holds {have} of these {labels.count(want, 'trial')}")
    if is_finished:
        _record_processes(path, dataset)
    if trains := found.more_epochs or not is_finished:
        from mnist_jax.runs import runner

        if found.more_epochs:
            old = dataclasses.replace(old, keep_weights="all")
        trials = runner.Runner(path, old, dataset, process, found.record, display)
        process.begin(path, dataset.checksum, trials.devices, old.own_files)
        trials.train()
    _prepare(path, found, experiment, config, dataset)
    finish(path)
    return trains


def _record_processes(path: Path, dataset: Dataset) -> None:
    """Records the processes of a finished run where a merge has not, after a look at its data."""
    made = run_files.read_json(path / "summary.json", run_files.SUMMARY)["provenance"]
    if made["data_checksum"] != dataset.checksum:
        raise provenance.other_data(path, made["data_checksum"], dataset.checksum)
    provenance.keep_processes(path, made)


def _prepare(
    path: Path, growth: Growth, experiment: Experiment, config: Row, dataset: Dataset
) -> None:
    """Writes the files of a finished run as they are in the larger one into `growth`."""
    folder, numbers = path / "growth", growth.numbers
    made_files.delete_in(path, ("growth", "growth/weights"))
    folder.mkdir(exist_ok=True)
    parts = list(experiment.parts.values())
    if growth.more_epochs:
        for name in ("results.csv", "chosen_trial.npz"):
            (folder / name).touch()
    else:
        rows = _rows(path, growth.old, growth.record)
        if len(rows) < len(numbers):
            raise results.unreadable(path, "results.csv does not hold all its trials")
        names = records.trial_rows(experiment.points, experiment.seeds, dataset.name, config)
        named = {*records.trial_rows(growth.old.points[:1], (0,), "", growth.record)[0], *names[0]}
        renamed = [
            names[numbers[row["trial"]]] | {k: v for k, v in row.items() if k not in named}
            for row in rows
        ]
        records.write_results(folder, sorted(renamed, key=lambda row: row["trial"]))
        epochs = {row["trial"]: choosing.trained_epochs(row) for row in rows}
        source = ordering.Source(path, epochs, numbers)
        lines = ordering.in_order([source], experiment, names)
        disk.replace(folder / "metrics.jsonl", lines)
        disk.write_bytes(folder / "chosen_trial.npz", _renumbered(path, numbers))
        held = {*numbers.values()}
        divided = ([[t for t in p if t in held], [t for t in p if t not in held]] for p in parts)
        parts = [group for pair in divided for group in pair if group]
        _link_weights(path, numbers)
    disk.write_text(folder / "parts.json", disk.to_json(parts))
    disk.write_text(folder / "config.json", disk.to_json(config, indent=2) + "\n")


def _renumbered(path: Path, numbers: Mapping[int, int]) -> bytes:
    """Returns `chosen_trial.npz` with the trial's number in the larger run; empty if it is lost."""
    with contextlib.suppress(BadFileError, KeyError):  # the trial may be none of these
        trial = int(chosen_trial.read_chosen_trial(path)["trial"])
        return chosen_trial.renumbered(path, numbers[trial])
    return b""


def _link_weights(path: Path, numbers: Mapping[int, int]) -> None:
    """Gives the weights that are kept further names, in `growth`."""
    for trial in weights.kept(path):
        if trial in numbers:
            weights.copy(path, trial, path / "growth", numbers[trial])


def finish(path: Path) -> None:
    """Moves what is in `growth` to its place, if it is complete; a link is not followed."""
    folder = path / "growth"
    if not (folder / "config.json").exists():
        return
    with disk.writing(path):
        for name in ("summary.json", "report.md", "report.html"):
            (path / name).unlink(missing_ok=True)
        made_files.delete_in(path, ("figures",))
        made_files.delete_in(path, ("checkpoints",), keep=("processes.json", "parts.json"))
        _move_weights(path)
        for name in ("metrics.jsonl", "results.csv", "chosen_trial.npz"):
            if (folder / name).exists():
                if (folder / name).stat().st_size:
                    os.replace(folder / name, path / name)
                else:  # there is none any more
                    (path / name).unlink(missing_ok=True)
                    (folder / name).unlink()
        (path / "checkpoints").mkdir(exist_ok=True)
        if (folder / "parts.json").exists():
            os.replace(folder / "parts.json", path / "checkpoints" / "parts.json")
        os.replace(folder / "config.json", path / "config.json")
        made_files.delete_in(path, ("growth", "growth/weights"))


def _move_weights(path: Path) -> None:
    """Moves weights from `growth` to their place, before the rows of the same trials."""
    table = path / "growth" / "results.csv"
    if not table.exists() or not table.stat().st_size:
        return
    with open(table, newline="", encoding="utf-8") as file:
        held = {int(row["trial"]) for row in csv.DictReader(file)}
    for trial in {*weights.kept(path)} - held:  # now the number of another
        weights.file(path, trial).unlink()
    for trial in weights.kept(path / "growth"):
        os.replace(weights.file(path / "growth", trial), weights.file(path, trial))
