"""First round of the search: 36 points of a low-discrepancy sequence, one seed each, 20 epochs.

python -m mnist_jax.main --config=experiments/beyond_98_47/search.py --seed=1000

The last epoch's accuracy on 10,000 validation images ranks the points; test images choose nothing.
It takes half an hour on two CPU cores.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()

    config.dataset = "mnist"
    config.num_validation = 10_000
    config.choose_epoch = False

    config.conv_features = ()
    config.hidden_sizes = (500, 300)
    config.num_epochs = (20,)
    config.batch_size = (64, 128, 256)
    config.learning_rate = (0.01, 1.0)
    config.schedule = ("constant", "cosine", "linear")
    config.warmup_steps = (0,)
    config.momentum = (0.0, 0.9)
    config.nesterov = (False,)
    config.l2 = (1e-6, 1e-3)
    config.l2_on_output = (False, True)
    config.weight_decay = (0.0,)
    config.label_smoothing = (0.0, 0.2)

    config.grid = "halton"
    config.num_points = 36
    config.design_seed = 0
    config.num_seeds = 1
    config.checkpoint_epochs = 1
    config.checkpoints_kept = 2
    config.platform = ""
    config.devices = 0
    config.precision = "float32"
    config.deterministic = False

    return config
