"""The space of experiments/beyond_98_47/search.py, with 108 points in place of 36.

python -m mnist_jax.main --config=experiments/halving/search.py --seed=5000
"""

from mnist_jax import default_config


def get_config():
    config = default_config()

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 20
    config.batch_size = (64, 128, 256)
    config.learning_rate = (0.01, 1.0)
    config.schedule = ("constant", "cosine", "linear")
    config.momentum = (0.0, 0.9)
    config.l2 = (1e-6, 1e-3)
    config.l2_on_output = (False, True)
    config.label_smoothing = (0.0, 0.2)
    config.grid = "halton"
    config.num_points = 108
    config.num_seeds = 1

    return config
