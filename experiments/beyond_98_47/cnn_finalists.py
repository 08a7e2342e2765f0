"""The CNN's finalists: the best four of its search with rounded numbers, three seeds, 15 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/cnn_finalists.py --seed=3100

One of them does nearly without label smoothing. Validation images choose. It takes 20 minutes on
two CPU cores.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(model="cnn")

    config.protocol = "validation_last_epoch"
    config.num_epochs = 15
    config.batch_size = 64
    config.learning_rate = (0.04, 0.08, 0.07, 0.02)
    config.schedule = "linear"
    config.momentum = 0.9
    config.l2 = (1e-5, 1.25e-4, 2.5e-4, 4e-5)
    config.l2_on_output = (True, False, False, True)
    config.label_smoothing = (0.18, 0.16, 0.03, 0.01)
    config.grid = "list"
    config.num_seeds = 3

    return config
