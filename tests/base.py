"""A point of a grid that tests change where they need another."""

from mnist_jax.grid import Point

BASE = Point(
    conv_features=(),
    hidden_sizes=(8,),
    num_epochs=2,
    batch_size=16,
    nesterov=False,
    learning_rate=0.1,
    schedule="constant",
    warmup_steps=0,
    momentum=0.0,
    l2=0.0,
    l2_on_output=False,
    weight_decay=0.0,
    label_smoothing=0.0,
)
