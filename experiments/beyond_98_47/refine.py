"""Second round of the search: 12 points near the best of the first, two fresh seeds each.

python -m mnist_jax.main --config=experiments/beyond_98_47/refine.py --seed=1100

The best of the first round had 64 images a step, a learning rate that falls from 0.75 times
(1 - momentum), and an L2 factor of 3e-4. Here the momentum is 0.9, and the learning rate is
searched from 0.3 to 1.5 times (1 - momentum). Validation images rank the points, as before.
"""

from mnist_jax import default_config


def get_config():
    config = default_config()

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 20
    config.batch_size = 64
    config.learning_rate = (0.03, 0.15)
    config.schedule = ("cosine", "linear")
    config.momentum = 0.9
    config.l2 = (1e-4, 6e-4)
    config.l2_on_output = (False, True)
    config.label_smoothing = (0.0, 0.2)
    config.grid = "halton"
    config.num_points = 12
    config.num_seeds = 2

    return config
