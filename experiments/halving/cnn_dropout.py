"""The CNN of configs/cnn_with_dropout.py with Muon or AdamW: 54 points, 54 epochs, halved.

python -m mnist_jax.main --config=experiments/halving/cnn_dropout.py:muon --seed=9100
python -m mnist_jax.main --config=experiments/halving/cnn_dropout.py:adamw --seed=9200

On shifted images, seeds 9300 and 9400, it searches with --config.augmentation=shift
--config.num_epochs=81 --config.min_epochs=9 --config.num_points=36. Of the points the best third
goes on after 6 and 18 epochs: 756 epochs of training in place of 2,916. Validation images choose.
"""

from mnist_jax import default_config

LEARNING_RATES = {"muon": (1e-3, 1e-2), "adamw": (3e-4, 3e-3)}
WEIGHT_DECAYS = {"muon": (0.005, 0.5), "adamw": (1e-3, 0.1)}


def get_config(optimizer="muon"):
    if optimizer not in LEARNING_RATES:
        raise ValueError(f"{optimizer}: expected one of {', '.join(LEARNING_RATES)}")
    config = default_config("../../configs/cnn_with_dropout.py:CNN", optimizer=optimizer)

    config.protocol = "validation_last_epoch"
    config.num_epochs = 54
    config.scaling = "standard"
    config.flat_dropout = (0.0, 0.5)
    config.hidden_dropout = (0.0, 0.5)
    config.batch_size = 64
    config.learning_rate = LEARNING_RATES[optimizer]
    config.weight_decay = WEIGHT_DECAYS[optimizer]
    if optimizer == "adamw":
        config.b2 = 0.99
    config.schedule = ("cosine", "linear")
    config.label_smoothing = (0.0, 0.2)
    config.ema_decay = (0.9, 0.9995)
    config.grid = "halton"
    config.num_points = 54
    config.halving = 3
    config.min_epochs = 6
    config.num_seeds = 1

    return config
