"""Many trials: a grid becomes a trial axis, and the whole sweep one compiled program per epoch.

The trial axis is spread over the devices by `shard_map`; trials share nothing, so the program
needs no communication. Inside a device, a CPU core takes its trials one after the other
(`lax.map`: each has the very bits of a lone run on one core), while a GPU or TPU takes them
together (`vmap`).
"""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax import train
from mnist_jax.data import Dataset, cache_folder
from mnist_jax.train import Hyperparameters, Recipe, Split

EVAL_BATCH_SIZE = 400


class Sweep(NamedTuple):
    """A compiled sweep, with the arrays that it runs on.

    Attributes:
        initialise: Program from the hyper-parameters to the state of all trials.
        run_epoch: Program from state, orders [seeds, images], and `inputs` to state and sums.
        inputs: Hyper-parameters, seed index, training and held-out splits, on the devices.
        trials: Arrays of shape [trials]; on the devices, padding makes them divisible.
        seeds: The distinct seeds among the trials.
        sizes: Number of images by split.
        devices: What runs the trials and how, for the record.
        lower_seconds: Time that tracing and lowering took.
        compile_seconds: Time that compiling took after that.
    """

    initialise: jax.stages.Compiled
    run_epoch: jax.stages.Compiled
    inputs: tuple
    trials: Hyperparameters
    seeds: np.ndarray
    sizes: dict[str, int]
    devices: dict[str, Any]
    lower_seconds: float
    compile_seconds: float


def create_trials(
    *,
    learning_rate: Sequence[float],
    momentum: Sequence[float],
    l2: Sequence[float],
    seeds: Sequence[int],
) -> Hyperparameters:
    """Returns every grid point with every seed, as NumPy arrays of shape [trials].

    The same seeds serve all grid points, so that these can be compared in pairs. The seed varies
    fastest, then `l2`, `momentum` and `learning_rate`.
    """
    grid = itertools.product(learning_rate, momentum, l2, seeds)
    rates, momenta, penalties, trial_seeds = map(np.array, zip(*grid, strict=True))
    return Hyperparameters(trial_seeds.astype(np.uint32), rates, momenta, penalties)


def image_orders(seeds: np.ndarray, epoch: int, num_images: int) -> np.ndarray:
    """Returns, for each seed, the permutation in which its trials see the images in an epoch.

    It depends on seed and epoch alone. NumPy makes it in 0.8 ms for 60,000 images, the same on
    every backend, where `jax.random.permutation` sorts twice and takes 26 ms on a CPU.

    Returns:
        Integers [seeds, num_images], 16 bits wide where they fit.
    """
    images = np.arange(num_images, dtype=np.uint16 if num_images <= 2**16 else np.uint32)
    return np.stack(
        [np.random.Generator(np.random.Philox(key=[s, epoch])).permutation(images) for s in seeds]
    )


def configure_jax(num_trials: int) -> None:
    """Sets JAX up for a sweep; must be called before JAX looks for devices.

    Each CPU core becomes one device, as far as there are trials for them. Where there are fewer
    trials than cores, the devices share all cores through threads, so that none is idle. Compiled
    programs are kept in the user's cache, and float32 means float32 in matrix products, unless JAX
    was told otherwise.
    """
    cores = num_cores()
    jax.config.update("jax_num_cpu_devices", min(cores, num_trials))
    if num_trials >= cores:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".lstrip()
    if jax.config.values["jax_default_matmul_precision"] is None:
        jax.config.update("jax_default_matmul_precision", "float32")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def num_cores() -> int:
    """Returns the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compile_sweep(
    model: nn.Module,
    trials: Hyperparameters,
    dataset: Dataset,
    *,
    batch_size: int,
    l2_on_output: bool,
    epoch: Callable = train.run_epoch,
) -> Sweep:
    """Places data and trials on the devices and compiles the two programs of a sweep.

    Args:
        model: Gives logits for images [batch, height, width].
        trials: Arrays of shape [trials].
        dataset: All of its training images are trained on; the other splits are scored.
        batch_size: Images in a training step.
        l2_on_output: Whether the L2 penalty covers the output kernel too.
        epoch: What a trial does in an epoch; `benchmark.py` times parts of it.
    """
    recipe = Recipe(
        model=model,
        batch_size=batch_size,
        eval_batch_size=EVAL_BATCH_SIZE,
        use_momentum=bool(np.any(trials.momentum)),
        l2_on_output=l2_on_output,
    )
    num_trials = len(trials.seed)
    mesh = Mesh(np.array(jax.devices()[:num_trials]), ("trial",))
    by_trial, everywhere = NamedSharding(mesh, P("trial")), NamedSharding(mesh, P())
    seeds, seed_index = np.unique(trials.seed, return_inverse=True)
    splits = {
        "train": Split(dataset.train_images, dataset.train_labels),
        "validation": Split(dataset.validation_images, dataset.validation_labels),
        "test": Split(dataset.test_images, dataset.test_labels),
    }
    sizes = {name: len(split.labels) for name, split in splits.items() if len(split.labels)}
    splits = jax.device_put({name: splits[name] for name in sizes}, everywhere)
    padding = (0, -num_trials % mesh.size)
    hyper, seed_index = jax.device_put(
        jax.tree.map(lambda x: np.pad(x, padding, mode="edge"), (trials, seed_index)), by_trial
    )

    def init_all(hyper):
        return _over_trials(functools.partial(train.init, recipe), hyper)

    def run_all(state, orders, hyper, seed_index, split, held_out):
        def run_one(hyper, state, i):
            return epoch(recipe, hyper, state, orders[i], split, held_out)

        return _over_trials(run_one, hyper, state, seed_index)

    def shard(program, *specs):
        return jax.shard_map(
            program, mesh=mesh, in_specs=specs, out_specs=P("trial"), check_vma=False
        )

    start = time.monotonic()
    inputs = (hyper, seed_index, splits.pop("train"), splits)
    orders = image_orders(seeds, 1, sizes["train"])
    by_input = (P("trial"), P(), P("trial"), P("trial"), P(), P())
    init_lowered = jax.jit(shard(init_all, P("trial"))).lower(hyper)
    epoch_jit = jax.jit(shard(run_all, *by_input), donate_argnums=0)
    epoch_lowered = epoch_jit.lower(init_lowered.out_info, orders, *inputs)
    lowered = time.monotonic()
    with ThreadPoolExecutor() as pool:
        # The random bits of the weights take a CPU long to optimise and a moment to compute.
        options: dict[str, str | bool] = {}
        if jax.default_backend() == "cpu":
            options["xla_backend_optimization_level"] = "0"
        initialise = pool.submit(init_lowered.compile, compiler_options=options)
        run_epoch = pool.submit(epoch_lowered.compile)
    return Sweep(
        initialise=initialise.result(),
        run_epoch=run_epoch.result(),
        inputs=inputs,
        trials=trials,
        seeds=seeds,
        sizes=sizes,
        devices=_describe_devices(mesh),
        lower_seconds=lowered - start,
        compile_seconds=time.monotonic() - lowered,
    )


def _describe_devices(mesh: Mesh) -> dict[str, Any]:
    device = mesh.devices.flat[0]
    on_cpu = device.platform == "cpu"
    alone = "xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", "")
    threads = "one a device" if alone else "shared by the devices"
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": mesh.size,
        "cores": num_cores(),
        "threads": threads if on_cpu else None,
        "trials_in_a_device": "lax.map" if on_cpu else "vmap",
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
    }


def _over_trials(function: Callable, *arguments):
    """Applies a function of one trial to arguments with a leading trial axis."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda trial: function(*trial), arguments)
    return jax.vmap(function)(*arguments)


def run(sweep: Sweep, num_epochs: int) -> Iterator[dict[str, np.ndarray]]:
    """Trains all trials; after each epoch, yields its metrics as arrays of shape [trials].

    `train_*` are running means over the epoch's steps, each step scored before its update;
    the other splits are scored after the epoch. `*_loss` is cross-entropy (nats an image),
    `*_objective` is cross-entropy plus the L2 penalty, `*_accuracy` is a share of 1.
    """
    state = sweep.initialise(sweep.inputs[0])
    orders = image_orders(sweep.seeds, 1, sweep.sizes["train"])
    for epoch in range(1, num_epochs + 1):
        state, sums = sweep.run_epoch(state, orders, *sweep.inputs)
        if epoch < num_epochs:  # the devices are busy while the host prepares the next
            orders = image_orders(sweep.seeds, epoch + 1, sweep.sizes["train"])
        yield _metrics(sums, sweep)


def _metrics(sums: train.EpochSums, sweep: Sweep) -> dict[str, np.ndarray]:
    num_trials = len(sweep.trials.seed)
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64)[:num_trials], jax.device_get(sums))
    metrics: dict[str, np.ndarray] = {}
    for name, split in {"train": sums.train, **sums.held_out}.items():
        loss = np.asarray(split.loss / sweep.sizes[name])
        metrics[f"{name}_loss"] = loss
        # The largest of logits that are not numbers is no prediction.
        right = np.where(np.isfinite(loss), split.correct, np.nan)
        metrics[f"{name}_accuracy"] = right / sweep.sizes[name]
        if name != "train":
            metrics[f"{name}_objective"] = metrics[f"{name}_loss"] + sums.penalty
    return metrics


def show_progress(
    epochs: Iterator[dict[str, np.ndarray]], num_epochs: int, num_trials: int
) -> Iterator[dict[str, np.ndarray]]:
    """Passes the epochs on, showing mean metrics: a bar in a terminal, a line an epoch elsewhere.

    The words are Keras': `val_` is the validation split or, where there is none, the test set.
    """
    from tqdm import tqdm

    width = len(str(num_epochs))
    with tqdm(total=num_trials * num_epochs, unit="trial epochs", disable=None) as bar:
        for epoch, metrics in enumerate(epochs, start=1):
            held_out = "validation" if "validation_loss" in metrics else "test"
            columns = {
                "loss": "train_loss",
                "accuracy": "train_accuracy",
                "val_loss": f"{held_out}_loss",
                "val_accuracy": f"{held_out}_accuracy",
            }
            words = " - ".join(f"{k}: {metrics[v].mean():.4f}" for k, v in columns.items())
            bar.set_postfix_str(words, refresh=False)
            bar.update(num_trials)
            if bar.disable:
                print(f"Epoch {epoch:{width}d}/{num_epochs} - {words}", flush=True)
            yield metrics
