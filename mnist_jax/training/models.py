"""The architectures, `MLP` and `CNN`, as Flax modules: images in and logits out."""

from collections.abc import Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from mnist_jax.training.fused_layer import ConvReluMaxPool


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
    """The layers that both architectures end with; Flax names them under the calling module."""
    x = x.reshape(x.shape[0], -1)
    glorot = nn.initializers.glorot_uniform()
    for i, size in enumerate(hidden_sizes, start=1):
        x = nn.relu(nn.Dense(size, kernel_init=glorot, name=f"hidden_{i}")(x))
    return nn.Dense(num_classes, kernel_init=glorot, name="output")(x)


MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": CNN}
"""By the names of `axes.MODELS`, which say what their fields are."""
