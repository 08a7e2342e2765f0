"""The CNN's finalists: the best four of its search with rounded numbers, three seeds, 15 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/cnn_finalists.py --seed=3100

One of them does nearly without label smoothing. Validation images choose. It takes 20 minutes on
two CPU cores.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()

    config.dataset = "mnist"
    config.num_validation = 10_000
    config.choose_epoch = False

    config.conv_features = (32, 64)
    config.hidden_sizes = (64,)
    config.num_epochs = (15,)
    config.batch_size = (64,)
    config.learning_rate = (0.04, 0.08, 0.07, 0.02)
    config.schedule = ("linear",)
    config.warmup_steps = (0,)
    config.momentum = (0.9,)
    config.nesterov = (False,)
    config.l2 = (1e-5, 1.25e-4, 2.5e-4, 4e-5)
    config.l2_on_output = (True, False, False, True)
    config.weight_decay = (0.0,)
    config.label_smoothing = (0.18, 0.16, 0.03, 0.01)

    config.grid = "list"
    config.num_points = 0
    config.design_seed = 0
    config.num_seeds = 3
    config.checkpoint_epochs = 1
    config.checkpoints_kept = 2
    config.platform = ""
    config.devices = 0
    config.precision = "float32"
    config.deterministic = False

    return config
