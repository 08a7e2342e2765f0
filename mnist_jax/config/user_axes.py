"""The axes that a user's model or optimizer has: its fields or parameters, by their annotations."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from mnist_jax import UserError
from mnist_jax.config.axes import LEARNING_RATE, Axis, learning_rate
from mnist_jax.config.values import FLAG, INTEGER, LINEAR, NUMBER, SIZES, TEXT, is_sizes

STATIC = "static"
"""Marks a float that shapes the program, as in `width: Annotated[float, STATIC] = 1.0`."""
NUM_CLASSES = "num_classes"
"""A module's field of this name is given the number of classes of the data set."""
_KIND_OF_TYPE = {bool: FLAG, int: INTEGER, float: NUMBER, str: TEXT, tuple: SIZES}
_NO_DEFAULT = (dataclasses.MISSING, inspect.Parameter.empty)


def read_axes(key: str, thing: Any, spec: str) -> list[Axis]:
    """Returns the axes of a user's model or optimizer; an optimizer's first is its learning rate.

    `key` is `model` or `optimizer`; `spec` is what the config says of it, for errors.

    Raises:
        UserError: It is of another kind, or a parameter has no default that an axis may have.
    """
    what, hints, axes = f"--config.{key}={spec}", _hints(thing), []
    defaults = defaults_of(key, thing, spec)
    if key == "optimizer":
        axes.append(_rate_axis(what, thing))
    for name, default in defaults.items():
        if any(default is missing for missing in _NO_DEFAULT):
            cure = "give it one, which a config then may change"
            raise UserError(f"{what}: {name} has no default; {cure}")
        if axis := _read_axis(what, name, hints.get(name, Any), default):
            axes.append(axis)
    return axes


def defaults_of(key: str, thing: Any, spec: str) -> dict[str, Any]:
    """Returns what may be an axis, by name, with its default; arguments as of `read_axes`."""
    return _fields(thing, spec) if key == "model" else _parameters(thing, spec)


def _fields(module: Any, spec: str) -> dict[str, Any]:
    """Returns the fields of a Flax module, except those that the data set decides."""
    from flax import linen as nn

    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        expected = "expected a class of flax.linen.Module, which this is not"
        raise UserError(f"--config.model={spec}: {expected}")
    return {
        field.name: field.default
        if field.default_factory is dataclasses.MISSING
        else field.default_factory()
        for field in dataclasses.fields(module)
        if field.init and field.name not in ("parent", "name", NUM_CLASSES)
    }


def _parameters(function: Callable, spec: str) -> dict[str, Any]:
    """Returns the parameters of an optimizer after the learning rate."""
    what = f"--config.optimizer={spec}"
    try:
        first, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: expected a function of a learning rate and keyword parameters that returns an"
            " optax.GradientTransformation"
        ) from None
    by_position = (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    if first.kind not in by_position or any(p.name == "learning_rate" for p in others):
        raise UserError(f"{what}: expected the learning rate as its first parameter")
    variadic = (first.VAR_POSITIONAL, first.VAR_KEYWORD)
    return {p.name: p.default for p in others if p.kind not in variadic}


def _rate_axis(what: str, function: Callable) -> Axis:
    """Returns the axis of the learning rate, an optimizer's first parameter."""
    default = next(iter(inspect.signature(function).parameters.values())).default
    axis = learning_rate(default if type(default) in (int, float) else LEARNING_RATE)
    if not axis.kind.valid(axis.default):
        expected = axis.kind.expected
        raise UserError(f"{what}: the learning rate is {default} by default; expected {expected}")
    return axis._replace(default=float(axis.default))


def _hints(thing: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception:  # of names that exist for type checkers alone
        return dict(getattr(thing, "__annotations__", {}))


def _read_axis(what: str, name: str, hint: Any, default: Any) -> Axis | None:
    """Returns an axis; None for a parameter that keeps its default, such as a function."""
    default = tuple(default) if isinstance(default, list) else default
    plain, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    if isinstance(plain, str):  # a hint that could not be looked up
        plain = Any
    type_ = _type_of(plain, default)
    if type_ is None:
        return None
    kind, traced = _KIND_OF_TYPE[type_], type_ is float and STATIC not in marks
    if not kind.valid(default):
        raise UserError(f"{what}: {name} is {default!r:.60} by default; expected {kind.expected}")
    return Axis(name, kind, kind.convert(default), traced, LINEAR if traced else None)


def _type_of(hint: Any, default: Any) -> type | None:
    """Returns bool, int, float, str, or tuple for sizes; None if this is not an axis."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # as float | None, or jax.typing.ArrayLike
        choices = {_type_of(each, default) for each in arguments if each is not type(None)}
        hint = float if float in choices else choices.pop() if len(choices) == 1 else Any
    elif origin in (tuple, list, Sequence, Iterable) or hint in (tuple, list, Sequence):
        are_sizes = all(each in (int, ...) for each in arguments) and is_sizes(default)
        return tuple if are_sizes else None
    if hint in (bool, int, float, str):
        return hint if isinstance(default, (int, float) if hint is float else hint) else None
    if hint in (Any, inspect.Parameter.empty):
        if is_sizes(default):
            return tuple
        return type(default) if type(default) in (bool, int, float, str) else None
    return None
