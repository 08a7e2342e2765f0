"""How a step's time and memory change with the number of trials that train at once.

`python -m mnist_jax.benchmark --config=FILE --trials=1,2,4,8` tells how many trials a machine
should train together. Each number of trials has a process of its own,
`python -m mnist_jax.benchmark.scaling NUM_TRIALS JOB`, because JAX is set up once per process, and
differently on a CPU with fewer trials than cores: there the trials share the cores through threads,
where otherwise each core trains its own. It also makes the peak of a GPU's memory that of one
number of trials.

The processes of a CPU live at the same time and train in turn, round by round, so that a machine
whose speed drifts does so for all of them alike. A GPU or TPU belongs to one process at a time:
there the rounds of one number of trials are timed before those of the next.
"""

import dataclasses
import functools
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError
from mnist_jax.benchmark.processes import TrainingProcess, serve, take_output
from mnist_jax.benchmark.rounds import (
    Epoch,
    TimingError,
    Timings,
    leave_out,
    run_rounds,
    say,
    with_extremes,
)
from mnist_jax.config.experiment import Experiment
from mnist_jax.data.datasets import num_batches
from mnist_jax.data.splits import Dataset
from mnist_jax.runs.provenance import provenance
from mnist_jax.text import text_table
from mnist_jax.training.jax_setup import compiler_options, start_jax

WORK_PER_ROUND = 150e9
"""Floating-point operations of a CPU core in a round; a GPU or TPU does a hundred times as many.

An epoch of more work is cut to its first steps, whose images are drawn from all of the data set.
"""


class Job(NamedTuple):
    """What every number of trials is timed on."""

    experiment: Experiment  # its first point is trained, with seeds from its first one on
    dataset: Dataset  # all of it is placed on the devices


def read_trial_counts(given: Sequence[str], experiment: Experiment) -> list[int]:
    """Returns the numbers of trials that `--trials` lists, sorted and without repeats.

    Raises:
        UserError: One is not a whole number, or there are fewer seeds.
    """
    most = 2**32 - experiment.seeds[0]
    for text in given or [""]:
        if not (text.strip().isdecimal() and 1 <= int(text) <= most):
            raise UserError(
                f"--trials={text}: expected whole numbers from 1 to {most}, as in --trials=1,2,4,8"
            )
    return sorted(set(map(int, given)))


def measure(job: Job, trial_counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """Times all numbers of trials; returns the record that `--json` writes.

    Raises:
        UserError: None of them trains.
    """
    origin = provenance()  # now: the checkout may change in the meantime
    load_average = os.getloadavg()[0]
    descriptions: dict[str, dict] = {}
    waiting: dict[str, TrainingProcess] = {}
    timings: dict[str, Timings] = {}
    left_out: dict[str, str] = {}

    def time_rounds(processes: Mapping[str, TrainingProcess]) -> None:
        trainers = {name: process.train_epoch for name, process in processes.items()}
        new_timings, new_left_out = run_rounds(trainers, rounds, unit=" trials:")
        timings.update(new_timings)
        left_out.update(new_left_out)

    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        (folder / "job").write_bytes(pickle.dumps(job))
        for name in map(str, trial_counts):
            command = ["-m", "mnist_jax.benchmark.scaling", name, str(folder / "job")]
            try:
                process = TrainingProcess(command, folder / f"{name}.log", os.environ)
            except TimingError as error:
                leave_out(left_out, name, error)
                continue
            descriptions[name] = description = process.description
            if "error" in description:
                raise UserError(description["error"])
            say(
                f"trials {name}: compiled in {description['compile_seconds']:.1f} s; a round is"
                f" {description['steps']} of an epoch's {description['epoch_steps']} steps"
            )
            if description["devices"]["platform"] == "cpu":
                stack.callback(process.close)
                waiting[name] = process
            else:
                with closing(process):
                    time_rounds({name: process})
        if waiting:
            time_rounds(waiting)
    if not timings:
        first = trial_counts[0]
        raise UserError(f"--trials={first}: {left_out[str(first)]}; choose others")
    return {
        "config": job.experiment.record(),
        "trials": [_row(int(name), descriptions[name], timings[name].ms[1:]) for name in timings],
        "left_out": left_out,
        "rounds": {name: t._asdict() for name, t in timings.items()},
        "batch_size": job.experiment.points[0]["batch_size"],
        "mflop_per_step": descriptions[next(iter(timings))]["mflop_per_step"],
        "load_average": load_average,
        "provenance": {**origin, "data_checksum": job.dataset.checksum},
    }


def _row(num_trials: int, description: Mapping[str, Any], ms: Sequence[float]) -> dict[str, Any]:
    images_per_step = description["images"] / description["steps"]
    return {
        "trials": num_trials,
        **with_extremes("ms_per_step", ms),
        **with_extremes("images_per_second", [1e3 * images_per_step / each for each in ms]),
        **{key: description[key] for key in ("lower_seconds", "compile_seconds", "memory")},
        "steps_per_round": description["steps"],
        "steps_per_epoch": description["epoch_steps"],
        "devices": description["devices"],
    }


def table(record: Mapping[str, Any]) -> str:
    """Returns the result for a terminal."""
    rows = record["trials"]
    devices, memory = rows[-1]["devices"], rows[0]["memory"]
    lines = [
        f"up to {devices['count']} {devices['platform']} devices ({devices['kind']},"
        f" {devices['cores']} cores), matmul precision {devices['matmul_precision']};"
        f" load average {record['load_average']:.1f} before",
        f"{record['mflop_per_step']:.1f} MFLOP a step and trial, {record['batch_size']} images a"
        f" step; data set: {memory['data_bytes'] / 1e6:,.1f} MB a device;"
        f" a trial's parameters: {memory['parameter_bytes'] / 1e6:,.3f} MB, its whole"
        f" state: {memory['state_bytes'] / 1e6:,.3f} MB",
        "",
    ]
    names = ["trials", "median", "min", "max", "images\na second", "seconds to\ncompile"]
    names += ["MB a\ndevice", "MB a trial,\ndata apart", "peak MB\na device"]
    cells = []
    for row in rows:
        memory = row["memory"]
        peak = "" if memory["peak_bytes"] is None else f"{memory['peak_bytes'] / 1e6:,.1f}"
        ms = [f"{row[f'ms_per_step{which}']:,.4f}" for which in ("", "_min", "_max")]
        speed = [f"{row['images_per_second']:,.0f}", f"{row['compile_seconds']:.1f}"]
        sizes = [f"{memory['device_bytes'] / 1e6:,.1f}", f"{memory['trial_bytes'] / 1e6:,.3f}"]
        cells.append([str(row["trials"]), *ms, *speed, *sizes, peak])
    groups = ["", *["ms a step and trial"] * 3, *[""] * 5]
    lines.append(text_table(names, cells, groups=groups, left=()))
    lines += [f"{name} is left out: {why}" for name, why in record["left_out"].items()]
    return "\n".join(lines)


def prepare(job: Job, num_trials: int) -> tuple[Callable[[], Epoch], dict[str, Any]]:
    """Compiles a sweep of so many trials; must come before anything else asks JAX for its devices.

    Returns:
        Function that trains a round; and the description of the process, for `measure`. Its memory
        and compile time are those of the program of whole epochs.

    Raises:
        TimingError: Memory does not hold the trials.
        UserError: The machine does not have what the config asks for.
    """
    from mnist_jax.benchmark import work
    from mnist_jax.training import memory, recipes, sweep, trial

    experiment, dataset = job.experiment, job.dataset
    point, epoch_images = experiment.points[0], len(dataset.train_labels)
    start_jax(experiment, num_trials)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # compiling costs its full price
    first = experiment.seeds[0]
    many = dataclasses.replace(experiment, seed=first, num_seeds=num_trials)
    recipe, trials = recipes.create_recipe(many, range(num_trials), dataset)
    compile_epoch = functools.partial(
        sweep.compile_sweep,
        recipe,
        trials,
        dataset,
        num_devices=experiment.devices,
        options=compiler_options(experiment, num_trials),
    )
    whole = compile_epoch(epoch=trial.run_epoch)
    if (most := memory.trials_that_fit(whole)) < num_trials:
        raise TimingError(f"memory holds {most} of {num_trials} trials")
    on_cpu = whole.devices["platform"] == "cpu"
    peak = None
    if not on_cpu:
        orders = sweep.image_orders(whole.seeds, 1, epoch_images)
        state = whole.initialise(whole.inputs[0])
        jax.block_until_ready(whole.run_epoch(state, orders, *whole.inputs))
        peak = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    budget = WORK_PER_ROUND * (whole.devices["cores"] if on_cpu else 100 * whole.devices["count"])
    epoch_steps = num_batches(epoch_images, point["batch_size"])
    flop = work.flop(work.step_products(recipe, trials))
    steps = max(1, min(int(budget / (max(flop, 1) * num_trials)), epoch_steps))
    images = min(steps * point["batch_size"], epoch_images)

    def train_round(recipe, hyper, state, order, split, held_out):
        return trial.train_epoch(recipe, hyper, state, order[:images], split)

    timed = compile_epoch(epoch=train_round)
    state, epoch = timed.initialise(timed.inputs[0]), 0

    def time_round() -> Epoch:
        nonlocal state, epoch
        epoch += 1
        orders = sweep.image_orders(timed.seeds, epoch, epoch_images)
        orders = jax.block_until_ready(jax.device_put(orders, timed.inputs[2].labels.sharding))
        start = time.perf_counter()
        state, sums = jax.block_until_ready(timed.run_epoch(state, orders, *timed.inputs))
        seconds = time.perf_counter() - start
        loss = float(np.mean(np.asarray(sums.loss)[:num_trials])) / images
        return Epoch(seconds, steps * num_trials, loss)

    return time_round, {
        "devices": whole.devices,
        "lower_seconds": whole.lower_seconds,
        "compile_seconds": whole.compile_seconds,
        "memory": memory.memory_of(whole) | {"peak_bytes": peak},
        "mflop_per_step": flop / 1e6,
        "images": images,
        "steps": steps,
        "epoch_steps": epoch_steps,
    }


def main() -> None:
    """Trains on request; if the process fails, the reason is the last line of its error stream."""
    import jax

    num_trials, file = sys.argv[1:]
    answers = take_output()
    job = pickle.loads(Path(file).read_bytes())  # `measure` wrote it, in a folder of its own
    try:
        train, description = prepare(job, int(num_trials))
        serve(train, description, sys.stdin, answers)
    except UserError as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
    except (TimingError, jax.errors.JaxRuntimeError) as error:  # as a rule, memory is lacking
        sys.exit(str(error).splitlines()[0])


if __name__ == "__main__":
    main()
