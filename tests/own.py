"""A model and an optimizer of one's own: nested three deep, with batch statistics and dropout."""

NET = """
from flax import linen as nn
from mnist_jax import layers


class Unit(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.size)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))


class Block(nn.Module):
    size: int
    rate: float

    @nn.compact
    def __call__(self, x, train):
        return layers.Dropout(self.rate)(Unit(self.size)(x, train), deterministic=not train)


class Net(nn.Module):
    size: int = 8
    dropout: float = 0.1

    @nn.compact
    def __call__(self, images, *, train):
        x = images[:, ::4, ::4].reshape(len(images), -1)
        return nn.Dense(10)(Block(self.size, self.dropout)(x, train))
"""
OPTIMIZER = """
import optax


def make(learning_rate, decay: float = 0.9, nesterov: bool = False):
    return optax.chain(optax.trace(decay, nesterov), optax.scale_by_learning_rate(learning_rate))
"""
KEYS = ("--config.model=my_net.py:Net", "--config.optimizer=my_opt.py:make")


def write(folder):
    """Writes both into a folder, where a program is to run with `KEYS`."""
    folder.mkdir(exist_ok=True)
    (folder / "my_net.py").write_text(NET)
    (folder / "my_opt.py").write_text(OPTIMIZER)
    return folder
