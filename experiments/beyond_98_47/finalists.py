"""Last round of the search: four finalists, four fresh seeds each, 40 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/finalists.py --seed=1200

Three are the best of the second round with rounded numbers, but for cosine schedules, which were
no better than linear ones there; the fourth does without label smoothing. Validation images choose.
"""

from mnist_jax import default_config


def get_config():
    config = default_config()

    config.protocol = "validation_last_epoch"
    config.hidden_sizes = (500, 300)
    config.num_epochs = 40
    config.batch_size = 64
    config.learning_rate = (0.08, 0.12, 0.12, 0.1)
    config.schedule = "linear"
    config.momentum = 0.9
    config.l2 = (1e-4, 3.5e-4, 2.5e-4, 3e-4)
    config.l2_on_output = (True, False, False, False)
    config.label_smoothing = (0.2, 0.03, 0.15, 0.0)
    config.grid = "list"
    config.num_seeds = 4

    return config
