"""Times compiled epochs by the number of trials that train together, all in one process.

    python experiments/accelerators/epochs.py FILE DATASET CASE ...

A case is CONFIG:TRIALS:PRECISION, as in l2_sweep:15:tf32. A line of JSON is added to the file as
each ends. `python -m mnist_jax.benchmark --trials=...` times training alone, in a process for each
number of trials. Here an epoch is scored too, and all share one process, since GPU time is scarce.
"""

import json
import statistics
import sys
import time

import jax
import numpy as np

from mnist_jax.config.experiment import read_experiment
from mnist_jax.config.settings import PRECISIONS
from mnist_jax.data import loading, splits
from mnist_jax.data.datasets import num_batches
from mnist_jax.training import jax_setup, memory, recipes, sweep

ROUNDS = 3


def time_case(case: str, dataset: splits.Dataset) -> dict:
    """Times whole epochs, scores on the test set included, without what the host does with them.

    The trials are those of the config, three seeds of each point, over and over: so many orders of
    the images lie on the device, however many trials there are.
    """
    config, trials, precision = case.split(":")
    num_trials, num_images = int(trials), len(dataset.train_labels)
    typed = {"dataset": dataset.name, "num_seeds": "3", "precision": precision}
    experiment = read_experiment(f"configs/{config}.py", typed)
    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    part = next(iter(experiment.parts.values()))
    recipe, found = recipes.create_recipe(experiment, part, dataset)
    chosen = np.arange(num_trials) % len(part)
    compiled = sweep.compile_sweep(recipe, jax.tree.map(lambda x: x[chosen], found), dataset)
    state = jax.block_until_ready(compiled.initialise(compiled.inputs[0]))
    seconds = []
    for epoch in range(1, ROUNDS + 2):
        orders = sweep.image_orders(compiled.seeds, epoch, num_images)
        start = time.perf_counter()
        state, sums = jax.block_until_ready(compiled.run_epoch(state, orders, *compiled.inputs))
        seconds.append(time.perf_counter() - start)
    first, *others = seconds
    planned = memory.memory_of(compiled)
    steps = num_batches(num_images, recipe.batch_size)
    correct = np.asarray(sums.held_out.correct)[:num_trials]
    return {
        "config": config,
        "trials": num_trials,
        "precision": precision,
        "epoch_ms": 1e3 * statistics.median(others),
        "first_ms": 1e3 * first,
        "us_step_trial": 1e6 * statistics.median(others) / steps / num_trials,
        "compile_s": compiled.compile_seconds,
        "device_MB": planned["device_bytes"] / 1e6,
        "trial_MB": planned["trial_bytes"] / 1e6,
        "test_accuracy": float(np.mean(correct)) / compiled.sizes["test"],
    }


def main() -> None:
    """Times the cases."""
    file, name, *cases = sys.argv[1:]
    dataset = loading.load_dataset(name)
    jax_setup.configure_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling costs its full price
    for case in cases:
        try:
            row = time_case(case, dataset)
        except jax.errors.JaxRuntimeError as error:  # memory, as far as is known
            print(f"{case} is left out: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"{case}: {row['us_step_trial']:.2f} us a step and trial", flush=True)
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
