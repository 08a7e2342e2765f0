"""The architectures as Flax modules, images in and logits out; and what is known of any module."""

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jaxtyping import Array, Float

from mnist_jax import UserError
from mnist_jax.layers import ConvReluMaxPool


class MLP(nn.Module):
    """Fully connected ReLU network, Glorot-uniform kernels and zero biases (Keras' defaults)."""

    hidden_sizes: Sequence[int]
    num_classes: int = 10

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch num_classes"]:
        """Returns the logits of images in [0, 1]."""
        return _dense_stack(images, self.hidden_sizes, self.num_classes)


class CNN(nn.Module):
    """Convolution blocks (3x3 VALID, ReLU, 2x2 max-pool), then a fully connected ReLU network."""

    conv_features: Sequence[int]
    hidden_sizes: Sequence[int]
    num_classes: int = 10

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch num_classes"]:
        """Returns the logits of images in [0, 1]."""
        x = images
        for i, features in enumerate(self.conv_features, start=1):
            x = ConvReluMaxPool(features, name=f"conv_{i}")(x)
        return _dense_stack(x, self.hidden_sizes, self.num_classes)


def _dense_stack(x: Array, hidden_sizes: Sequence[int], num_classes: int) -> Array:
    """The layers that both architectures end with; Flax files them under the calling module."""
    x = x.reshape(x.shape[0], -1)
    glorot = nn.initializers.glorot_uniform()
    for i, size in enumerate(hidden_sizes, start=1):
        x = nn.relu(nn.Dense(size, kernel_init=glorot, name=f"hidden_{i}")(x))
    return nn.Dense(num_classes, kernel_init=glorot, name="output")(x)


def create_model(
    *, conv_features: Sequence[int], hidden_sizes: Sequence[int], num_classes: int = 10
) -> nn.Module:
    """Returns the `MLP`, or the `CNN` where `conv_features` names at least one block."""
    hidden_sizes = tuple(hidden_sizes)
    if conv_features:
        return CNN(tuple(conv_features), hidden_sizes, num_classes)
    return MLP(hidden_sizes, num_classes)


class Network(NamedTuple):
    """A module, and what must be known of it to train it.

    Attributes:
        module: Gives logits [batch, classes] of images [batch, height, width, channels]; with
            `train`, a keyword, if it computes otherwise in training.
        image_shape: (height, width, channels).
        collections: Those that it has beside `params`, such as `batch_stats`.
        draws: Whether it draws random numbers in training, as dropout does.
        output: Where the parameters of the layer lie that is called last and has a kernel.
        first_kernel: The kernel of the layer that is called first and has one, as
            `chosen_trial.npz` names it; empty if none has.
        takes_train: Whether it takes that keyword.
    """

    module: nn.Module
    image_shape: tuple[int, int, int]
    collections: tuple[str, ...]
    draws: bool
    output: tuple[str, ...]
    first_kernel: str
    takes_train: bool

    @property
    def evaluating(self) -> dict[str, Any]:
        """The keywords with which it is called to score images."""
        return {"train": False} if self.takes_train else {}

    @property
    def training(self) -> dict[str, Any]:
        """The keywords with which it is called in training."""
        return {"train": True} if self.takes_train else {}


class Layer(NamedTuple):
    """A call of a module that has parameters of its own.

    Attributes:
        path: Where they lie.
        shape: Of its result.
        num_parameters: How many they are.
        has_kernel: Whether one of them is a kernel.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    num_parameters: int
    has_kernel: bool


def describe(module: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Finds out what must be known of a module, without computing anything.

    Raises:
        UserError: It cannot be called as it must be, or gives something else than logits.
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters
    layers, variables, logits = _trace(module, image_shape, takes_train)
    name = type(module).__name__
    if getattr(logits, "shape", None) != (2, num_classes):
        got = getattr(logits, "shape", type(logits).__name__)
        raise UserError(
            f"--config.model: {name} gives {got} for 2 images; expected logits of shape"
            f" (2, {num_classes})"
        )
    if "params" not in variables:
        raise UserError(f"--config.model: {name} has no parameters; expected a module that learns")
    collections = tuple(sorted(variables.keys() - {"params"}))
    kernels = [layer.path for layer in layers if layer.has_kernel]
    network = Network(
        module,
        image_shape,
        collections,
        draws=False,
        output=kernels[-1] if kernels else (),
        first_kernel="/".join(("params", *kernels[0], "kernel")) if kernels else "",
        takes_train=takes_train,
    )
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        jax.eval_shape(
            lambda v, x: module.apply(v, x, mutable=list(collections), **network.training),
            variables,
            images,
        )
    except errors.InvalidRngError:
        network = network._replace(draws=True)
    return network


def _trace(
    module: nn.Module, image_shape: Sequence[int], takes_train: bool
) -> tuple[list[Layer], Any, Any]:
    """Returns the calls of layers in their order, and the shapes of variables and result."""
    layers: list[Layer] = []

    def note(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.scope is not None:
            own = context.module.variables.get("params", {})
            arrays = {name: leaf for name, leaf in own.items() if hasattr(leaf, "shape")}
            if arrays:
                size = sum(math.prod(leaf.shape) for leaf in arrays.values())
                shape = tuple(getattr(result, "shape", ()))
                layers.append(Layer(context.module.path, shape, size, "kernel" in arrays))
        return result

    def init(images):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        options = {"train": False} if takes_train else {}
        return module.init_with_output(keys, images, **options)

    with nn.intercept_methods(note):
        logits, variables = jax.eval_shape(
            init, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
        )
    return layers, variables, logits


def layer_table(network: Network) -> str:
    """Returns a table of layers, output shapes and parameter counts, as Keras' `summary()`.

    Names are cut where they would make lines longer than a terminal's 80 columns.
    """
    layers, _, _ = _trace(network.module, network.image_shape, network.takes_train)
    sizes = {layer.path: layer.num_parameters for layer in layers}  # a layer may be called twice
    shapes = [f"({', '.join(['batch', *map(str, layer.shape[1:])])})" for layer in layers]
    width = max(20, *map(len, shapes))
    rows = [("Layer", "Output shape", "Parameters")]
    for layer, shape in zip(layers, shapes, strict=True):
        name = _cut(layer.path, 80 - len(f" {'':{width}} {'Parameters':>11}"))
        rows.append((name or "model", shape, f"{layer.num_parameters:,}"))
    rows.append(("total", "", f"{sum(sizes.values()):,}"))
    widths = [max(10, *(len(name) for name, _, _ in rows)), width, 11]
    return "\n".join(
        f"{name:<{widths[0]}} {shape:<{widths[1]}} {count:>{widths[2]}}"
        for name, shape, count in rows
    )


def _cut(path: Sequence[str], most: int) -> str:
    """Joins the names of a path; of too many characters, the longest names lose their middle."""
    text = "/".join(path)
    for limit in range(max(map(len, path), default=0), 4, -1):
        head, tail = (limit - 1) // 2, limit // 2
        names = (x if len(x) <= limit else f"{x[:head]}…{x[-tail:]}" for x in path)
        if len(text := "/".join(names)) <= most:
            break
    return text
