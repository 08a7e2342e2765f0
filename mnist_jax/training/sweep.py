"""Many trials: a grid becomes a trial axis, and the whole sweep one compiled program per epoch.

The trial axis is spread over the devices by `shard_map`; trials share nothing, so the program
needs no communication. Inside a device, a CPU core takes its trials one after the other
(`lax.map`: each has the very bits of a lone run on one core), while a GPU or TPU takes them
together (`vmap`).
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from mnist_jax.data.splits import Dataset
from mnist_jax.training import hosts, machine, trial
from mnist_jax.training.devices import describe_devices, devices_for
from mnist_jax.training.jax_setup import keep_compiled
from mnist_jax.training.trial import Hyperparameters, Recipe, Split, TrialState


class Sweep(NamedTuple):
    """A compiled sweep, with the arrays that it runs on."""

    recipe: Recipe
    state: TrialState  # shapes, types and shardings of the state of all trials
    initialise: jax.stages.Compiled  # from the hyper-parameters to the state of all trials
    run_epoch: jax.stages.Compiled  # from state, orders [seeds, images], `inputs` to state, sums
    # From state, hyper-parameters and test split to sums; None where epochs score the test set, or
    # where the training of the trials does not end.
    score_test: jax.stages.Compiled | None
    inputs: tuple  # hyper-parameters, seed index, training and held-out split, on the devices
    test: Split  # on the devices
    trials: Hyperparameters  # arrays [trials], without the padding that the devices need
    seeds: np.ndarray  # the distinct seeds among the trials
    sizes: dict[str, int]  # number of images by split
    devices: dict[str, Any]  # as `describe_devices` returns them
    lower_seconds: float  # of tracing and lowering
    compile_seconds: float  # after that


def image_orders(seeds: np.ndarray, epoch: int, num_images: int) -> np.ndarray:
    """Returns the orders in which trials see the images in an epoch: integers [seeds, num_images].

    They depend on seed and epoch alone. NumPy makes one in 0.8 ms for 60,000 images, the same on
    every backend; `jax.random.permutation` sorts twice and takes 26 ms on a CPU.
    """
    dtype = np.uint16 if num_images <= 2**16 else np.uint32
    orders = np.tile(np.arange(num_images, dtype=dtype), (len(seeds), 1))

    def shuffle(seed: np.integer, order: np.ndarray) -> None:
        np.random.Generator(np.random.Philox(key=[int(seed), epoch])).shuffle(order)

    with ThreadPoolExecutor(machine.num_cores()) as pool:  # NumPy lets go of Python's lock
        list(pool.map(shuffle, seeds, orders))
    return orders


def compile_sweep(
    recipe: Recipe,
    trials: Hyperparameters,
    dataset: Dataset,
    *,
    num_devices: int = 0,
    epoch: Callable = trial.run_epoch,
    options: Mapping[str, Any] = MappingProxyType({}),
    scores_test: bool = True,
) -> Sweep:
    """Places data and trials, arrays [trials], on the devices and compiles a sweep's programs.

    At most `num_devices` are used; 0 stands for all. `epoch` is what a trial does in an epoch, so
    that `benchmark/stages.py` can time parts of it. `options` are as `jax_setup.compiler_options`
    returns them. Trials whose training is not to end here need no `scores_test`.
    """
    held_out, num_trials = recipe.held_out, len(trials.seed)
    # A process of a job that has no trial, as after halving, repeats one.
    num_places = max(num_trials, jax.process_count())
    mesh = Mesh(np.array(devices_for(num_places, num_devices)), ("trial",))
    by_trial, everywhere = NamedSharding(mesh, P("trial")), NamedSharding(mesh, P())
    seeds, seed_index = np.unique(trials.seed, return_inverse=True)
    splits = {
        "train": Split(dataset.train_images, dataset.train_labels),
        "validation": Split(dataset.validation_images, dataset.validation_labels),
        "test": Split(dataset.test_images, dataset.test_labels),
    }
    sizes = {name: len(split.labels) for name, split in splits.items()}
    splits = hosts.place(splits, everywhere)
    padding = (0, -num_trials % mesh.size)
    hyper, seed_index = hosts.place(
        jax.tree.map(lambda x: np.pad(x, padding, mode="edge"), (trials, seed_index)), by_trial
    )

    def init_all(hyper):
        return _over_trials(functools.partial(trial.init, recipe), hyper)

    def run_all(state, orders, hyper, seed_index, split, held_out):
        def run_one(hyper, state, i):
            return epoch(recipe, hyper, state, orders[i], split, held_out)

        return _over_trials(run_one, hyper, state, seed_index)

    def score_all(state, hyper, split):
        def score_one(hyper, state):
            return trial.score(recipe, hyper, state, split)

        return _over_trials(score_one, hyper, state)

    def shard(program, *specs):
        return jax.shard_map(
            program, mesh=mesh, in_specs=specs, out_specs=P("trial"), check_vma=False
        )

    test = splits["test"]
    inputs = (hyper, seed_index, splits["train"], splits[held_out] if held_out else None)
    orders = image_orders(seeds, 1, sizes["train"])
    by_input = (P("trial"), P(), P("trial"), P("trial"), P(), P())
    start = time.monotonic()

    def compile_all() -> _Programs:
        keep_compiled()
        init_lowered = jax.jit(shard(init_all, P("trial"))).lower(hyper)
        state = init_lowered.out_info
        epoch_jit = jax.jit(shard(run_all, *by_input), donate_argnums=0)
        lowered = [epoch_jit.lower(state, orders, *inputs)]
        if held_out != "test" and scores_test:
            score_jit = jax.jit(shard(score_all, P("trial"), P("trial"), P()))
            lowered.append(score_jit.lower(state, hyper, test))
        lowered_at = time.monotonic()
        with ThreadPoolExecutor() as pool:
            quick: dict[str, Any] = {}
            if jax.default_backend() == "cpu":  # random bits are slow to optimise, fast to compute
                quick["xla_backend_optimization_level"] = "0"
            initialise = pool.submit(init_lowered.compile, compiler_options={**options, **quick})
            run_epoch, *score_test = pool.map(
                lambda program: program.compile(compiler_options=dict(options)), lowered
            )
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_trial), state
        )
        score = score_test[0] if score_test else None
        return _Programs(state, initialise.result(), run_epoch, score, lowered_at - start)

    shapes, tree = jax.tree.flatten((inputs, test, orders))
    precision = jax.config.values["jax_default_matmul_precision"]
    arrays = tuple((x.shape, x.dtype) for x in shapes)
    key = (recipe, epoch, scores_test, tuple(options.items()), precision, mesh, tree, arrays)
    programs, is_new = _again(key, compile_all)
    lower_seconds = programs.lower_seconds if is_new else 0.0
    return Sweep(
        recipe=recipe,
        state=programs.state,
        initialise=programs.initialise,
        run_epoch=programs.run_epoch,
        score_test=programs.score_test,
        inputs=inputs,
        test=test,
        trials=trials,
        seeds=seeds,
        sizes=sizes,
        devices=describe_devices(list(mesh.devices.flat), options),
        lower_seconds=lower_seconds,
        compile_seconds=time.monotonic() - start - lower_seconds,
    )


class _Programs(NamedTuple):
    """The compiled programs of a sweep, as `Sweep` has them."""

    state: TrialState
    initialise: jax.stages.Compiled
    run_epoch: jax.stages.Compiled
    score_test: jax.stages.Compiled | None
    lower_seconds: float


_known: dict[tuple, _Programs] = {}
"""The programs that this process used last, by all that shapes them."""
_MOST_KNOWN = 16


def _again(key: tuple, compile_all: Callable[[], _Programs]) -> tuple[_Programs, bool]:
    """Returns programs that were compiled before, or compiles them; and whether they are new."""
    found = _known.pop(key, None)
    programs = found or compile_all()
    _known[key] = programs  # as the newest
    while len(_known) > _MOST_KNOWN:
        _known.pop(next(iter(_known)), None)
    return programs, found is None


def _over_trials(function: Callable, *arguments):
    """Applies a function of one trial to arguments with a leading trial axis."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda one: function(*one), arguments)
    return jax.vmap(function)(*arguments)


def run(
    sweep: Sweep,
    num_epochs: int,
    start: int = 0,
    state: TrialState | None = None,
    keep: Callable[[int, Callable[[], object]], bool] = lambda epoch, wait: True,
) -> Iterator[tuple[TrialState | None, dict[str, np.ndarray]]]:
    """Trains all trials; after each epoch, yields the state and metrics as arrays [trials].

    `train_*` are running means over the epoch's steps, each step scored before its update; the
    held-out split is scored after the epoch. `*_loss` is cross-entropy (nats an image),
    `*_objective` is that plus the L2 penalty, what is minimised where no labels are smoothed;
    `*_accuracy` is a share of 1.

    `start` epochs are done, and `state` is the one after them. The next epoch overwrites it, as it
    does every state that is yielded. `keep` says, while an epoch runs, whether its state is wanted;
    the last one's always is. It may call `wait`, which returns when the epoch is over. If the state
    is not wanted, None is yielded, and the next epoch starts before the host reads the results of
    this one, so that devices never wait for what the host does with them.
    """
    if state is None:
        state = hosts.together(lambda: sweep.initialise(sweep.inputs[0]))
    with contextlib.closing(_orders_ahead(sweep, start, num_epochs)) as orders:

        def run_epoch():
            return sweep.run_epoch(state, next(orders), *sweep.inputs)

        # The first epoch takes the memory that all others use again, so there a job agrees on it.
        ahead = hosts.together(run_epoch) if start < num_epochs else None
        for epoch in range(start + 1, num_epochs + 1):
            state, sums = ahead or run_epoch()
            ahead, last = None, epoch == num_epochs
            wait = functools.partial(jax.block_until_ready, sums)
            kept = state if last or keep(epoch, wait) else None
            if kept is None:
                ahead = run_epoch()  # so that the devices have work meanwhile
            yield kept, _epoch_metrics(sweep, sums)


def _orders_ahead(sweep: Sweep, start: int, num_epochs: int) -> Generator[np.ndarray, None, None]:
    """Yields the orders of the epochs after `start`; those of one are made while another runs."""
    with ThreadPoolExecutor(1, "orders") as thread:

        def make(epoch: int) -> Future[np.ndarray]:
            return thread.submit(image_orders, sweep.seeds, epoch, sweep.sizes["train"])

        ahead = make(start + 1)
        for epoch in range(start + 2, num_epochs + 1):
            made, ahead = ahead.result(), make(epoch)
            yield made
        yield ahead.result()


def _epoch_metrics(sweep: Sweep, device_sums: trial.EpochSums) -> dict[str, np.ndarray]:
    sums = _to_host(device_sums, sweep)
    metrics = _metrics(sweep, "train", sums.train)
    if sweep.recipe.held_out is not None:
        metrics |= _metrics(sweep, sweep.recipe.held_out, sums.held_out, sums.penalty)
    return metrics


def score_test(sweep: Sweep, state: TrialState) -> dict[str, np.ndarray]:
    """Scores finished trials on the test set, as arrays of shape [trials].

    `test_*` are of the last weights, `test_*_at_best_validation` of the best epoch's.
    """
    assert sweep.score_test is not None
    sums = _to_host(sweep.score_test(state, sweep.inputs[0], sweep.test), sweep)
    metrics = _metrics(sweep, "test", sums.last, sums.penalty)
    if sums.best is not None:
        best = _metrics(sweep, "test", sums.best)
        chosen = ["accuracy", *sums.best.metrics]
        metrics |= {f"test_{name}_at_best_validation": best[f"test_{name}"] for name in chosen}
    return metrics


def chosen_weights(state: TrialState, place: int) -> PyTree:
    """Returns the variables that count of a trial, as `trial.chosen_variables`."""
    return hosts.gather(jax.tree.map(lambda x: x[place], trial.chosen_variables(state)))


def trial_of(trials: Hyperparameters, number: int) -> Hyperparameters:
    """Returns the hyper-parameters of one of the trials."""
    return jax.tree.map(lambda x: x[number], trials)


def predict(
    recipe: Recipe,
    hyper: Hyperparameters,
    variables: PyTree,
    images: np.ndarray,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> np.ndarray:
    """Returns the class probabilities [n, classes] that a trial's variables give to images."""
    program = jax.jit(trial.predict, static_argnums=0, compiler_options=dict(options))
    return np.asarray(program(recipe, hyper, variables, images))


def _to_host(sums, sweep: Sweep):
    num_trials = len(sweep.trials.seed)
    return jax.tree.map(lambda x: np.asarray(x, np.float64)[:num_trials], hosts.gather(sums))


def _metrics(
    sweep: Sweep, name: str, sums: trial.Sums, penalty: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    loss = np.asarray(sums.loss / sweep.sizes[name])

    def mean(total) -> np.ndarray:
        """NaN where the loss is not finite: then the largest logit is no prediction."""
        return np.where(np.isfinite(loss), total, np.nan) / sweep.sizes[name]

    metrics = {f"{name}_loss": loss, f"{name}_accuracy": mean(sums.correct)}
    if penalty is not None:
        metrics[f"{name}_objective"] = loss + penalty
    return metrics | {f"{name}_{what}": mean(total) for what, total in sums.metrics.items()}
