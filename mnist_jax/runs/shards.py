"""Merges shards into the whole run: shard i of n trained every n-th trial, from index i on.

Trials share nothing, so the work directory of the run can be made from the shards' files. Rows are
put into its order and statistics are recomputed. Its chosen trial's weights are in the shard's
`chosen_trial.npz`, or in a checkpoint.
"""

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import UserError, disk, run_files
from mnist_jax.config import user_code
from mnist_jax.config.experiment import Experiment, read_experiment
from mnist_jax.data.datasets import name_of
from mnist_jax.data.splits import Dataset
from mnist_jax.runs import (
    choosing,
    chosen_trial,
    ordering,
    provenance,
    records,
    results,
    summaries,
    weights,
    workdirs,
)
from mnist_jax.runs.ordering import Source
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run
from mnist_jax.text import first_of
from mnist_jax.training.jax_setup import compiler_options, start_jax


def shard_of(config: Row) -> tuple[int, int]:
    """Returns the index of a run's shard and how many there are; 0 and 1 for a whole run."""
    index, num_shards = map(int, config.get("shard", "0/1").split("/"))  # old runs lack the key
    return index, num_shards


def cautions(run: Run) -> list[str]:
    """Returns warnings about a run that is a shard, or that several processes made."""
    index, num_shards = shard_of(run.config)
    if num_shards > 1:
        return [
            f"WARNING: this is shard {index} alone, of {num_shards} that are counted from 0: every"
            f" trial whose number leaves {index} when divided by {num_shards}. What is best here"
            f" need not be the best of the run, which python -m mnist_jax.report makes of all"
            f" {num_shards} directories."
        ]
    return provenance.cautions(run.summary["provenance"])


def merge(runs: Sequence[Run], folder: Path, data_dir: str | None = None) -> None:
    """Makes the work directory of the run whose shards are given, in any order.

    If the weights of the chosen trial are not available, there is no `chosen_trial.npz`, and
    `summary.json` says why under `chosen_trial_missing`.

    Raises:
        UserError: They are not all the shards of one run, or a file of theirs is damaged.
        OSError: The folder cannot be written.
    """
    runs = _in_order(runs)
    num_trials = sum(len(run.results) for run in runs)
    for index, run in enumerate(runs):
        numbers = sorted(row["trial"] for row in run.results)
        if numbers != list(range(index, num_trials, len(runs))):
            raise results.unreadable(
                run.workdir, "results.csv does not hold the trials of its shard"
            )
    epochs = [{row["trial"]: row["num_epochs"] for row in run.results} for run in runs]
    sources = [Source(run.workdir, of) for run, of in zip(runs, epochs, strict=True)]
    names = [run.config["shard"] for run in runs]
    config = runs[0].config | {"shard": "0/1"}
    write_whole(runs, sources, config, {"shards": names}, folder, data_dir)


def write_whole(
    runs: Sequence[Run],
    sources: Sequence[Source],
    config: Row,
    names: Mapping[str, Sequence[str]],
    folder: Path,
    data_dir: str | None,
) -> None:
    """Makes the work directory of a run of which others have the trials, each some.

    `config` is its record. `names` are those of the runs in its provenance, under what they are.
    """
    points = {point["point"]: point for run in runs for point in run.summary["grid"]}
    rows: dict[int, Row] = {}
    origins: dict[int, tuple[Run, Row]] = {}
    for run, source in zip(runs, sources, strict=True):
        for row in run.results:
            number = source.numbers[row["trial"]] if source.numbers else row["trial"]
            # Axes are those of the point, since a table of text does not tell 8 and "8" apart.
            values = {axis: points[row["point"]][axis] for axis in runs[0].axes}
            rows[number] = row | {"trial": number} | values
            origins[number] = run, row | values
    in_order = [rows[number] for number in sorted(rows)]
    protocol = runs[0].summary["protocol"]
    chosen = choosing.choose_trial(in_order, protocol)["trial"]
    record = str(runs[0].workdir / "config.json")
    experiment = read_experiment(record, {}, seed=config["seed"], shard="0/1")
    naming = ("trial", "point", "seed", "dataset", *runs[0].axes)
    names_of_trials = [{key: row[key] for key in naming} for row in in_order]
    lines = ordering.in_order(sources, experiment, names_of_trials)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "wb") as file:
        file.writelines(lines)
    records.write_results(folder, in_order)
    user_code.save(folder, experiment.own_files)
    for number, (run, row) in origins.items():
        if weights.file(run.workdir, row["trial"]).is_file():
            weights.copy(run.workdir, row["trial"], folder, number)
    more = dict[str, Any]()
    if "data" in runs[0].summary:
        more["data"] = runs[0].summary["data"]
    try:
        _write_chosen_trial(*origins[chosen], folder, chosen, data_dir)
    except (UserError, run_files.BadFileError) as error:
        more["chosen_trial_missing"] = str(error)
    more["run"] = workdirs.digest(config, checksum(runs[0]))
    dataset, num_images = runs[0].summary["dataset"], runs[0].summary["num_images"]
    made = _provenance(runs, names)
    axes = runs[0].axes
    summaries.write_summary(folder, in_order, axes, protocol, dataset, num_images, made, **more)
    # Written last: with it, the folder holds a run.
    disk.write_text(folder / "config.json", disk.to_json(config, indent=2) + "\n")


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """Returns the shards in order; raises `UserError` unless they are all those of one run."""
    first, by_index = runs[0], dict[int, Run]()
    of = shard_of(first.config)[1]
    for run in runs:
        index, num_shards = shard_of(run.config)
        if num_shards == 1:
            raise UserError(
                f"{run.workdir} holds a whole run: expected shards of one run alone; put its shards"
                " together first, and then name both runs"
            )
        differ = [
            f"{key} ({str(one)[:60]}, {str(other)[:60]})"
            for key, (one, other) in workdirs.differences(first.config, run.config).items()
            if key not in ("shard", "data.checksum")  # which follows, of named data sets too
        ]
        if num_shards != of:
            differ.append(f"number of shards ({of}, {num_shards})")
        if checksum(first) != checksum(run):
            differ.append(f"data files ({checksum(first)}, {checksum(run)})")
        if differ:
            raise UserError(
                f"{first.workdir} and {run.workdir} are not shards of one run, since they differ in"
                f" {', '.join(differ)}; name the shards of one run alone"
            )
        if index in by_index:
            raise UserError(
                f"{by_index[index].workdir} and {run.workdir} both hold shard {index}/{of}; name"
                " each shard once"
            )
        by_index[index] = run
    if missing := [f"{index}/{of}" for index in range(of) if index not in by_index]:
        raise UserError(
            f"{first.config['name']}: shards are missing ({first_of(missing, 8)}); run its command"
            f" with --shard={missing[0]} and so on, each with its own --workdir, and name all {of}"
            " directories"
        )
    return [by_index[index] for index in range(of)]


def checksum(run: Run) -> str:
    """Returns the checksum of a run's data."""
    return run.summary["provenance"]["data_checksum"]


def _provenance(runs: Sequence[Run], names: Mapping[str, Sequence[str]]) -> Row:
    """Returns what the runs have in common; what differs, by name; and the sums of seconds."""
    made = [run.summary["provenance"] for run in runs]
    differing = {"command", "seconds"}
    differing |= {
        key for key in itertools.chain(*made) for r in made if r.get(key) != made[0].get(key)
    }
    paths = [str(run.workdir) for run in runs]
    return {
        "command": shlex.join(["python", "-m", "mnist_jax.report", *paths]),
        **{key: value for key, value in made[0].items() if key not in differing},
        "seconds": {
            phase: sum(record["seconds"][phase] for record in made) for phase in made[0]["seconds"]
        },
        **{
            what: {
                name: {k: v for k, v in record.items() if k in differing}
                for name, record in zip(each, made, strict=True)
            }
            for what, each in names.items()
        },
    }


def _write_chosen_trial(
    run: Run, row: Row, folder: Path, number: int, data_dir: str | None
) -> None:
    """Writes `chosen_trial.npz` of a run's trial, which has another `number` in the whole run.

    Raises:
        UserError: Its weights are lost, or are those of another trial; or BadFileError.
    """
    path, trial = run.workdir, row["trial"]
    if chosen_trial.trial_of_weights(path) == trial:
        source = path / "chosen_trial.npz"
        content = chosen_trial.renumbered(path, number) if number != trial else source.read_bytes()
        disk.write_bytes(folder / source.name, content)
        return
    is_kept = trial in weights.kept(path) or any(path.glob("checkpoints/trials_*"))
    if shard_of(run.config)[1] == 1 and not is_kept:
        raise UserError(
            f"{path} has not kept the weights of its trial {trial}, as keep_weights=all does"
        )
    from mnist_jax.training import sweep

    experiment = read_experiment(str(path / "config.json"), {})
    names = records.trial_rows(experiment.points, experiment.seeds, name_of(experiment.dataset))
    name = names[trial] if trial < len(names) else {}
    keys = ("point", "seed", "dataset", *run.axes)
    if any(str(name.get(key)) != str(row[key]) for key in keys):
        raise UserError(f"the config of {path} is not that of its trials")
    dataset = experiment.load_data(data_dir)
    if dataset.checksum != checksum(run):
        raise UserError(f"the data set has changed since: its checksum is {dataset.checksum}")
    whole = dataclasses.replace(experiment, shard="0/1")  # for the bits of the whole run
    start_jax(whole)
    recipe, hyper, variables = _restore(run, experiment, dataset, row)
    options = compiler_options(whole)
    probabilities = sweep.predict(recipe, hyper, variables, dataset.test_images, options)
    first = recipe.network.first_kernel
    chosen_trial.write_chosen_trial(folder, number, variables, probabilities, dataset, first)


def _restore(run: Run, experiment: Experiment, dataset: Dataset, row: Row) -> tuple[Any, Any, Any]:
    """Returns recipe, hyper-parameters and variables of a trial, as kept or as last saved."""
    import jax

    from mnist_jax.runs import groups
    from mnist_jax.runs.checkpoints import Checkpoints
    from mnist_jax.training import recipes, sweep, trial

    number, kept = row["trial"], weights.kept(run.workdir)
    whole = next(
        g for g in groups.read_groups(run.workdir, [*experiment.parts.values()]) if number in g
    )
    group = [number] if number in kept else whole
    recipe, trials = recipes.create_recipe(experiment, group, dataset)
    place = group.index(number)
    hyper = sweep.trial_of(trials, place)
    like = jax.eval_shape(functools.partial(trial.init, recipe), hyper)
    if number in kept:
        found = weights.read_state(run.workdir, number, like)
        return recipe, hyper, trial.chosen_variables(found.state)
    like = jax.tree.map(lambda x: np.empty((len(group), *x.shape), x.dtype), like)
    folder = groups.checkpoint_folder(run.workdir, group)
    record = run_files.read_json(run.workdir / "config.json")  # as its version wrote it
    digest = workdirs.digest(record, checksum(run))
    with Checkpoints(folder, run=digest, num_trials=len(group), keep=1) as checkpoints:
        saved = checkpoints.restore(like)
    if saved is None or saved.step != row["num_epochs"]:
        raise UserError(f"{folder} holds no sound checkpoint of the last epoch")
    return recipe, hyper, sweep.chosen_weights(saved.state, place)
