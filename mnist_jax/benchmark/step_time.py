"""How fast a training step is here, where its time goes, and how fast others are.

In a round every side trains one epoch, ours and each peer's, one at a time on the machine; a first
epoch warms up and is not counted. Numbers are medians over the rounds, with their extremes. A peer
is compared with ours pair by pair, within a round, since a machine's speed drifts. An epoch of more
work than `WORK_PER_ROUND` is cut: then all sides train on the first part of the images.

A CPU times one trial for each of its cores, as a sweep keeps them busy; a GPU or TPU times the
config's own trials together, at least one a device. Trials are chosen evenly from those of the
config's first compiled program. The peers train its first one. Progress goes to the error stream,
the table to the output.
"""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import UserError
from mnist_jax.benchmark.peers import (
    Epoch,
    compare_peers,
    peer_lines,
    run_rounds,
    say,
    start_peers,
    with_extremes,
)
from mnist_jax.config.experiment import Experiment
from mnist_jax.data import loading
from mnist_jax.data.datasets import num_batches
from mnist_jax.runs.provenance import provenance
from mnist_jax.text import text_table
from mnist_jax.training.jax_setup import start_jax

WORK_PER_ROUND = 150e9
"""Floating-point operations of one trial in a round: a whole epoch of 784-500-300-10 fits."""

STAGES = {
    "gather": "input gather",
    "forward": "forward",
    "backward": "backward",
    "update": "update",
    "dispatch": "dispatch",
    "evaluation": "+ evaluation, an epoch's",
    "shuffle": "+ shuffle on the host",
}
"""Where time goes, in the table's words; the first five make `ms_per_step`, the rest is on top."""


class Ours:
    """Our side, compiled: whole epochs as `main` runs them, training alone, and its stages.

    Attributes:
        sweep: The program of whole epochs, with the arrays on the devices.
        dataset: What it trains on: of a larger data set the first images.
        devices: What it runs on.
        trials: Number of trials that run at once.
        flop: Floating-point operations of a step, if computed plainly.
        shapes: Rows, depth and columns of the product that is the most of them, if any.
    """

    def __init__(self, experiment: Experiment, dataset: loading.Dataset):
        """Compiles; must come before anything else asks JAX for its devices.

        Args:
            experiment: What to train.
            dataset: Its training images are those of an epoch.
        """
        from mnist_jax.benchmark import work
        from mnist_jax.training import machine, recipes, sweep, trial
        from mnist_jax.training.devices import devices_for

        part = next(iter(experiment.parts.values()))
        most = max(machine.num_cores(), len(part))
        start_jax(experiment, most)

        import jax

        jax.config.update("jax_enable_compilation_cache", False)  # compiling costs its full price
        self.devices = devices_for(most, experiment.devices)
        num_devices = len(self.devices)
        on_cpu = jax.default_backend() == "cpu"
        self.trials = num_devices if on_cpu else max(num_devices, len(part))
        chosen = np.arange(self.trials) * len(part) // self.trials
        recipe, trials = recipes.create_recipe(experiment, part, num_images=1)
        products = work.of_step(recipe, trials)
        self.flop = work.flop(products)
        largest = sorted(products, key=lambda product: -product.multiply_adds)[:1]
        self.shapes = [(product.rows, product.depth, product.columns) for product in largest]
        self.dataset = dataset = _cut(dataset, recipe.batch_size, self.flop)
        recipe, trials = recipes.create_recipe(experiment, part, len(dataset.train_labels))

        def compile_epoch(epoch: Callable):
            return sweep.compile_sweep(
                recipe,
                jax.tree.map(lambda x: x[chosen], trials),
                dataset,
                num_devices=experiment.devices,
                epoch=epoch,
            )

        self.sweep = compile_epoch(trial.run_epoch)
        epochs = partial_epochs()
        self._stages = [name for name in epochs if name != "training"]
        self._programs = {name: compile_epoch(epoch).run_epoch for name, epoch in epochs.items()}
        self._programs["whole"] = self.sweep.run_epoch
        self._states = {
            name: self.sweep.initialise(self.sweep.inputs[0]) for name in self._programs
        }
        self._image_orders = sweep.image_orders
        self._epoch = 0

    def time_round(self, epoch_images: int) -> tuple[dict[str, float], float]:
        """Trains once and runs each stage; returns seconds by name, and the training loss.

        Args:
            epoch_images: Images of a whole epoch, which the host shuffles in `shuffle` seconds.
        """
        seconds, sums = self.time_epoch("training")
        stages = {name: self.time_epoch(name)[0] for name in self._stages}
        start = time.perf_counter()
        self._image_orders(self.sweep.seeds, 0, epoch_images)
        shuffle = time.perf_counter() - start
        loss = float(np.mean(sums.loss)) / self.sweep.sizes["train"]
        return {"training": seconds, **stages, "shuffle": shuffle}, loss

    def time_epoch(self, name: str) -> tuple[float, Any]:
        """Runs a program once; returns its seconds, until all is done, and its sums."""
        import jax

        self._epoch += 1
        orders = self._image_orders(self.sweep.seeds, self._epoch, self.sweep.sizes["train"])
        start = time.perf_counter()
        self._states[name], sums = jax.block_until_ready(
            self._programs[name](self._states[name], orders, *self.sweep.inputs)
        )
        return time.perf_counter() - start, sums


def partial_epochs() -> dict[str, Callable]:
    """Returns epochs that do a part of the work, with the signature of `trial.run_epoch`.

    Each carries something through its loop, or returns it, so that XLA cannot leave the work out.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from mnist_jax.training import trial

    def training(recipe, hyper, state, order, split, held_out):
        return trial.train_epoch(recipe, hyper, state, order, split)

    def forward(recipe, hyper, state, order, split, held_out):
        """Gathers too, but images in their stored order, which may cost a little less."""
        recipe = recipe._replace(eval_batch_size=recipe.batch_size)
        return state, trial.evaluate(recipe, hyper, trial.variables_of(state), split)

    def gather(recipe, hyper, state, order, split, held_out):
        def step(total, indices):
            images = split.images[indices].astype(jnp.float32) / 255
            labels = split.labels[indices].astype(jnp.float32)
            return total + labels + jnp.sum(images, (1, 2)), None

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
        seconds: Times of a round: `training`, and each partial program's, which have the dispatch
            in them; `forward` has the gather in it, too.
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


def matmul_timer(
    shapes: Sequence[tuple[int, int, int]], work: float, devices: Sequence
) -> Callable[[], float]:
    """Compiles products [m, k] x [k, n] of float32 arrays that keep devices busy at once.

    Args:
        shapes: (m, k, n) of products to try.
        work: Floating-point operations of a device per shape and call, about.
        devices: Those to keep busy.

    Returns:
        Function that times each shape once and returns the best GFLOP/s of all devices together.
    """
    import jax
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.array(devices), ("device",))
    rng = np.random.default_rng(0)
    programs = []
    for m, k, n in shapes:
        repeats = math.ceil(work / (4 * m * k * n))
        there, back = (
            rng.normal(0, a**-0.5, (a, b)).astype(np.float32) for a, b in ((k, n), (n, k))
        )
        start = np.ones((mesh.size * m, k), np.float32)

        def multiply(x, there, back, repeats=repeats):
            step = lambda x, _: ((x @ there) @ back, None)  # noqa: E731
            return jax.lax.scan(step, x, length=repeats)[0]

        spread_out = jax.shard_map(
            multiply,
            mesh=mesh,
            in_specs=(P("device"), P(), P()),
            out_specs=P("device"),
            check_vma=False,
        )
        arguments = jax.device_put(
            (start, there, back),
            tuple(jax.sharding.NamedSharding(mesh, p) for p in (P("device"), P(), P())),
        )
        program = jax.jit(spread_out).lower(*arguments).compile()
        jax.block_until_ready(program(*arguments))
        programs.append((program, arguments, 4 * m * k * n * repeats * mesh.size))

    def best() -> float:
        speeds = []
        for program, arguments, flop in programs:
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            speeds.append(flop / (time.perf_counter() - start) / 1e9)
        return max(speeds)

    return best


def measure(
    experiment: Experiment,
    dataset: loading.Dataset,
    *,
    peers: Sequence[str],
    rounds: int,
    profile: Path | None,
) -> dict[str, Any]:
    """Times all sides; returns the record that `--json` writes.

    Raises:
        UserError: Our side does not train with these hyper-parameters.
    """
    made = provenance()  # now: the checkout may change while this goes on
    load_average = os.getloadavg()[0]
    environment = dict(os.environ)  # before our side's devices are prepared through it
    point = experiment.points[0]
    ours = Ours(experiment, dataset)
    cut, batch_size = ours.dataset, point["batch_size"]
    num_images, epoch_images = len(cut.train_labels), len(dataset.train_labels)
    steps, epoch_steps = (num_batches(n, batch_size) for n in (num_images, epoch_images))
    devices = ours.sweep.devices
    say(
        f"compiled in {ours.sweep.compile_seconds:.1f} s; a round is {steps} of an epoch's"
        f" {epoch_steps} steps in {ours.trials} trials on {devices['count']} {devices['kind']}"
    )
    if load_average > devices["cores"] / 2:
        say(f"load average {load_average:.1f}: other programs take part of the machine's speed")
    on_cpu = devices["platform"] == "cpu"
    squares = [(n, n, n) for n in ((512, 1024) if on_cpu else (4096, 8192))]
    time_matmul = matmul_timer(squares + ours.shapes, 2e9 if on_cpu else 2e12, ours.devices)
    peaks, stages = [], []

    def train_ours() -> Epoch:
        peaks.append(time_matmul())
        seconds, loss = ours.time_round(epoch_images)
        stages.append(breakdown(seconds, steps * ours.trials, epoch_steps * ours.trials))
        return Epoch(seconds["training"], steps * ours.trials, loss)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running, missing = start_peers(
            peers, point, cut, folder, environment, devices["platform"], experiment.precision
        )
        for peer in running.values():
            stack.callback(peer.close)
        sides = {"ours": train_ours} | {name: p.train_epoch for name, p in running.items()}
        timings, left_out = run_rounds(sides, rounds)
    if "ours" in left_out:
        raise UserError(
            f"--config.learning_rate={point['learning_rate']}: {left_out['ours']}; choose another"
        )
    if profile:
        _trace(ours, profile)

    our_ms = timings["ours"].ms[1:]
    images_per_second = [1e3 * num_images / (steps * ms) for ms in our_ms]
    steps_per_second = statistics.median(images_per_second) / batch_size
    gflops, peak = ours.flop * steps_per_second / 1e9, max(peaks)
    return {
        "config": experiment.record(),
        **with_extremes("ms_per_step", our_ms),
        **with_extremes("images_per_second", images_per_second),
        "gflops": gflops,
        "matmul_peak_gflops": peak,
        "share_of_peak": gflops / peak,
        "mflop_per_step": ours.flop / 1e6,
        "lower_seconds": ours.sweep.lower_seconds,
        "compile_seconds": ours.sweep.compile_seconds,
        "breakdown_ms_per_step": {
            name: statistics.median(stage[name] for stage in stages[1:]) for name in stages[0]
        },
        "peers": compare_peers(running, timings),
        "peers_left_out": missing | left_out,
        "rounds": {name: t._asdict() for name, t in timings.items()},
        "trials": ours.trials,
        "steps_per_round": steps,
        "steps_per_epoch": epoch_steps,
        "devices": devices,
        "load_average": load_average,
        "provenance": {**made, "data_checksum": dataset.checksum},
    }


def _cut(dataset: loading.Dataset, batch_size: int, flop: int) -> loading.Dataset:
    """Returns the data set with the training images of a round, in whole batches if it is cut.

    Args:
        dataset: Its training images are those of an epoch.
        batch_size: Images in a step.
        flop: Floating-point operations of a step.
    """
    most = max(1, int(WORK_PER_ROUND / max(flop, 1))) * batch_size
    return dataset._replace(
        train_images=dataset.train_images[:most], train_labels=dataset.train_labels[:most]
    )


def _trace(ours: Ours, folder: Path) -> None:
    """Leaves a profiler's trace of one warm epoch, evaluation included."""
    import jax

    ours.time_epoch("whole")
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        ours.time_epoch("whole")
    trace = max(folder.glob("plugins/profile/*/perfetto_trace.json.gz"))
    say(f"trace: open {trace} at https://ui.perfetto.dev, or run: xprof --logdir={folder}")


def table(record: Mapping[str, Any]) -> str:
    """Returns the result for a terminal."""
    r, devices = record, record["devices"]
    stages = r["breakdown_ms_per_step"]
    lines = [
        f"{r['trials']} trials on {devices['count']} {devices['platform']} devices"
        f" ({devices['kind']}, {devices['cores']} cores, threads {devices['threads']}),"
        f" matmul precision {devices['matmul_precision']}",
        f"{r['mflop_per_step']:.1f} MFLOP a step if computed plainly; {r['steps_per_round']} of"
        f" {r['steps_per_epoch']} steps a round; load average {r['load_average']:.1f} before",
        f"{r['gflops']:.1f} GFLOP/s, {r['share_of_peak']:.0%} of the"
        f" {r['matmul_peak_gflops']:.1f} that matrix products reach;"
        f" {r['lower_seconds']:.2f} seconds to lower, {r['compile_seconds']:.2f} to compile",
    ]
    speed = [
        [what, *(format(r[f"{name}{which}"], style) for which in ("", "_min", "_max"))]
        for what, name, style in (
            ("ms a step and trial", "ms_per_step", ",.3f"),
            ("images a second, all trials", "images_per_second", ",.0f"),
        )
    ]
    parts = [
        [STAGES[name], f"{ms:.4f}", f"{ms / r['ms_per_step']:.1%}"] for name, ms in stages.items()
    ]
    tables = [
        text_table(("", "median", "min", "max"), speed),
        text_table(("where a step goes", "ms", "of a step"), parts),
    ]
    return "\n\n".join(["\n".join(lines), *tables, *peer_lines(r["peers"], r["peers_left_out"])])
