"""Merges shards into the whole run: shard i of n trained every n-th trial, from index i on.

Trials share nothing, so the work directory of the run can be made from the shards' files. Rows are
put into its order and statistics are recomputed. Its chosen trial's weights are in the shard's
`chosen_trial.npz`, or in a checkpoint.
"""

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Sequence
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
    points = {point["point"]: point for run in runs for point in run.summary["grid"]}
    # Axes are those of the point, because a table of text does not tell 8 and "8" apart.
    rows = [
        row | {axis: points[row["point"]][axis] for axis in runs[0].axes}
        for row in sorted(itertools.chain(*(run.results for run in runs)), key=_trial)
    ]
    for index, run in enumerate(runs):
        if list(map(_trial, run.results)) != list(range(index, len(rows), len(runs))):
            raise results.unreadable(
                run.workdir, "results.csv does not hold the trials of its shard"
            )
    protocol = runs[0].summary["protocol"]
    chosen = choosing.choose_trial(rows, protocol)
    experiment = read_experiment(str(runs[0].workdir / "config.json"), {}, shard="0/1")
    epochs = [{row["trial"]: row["num_epochs"] for row in run.results} for run in runs]
    sources = [Source(run.workdir, of) for run, of in zip(runs, epochs, strict=True)]
    lines = ordering.in_order(sources, experiment, rows)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "wb") as file:
        file.writelines(lines)
    records.write_results(folder, rows)
    user_code.save(folder, experiment.own_files)
    config, more = runs[0].config | {"shard": "0/1"}, dict[str, Any]()
    if "data" in runs[0].summary:
        more["data"] = runs[0].summary["data"]
    try:
        _write_chosen_trial(runs[chosen["trial"] % len(runs)], chosen, folder, data_dir)
    except UserError as error:
        more["chosen_trial_missing"] = str(error)
    more["run"] = workdirs.digest(config, _checksum(runs[0]))
    dataset, num_images = runs[0].summary["dataset"], runs[0].summary["num_images"]
    made = _provenance(runs)
    summaries.write_summary(folder, rows, runs[0].axes, protocol, dataset, num_images, made, **more)
    # Written last: with it, the folder holds a run.
    disk.write_text(folder / "config.json", disk.to_json(config, indent=2) + "\n")


def _trial(row: Row) -> int:
    return row["trial"]


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
        if _checksum(first) != _checksum(run):
            differ.append(f"data files ({_checksum(first)}, {_checksum(run)})")
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


def _checksum(run: Run) -> str:
    return run.summary["provenance"]["data_checksum"]


def _provenance(runs: Sequence[Run]) -> Row:
    """Returns what the shards have in common; what differs, by shard; and the sums of seconds."""
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
        "shards": {
            run.config["shard"]: {k: v for k, v in record.items() if k in differing}
            for run, record in zip(runs, made, strict=True)
        },
    }


def _write_chosen_trial(run: Run, chosen: Row, folder: Path, data_dir: str | None) -> None:
    """Writes `chosen_trial.npz` of a shard's trial; raises `UserError` if its weights are lost."""
    if chosen_trial.trial_of_weights(run.workdir) == chosen["trial"]:
        path = run.workdir / "chosen_trial.npz"
        disk.write_bytes(folder / path.name, path.read_bytes())
        return
    from mnist_jax.training import sweep

    experiment = read_experiment(str(run.workdir / "config.json"), {})
    names = records.trial_rows(experiment.points, experiment.seeds, name_of(experiment.dataset))
    name = names[chosen["trial"]] if chosen["trial"] < len(names) else {}
    keys = ("point", "seed", "dataset", *run.axes)
    if any(str(name.get(key)) != str(chosen[key]) for key in keys):
        raise UserError(f"the config of {run.workdir} is not that of its trials")
    dataset = experiment.load_data(data_dir)
    if dataset.checksum != _checksum(run):
        raise UserError(f"the data set has changed since: its checksum is {dataset.checksum}")
    whole = dataclasses.replace(experiment, shard="0/1")  # for the bits of the whole run
    start_jax(whole)
    recipe, hyper, variables = _restore(run, experiment, dataset, chosen)
    options = compiler_options(whole)
    probabilities = sweep.predict(recipe, hyper, variables, dataset.test_images, options)
    first, number = recipe.network.first_kernel, chosen["trial"]
    chosen_trial.write_chosen_trial(folder, number, variables, probabilities, dataset, first)


def _restore(
    run: Run, experiment: Experiment, dataset: Dataset, chosen: Row
) -> tuple[Any, Any, Any]:
    """Returns recipe, hyper-parameters and variables of a trial, from the last checkpoint."""
    import jax

    from mnist_jax.runs import groups
    from mnist_jax.runs.checkpoints import Checkpoints
    from mnist_jax.training import recipes, sweep, trial

    number = chosen["trial"]
    group = next(g for g in groups.read_groups(run.workdir, experiment) if number in g)
    folder = groups.checkpoint_folder(run.workdir, group)
    recipe, trials = recipes.create_recipe(experiment, group, dataset)
    place = group.index(number)
    hyper = sweep.trial_of(trials, place)
    shapes = jax.eval_shape(functools.partial(trial.init, recipe), hyper)
    like = jax.tree.map(lambda x: np.empty((len(group), *x.shape), x.dtype), shapes)
    record = run_files.read_json(run.workdir / "config.json")  # as its version wrote it
    digest = workdirs.digest(record, _checksum(run))
    with Checkpoints(folder, run=digest, num_trials=len(group), keep=1) as checkpoints:
        saved = checkpoints.restore(like)
    if saved is None or saved.step != chosen["num_epochs"]:
        raise UserError(f"{folder} holds no sound checkpoint of the last epoch")
    return recipe, hyper, sweep.chosen_weights(saved.state, place)
