"""Second round of the search: 12 points near the best of the first, two fresh seeds each.

python -m mnist_jax.main --config=experiments/beyond_98_47/refine.py --seed=1100

The best of the first round had 64 images a step, a learning rate that falls from 0.75 times
(1 - momentum), and an L2 factor of 3e-4. Here the momentum is 0.9, and the learning rate is
searched from 0.3 to 1.5 times (1 - momentum). Validation images rank the points, as before.
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
    config.batch_size = (64,)
    config.learning_rate = (0.03, 0.15)
    config.schedule = ("cosine", "linear")
    config.warmup_steps = (0,)
    config.momentum = (0.9,)
    config.nesterov = (False,)
    config.l2 = (1e-4, 6e-4)
    config.l2_on_output = (False, True)
    config.weight_decay = (0.0,)
    config.label_smoothing = (0.0, 0.2)

    config.grid = "halton"
    config.num_points = 12
    config.design_seed = 0
    config.num_seeds = 2
    config.checkpoint_epochs = 1
    config.checkpoints_kept = 2
    config.platform = ""
    config.devices = 0
    config.precision = "float32"
    config.deterministic = False

    return config
