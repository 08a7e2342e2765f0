"""The notebook's convolutional network on shifted images, with AdamW, without dropout: 99.56 %.

python -m mnist_jax.main --config=configs/cnn_shift.py --seed=8100

experiments/halving/ has the searches; validation images chose. All 60,000 training images, each
shifted at random by up to two pixels, 20 fresh seeds; the last epoch counts, and the test set is
scored once a trial. It takes four hours on two CPU cores.
"""

from mnist_jax import default_config


def get_config():
    config = default_config(model="cnn", optimizer="adamw")

    config.protocol = "last_epoch"  # nothing is chosen: validation images chose this recipe
    config.conv_features = (32, 64)
    config.hidden_sizes = (64,)
    config.num_epochs = 81
    config.batch_size = 64
    config.scaling = "standard"
    config.augmentation = "shift"
    config.learning_rate = 8.12e-4
    config.schedule = "cosine"
    config.b2 = 0.99
    config.weight_decay = 0.0118
    config.label_smoothing = 0.0328
    config.ema_decay = 0.9453
    config.num_seeds = 20

    return config
