"""The notebook's convolutional network with batch normalisation, and dropout before the output."""

from flax import linen as nn

from mnist_jax import layers


class CNN(nn.Module):
    """Convolutions 3x3 of 32 and 64 features, each normalised and pooled 2x2, then 64 units."""

    dropout: float = 0.0  # share of the 64 units that training drops
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        """Returns the logits [batch, num_classes] of images [batch, 28, 28, 1]."""
        x = images
        for features in (32, 64):
            x = layers.Conv(features, (3, 3), padding="VALID", use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = layers.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = nn.Dense(64, use_bias=False, name="hidden")(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = layers.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="output")(x)
