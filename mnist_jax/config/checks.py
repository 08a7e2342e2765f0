"""The checks of a config's values, one by one and where they must fit each other."""

from collections.abc import Mapping
from typing import Any

from mnist_jax import UserError
from mnist_jax.config.axes import MODELS, Axis
from mnist_jax.config.config_files import values_in
from mnist_jax.config.grid import Point
from mnist_jax.config.keys import bad_value
from mnist_jax.config.settings import SETTINGS
from mnist_jax.data import datasets


def check_seed(seed: Any, num_seeds: int) -> None:
    """Refuses seeds that are no seeds of random numbers, or not distinct."""
    several = isinstance(seed, tuple)
    highest = 2**32 - (1 if several else num_seeds)
    seeds = seed if several else (seed,)
    if not (seeds and all(type(s) is int and 0 <= s <= highest for s in seeds)):
        expected = f"a whole number from 0 to {highest}, or several as in --seed=42,123,456"
    elif len(set(seeds)) < num_seeds and several:
        expected = "seeds that differ, since the same seed makes the same trial"
    else:
        return
    raise UserError(f"--seed={','.join(map(str, seeds))}: expected {expected}")


def check_point(
    point: Point, model: str, num_images: int, image_shape: tuple[int, int, int]
) -> None:
    """Refuses values that do not fit each other, or the images of an epoch and their shape."""
    batch_size, num_epochs = point["batch_size"], point["num_epochs"]
    if batch_size > num_images:
        raise bad_value("batch_size", batch_size, f"at most {num_images}, the training images")
    num_steps = num_epochs * datasets.num_batches(num_images, batch_size)
    if num_steps >= 2**31:
        raise bad_value("num_epochs", num_epochs, f"fewer than {2**31} training steps")
    if point["warmup_steps"] >= num_steps:
        expected = f"less than all {num_steps} training steps"
        raise bad_value("warmup_steps", point["warmup_steps"], expected)
    blocks = point["conv_features"] if model == "cnn" else ()
    if len(blocks) > (most := _most_blocks(min(image_shape[:2]))):
        many = f"{most} block{'s' * (most != 1)}"
        expected = f"at most {many} for images of {image_shape[0]} by {image_shape[1]}"
        raise bad_value("conv_features", blocks, expected)
    if point["optimizer"] != "sgd":
        return
    if point["nesterov"] and not point["momentum"]:
        expected = "False, or a momentum above 0: without one there is nothing"
        raise bad_value("nesterov", True, expected)
    has_hidden = any(point.get(name) for name in ("conv_features", "hidden_sizes"))
    has_kernels = point["l2_on_output"] or model not in MODELS or has_hidden
    for key in ("l2", "weight_decay"):
        if point[key] and not has_kernels:
            expected = "0, or a hidden layer, or l2_on_output=True: there is no kernel for it"
            raise bad_value(key, point[key], expected)


def _most_blocks(size: int) -> int:
    """Returns how many blocks of the CNN leave at least a pixel of `size`."""
    return 0 if size < 4 else 1 + _most_blocks((size - 2) // 2)


def setting_value(config: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a setting."""
    kind = SETTINGS[key].kind
    value = config.get(key, SETTINGS[key].default)
    if kind.convert is tuple:
        value = () if value == "" else values_in(value)  # as typed in `--config.metrics=`
    elif isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    if not kind.valid(value):
        typed = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise bad_value(key, typed, kind.expected)
    return value


def axis_values(config: Mapping[str, Any], axis: Axis, mixed: bool) -> tuple:
    """Returns the values of an axis: a config has one or several.

    In a grid with several optimizers (`mixed`), None stands for the default of the optimizer, or
    for no value if it does not take the axis.
    """
    key, kind = axis.name, axis.kind
    value = config.get(key, axis.default)
    several = isinstance(value, tuple)
    if kind.convert is tuple:  # a value is a tuple itself
        value = (value,) if isinstance(value, int | float) else value
        several = isinstance(value, tuple) and any(isinstance(v, tuple) for v in value)
    values = value if several else (value,)
    if not values:
        raise bad_value(key, value, "at least one value, since the grid has no point without")
    absent = mixed and axis.of == "optimizer"
    for v in values:
        if not (kind.valid(v) or (absent and v is None)):
            raise bad_value(key, ",".join(map(str, values)) if v == "" else v, kind.expected)
    if len(set(values)) < len(values) and config.get("grid") != "list":
        raise bad_value(key, value, "distinct values, since each makes a point of the grid")
    return tuple(v if v is None else kind.convert(v) for v in values)
