"""Where a training step's time goes: programs that do a part of an epoch's work, timed."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnist_jax.benchmark import work
from mnist_jax.benchmark.rounds import say
from mnist_jax.config.experiment import Experiment
from mnist_jax.data.datasets import num_batches
from mnist_jax.data.splits import Dataset
from mnist_jax.training import machine, recipes, sweep, trial
from mnist_jax.training.devices import devices_for
from mnist_jax.training.jax_setup import compiler_options, start_jax

WORK_PER_ROUND = 150e9
"""Floating-point operations of one trial in a round: a whole epoch of 784-500-300-10 fits."""


class TimedSweep:
    """A compiled sweep to be timed: whole epochs as `main` runs them, training alone, its stages.

    Attributes:
        sweep: The program of whole epochs, with the arrays on the devices.
        dataset: What it trains on: the first images of a data set that is too large for a round.
        devices: The devices that it runs on.
        options: XLA's, with which it is compiled.
        num_trials: Number of trials that run at once.
        flop: Floating-point operations of a step, if computed plainly.
        shapes: (rows, depth, columns) of the step's product with the most of them, if it has any.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset):
        """Compiles trials of the experiment's first program.

        This must come before anything else asks JAX for its devices.
        """
        part = next(iter(experiment.parts.values()))
        most_trials = max(machine.num_cores(), len(part))
        start_jax(experiment, most_trials)
        jax.config.update("jax_enable_compilation_cache", False)  # compiling costs its full price
        self.devices = devices_for(most_trials, experiment.devices)
        self.options = compiler_options(experiment, most_trials)
        num_devices = len(self.devices)
        on_cpu = jax.default_backend() == "cpu"
        self.num_trials = num_devices if on_cpu else max(num_devices, len(part))
        chosen = np.arange(self.num_trials) * len(part) // self.num_trials
        recipe, trials = recipes.create_recipe(experiment, part, dataset)
        products = work.step_products(recipe, trials)
        self.flop = work.flop(products)
        largest = sorted(products, key=lambda product: -product.multiply_adds)[:1]
        self.shapes = [(product.rows, product.depth, product.columns) for product in largest]
        most_steps = max(1, int(WORK_PER_ROUND / max(self.flop, 1)))
        images = slice(most_steps * recipe.batch_size)
        self.dataset = dataset._replace(
            train_images=dataset.train_images[images], train_labels=dataset.train_labels[images]
        )

        def compile_epoch(epoch: Callable):
            return sweep.compile_sweep(
                recipe,
                jax.tree.map(lambda x: x[chosen], trials),
                self.dataset,
                num_devices=experiment.devices,
                epoch=epoch,
                options=self.options,
            )

        self.sweep = compile_epoch(trial.run_epoch)
        self._programs = {
            name: compile_epoch(epoch).run_epoch for name, epoch in partial_epochs().items()
        }
        self._programs["whole"] = self.sweep.run_epoch
        hyper = self.sweep.inputs[0]
        self._states = {name: self.sweep.initialise(hyper) for name in self._programs}
        self._epoch = 0

    def time_round(self, epoch_images: int) -> tuple[dict[str, float], float]:
        """Trains once and runs each stage; returns seconds by name, and the training loss.

        In `shuffle` seconds the host shuffles `epoch_images`, the images of a whole epoch.
        """
        seconds, sums = self.time_epoch("training")
        others = [name for name in self._programs if name not in ("training", "whole")]
        stages = {name: self.time_epoch(name)[0] for name in others}
        start = time.perf_counter()
        sweep.image_orders(self.sweep.seeds, 0, epoch_images)
        shuffle = time.perf_counter() - start
        loss = float(np.mean(sums.loss)) / self.sweep.sizes["train"]
        return {"training": seconds, **stages, "shuffle": shuffle}, loss

    def time_epoch(self, name: str) -> tuple[float, Any]:
        """Runs a program once; returns its seconds, until all is done, and its sums."""
        self._epoch += 1
        orders = sweep.image_orders(self.sweep.seeds, self._epoch, self.sweep.sizes["train"])
        start = time.perf_counter()
        self._states[name], sums = jax.block_until_ready(
            self._programs[name](self._states[name], orders, *self.sweep.inputs)
        )
        return time.perf_counter() - start, sums

    def trace(self, folder: Path) -> None:
        """Writes a profiler's trace of one warm epoch, evaluation included."""
        self.time_epoch("whole")
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            self.time_epoch("whole")
        trace = max(folder.glob("plugins/profile/*/perfetto_trace.json.gz"))
        say(f"trace: open {trace} at https://ui.perfetto.dev, or run: xprof --logdir={folder}")


def partial_epochs() -> dict[str, Callable]:
    """Returns epochs that do a part of the work, with the signature of `trial.run_epoch`.

    Each carries a result through its loop, or returns it, so that XLA cannot skip the work.
    """

    def training(recipe, hyper, state, order, split, held_out):
        return trial.train_epoch(recipe, hyper, state, order, split)

    def forward(recipe, hyper, state, order, split, held_out):
        """Gathers too, but images in their stored order, which may cost a little less."""
        recipe = recipe._replace(eval_batch_size=recipe.batch_size)
        return state, trial.evaluate(recipe, hyper, trial.variables_of(state), split)

    def gather(recipe, hyper, state, order, split, held_out):
        def step(total, indices):
            images = trial.scaled(recipe, split.images[indices])
            labels = split.labels[indices].astype(jnp.float32)
            return total + labels + jnp.sum(images, (1, 2, 3)), None

        steps = num_batches(len(order), recipe.batch_size)
        batches = jnp.resize(order.astype(jnp.int32), (steps, recipe.batch_size))
        return state, jax.lax.scan(step, jnp.zeros(recipe.batch_size), batches)[0]

    def update(recipe, hyper, state, order, split, held_out):
        optimizer = trial.make_optimizer(recipe, hyper)
        grads = jax.tree.map(lambda w: 1e-6 * w, state.params)

        def step(state, _):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return state._replace(params=params, opt_state=opt_state), None

        steps = num_batches(len(order), recipe.batch_size)
        return jax.lax.scan(step, state, length=steps)[0], ()

    def evaluation(recipe, hyper, state, order, split, held_out):
        if held_out is None:
            return state, ()
        return state, trial.evaluate(recipe, hyper, trial.variables_of(state), held_out)

    def dispatch(recipe, hyper, state, order, split, held_out):
        return state, order[0]

    stages = (training, forward, gather, update, evaluation, dispatch)
    return {stage.__name__: stage for stage in stages}


def breakdown(seconds: Mapping[str, float], num_steps: int, epoch_steps: int) -> dict[str, float]:
    """Returns milliseconds a step by stage.

    Args:
        seconds: Times of a round: that of `training`, and of each partial program. They contain
            the dispatch, and `forward` contains the gather, too.
        num_steps: Steps of all trials in a round.
        epoch_steps: Steps of all trials in an epoch, over which its evaluation and its shuffle are
            spread.
    """
    s = seconds
    update = s["update"] - s["dispatch"]
    stages = {
        "gather": s["gather"] - s["dispatch"],
        "forward": s["forward"] - s["gather"],
        "backward": s["training"] - s["forward"] - update,
        "update": update,
        "dispatch": s["dispatch"],
    }
    return {
        **{name: value * 1e3 / num_steps for name, value in stages.items()},
        "evaluation": s["evaluation"] * 1e3 / epoch_steps,
        "shuffle": s["shuffle"] * 1e3 / epoch_steps,
    }
