"""The CNN of normalised.py with SGD on shifted images: 54 points, 27 epochs, halved.

python -m mnist_jax.main --config=experiments/halving/shift_norm.py --seed=7600

Of the points the best third goes on after 3 and 9 epochs: 378 epochs of training in place of
1,458. Validation images choose; the test set is scored once for each trial that goes to the end.
"""

from mnist_jax import default_config


def get_config():
    config = default_config("normalised.py:CNN")

    config.protocol = "validation_last_epoch"
    config.num_epochs = 27
    config.scaling = "standard"
    config.augmentation = "shift"
    config.dropout = (0.0, 0.5)
    config.batch_size = (64, 128)
    config.learning_rate = (0.01, 0.5)
    config.momentum = 0.9
    config.nesterov = True
    config.l2 = (1e-7, 1e-4)
    config.l2_on_output = (False, True)
    config.schedule = ("cosine", "linear")
    config.label_smoothing = (0.0, 0.3)
    config.ema_decay = (0.9, 0.9999)
    config.grid = "halton"
    config.num_points = 54
    config.halving = 3
    config.min_epochs = 3
    config.num_seeds = 1

    return config
