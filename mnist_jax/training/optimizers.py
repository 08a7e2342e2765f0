"""The optimizers; SGD has the L2 penalty, written as weight decay."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from mnist_jax import UserError
from mnist_jax.config import user_code

Path = tuple[str, ...]
"""The path of a layer's parameters in the tree."""


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: ArrayLike | None,
    nesterov: bool,
    l2: ArrayLike,
    l2_on_output: ArrayLike,
    weight_decay: ArrayLike,
    output: Path = ("output",),
) -> optax.GradientTransformation:
    """Builds the chain for one trial; every number may be traced.

    With `g` the gradient of the loss and `w` the weights, one step is

        d = g + 2 * l2 * w      for kernels; of the output layer only if `l2_on_output`
        m = d + momentum * m    (m = d where `momentum` is None: no buffer is kept)
        u = d + momentum * m    if `nesterov`, else m
        w = w - learning_rate * (u + weight_decay * w)      decay of the same kernels as above

    Keras' `regularizers.l2(l2)` adds `l2 * sum(w ** 2)` to the loss. The gradient of that is
    `2 * l2 * w`. It comes first, so that the momentum acts on the penalty's gradient as on the
    rest. `weight_decay` comes after the momentum: decoupled (I. Loshchilov, F. Hutter, "Decoupled
    Weight Decay Regularization", 2019). `output` is the path of the output layer's parameters.
    """
    return optax.chain(
        *_decay(2 * l2, l2_on_output, output),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
        *_decay(weight_decay, l2_on_output, output),
        optax.scale_by_learning_rate(learning_rate),
    )


Maker = Callable[..., optax.GradientTransformation]
"""From the learning rate, or its schedule, and keyword parameters to an optimizer."""

MAKERS: dict[str, Maker] = {
    "sgd": sgd,
    "adamw": optax.adamw,
    "lion": optax.lion,
    "muon": optax.contrib.muon,
}
"""By the names of `axes.OPTIMIZERS`, which say what their parameters are."""


class Optimizer(NamedTuple):
    """A maker with its static parameters, as `trial.Recipe` takes an optimizer."""

    make: Maker  # one of `MAKERS`, or the user's own
    static: tuple[tuple[str, Any], ...] = ()  # names and values of what shapes the program

    def create(self, learning_rate: optax.ScalarOrSchedule, **numbers: ArrayLike) -> Any:
        """Returns the optimizer of one trial; its numbers may be traced.

        This is an `optax.GradientTransformation`, unless the user's own maker is at fault.
        """
        made = self.make(learning_rate, **(numbers | dict(self.static)))
        return made.gradient_transformation() if isinstance(made, optax.MultiSteps) else made

    def penalty(self, params: PyTree, **numbers: ArrayLike) -> Float[Array, ""]:
        """Returns what the objective adds to the loss: with `sgd` the L2 term, else 0."""
        if self.make is not sgd:
            return jnp.zeros(())
        output = dict(self.static)["output"]
        return l2_penalty(params, numbers["l2"], numbers["l2_on_output"], output)


def create_optimizer(
    make: str | Maker, static: Mapping[str, Any], numbers: Mapping[str, ArrayLike], output: Path
) -> Optimizer:
    """Returns the optimizer that some trials have in common.

    Its bool, int and str parameters are `static`; `numbers` are the others, arrays [trials].
    `output` is the path of the output layer's parameters.
    """
    make = MAKERS[make] if isinstance(make, str) else make
    static = dict(static)
    if make is sgd:
        static["output"] = output
        if not np.any(numbers["momentum"]):
            static["momentum"] = None  # no trial needs a buffer
    return Optimizer(make, tuple(sorted(static.items())))


def check_optimizer(
    optimizer: Optimizer, name: str, params: PyTree, numbers: Mapping[str, ArrayLike]
) -> None:
    """Traces a step of the user's own optimizer, `name` in the config; computes nothing.

    Its float parameters, `numbers`, are arrays [trials]; `params` may be shapes and types.

    Raises:
        UserError: It fails with traced numbers, is no optimizer, or cannot be run in a loop.
    """

    def refusal(why: str) -> UserError:
        return UserError(f"--config.optimizer={name}: {why}")

    doing, made, is_read = "the call", None, False

    def step(params: PyTree, rate: Array, numbers: dict[str, Array]) -> tuple | None:
        nonlocal doing, made

        def schedule(count: ArrayLike) -> Array:
            nonlocal is_read
            is_read = True
            return rate

        made = optimizer.create(schedule, **numbers)
        if not isinstance(made, optax.GradientTransformation):
            return None
        doing = "its init"
        state = made.init(params)
        doing = "its update"
        return state, *made.update(params, state, params)

    scalars = {key: jax.ShapeDtypeStruct((), jnp.result_type(x)) for key, x in numbers.items()}
    try:
        result = jax.eval_shape(step, params, jax.ShapeDtypeStruct((), jnp.float32), scalars)
    except (Exception, SystemExit) as error:  # a program may raise anything
        why = user_code.why(error, user_code.path_of(optimizer.make))
        raise refusal(
            f"{doing} fails: {why.rstrip('.')}; its float parameters are traced arrays, and"
            " learning_rate is a schedule, a function of the number of steps"
        ) from None
    if result is None:
        raise refusal(
            f"gives an object of type {type(made).__name__}; expected an"
            " optax.GradientTransformation"
        )
    state, updates, next_state = result
    if _shapes(updates) != _shapes(params):
        raise refusal("its updates have not the shapes of the parameters")
    if (_shapes(next_state), _types(next_state)) != (_shapes(state), _types(state)):
        raise refusal("its update changes the structure, shapes or types of its state")
    for dtype in _types(state):
        if not isinstance(dtype, np.dtype):
            raise refusal(f"its state has an array of {dtype}, which no checkpoint can keep")
    if not is_read:
        raise refusal(
            "never asks for the learning rate, its first parameter, which the config says; expected"
            " a function that uses it"
        )


def _shapes(tree: PyTree) -> tuple:
    return jax.tree.structure(tree), [x.shape for x in jax.tree.leaves(tree)]


def _types(tree: PyTree) -> list:
    return [x.dtype for x in jax.tree.leaves(tree)]


def _decay(
    factor: ArrayLike, on_output: ArrayLike, output: Path
) -> list[optax.GradientTransformation]:
    mask = functools.partial(kernel_mask, output=output)
    return [
        optax.add_decayed_weights(factor, functools.partial(mask, of_output=False)),
        optax.add_decayed_weights(factor * on_output, functools.partial(mask, of_output=True)),
    ]


def kernel_mask(params: PyTree, *, output: Path = ("output",), of_output: bool) -> PyTree:
    """Marks the kernel of the output layer, or those of all other layers at any depth."""

    def marked(path: tuple, _) -> bool:
        *layer, name = (entry.key for entry in path)
        return name == "kernel" and (tuple(layer) == output) == of_output

    return jax.tree_util.tree_map_with_path(marked, params)


def l2_penalty(
    params: PyTree, l2: ArrayLike, l2_on_output: ArrayLike, output: Path = ("output",)
) -> Float[Array, ""]:
    """Returns `l2 * sum(w ** 2)` over the regularised kernels: `objective - loss`."""

    def squares(of_output: bool) -> ArrayLike:
        mask = kernel_mask(params, output=output, of_output=of_output)
        kept = jax.tree.map(lambda w, keep: jnp.sum(w**2) if keep else 0.0, params, mask)
        return sum(jax.tree.leaves(kept))

    return jnp.asarray(l2 * (squares(False) + l2_on_output * squares(True)))
