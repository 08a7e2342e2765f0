"""The axes of a recipe, one line each: type, check, default, scale and meaning.

The class in which a line stands says what may happen to its values. Those of `Static`, of a model's
class and of an optimizer's bool, int and str parameters shape the compiled program. Those of
`Traced`, and the floats of a model or an optimizer, are numbers in arrays with a trial axis: one
program serves them all. One's own Flax module and optimizer are read in the same way, by their
annotations. Nothing here needs JAX.
"""

import inspect
import math
import struct
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from mnist_jax import UserError

SCHEDULES = ("constant", "cosine", "linear")
MAX_SIZE = 2**16  # units or features of a layer; the weights of two such layers take 16 GiB


class Spread(NamedTuple):
    """How a search spreads values over a range, and a figure over its axis: evenly after `to`.

    Attributes:
        to: From a value to where it lies.
        back: From there to the value.
    """

    to: Callable[[float], float]
    back: Callable[[float], float]


LINEAR = Spread(float, float)
WHOLE_LINEAR = Spread(float, round)
LOG = Spread(math.log, math.exp)
LOG_OF_REST = Spread(lambda x: math.log(1 - x), lambda x: 1 - math.exp(x))
"""For what counts by its distance from 1, as a momentum."""


class Kind(NamedTuple):
    """What a value must be: words for it, the check, and the type that it then is made of."""

    expected: str
    valid: Callable[[Any], bool]
    convert: type


def choice(names: tuple[str, ...]) -> Kind:
    """Returns the kind of one of some words."""
    words = ", ".join(name or "''" for name in names)
    return Kind(f"one of {words}", lambda value: isinstance(value, str) and value in names, str)


def number(expected: str, valid: Callable[[float], bool]) -> Kind:
    """Returns the kind of a number that is valid, and 0 only if it was, in 32 bits."""

    def check(value):
        if type(value) not in (int, float):
            return False
        rounded = _in_32_bits(value)
        return math.isfinite(rounded) and valid(rounded) and bool(rounded) == bool(value)

    return Kind(f"a finite number, {expected}in 32 bits", check, float)


def _in_32_bits(value: int | float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", float(value)))[0]
    except OverflowError:
        return math.inf


def _is_sizes(value) -> bool:
    return isinstance(value, tuple) and all(type(v) is int and 0 < v <= MAX_SIZE for v in value)


def _is_word(value) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


FLAG = Kind("True or False", lambda value: isinstance(value, bool), bool)
WHOLE = Kind("a whole number of at least 1", lambda value: type(value) is int and value >= 1, int)
COUNT = Kind("a whole number of at least 0", lambda value: type(value) is int and value >= 0, int)
INTEGER = Kind(
    "a whole number in 32 bits",
    lambda value: type(value) is int and -(2**31) <= value < 2**31,
    int,
)
WORD = Kind("a word", _is_word, str)
SIZES = Kind(f"a tuple of whole numbers from 1 to {MAX_SIZE}", _is_sizes, tuple)
BLOCKS = Kind(
    f"{SIZES.expected}, at most 3 blocks, which leave 1 pixel of 28",
    lambda value: _is_sizes(value) and len(value) <= 3,
    tuple,
)
NUMBER = number("", lambda x: True)
POSITIVE = number("positive, ", lambda x: x > 0)
NOT_NEGATIVE = number("0 or positive, ", lambda x: x >= 0)
SHARE = number("from 0 to below 1, ", lambda x: 0 <= x < 1)

_OF_TYPE = {bool: FLAG, int: INTEGER, float: NUMBER, str: WORD, tuple: SIZES}
Sizes = tuple[int, ...]


class Axis(NamedTuple):
    """What may vary between the trials of a run.

    Attributes:
        name: Its key in a config.
        kind: What its values are.
        default: The value where a config says none; None for an optimizer's own.
        traced: Whether one program serves all its values.
        spread: How a search draws from a range; None: it takes one of the values.
        text: What it is.
        of: `model` or `optimizer`, if it is a parameter of that; else empty.
    """

    name: str
    kind: Kind
    default: Any
    traced: bool
    spread: Spread | None = None
    text: str = ""
    of: str = ""

    @property
    def how(self) -> str:
        """Whether it is `traced` or `static`."""
        return "traced" if self.traced else "static"


# --- the axes that every recipe has ---


class Static:
    """What shapes the program of any recipe."""

    num_epochs: Annotated[int, WHOLE, "epochs of training, and the length of the schedule"] = 10
    batch_size: Annotated[int, WHOLE, "images in a training step"] = 128


class Traced:
    """Numbers of any recipe."""

    learning_rate: Annotated[float, POSITIVE, LOG, "its peak"] = 0.1
    schedule: Annotated[
        str, choice(SCHEDULES), "constant, or cosine or linear, which fall to 0"
    ] = "constant"
    warmup_steps: Annotated[int, COUNT, WHOLE_LINEAR, "steps over which it first rises"] = 0


class TracedLast:
    """Numbers of any recipe that stand after the optimizer's."""

    label_smoothing: Annotated[
        float, SHARE, LINEAR, "share of each target that is spread evenly over the classes"
    ] = 0.0
    ema_decay: Annotated[
        float,
        SHARE,
        LOG_OF_REST,
        "of the moving average of the weights, which is scored and kept; 0: none",
    ] = 0.0


# --- the models ---


class MLP:
    """The fields of `models.MLP`."""

    hidden_sizes: Annotated[Sizes, SIZES, "units of each hidden layer"] = (64, 64)


class CNN:
    """The fields of `models.CNN`."""

    conv_features: Annotated[Sizes, BLOCKS, "a block each: 3x3 convolution, ReLU, 2x2 max-pool"] = (
        32,
        64,
    )
    hidden_sizes: Annotated[Sizes, SIZES, "units of each hidden layer"] = (64,)


MODELS = {"mlp": MLP, "cnn": CNN}

# --- the optimizers ---

TRACED = "traced"
"""Marks a bool that is a number of the program, 0 or 1."""


class SGD:
    """The parameters of `optimizers.sgd`."""

    momentum: Annotated[float, SHARE, LOG_OF_REST, "share of the last update that is kept"] = 0.0
    nesterov: Annotated[bool, FLAG, "whether the momentum is Nesterov's"] = False
    l2: Annotated[float, NOT_NEGATIVE, LOG, "the penalty l2 * sum(kernel**2), hidden layers"] = 0.0
    l2_on_output: Annotated[
        bool, FLAG, TRACED, "whether l2 and weight_decay act on the output kernel too"
    ] = False
    weight_decay: Annotated[
        float, NOT_NEGATIVE, LOG, "decoupled, of the same kernels, times the learning rate"
    ] = 0.0


class AdamW:
    """The parameters of `optax.adamw`, whose weight decay is of all parameters, biases too.

    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2019; with `nesterov` NAdamW.
    """

    b1: Annotated[float, SHARE, LOG_OF_REST, "decay of the mean of gradients"] = 0.9
    b2: Annotated[float, SHARE, LOG_OF_REST, "decay of the mean of their squares"] = 0.999
    eps: Annotated[float, POSITIVE, LOG, "added to its root"] = 1e-8
    weight_decay: Annotated[
        float, NOT_NEGATIVE, LOG, "decoupled, of all parameters, times the learning rate"
    ] = 1e-4
    nesterov: Annotated[bool, FLAG, "whether the momentum is Nesterov's"] = False


class Lion:
    """The parameters of `optax.lion`, whose weight decay is of all parameters.

    X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023. Steps are signs: they
    want a learning rate 3 to 10 times smaller than AdamW's, and as much more decay.
    """

    b1: Annotated[float, SHARE, LOG_OF_REST, "weight of the mean in an update"] = 0.9
    b2: Annotated[float, SHARE, LOG_OF_REST, "decay of the mean of gradients"] = 0.99
    weight_decay: Annotated[
        float, NOT_NEGATIVE, LOG, "decoupled, of all parameters, times the learning rate"
    ] = 1e-3


class Muon:
    """The parameters of `optax.contrib.muon`: matrices by Muon, all else by AdamW.

    K. Jordan et al., "Muon: An optimizer for hidden layers", 2024. All else, such as biases and
    kernels of convolutions, takes steps at the same learning rate; the output layer is a matrix.
    """

    beta: Annotated[float, SHARE, LOG_OF_REST, "decay of the mean of gradients"] = 0.95
    weight_decay: Annotated[
        float, NOT_NEGATIVE, LOG, "decoupled, of the matrices, times the learning rate"
    ] = 0.0
    nesterov: Annotated[bool, FLAG, "whether the momentum is Nesterov's"] = True
    ns_steps: Annotated[int, WHOLE, "iterations that make an update orthogonal"] = 5
    adaptive: Annotated[bool, FLAG, "whether an update is scaled by its product with the mean"] = (
        False
    )
    adam_b1: Annotated[float, SHARE, LOG_OF_REST, "AdamW's b1, of all else"] = 0.9
    adam_b2: Annotated[float, SHARE, LOG_OF_REST, "AdamW's b2, of all else"] = 0.999
    adam_weight_decay: Annotated[float, NOT_NEGATIVE, LOG, "AdamW's decay, of all else"] = 0.0


OPTIMIZERS = {"sgd": SGD, "adamw": AdamW, "lion": Lion, "muon": Muon}


# --- reading them ---


def read_class(cls: type, traced: bool | None = None, of: str = "") -> list[Axis]:
    """Returns the axes that the lines of a class here say.

    Args:
        cls: One of the classes above.
        traced: Whether they are; None: floats, and bools that are marked.
        of: As in `Axis`.
    """
    return [
        _axis(name, hint, getattr(cls, name), traced, of)
        for name, hint in typing.get_type_hints(cls, include_extras=True).items()
    ]


def _axis(name: str, hint: Any, default: Any, traced: bool | None, of: str) -> Axis:
    plain, *marks = typing.get_args(hint) if _is_annotated(hint) else (hint,)
    type_ = _type_of(plain, default) or str
    if traced is None:
        traced = STATIC not in marks if type_ is float else type_ is bool and TRACED in marks
    kind, spread, text = _OF_TYPE[type_], LINEAR if type_ is float and traced else None, ""
    for mark in marks:
        if isinstance(mark, Kind):
            kind = mark
        elif isinstance(mark, Spread):
            spread = mark
        elif isinstance(mark, str) and mark not in (TRACED, STATIC):
            text = mark
    return Axis(name, kind, default, traced, spread, text, of)


STATIC = "static"
"""Marks a float that shapes the program, as in `width: Annotated[float, STATIC] = 1.0`."""


def _is_annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated


def _type_of(hint: Any, default: Any) -> type | None:
    """Returns bool, int, float, str, or tuple for sizes; None for what is no axis."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # as float | None, or jax.typing.ArrayLike
        found = {_type_of(each, default) for each in arguments if each is not type(None)}
        hint = float if float in found else found.pop() if len(found) == 1 else Any
    elif origin in (tuple, list, Sequence, Iterable) or hint in (tuple, list, Sequence):
        if all(each in (int, ...) for each in arguments) and _is_sizes(_as_tuple(default)):
            return tuple
        return None
    if hint in (bool, int, float, str):
        return hint if isinstance(default, (int, float) if hint is float else hint) else None
    if hint in (Any, inspect.Parameter.empty):
        if _is_sizes(_as_tuple(default)):
            return tuple
        return type(default) if type(default) in (bool, int, float, str) else None
    return None


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def of_function(function: Callable, spec: str) -> list[Axis]:
    """Returns the axes of one's own optimizer: its parameters after the learning rate.

    Raises:
        UserError: It cannot be called as an optimizer is.
    """
    what = f"--config.optimizer={spec}"
    try:
        first, *others = inspect.signature(function).parameters.values()
        hints = _hints(function)
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: expected a function of a learning rate and keyword parameters that returns an"
            " optax.GradientTransformation"
        ) from None
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise UserError(f"{what}: expected the learning rate as its first parameter")
    found = []
    for parameter in others:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        name, default = parameter.name, parameter.default
        found += _own(what, name, hints.get(name, Any), default, parameter.empty, "optimizer")
    return found


def of_module(module: Any, spec: str) -> list[Axis]:
    """Returns the axes of one's own Flax module: its fields, but for what the data set decides.

    Raises:
        UserError: It is no class of such.
    """
    import dataclasses

    from flax import linen as nn

    what = f"--config.model={spec}"
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise UserError(f"{what}: expected a class of flax.linen.Module, which this is not")
    hints, found = _hints(module), []
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name", NUM_CLASSES) or not field.init:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        hint = hints.get(field.name, Any)
        found += _own(what, field.name, hint, default, dataclasses.MISSING, "model")
    return found


NUM_CLASSES = "num_classes"
"""A module's field of this name is given the number of classes of the data set."""


def _hints(thing: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception:  # of names that are there for type checkers alone
        return dict(getattr(thing, "__annotations__", {}))


def _own(what: str, name: str, hint: Any, default: Any, none: Any, of: str) -> list[Axis]:
    if default is none:
        raise UserError(
            f"{what}: {name} has no default; give it one, which a config then may change"
        )
    plain = typing.get_args(hint)[0] if _is_annotated(hint) else hint
    default = _as_tuple(default)
    if isinstance(plain, str):  # a hint that could not be looked up
        hint = plain = Any
    if _type_of(plain, default) is None:
        return []  # a function, say, or a type: it stays what it is
    axis = _axis(name, hint, default, None, of)
    if not axis.kind.valid(axis.default):
        raise UserError(
            f"{what}: {name} is {default!r:.60} by default; expected {axis.kind.expected}"
        )
    return [axis._replace(default=axis.kind.convert(axis.default))]


def arrange(model: Sequence[Axis], optimizers: Mapping[str, Sequence[Axis]]) -> dict[str, Axis]:
    """Returns the axes of a config by name, in the order in which a grid takes them.

    What several optimizers take is one axis; if their defaults differ, each keeps its own.

    Args:
        model: The axes of the model.
        optimizers: Those of each optimizer.

    Raises:
        UserError: Two parameters have the same name and nothing else in common.
    """
    taken: dict[str, Axis] = {}
    for spec, axes in optimizers.items():
        for axis in axes:
            known = taken.setdefault(axis.name, axis)
            if known.traced != axis.traced or known.kind.convert is not axis.kind.convert:
                raise UserError(
                    f"--config.optimizer={','.join(optimizers)}: {axis.name} is of another kind in"
                    f" {spec}; give each a run of its own"
                )
            default = known.default if known.default == axis.default else None
            taken[axis.name] = known._replace(default=default)
    static = [axis for axis in taken.values() if not axis.traced]
    traced = [axis for axis in taken.values() if axis.traced]
    optimizer = Axis("optimizer", WORD, "sgd", False, text="what takes the steps")
    groups = [
        [optimizer],
        [axis for axis in model if not axis.traced],
        read_class(Static, traced=False),
        static,
        read_class(Traced, traced=True),
        [axis for axis in model if axis.traced],
        traced,
        read_class(TracedLast, traced=True),
    ]
    found: dict[str, Axis] = {}
    for axis in [axis for group in groups for axis in group]:
        if axis.name in found:
            both = " and ".join(a.of or "every recipe" for a in (found[axis.name], axis))
            raise UserError(
                f"the key {axis.name} is one of {both}; expected different names: rename it in your"
                " file"
            )
        found[axis.name] = axis
    return found


METRICS = ("top_2_accuracy", "brier_score", "confidence")
"""What can be measured beside loss and accuracy."""


_NO_METRICS = ("loss", "accuracy", "objective", "epoch", "accuracy_at_best_validation")
"""What columns that a run has anyway are called after the name of a split."""


def metric_name(spec: str) -> str:
    """Returns what a metric is called in columns, after the name of the split."""
    return spec.rpartition(":")[2]


def check_metrics(specs: Sequence[str]) -> None:
    """Refuses metrics that would share a column."""
    names = [metric_name(spec) for spec in specs]
    for spec, name in zip(specs, names, strict=True):
        if names.count(name) > 1 or name in _NO_METRICS or (name in METRICS and name != spec):
            raise UserError(
                f"--config.metrics={spec}: expected a name of its own, since it makes the columns"
                f" train_{name}, test_{name} and so on; leave it out, or rename it in your file"
            )
