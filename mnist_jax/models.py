"""The architectures as Flax modules: images in, logits out."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mnist_jax.layers import ConvReluMaxPool


class MLP(nn.Module):
    """Fully connected ReLU network, Glorot-uniform kernels and zero biases (Keras' defaults)."""

    hidden_sizes: Sequence[int]
    num_classes: int = 10

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width"]
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
        self, images: Float[Array, "batch height width"]
    ) -> Float[Array, "batch num_classes"]:
        """Returns the logits of images in [0, 1]."""
        x = images[..., None]
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


def layer_table(model: nn.Module, image_size: int = 28) -> str:
    """Returns a table of layers, output shapes and parameter counts, as Keras' `summary()`."""
    images = jnp.zeros((1, image_size, image_size))
    _, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, capture_intermediates=True)
    )
    rows = [("Layer", "Output shape", "Parameters")]
    total = 0
    for layer, leaves in variables["params"].items():
        (output,) = variables["intermediates"][layer]["__call__"]
        count = sum(leaf.size for leaf in leaves.values())
        total += count
        rows.append((layer, f"(batch, {', '.join(map(str, output.shape[1:]))})", f"{count:,}"))
    rows.append(("total", "", f"{total:,}"))
    return "\n".join(f"{name:<10} {shape:<20} {count:>11}" for name, shape, count in rows)
