"""What a user would write instead: the rivals' training loops, each in a process of its own.

A peer is `python -m mnist_jax.peers NAME TASK FILE`, which lives through a benchmark and trains one
epoch on request. It talks in lines: first it says what it is (a JSON object), then it answers every
line `epoch` with an `Epoch` (a JSON object), and it leaves when its input ends.
"""

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

PACKAGES = {
    "keras": ("keras", "tensorflow"),
    "torch": ("torch",),
    "flax": ("flax", "optax", "jax"),
}
"""What each peer imports."""


class Task(NamedTuple):
    """What every peer trains: the numbers of one trial."""

    conv_features: Sequence[int]
    hidden_sizes: Sequence[int]
    num_classes: int
    batch_size: int
    learning_rate: float
    momentum: float
    l2: float
    l2_on_output: bool


class Epoch(NamedTuple):
    """What a peer answers: wall-clock time, steps taken, and mean loss over them."""

    seconds: float
    steps: int
    loss: float


class PeerError(Exception):
    """A peer that cannot be measured; the message is one line."""


Trainer = Callable[[], Epoch]


class Peer:
    """The benchmark's end of a peer's process.

    Attributes:
        about: What the peer said of itself: versions, platform, threads.

    Raises:
        PeerError: Here and in `train_epoch`: a package is missing, or the process died.
    """

    def __init__(self, name: str, task: Task, file: Path, environment: Mapping[str, str]):
        """Starts the process and waits until its data and model are ready.

        Args:
            name: One of `PACKAGES`.
            task: What to train.
            file: NumPy archive with `images` uint8 [n, 28, 28] and `labels` uint8 [n]; the
                process' messages go to a file beside it.
            environment: The environment variables of the process.
        """
        missing = [p for p in PACKAGES[name] if importlib.util.find_spec(p) is None]
        if missing:
            raise PeerError(f"{missing[0]} is not installed; pip install 'mnist_jax[bench]'")
        self._log = file.with_name(f"{name}.log")
        command = [sys.executable, "-m", "mnist_jax.peers", name, json.dumps(task._asdict())]
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*command, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.about = self._answer()

    def train_epoch(self) -> Epoch:
        """Has the peer train one epoch."""
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


def serve(train: Trainer, about: dict, requests: Iterable[str], answers: io.TextIOBase) -> None:
    """The peer's end: says what it is, then trains one epoch for each request."""
    print(json.dumps(about), file=answers, flush=True)
    for request in requests:
        if request != "epoch\n":
            raise ValueError(f"request {request!r}; expected 'epoch'")
        print(json.dumps(train()._asdict()), file=answers, flush=True)


def keras_trainer(task: Task, images: np.ndarray, labels: np.ndarray) -> tuple[Trainer, dict]:
    """Keras on TensorFlow: `model.fit`."""
    import keras
    import tensorflow as tf
    from keras import layers

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
        steps = -(-len(labels) // task.batch_size)
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
    """Trains on request; whatever the libraries print goes to the error stream."""
    name, task, file = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with np.load(file) as arrays:
        train, about = TRAINERS[name](Task(**json.loads(task)), arrays["images"], arrays["labels"])
    serve(train, about, sys.stdin, answers)


if __name__ == "__main__":
    main()
