"""The CNN's search: 12 points of a low-discrepancy sequence, one seed each, 10 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/cnn_search.py --seed=3000

What the MLP's search settled is kept: 64 images a step, momentum 0.9, a learning rate that falls to
0. Validation images rank the points by their last epoch. It takes 12 minutes on two CPU cores.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()

    config.dataset = "mnist"
    config.num_validation = 10_000
    config.choose_epoch = False

    config.conv_features = (32, 64)
    config.hidden_sizes = (64,)
    config.num_epochs = (10,)
    config.batch_size = (64,)
    config.learning_rate = (0.01, 0.1)
    config.schedule = ("cosine", "linear")
    config.warmup_steps = (0,)
    config.momentum = (0.9,)
    config.nesterov = (False,)
    config.l2 = (1e-5, 1e-3)
    config.l2_on_output = (False, True)
    config.weight_decay = (0.0,)
    config.label_smoothing = (0.0, 0.2)

    config.grid = "halton"
    config.num_points = 12
    config.design_seed = 0
    config.num_seeds = 1
    config.checkpoint_epochs = 1
    config.checkpoints_kept = 2
    config.platform = ""
    config.devices = 0
    config.precision = "float32"
    config.deterministic = False

    return config
