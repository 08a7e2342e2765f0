"""The axes of a recipe, one line each: name, check, default, scale and meaning.

A static axis shapes the compiled program: each of its values has a program of its own. A traced
axis is a number in an array with a trial axis: one program serves all its values. Nothing here
needs JAX.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mnist_jax import UserError
from mnist_jax.config.values import (
    COUNT,
    FLAG,
    LINEAR,
    LOG,
    LOG_OF_REST,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SIZES,
    WHOLE,
    WHOLE_LINEAR,
    WORD,
    SearchScale,
    ValueKind,
    choice,
)

SCHEDULES = ("constant", "cosine", "linear")
SCALINGS = ("unit", "standard")
AUGMENTATIONS = ("none", "shift")


class Axis(NamedTuple):
    """What may vary between the trials of a run."""

    name: str  # its key in a config
    kind: ValueKind  # what its values must be
    default: Any  # the value where a config gives none; None for an optimizer's own
    traced: bool  # whether one program serves all its values
    scale: SearchScale | None = None  # on which a search draws; None: it takes one of the values
    text: str = ""  # what it means
    of: str = ""  # `model` or `optimizer`, if it is a parameter of that


def _static(name: str, kind: ValueKind, default: Any, text: str) -> Axis:
    return Axis(name, kind, default, False, None, text)


def _traced(name: str, kind: ValueKind, default: Any, scale: SearchScale | None, text: str) -> Axis:
    return Axis(name, kind, default, True, scale, text)


def _weight_decay(default: float, decayed: str) -> Axis:
    text = f"decoupled, of {decayed}, times the learning rate"
    return _traced("weight_decay", NOT_NEGATIVE, default, LOG, text)


def learning_rate(default: float) -> Axis:
    """Returns the first axis of every optimizer, with the optimizer's own default."""
    return _traced("learning_rate", POSITIVE, default, LOG, "peak of the learning rate")


TRAINING = (
    _static("num_epochs", WHOLE, 10, "epochs of training, and the length of the schedule"),
    _static("batch_size", WHOLE, 128, "images in a training step"),
    _static(
        "scaling",
        choice(SCALINGS),
        "unit",
        "of the pixels: unit, from 0 to 1; or standard, by mean and deviation of the training"
        " images, each channel by its own",
    ),
    _static(
        "augmentation",
        choice(AUGMENTATIONS),
        "none",
        "of the training images: none; or shift, by up to 2 pixels in each direction at random",
    ),
    _traced(
        "schedule",
        choice(SCHEDULES),
        "constant",
        None,
        "of the learning rate: constant; or cosine or linear, which fall to 0",
    ),
    _traced(
        "warmup_steps", COUNT, 0, WHOLE_LINEAR, "steps over which the learning rate rises at first"
    ),
)
"""Axes of every recipe."""
SMOOTHING = (
    _traced(
        "label_smoothing",
        SHARE,
        0.0,
        LINEAR,
        "share of each target that is spread evenly over the classes",
    ),
    _traced(
        "ema_decay",
        SHARE,
        0.0,
        LOG_OF_REST,
        "decay of the moving average of the weights, which is scored and kept; 0: no average",
    ),
)
"""Axes of every recipe that stand after the optimizer's."""

_HIDDEN = "units of each hidden layer"
_BLOCK = "a block each: 3x3 convolution, ReLU, 2x2 max-pool"
MODELS = {
    "mlp": (_static("hidden_sizes", SIZES, (64, 64), _HIDDEN),),
    "cnn": (
        _static("conv_features", SIZES, (32, 64), _BLOCK),
        _static("hidden_sizes", SIZES, (64,), _HIDDEN),
    ),
}
"""The fields of `training.models.MLP` and `CNN`."""

LEARNING_RATE = 0.1
"""Default of `sgd`, as in the notebook, and of a user's optimizer that says none."""
_NESTEROV = "whether the momentum is Nesterov's"
OPTIMIZERS = {
    "sgd": (
        learning_rate(LEARNING_RATE),
        _traced("momentum", SHARE, 0.0, LOG_OF_REST, "share of the last update that is kept"),
        _static("nesterov", FLAG, False, _NESTEROV),
        _traced("l2", NOT_NEGATIVE, 0.0, LOG, "the penalty l2 * sum(kernel**2), hidden layers"),
        _traced(
            "l2_on_output",
            FLAG,
            False,
            None,
            "whether l2 and weight_decay act on the output kernel too",
        ),
        _weight_decay(0.0, "the same kernels"),
    ),
    # The weight decay is of all parameters, biases too. I. Loshchilov, F. Hutter, "Decoupled Weight
    # Decay Regularization", 2019; with `nesterov` NAdamW. Learning rate: D. Kingma, J. Ba, "Adam: A
    # Method for Stochastic Optimization", 2015, algorithm 1.
    "adamw": (
        learning_rate(1e-3),
        _traced("b1", SHARE, 0.9, LOG_OF_REST, "decay of the mean of gradients"),
        _traced("b2", SHARE, 0.999, LOG_OF_REST, "decay of the mean of their squares"),
        _traced("eps", POSITIVE, 1e-8, LOG, "added to its root"),
        _weight_decay(1e-4, "all parameters"),
        _static("nesterov", FLAG, False, _NESTEROV),
    ),
    # X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023. Steps are signs: they
    # want a learning rate 3 to 10 times smaller than AdamW's, and as much more decay (section 5).
    "lion": (
        learning_rate(3e-4),
        _traced("b1", SHARE, 0.9, LOG_OF_REST, "weight of the mean in an update"),
        _traced("b2", SHARE, 0.99, LOG_OF_REST, "decay of the mean of gradients"),
        _weight_decay(1e-3, "all parameters"),
    ),
    # K. Jordan et al., "Muon: An optimizer for hidden layers", 2024: for matrices, the output
    # layer's too. All else (biases, kernels of convolutions) takes AdamW's steps at the same
    # learning rate. 0.02 is the default of the author's code.
    "muon": (
        learning_rate(0.02),
        _traced("beta", SHARE, 0.95, LOG_OF_REST, "decay of the mean of gradients"),
        _weight_decay(0.0, "the matrices"),
        _static("nesterov", FLAG, True, _NESTEROV),
        _static("ns_steps", WHOLE, 5, "iterations that make an update orthogonal"),
        _static(
            "adaptive", FLAG, False, "whether an update is scaled by its product with the mean"
        ),
        _traced("adam_b1", SHARE, 0.9, LOG_OF_REST, "AdamW's b1, of all else"),
        _traced("adam_b2", SHARE, 0.999, LOG_OF_REST, "AdamW's b2, of all else"),
        _traced("adam_weight_decay", NOT_NEGATIVE, 0.0, LOG, "AdamW's decay, of all else"),
    ),
}
"""The parameters of `training.optimizers.sgd` and of optax's `adamw`, `lion` and `contrib.muon`."""
OPTIMIZER = _static(
    "optimizer", WORD, "sgd", f"{', '.join(OPTIMIZERS)}, or your own, as FILE.py:FUNCTION"
)


def in_grid_order(
    model: Collection[Axis], optimizers: Mapping[str, Collection[Axis]]
) -> dict[str, Axis]:
    """Returns the axes of a config by name, in the order in which a grid takes them.

    Raises:
        UserError: Two parameters have the same name and nothing else in common.
    """
    optimizer = _merge(optimizers)
    rate, others = optimizer[:1], optimizer[1:]  # the learning rate is an optimizer's first axis
    static = [axis for axis in (*model, *TRAINING, *others) if not axis.traced]
    traced = [axis for axis in (*rate, *TRAINING, *model, *others) if axis.traced]
    ordered: dict[str, Axis] = {}
    for axis in (OPTIMIZER, *static, *traced, *SMOOTHING):
        if axis.name in ordered:
            both = " and ".join(a.of or "every recipe" for a in (ordered[axis.name], axis))
            problem = f"the key {axis.name} is one of {both}; expected different names"
            raise UserError(f"{problem}: rename it in your file")
        ordered[axis.name] = axis
    return ordered


def _merge(optimizers: Mapping[str, Collection[Axis]]) -> list[Axis]:
    """Returns the axes of several optimizers; one that several take is one axis.

    If its defaults differ, it has none, and each optimizer uses its own.
    """
    merged: dict[str, Axis] = {}
    for spec, axes in optimizers.items():
        for axis in axes:
            known = merged.setdefault(axis.name, axis)
            if known.traced != axis.traced or known.kind.convert is not axis.kind.convert:
                raise UserError(
                    f"--config.optimizer={','.join(optimizers)}: {axis.name} is of another kind in"
                    f" {spec}; give each a run of its own"
                )
            default = known.default if known.default == axis.default else None
            merged[axis.name] = known._replace(default=default)
    return list(merged.values())
