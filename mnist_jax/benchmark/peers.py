"""What a user would write instead: the rivals' training loops; and how sides are timed in turn.

A side is a process that lives through a benchmark and trains one epoch on request. It talks in
lines: first it says what it is (a JSON object), then it answers every line `epoch` with an `Epoch`
(a JSON object), and it leaves when its input ends. A peer is one:
`python -m mnist_jax.benchmark.peers NAME TASK FILE`.
"""

import importlib.util
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError
from mnist_jax.config.axes import MODELS
from mnist_jax.config.grid import Point
from mnist_jax.data.datasets import num_batches
from mnist_jax.data.loading import Dataset
from mnist_jax.text import text_table

PACKAGES = {
    "keras": ("keras", "tensorflow"),
    "torch": ("torch",),
    "flax": ("flax", "optax", "jax"),
}
"""What each peer imports."""


class Task(NamedTuple):
    """What every peer trains: the numbers of one trial, and the precision of matrix products.

    In bfloat16 Keras and PyTorch hold activations too, as their own switches for it do.
    """

    hidden_sizes: Sequence[int]
    num_classes: int
    batch_size: int
    learning_rate: float
    momentum: float
    l2: float
    l2_on_output: bool
    precision: str
    conv_features: Sequence[int] = ()


class Epoch(NamedTuple):
    """What training once takes: wall-clock time, steps of all trials, and mean loss over them."""

    seconds: float
    steps: int
    loss: float


class PeerError(Exception):
    """A side that cannot be measured; the message is one line."""


Trainer = Callable[[], Epoch]


class Side:
    """The benchmark's end of a process that trains on request.

    Attributes:
        about: What the process said of itself.

    Raises:
        PeerError: Here and in `train_epoch`: the process died.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]):
        """Starts the process and waits until its data and model are ready.

        Args:
            command: What `python` is to run.
            log: File for the process' messages.
            environment: The environment variables of the process.
        """
        self._log = log
        with open(log, "w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment,
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.about = self._answer()

    def train_epoch(self) -> Epoch:
        """Has the process train one epoch."""
        try:
            self._requests.write("epoch\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # it died; its answer will say so
        return Epoch(**self._answer())

    def close(self) -> None:
        """Ends the process, in whatever state it is."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict:
        line = self._answers.readline()
        if not line:
            status = self._process.wait()
            said = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text for text in reversed(said) if text.strip()), "no message")
            raise PeerError(f"its process ended with status {status}: {last}")
        return json.loads(line)


def start_peer(name: str, task: Task, file: Path, environment: Mapping[str, str]) -> Side:
    """Starts a peer, which says its versions, platform and threads.

    Args:
        name: One of `PACKAGES`.
        task: What to train.
        file: NumPy archive with `images` uint8 [n, 28, 28] and `labels` uint8 [n].
        environment: The environment variables of the process.

    Raises:
        PeerError: A package is missing, or the process died.
    """
    missing = [p for p in PACKAGES[name] if importlib.util.find_spec(p) is None]
    if missing:
        raise PeerError(f"{missing[0]} is not installed; pip install 'mnist_jax[bench]'")
    command = ["-m", "mnist_jax.benchmark.peers", name, json.dumps(task._asdict()), str(file)]
    return Side(command, file.with_name(f"{name}.log"), environment)


def check_peers_can_train(model: str, point: Point) -> None:
    """Refuses what only our side can do."""
    for key, value, known in (("model", model, MODELS), ("optimizer", point["optimizer"], ["sgd"])):
        if value not in known:
            raise UserError(
                f"--config.{key}={value}: expected {' or '.join(known)}, which the peers train;"
                " change it, or leave out --peers"
            )
    plain = {"schedule": "constant", "warmup_steps": 0, "nesterov": False, "weight_decay": 0}
    for key, value in (plain | {"label_smoothing": 0, "ema_decay": 0}).items():
        if point[key] != value:
            raise UserError(
                f"--config.{key}={point[key]}: expected {value}, since the peers train by "
                "plain SGD; change it, or leave out --peers"
            )


def start_peers(
    names: Sequence[str],
    point: Point,
    dataset: Dataset,
    folder: Path,
    environment: Mapping[str, str],
    platform_name: str,
    precision: str,
) -> tuple[dict[str, Side], dict[str, str]]:
    """Returns the peers that run, and why the others do not."""
    if not names:
        return {}, {}  # whatever is trained
    shared = {
        name: point.get(name, ()) for name in Task._fields if name in (*point, "conv_features")
    }
    task = Task(num_classes=len(dataset.class_names), precision=precision, **shared)
    environment = {
        **environment,
        "KERAS_BACKEND": "tensorflow",
        "JAX_TRACEBACK_FILTERING": "off",  # or else an error's last line is about the traceback
        # On a GPU they share its memory with ours.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if platform_name == "cpu":
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    np.savez(folder / "images.npz", images=dataset.train_images, labels=dataset.train_labels)
    running: dict[str, Side] = {}
    missing = {}
    for name in names:
        try:
            peer = start_peer(name, task, folder / "images.npz", environment)
            if peer.about["platform"] != platform_name:
                peer.close()
                raise PeerError(
                    f"it runs on {peer.about['platform']} here, ours on {platform_name}"
                )
            running[name] = peer
        except PeerError as error:
            missing[name] = str(error)
            say(f"{name} is left out: {error}")
    return running, missing


def compare_peers(
    running: Mapping[str, Side], timings: Mapping[str, "Timings"]
) -> dict[str, dict[str, Any]]:
    """Returns the record of the peers that were timed, in pairs of rounds with `ours`."""
    return {
        name: {
            **with_extremes("ms_per_step", timings[name].ms[1:]),
            "ratio": ratio(timings[name].ms[1:], timings["ours"].ms[1:]),
            **peer.about,
        }
        for name, peer in running.items()
        if name in timings
    }


def peer_lines(compared: Mapping[str, Mapping], left_out: Mapping[str, str]) -> list[str]:
    """Returns what is printed about the peers: a table, and why others are not in it."""
    rows = []
    for name, peer in compared.items():
        label = f"{name} ({' '.join(f'{k} {v}' for k, v in peer['versions'].items() if k == name)})"
        times = peer["ratio"]
        extremes = f"{times['min']:.2f} to {times['max']:.2f}"
        rows.append([label, f"{peer['ms_per_step']:.3f}", f"{times['median']:.2f} times", extremes])
    names = ("peer, one network at a time", "ms a step", "ours is faster", "min to max")
    tables = [text_table(names, rows)] if rows else []
    return tables + [f"{name} is left out: {why}" for name, why in left_out.items()]


class Timings(NamedTuple):
    """One side's milliseconds a step and losses, a number for each round; the first warmed up."""

    ms: list[float]
    losses: list[float]


def run_rounds(
    sides: Mapping[str, Trainer], rounds: int
) -> tuple[dict[str, Timings], dict[str, str]]:
    """Has all sides train in turn, in an order that is reversed from round to round.

    Args:
        sides: By name, a function that trains once.
        rounds: How often each is called after its warm-up.

    Returns:
        Timings by side, and why a side was left out, by name: it failed, or it does not train.
    """
    timings = {name: Timings([], []) for name in sides}
    left_out = {}
    for number in range(rounds + 1):
        names = [name for name in sides if name not in left_out]
        for name in names if number % 2 else names[::-1]:
            try:
                epoch = sides[name]()
            except PeerError as error:
                left_out[name] = str(error)
                say(f"{name} is left out: {error}")
                continue
            timings[name].ms.append(epoch.seconds * 1e3 / epoch.steps)
            timings[name].losses.append(epoch.loss)
        steps = (f"{n} {timings[n].ms[-1]:.3f}" for n in names if n not in left_out)
        say(f"{f'round {number}/{rounds}' if number else 'warm-up'}: {', '.join(steps)} ms a step")
    for name in sides.keys() - left_out.keys():
        losses = timings[name].losses
        if not (all(map(math.isfinite, losses)) and losses[-1] < losses[0]):
            left_out[name] = f"it does not train: its loss went from {losses[0]} to {losses[-1]}"
    return {name: t for name, t in timings.items() if name not in left_out}, left_out


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def with_extremes(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns the median under a name, and the extremes under names made of it."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Returns how many times as long theirs took, pair by pair."""
    return spread([t / o for t, o in zip(theirs, ours, strict=True)])


def say(line: str) -> None:
    """Tells of progress on the error stream."""
    print(line, file=sys.stderr, flush=True)


def serve(train: Trainer, about: dict, requests: Iterable[str], answers: io.TextIOBase) -> None:
    """The process' end: says what it is, then trains one epoch for each request."""
    print(json.dumps(about), file=answers, flush=True)
    for request in requests:
        if request != "epoch\n":
            raise ValueError(f"request {request!r}; expected 'epoch'")
        print(json.dumps(train()._asdict()), file=answers, flush=True)


def take_output() -> io.TextIOWrapper:
    """Returns the output for the answers; whatever libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def keras_trainer(task: Task, images: np.ndarray, labels: np.ndarray) -> tuple[Trainer, dict]:
    """Keras on TensorFlow: `model.fit`."""
    import keras
    import tensorflow as tf
    from keras import layers

    tf.config.experimental.enable_tensor_float_32_execution(task.precision == "tf32")
    if task.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    decay = keras.regularizers.l2(task.l2) if task.l2 else None
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for features in task.conv_features:
        model.add(layers.Conv2D(features, 3, activation="relu", kernel_regularizer=decay))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    for size in task.hidden_sizes:
        model.add(layers.Dense(size, activation="relu", kernel_regularizer=decay))
    output_decay = decay if task.l2_on_output else None
    model.add(layers.Dense(task.num_classes, kernel_regularizer=output_decay))
    model.compile(
        optimizer=keras.optimizers.SGD(task.learning_rate, momentum=task.momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images = images[..., None].astype(np.float32) / 255

    class Clock(keras.callbacks.Callback):
        """Times the epoch alone, without the set-up that one long `fit` pays once."""

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self.start

    clock = Clock()

    def train() -> Epoch:
        history = model.fit(
            images, labels, batch_size=task.batch_size, epochs=1, verbose=0, callbacks=[clock]
        )
        steps = num_batches(len(labels), task.batch_size)
        return Epoch(clock.seconds, steps, history.history["loss"][0])

    return train, {
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        "platform": "gpu" if tf.config.list_physical_devices("GPU") else "cpu",
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
    }


def torch_trainer(task: Task, images: np.ndarray, labels: np.ndarray) -> tuple[Trainer, dict]:
    """PyTorch: a plain loop over slices of a random permutation, without a DataLoader's cost."""
    import torch
    from torch import nn

    platform = "gpu" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda" if platform == "gpu" else "cpu")
    for kind in (torch.backends.cuda.matmul, torch.backends.cudnn):  # the latter's is on at first
        kind.allow_tf32 = task.precision == "tf32"
    bfloat16 = task.precision == "bfloat16"
    place = {"device": device, "memory_format": torch.channels_last}  # 1.2 times faster than NCHW
    inputs = torch.from_numpy(images).unsqueeze(1).to(dtype=torch.float32, **place).div(255)
    targets = torch.from_numpy(labels).to(device, torch.int64)
    layers: list[nn.Module] = []
    for features in task.conv_features:
        layers += [nn.LazyConv2d(features, 3), nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    for size in task.hidden_sizes:
        layers += [nn.LazyLinear(size), nn.ReLU()]
    layers.append(nn.LazyLinear(task.num_classes))
    model = nn.Sequential(*layers).to(device)
    model(inputs[:1])  # the lazy layers take their sizes
    model.to(**place)
    loss_function = nn.CrossEntropyLoss()
    kernels = [layer.weight for layer in layers if hasattr(layer, "weight")]
    decayed = kernels if task.l2_on_output else kernels[:-1]
    rest = [layer.bias for layer in layers if hasattr(layer, "bias")] + kernels[len(decayed) :]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 2 * task.l2}, {"params": rest}],
        lr=task.learning_rate,
        momentum=task.momentum,
    )

    def train() -> Epoch:
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        batches = torch.randperm(len(targets), device=device).split(task.batch_size)
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                loss = loss_function(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        mean = total.item() / len(batches)  # waits for the device
        return Epoch(time.perf_counter() - start, len(batches), mean)

    return train, {
        "versions": {"torch": torch.__version__},
        "platform": platform,
        "threads": torch.get_num_threads(),
    }


def flax_trainer(task: Task, images: np.ndarray, labels: np.ndarray) -> tuple[Trainer, dict]:
    """Flax as in its MNIST example: a jit-compiled step that Python calls for every batch."""
    import flax
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
    from flax.training.train_state import TrainState

    from mnist_jax.config.settings import PRECISIONS

    precision = PRECISIONS[task.precision]
    layers: list[Callable] = []
    for features in task.conv_features:
        layers += [nn.Conv(features, (3, 3), padding="VALID"), nn.relu]
        layers += [lambda x: nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))]
    layers.append(lambda x: x.reshape(x.shape[0], -1))
    for size in task.hidden_sizes:
        layers += [nn.Dense(size), nn.relu]
    layers.append(nn.Dense(task.num_classes))
    model = nn.Sequential(layers)
    output = f"layers_{len(layers) - 1}"

    def decay_mask(params):
        return {
            layer: {name: name == "kernel" and (task.l2_on_output or layer != output) for name in p}
            for layer, p in params.items()
        }

    optimizer = optax.sgd(task.learning_rate, task.momentum or None)
    if task.l2:
        optimizer = optax.chain(optax.add_decayed_weights(2 * task.l2, decay_mask), optimizer)
    inputs = images[..., None].astype(np.float32) / 255
    targets = labels.astype(np.int32)
    params = model.init(jax.random.key(0), inputs[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    rng = np.random.default_rng(0)

    @jax.jit
    def train_step(state, x, y):
        def mean_loss(params):
            logits = state.apply_fn({"params": params}, x)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return loss, jnp.mean(jnp.argmax(logits, -1) == y)

        (loss, accuracy), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), loss, accuracy

    def train() -> Epoch:
        nonlocal state
        start = time.perf_counter()
        steps = len(targets) // task.batch_size  # the example skips an incomplete last batch
        order = rng.permutation(len(targets))[: steps * task.batch_size]
        losses = []
        with jax.default_matmul_precision(precision):
            for batch in order.reshape(steps, task.batch_size):
                state, loss, _ = train_step(state, inputs[batch], targets[batch])
                losses.append(loss)
        mean = float(np.mean(jax.device_get(losses)))  # waits for the device
        return Epoch(time.perf_counter() - start, steps, mean)

    return train, {
        "versions": {package.__name__: package.__version__ for package in (flax, optax, jax)},
        "platform": jax.default_backend(),
        "threads": os.cpu_count(),
    }


TRAINERS = {"keras": keras_trainer, "torch": torch_trainer, "flax": flax_trainer}


def main() -> None:
    """Trains on request."""
    name, task, file = sys.argv[1:]
    answers = take_output()
    with np.load(file) as arrays:
        train, about = TRAINERS[name](Task(**json.loads(task)), arrays["images"], arrays["labels"])
    serve(train, about, sys.stdin, answers)


if __name__ == "__main__":
    main()
