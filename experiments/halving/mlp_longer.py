"""784-500-300-10 with AdamW near the winner of mlp_refine.py: 36 points, 81 epochs, halved.

python -m mnist_jax.main --config=experiments/halving/mlp_longer.py --seed=9000

Three seeds a point. Of the points the best third goes on after 9 and 27 epochs: 2,268 epochs of
training in place of 8,748. Validation images choose.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(optimizer="adamw")

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 81
    config.schedule = ("cosine", "linear")
    config.label_smoothing = (0.0, 0.12)
    config.ema_decay = (0.98, 0.9995)
    config.batch_size = 64
    config.learning_rate = (4e-4, 1.6e-3)
    config.b2 = 0.99
    config.weight_decay = (0.1, 0.6)
    config.grid = "halton"
    config.num_points = 36
    config.halving = 3
    config.min_epochs = 9
    config.num_seeds = 3

    return config
