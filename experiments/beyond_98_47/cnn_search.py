"""The CNN's search: 12 points of a low-discrepancy sequence, one seed each, 10 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/cnn_search.py --seed=3000

What the MLP's search settled is kept: 64 images a step, momentum 0.9, a learning rate that falls to
0. Validation images rank the points by their last epoch. It takes 12 minutes on two CPU cores.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(model="cnn")

    config.protocol = "validation_last_epoch"
    config.batch_size = 64
    config.learning_rate = (0.01, 0.1)
    config.schedule = ("cosine", "linear")
    config.momentum = 0.9
    config.l2 = (1e-5, 1e-3)
    config.l2_on_output = (False, True)
    config.label_smoothing = (0.0, 0.2)
    config.grid = "halton"
    config.num_points = 12
    config.num_seeds = 1

    return config
