"""The peers' training loops: Keras on TensorFlow or JAX, PyTorch, Flax.

    python -m mnist_jax.benchmark.peer_loops NAME TASK FILE

trains on request, as `processes.py` says.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mnist_jax.benchmark.processes import serve, take_output
from mnist_jax.benchmark.rounds import Epoch, Trainer
from mnist_jax.config.settings import PRECISIONS
from mnist_jax.data.datasets import num_batches
from mnist_jax.training.machine import num_cores


class Task(NamedTuple):
    """What every peer trains: the hyper-parameters of one trial, and the precision of products.

    In bfloat16 Keras and PyTorch hold activations too, as their own switches for it do.
    """

    image_shape: Sequence[int]  # (height, width, channels)
    num_classes: int
    hidden_sizes: Sequence[int]
    batch_size: int
    learning_rate: float
    momentum: float
    l2: float
    l2_on_output: bool
    precision: str
    conv_features: Sequence[int] = ()


def pixels(task: Task, images: np.ndarray) -> np.ndarray:
    """Returns images [n, height, width, channels] as float32: of bytes, from 0 to 1."""
    scale = 255 if images.dtype == np.uint8 else 1
    return images.reshape(-1, *task.image_shape).astype(np.float32) / scale


def keras_trainer(task: Task, images: np.ndarray, labels: np.ndarray) -> tuple[Trainer, dict]:
    """Keras on TensorFlow or JAX, which the variable KERAS_BACKEND names: `model.fit`."""
    import keras
    from keras import layers

    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", PRECISIONS[task.precision])
        versions = {"keras": keras.__version__, "jax": jax.__version__}
        platform, threads = jax.default_backend(), num_cores()
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(task.precision == "tf32")
        versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
        platform = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
        threads = tf.config.threading.get_intra_op_parallelism_threads() or num_cores()
    if task.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    decay = keras.regularizers.l2(task.l2) if task.l2 else None
    model = keras.Sequential([keras.Input(tuple(task.image_shape))])
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
    images, labels = pixels(task, images), labels.astype(np.int32)

    class Clock(keras.callbacks.Callback):
        """Times the epoch alone, without the set-up that one long `fit` pays once."""

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            model.get_weights()  # waits for the device
            self.seconds = time.perf_counter() - self.start

    clock = Clock()

    def train() -> Epoch:
        history = model.fit(
            images, labels, batch_size=task.batch_size, epochs=1, verbose=0, callbacks=[clock]
        )
        steps = num_batches(len(labels), task.batch_size)
        return Epoch(clock.seconds, steps, history.history["loss"][0])

    return train, {"versions": versions, "platform": platform, "threads": threads}


def torch_trainer(task: Task, images: np.ndarray, labels: np.ndarray) -> tuple[Trainer, dict]:
    """PyTorch: a plain loop over slices of a random permutation, without a DataLoader's cost."""
    import torch
    from torch import nn

    platform = "gpu" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda" if platform == "gpu" else "cpu")
    for kind in (torch.backends.cuda.matmul, torch.backends.cudnn):  # the latter's is on at first
        kind.allow_tf32 = task.precision == "tf32"
    bfloat16 = task.precision == "bfloat16"
    layout = {"device": device, "memory_format": torch.channels_last}  # 1.2 times faster than NCHW
    inputs = torch.from_numpy(pixels(task, images)).permute(0, 3, 1, 2).to(**layout)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    layers: list[nn.Module] = []
    for features in task.conv_features:
        layers += [nn.LazyConv2d(features, 3), nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    for size in task.hidden_sizes:
        layers += [nn.LazyLinear(size), nn.ReLU()]
    layers.append(nn.LazyLinear(task.num_classes))
    model = nn.Sequential(*layers).to(device)
    model(inputs[:1])  # from which the lazy layers infer their sizes
    model.to(**layout)
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
    inputs = pixels(task, images)
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
        "threads": num_cores(),
    }


TRAINERS = {
    "keras": keras_trainer,
    "keras-jax": keras_trainer,
    "torch": torch_trainer,
    "flax": flax_trainer,
}


def main() -> None:
    """Trains on request."""
    name, task_json, file = sys.argv[1:]
    answers, task = take_output(), Task(**json.loads(task_json))
    with np.load(file) as arrays:
        train, description = TRAINERS[name](task, arrays["images"], arrays["labels"])
    serve(train, description, sys.stdin, answers)


if __name__ == "__main__":
    main()
