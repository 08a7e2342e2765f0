"""What must be known of a Flax module to train it, found by tracing it; nothing is computed."""

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from mnist_jax import UserError
from mnist_jax.config import user_code
from mnist_jax.layers import Conv
from mnist_jax.text import text_table


class Network(NamedTuple):
    """A module, and what must be known of it to train it."""

    module: nn.Module  # from images [batch, height, width, channels] to logits [batch, classes]
    image_shape: tuple[int, int, int]  # (height, width, channels)
    collections: tuple[str, ...]  # those beside `params`, such as `batch_stats`
    draws: bool  # whether it draws random numbers in training, as dropout does
    output: tuple[str, ...]  # path, in the parameters, of the last layer called with a kernel
    first_kernel: str  # of the first layer that has one, as in `chosen_trial.npz`; or empty
    takes_train: bool  # whether it takes the keyword `train`, and computes otherwise in training
    numbers: tuple[str, ...] = ()  # its traced fields: each trial has its own number there
    plain_conv: bool = False  # whether it has an `nn.Conv`; on a CPU, `layers.Conv` is faster

    def bound(self, numbers: Mapping[str, Any]) -> nn.Module:
        """Returns the module with the numbers of a trial, which may be traced, in its fields."""
        return self.module.clone(**numbers) if numbers else self.module

    def keywords(self, train: bool) -> dict[str, Any]:
        """Returns those with which the module is called in training, or to score images."""
        return {"train": train} if self.takes_train else {}


class Layer(NamedTuple):
    """A call of a module that has parameters of its own."""

    path: tuple[str, ...]  # of the module, in the parameters
    shape: tuple[int, ...]  # of the result
    num_parameters: int
    has_kernel: bool
    kind: type[nn.Module]


def describe(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    num_classes: int,
    numbers: Sequence[str] = (),
) -> Network:
    """Traces a module for what training must know of it; computes nothing.

    `numbers` are the fields to trace. The network leaves out those that cannot be traced, because
    shapes or branches of Python depend on them.

    Raises:
        UserError: It fails, or returns something other than logits.
    """
    network = Network(module, image_shape, (), False, (), "", _takes_train(module))
    network = network._replace(numbers=tuple(n for n in numbers if _may_be_traced(network, n)))
    layers, variables, logits = _trace(network)
    name = type(module).__name__
    if getattr(logits, "shape", None) != (2, num_classes):
        got = getattr(logits, "shape", type(logits).__name__)
        raise UserError(
            f"--config.model: {name} gives {got} for 2 images; expected logits of shape"
            f" (2, {num_classes})"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(f"--config.model: {name} gives {logits.dtype}; expected logits, floats")
    if "params" not in variables:
        raise UserError(f"--config.model: {name} has no parameters; expected a module that learns")
    for path, _ in jax.tree_util.tree_leaves_with_path(variables):
        if not all(isinstance(key, jax.tree_util.DictKey) for key in path):
            raise UserError(
                f"--config.model: {name} has variables that no run can keep, at"
                f" {jax.tree_util.keystr(path)}; expected dicts of arrays, without tuples or boxes"
            )
    kernels = [layer.path for layer in layers if layer.has_kernel]
    network = network._replace(
        collections=tuple(sorted(variables.keys() - {"params"})),
        output=kernels[-1] if kernels else (),
        first_kernel="/".join(("params", *kernels[0], "kernel")) if kernels else "",
        plain_conv=any(
            issubclass(layer.kind, nn.Conv) and not issubclass(layer.kind, Conv) for layer in layers
        ),
    )
    network = network._replace(draws=_draws(network, variables))
    _check_calls(network, variables, logits.shape)
    return network


def check_numbers(network: Network, values: Mapping[str, Sequence[float]]) -> None:
    """Tries the least and the largest of the values that traced fields will have.

    Raises:
        UserError: The module, or a layer of it, raises ValueError for one of them.
    """
    variables = shapes(network)
    for name in network.numbers:
        for value in dict.fromkeys((min(values[name]), max(values[name]))):
            others = tuple(each for each in network.numbers if each != name)
            tried = network._replace(module=network.bound({name: value}), numbers=others)
            try:
                _apply(tried, variables, True, ("params", "dropout"))
            except ValueError as error:
                kind = type(network.module)
                raise UserError(
                    f"--config.{name}={value:g}: {kind.__name__} fails with it:"
                    f" {user_code.why(error, user_code.path_of(kind))}"
                ) from None
            except Exception:  # of a number that is no array: it will be one
                pass


_MODES = {"training", "is_training", "deterministic", "use_running_average"}
"""Keywords by which modules know, in place of `train`, that they are trained; nothing sets them."""


def _takes_train(module: nn.Module) -> bool:
    """Says whether a module takes the keyword `train`.

    Raises:
        UserError: It takes another keyword for that, which nothing sets.
    """
    taken = inspect.signature(type(module).__call__).parameters.keys()
    if "train" not in taken and (others := sorted(taken & _MODES)):
        raise UserError(
            f"--config.model: {type(module).__name__} takes {others[0]}, which nothing sets;"
            f" {_WITH_TRAIN}"
        )
    return "train" in taken


_WITH_TRAIN = "expected train, as in __call__(self, images, *, train)"


def _may_be_traced(network: Network, number: str) -> bool:
    alone = network._replace(numbers=(number,))
    try:
        _, variables, _ = _trace(alone)
        alone = alone._replace(collections=tuple(variables.keys() - {"params"}))
        _apply(alone, variables, True, ("params", "dropout"))
    except (Exception, SystemExit):  # of a branch, a shape, ...; `describe` reports all others
        return False
    return True


def _draws(network: Network, variables: Any) -> bool:
    """Says whether a module draws random numbers in training."""
    with _user_errors(network):
        try:
            _apply(network, variables, True, ())
        except errors.InvalidRngError:
            return True
    return False


def _check_calls(network: Network, variables: Any, shape: tuple[int, ...]) -> None:
    """Calls a module as it is in training and where images are scored.

    Raises:
        UserError: It fails, returns logits of another shape, or changes what must stay.
    """
    name = type(network.module).__name__
    with _user_errors(network):
        logits, changed = _apply(network, variables, True, ("params", "dropout"))
    if (got := getattr(logits, "shape", type(logits).__name__)) != shape:
        raise UserError(
            f"--config.model: {name} gives {got} in training; expected logits of shape {shape}"
        )
    for collection in network.collections:
        if jax.tree.map(_kind, changed[collection]) != jax.tree.map(_kind, variables[collection]):
            raise UserError(
                f"--config.model: {name} changes the structure, shapes or types of its collection"
                f" {collection} in training; expected arrays that stay, as those of nn.BatchNorm"
            )
    with _user_errors(network):
        try:
            _apply(network, variables, False, ())
        except (errors.InvalidRngError, errors.ModifyScopeVariableError):
            raise UserError(
                f"--config.model: {name} draws random numbers, or changes its collections, where"
                f" images are scored; {_WITH_TRAIN}, and neither without it"
            ) from None


_UNCHANGED = {"convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "stop_gradient"}
"""Operations that leave the values as they are."""


def ends_in_softmax(network: Network) -> bool:
    """Says whether the last operation on the logits divides exponentials by something."""

    def call(variables, images, numbers):
        return network.bound(numbers).apply(variables, images, **network.keywords(False))

    def source(jaxpr: Any, variable: Any) -> tuple[Any, Any]:
        """Returns the equation that computes a variable, and the program that it stands in."""
        equation = next((e for e in jaxpr.eqns if variable in e.outvars), None)
        if equation is None:
            return None, jaxpr
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            return source(inner, inner.outvars[equation.outvars.index(variable)])
        if equation.primitive.name in _UNCHANGED:
            return source(jaxpr, equation.invars[0])
        return equation, jaxpr

    program = jax.make_jaxpr(call)(shapes(network), *_inputs(network)).jaxpr
    last, where = source(program, program.outvars[0])
    if last is None or last.primitive.name != "div":
        return False
    numerator, _ = source(where, last.invars[0])
    return numerator is not None and numerator.primitive.name == "exp"


def _kind(array: Any) -> tuple:
    return array.shape, array.dtype


def _apply(network: Network, variables: Any, training: bool, streams: Sequence[str]) -> Any:
    """Returns shapes and types of a call's result; in training also of the changed collections."""

    def call(variables, images, numbers):
        module = network.bound(numbers)
        options = network.keywords(training) | {"rngs": dict.fromkeys(streams, jax.random.key(0))}
        if training:
            options["mutable"] = list(network.collections)
        return module.apply(variables, images, **options)

    return jax.eval_shape(call, variables, *_inputs(network))


def _inputs(network: Network) -> tuple[jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
    """Returns shapes of two images and of the numbers of a trial."""
    number = jax.ShapeDtypeStruct((), jnp.float32)
    images = jax.ShapeDtypeStruct((2, *network.image_shape), jnp.float32)
    return images, dict.fromkeys(network.numbers, number)


@contextlib.contextmanager
def _user_errors(network: Network) -> Iterator[None]:
    """Turns whatever the user's module raises into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        kind, shape = type(network.module), (2, *network.image_shape)
        raise UserError(
            f"--config.model: {kind.__name__} fails on images of shape {shape}:"
            f" {user_code.why(error, user_code.path_of(kind))}; mend it"
        ) from None


def _trace(network: Network) -> tuple[list[Layer], Any, Any]:
    """Returns the layers in the order of calls, and the shapes of variables and result."""
    layers = []

    def note(call, arguments, options, context):
        result = call(*arguments, **options)
        if context.method_name == "__call__" and context.module.scope is not None:
            own = context.module.variables.get("params", {})
            arrays = {name: leaf for name, leaf in own.items() if hasattr(leaf, "shape")}
            if arrays:
                size = sum(math.prod(leaf.shape) for leaf in arrays.values())
                shape = tuple(getattr(result, "shape", ()))
                module, has_kernel = context.module, "kernel" in arrays
                layers.append(Layer(module.path, shape, size, has_kernel, type(module)))
        return result

    def init(images, numbers):
        keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
        return network.bound(numbers).init_with_output(keys, images, **network.keywords(False))

    with _user_errors(network), nn.intercept_methods(note):
        logits, variables = jax.eval_shape(init, *_inputs(network))
    return layers, variables, logits


def shapes(network: Network) -> Any:
    """Returns the shapes and types of a module's variables."""
    _, variables, _ = _trace(network)
    return variables


def layer_table(network: Network) -> str:
    """Returns a table of layers, output shapes and parameter counts, as Keras' `summary()`."""
    layers, _, _ = _trace(network)
    sizes = {layer.path: layer.num_parameters for layer in layers}  # a layer may be called twice
    shapes = [f"({', '.join(['batch', *map(str, layer.shape[1:])])})" for layer in layers]
    room = 80 - max(map(len, shapes)) - len("    Parameters")
    rows = [
        (_cut(layer.path, room) or "model", shape, f"{layer.num_parameters:,}")
        for layer, shape in zip(layers, shapes, strict=True)
    ]
    rows.append(("total", "", f"{sum(sizes.values()):,}"))
    return text_table(("Layer", "Output shape", "Parameters"), rows, left=(0, 1))


def _cut(path: Sequence[str], most: int) -> str:
    """Joins the names of a path; of too many characters, the longest names lose their middle."""
    text = "/".join(path)
    for limit in range(max(map(len, path), default=0), 4, -1):
        head, tail = (limit - 1) // 2, limit // 2
        names = (x if len(x) <= limit else f"{x[:head]}…{x[-tail:]}" for x in path)
        if len(text := "/".join(names)) <= most:
            break
    return text
