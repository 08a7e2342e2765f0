"""A LeNet-5 of one's own: SGD against AdamW, two learning rates each, with and without dropout."""

from itertools import product

from mnist_jax import default_config


def get_config():
    config = default_config("lenet.py:LeNet5", optimizer=("sgd", "adamw"))
    rates = (("sgd", 0.1), ("sgd", 0.02), ("adamw", 3e-3), ("adamw", 1e-3))
    points = [(*rate, dropout) for rate, dropout in product(rates, (0.0, 0.25))]
    config.grid = "list"  # a point for each place in these lists
    config.optimizer, config.learning_rate, config.dropout = zip(*points, strict=True)
    config.momentum = [0.9 if name == "sgd" else 0.0 for name in config.optimizer]
    config.schedule = "cosine"
    config.num_epochs = 3
    config.num_seeds = 5
    return config
