"""LeNet-5 of one's own: SGD against AdamW, each with two learning rates and three dropout rates.

python -m mnist_jax.main --config=experiments/own_model/config.py
"""

from mnist_jax import default_config


def get_config():
    config = default_config("lenet.py:LeNet5", optimizer=("sgd", "adamw"))
    rates = (("sgd", 0.1), ("sgd", 0.02), ("adamw", 3e-3), ("adamw", 1e-3))
    points = [(*pair, dropout) for pair in rates for dropout in (0.0, 0.25, 0.5)]
    config.grid = "list"
    config.optimizer, config.learning_rate, config.dropout = zip(*points, strict=True)
    config.momentum = [0.9 if name == "sgd" else 0.0 for name in config.optimizer]
    config.schedule = "cosine"
    config.num_epochs = 10
    config.num_seeds = 5
    return config
