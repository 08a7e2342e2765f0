"""Last round of the search: four finalists, four fresh seeds each, 40 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/finalists.py --seed=1200

Three are the best of the second round with rounded numbers, but for cosine schedules, which were
no better than linear ones there; the fourth does without label smoothing. Validation images choose.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()

    config.dataset = "mnist"
    config.num_validation = 10_000
    config.choose_epoch = False

    config.conv_features = ()
    config.hidden_sizes = (500, 300)
    config.num_epochs = (40,)
    config.batch_size = (64,)
    config.learning_rate = (0.08, 0.12, 0.12, 0.1)
    config.schedule = ("linear",)
    config.warmup_steps = (0,)
    config.momentum = (0.9,)
    config.nesterov = (False,)
    config.l2 = (1e-4, 3.5e-4, 2.5e-4, 3e-4)
    config.l2_on_output = (True, False, False, False)
    config.weight_decay = (0.0,)
    config.label_smoothing = (0.2, 0.03, 0.15, 0.0)

    config.grid = "list"
    config.num_points = 0
    config.design_seed = 0
    config.num_seeds = 4
    config.checkpoint_epochs = 1
    config.checkpoints_kept = 2
    config.platform = ""
    config.devices = 0
    config.precision = "float32"
    config.deterministic = False

    return config
