"""LeNet-5 (Y. LeCun et al., 1998) with ReLUs, max-pools, batch normalisation and dropout."""

from flax import linen as nn

from mnist_jax import layers


class Block(nn.Module):
    """Convolution 5x5, batch normalisation, ReLU, max-pool 2x2."""

    features: int
    padding: str

    @nn.compact
    def __call__(self, x, *, train):
        """Returns half as many rows and columns, of `features` channels."""
        x = layers.Conv(self.features, (5, 5), padding=self.padding, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return layers.max_pool(nn.relu(x), (2, 2), (2, 2))


class LeNet5(nn.Module):
    """Two blocks, then 120 and 84 units, of which a share is dropped in training."""

    dropout: float = 0.0  # a traced axis: one program trains all rates
    features: tuple[int, ...] = (6, 16)  # a static one
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        """Returns the logits [batch, num_classes] of images [batch, 28, 28, 1] in [0, 1]."""
        first, second = self.features
        x = Block(first, "SAME", name="block_1")(images, train=train)
        x = Block(second, "VALID", name="block_2")(x, train=train)
        x = x.reshape(len(x), -1)
        for size in (120, 84):
            x = nn.relu(nn.Dense(size, name=f"hidden_{size}")(x))
            x = layers.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="output")(x)
