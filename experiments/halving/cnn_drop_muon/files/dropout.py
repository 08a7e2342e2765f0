"""The notebook's convolutional network with dropout before its two fully connected layers."""

from flax import linen as nn

from mnist_jax import layers
from mnist_jax.training.fused_layer import ConvReluMaxPool


class CNN(nn.Module):
    """`--config.model=cnn` of 32 and 64 features and 64 units, where training drops inputs."""

    flat_dropout: float = 0.0  # share of the 1,600 inputs of the 64 units
    hidden_dropout: float = 0.0  # share of the 64 inputs of the output
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        """Returns the logits [batch, num_classes] of images [batch, 28, 28, 1]."""
        glorot = nn.initializers.glorot_uniform()
        x = images
        for i, features in enumerate((32, 64), start=1):
            x = ConvReluMaxPool(features, name=f"conv_{i}")(x)
        x = x.reshape(len(x), -1)
        x = layers.Dropout(self.flat_dropout, deterministic=not train)(x)
        x = nn.relu(nn.Dense(64, kernel_init=glorot, name="hidden_1")(x))
        x = layers.Dropout(self.hidden_dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=glorot, name="output")(x)
