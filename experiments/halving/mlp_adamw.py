"""784-500-300-10 with AdamW: 108 points of a low-discrepancy sequence, 27 epochs, halved.

python -m mnist_jax.main --config=experiments/halving/mlp_adamw.py --seed=6100

Of the points the best third goes on after 1, 3 and 9 epochs: 324 epochs of training in place of
2,916. Validation images choose; the test set is scored once for each trial that goes to the end.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(optimizer="adamw")

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 27
    config.scaling = ("unit", "standard")
    config.schedule = ("cosine", "linear")
    config.label_smoothing = (0.0, 0.3)
    config.ema_decay = (0.9, 0.9999)
    config.batch_size = (64, 128)
    config.learning_rate = (3e-4, 5e-3)
    config.b2 = 0.99
    config.weight_decay = (1e-3, 1.0)
    config.grid = "halton"
    config.num_points = 108
    config.halving = 3
    config.num_seeds = 1

    return config
