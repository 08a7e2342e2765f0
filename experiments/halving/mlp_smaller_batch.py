"""784-500-300-10 with AdamW in batches of 32: 36 points, 54 epochs, halved.

python -m mnist_jax.main --config=experiments/halving/mlp_smaller_batch.py --seed=9500

Three seeds a point. Of the points the best third goes on after 6 and 18 epochs: 1,512 epochs of
training in place of 5,832. Validation images choose.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(optimizer="adamw")

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 54
    config.schedule = ("cosine", "linear")
    config.label_smoothing = (0.0, 0.12)
    config.ema_decay = (0.99, 0.9995)
    config.batch_size = 32
    config.learning_rate = (2e-4, 1.2e-3)
    config.b1 = (0.8, 0.97)
    config.b2 = (0.95, 0.999)
    config.weight_decay = (0.1, 0.6)
    config.grid = "halton"
    config.num_points = 36
    config.halving = 3
    config.min_epochs = 6
    config.num_seeds = 3

    return config
