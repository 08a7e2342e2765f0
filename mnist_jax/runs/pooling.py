"""Pools finished runs that differ in seeds alone: into one run, with the list of their seeds."""

from collections.abc import Sequence
from pathlib import Path

from mnist_jax.config import experiment
from mnist_jax.runs import shards, workdirs
from mnist_jax.runs.ordering import Source
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run
from mnist_jax.text import first_of


def seeds_of(config: Row) -> Sequence[int]:
    """Returns the seeds of a run's trials, given its record."""
    return experiment.seeds_of(config["seed"], config["num_seeds"])


def can_pool(runs: Sequence[Run]) -> bool:
    """Says whether whole runs differ in seeds and names alone, and no seed is in two of them."""
    first, seeds = runs[0], [seed for run in runs for seed in seeds_of(run.config)]

    def is_alike(run: Run) -> bool:
        differ = workdirs.differences(first.config, run.config)
        points = [point["point"] for point in first.summary["grid"]]
        return (
            differ.keys() <= {"name", "seed", "num_seeds"}
            and not run.config["halving"]  # each chose by its own seeds what went on
            and shards.shard_of(run.config)[1] == 1
            and shards.checksum(run) == shards.checksum(first)
            and {(row["point"], row["seed"]) for row in run.results}
            == {(point, seed) for point in points for seed in seeds_of(run.config)}
        )

    return len(runs) > 1 and len({*seeds}) == len(seeds) and all(map(is_alike, runs))


def pool(runs: Sequence[Run], folder: Path, data_dir: str | None = None) -> None:
    """Makes the work directory of the run that has the seeds of several, as `can_pool` allows.

    Weights of the chosen trial that no run has kept are told as by `shards.merge`.

    Raises:
        UserError: A file of a run is damaged.
        OSError: The folder cannot be written.
    """
    runs = sorted(runs, key=lambda run: min(seeds_of(run.config)))
    seeds = sorted(seed for run in runs for seed in seeds_of(run.config))
    place = {seed: i for i, seed in enumerate(seeds)}
    sources = [
        Source(
            run.workdir,
            {row["trial"]: row["num_epochs"] for row in run.results},
            {row["trial"]: row["point"] * len(seeds) + place[row["seed"]] for row in run.results},
        )
        for run in runs
    ]
    config = runs[0].config | {"seed": seeds, "num_seeds": len(seeds)}
    names = [first_of(list(map(str, seeds_of(run.config))), 8) for run in runs]
    shards.write_whole(runs, sources, config, {"pooled": names}, folder, data_dir)
