"""784-500-300-10 with AdamW near the best points of mlp_adamw.py: 54 points, 54 epochs, halved.

python -m mnist_jax.main --config=experiments/halving/mlp_refine.py --seed=6300

Three seeds a point. Of the points the best third goes on after 6 and 18 epochs: 2,268 epochs of
training in place of 8,748. Validation images choose.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(optimizer="adamw")

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 54
    config.schedule = ("cosine", "linear")
    config.label_smoothing = (0.02, 0.2)
    config.ema_decay = (0.99, 0.999)
    config.batch_size = (64, 128)
    config.learning_rate = (7e-4, 3e-3)
    config.b2 = 0.99
    config.weight_decay = (0.05, 0.8)
    config.grid = "halton"
    config.num_points = 54
    config.halving = 3
    config.min_epochs = 6
    config.num_seeds = 3

    return config
