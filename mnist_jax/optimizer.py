"""Stochastic gradient descent with the L2 penalty written as weight decay, and its schedules."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from mnist_jax.grid import SCHEDULES

Path = tuple[str, ...]
"""Where the parameters of a layer lie in the tree."""


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

    Keras' `regularizers.l2(l2)` adds `l2 * sum(w ** 2)` to the loss, whose gradient is
    `2 * l2 * w`: that step comes first, so that the momentum acts on the penalty's gradient as on
    the rest. `weight_decay` comes after the momentum: decoupled (I. Loshchilov, F. Hutter,
    "Decoupled Weight Decay Regularization", 2019). The parameters of the output layer lie at
    `output`.
    """
    return optax.chain(
        *_decay(2 * l2, l2_on_output, output),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
        *_decay(weight_decay, l2_on_output, output),
        optax.scale_by_learning_rate(learning_rate),
    )


class Sgd(NamedTuple):
    """`sgd` with its static choices, as `train.Recipe` takes an optimizer.

    Attributes:
        use_momentum: Whether any trial has momentum, and so needs a buffer for it.
        nesterov: Whether the momentum is Nesterov's.
        output: Where the parameters of the output layer lie.
    """

    use_momentum: bool
    nesterov: bool
    output: Path = ("output",)

    def create(
        self, learning_rate: optax.ScalarOrSchedule, *, momentum: ArrayLike, **numbers: ArrayLike
    ) -> optax.GradientTransformation:
        """Returns the chain for one trial."""
        return sgd(
            learning_rate,
            momentum=momentum if self.use_momentum else None,
            nesterov=self.nesterov,
            output=self.output,
            **numbers,
        )

    def penalty(
        self, params: PyTree, *, l2: ArrayLike, l2_on_output: ArrayLike, **_: ArrayLike
    ) -> Float[Array, ""]:
        """Returns what the objective adds to the loss."""
        return l2_penalty(params, l2, l2_on_output, self.output)


def _decay(
    factor: ArrayLike, on_output: ArrayLike, output: Path
) -> list[optax.GradientTransformation]:
    hidden, last = (
        functools.partial(kernel_mask, output=output, of_output=x) for x in (False, True)
    )
    return [
        optax.add_decayed_weights(factor, mask=hidden),
        optax.add_decayed_weights(factor * on_output, mask=last),
    ]


def kernel_mask(params: PyTree, *, output: Path = ("output",), of_output: bool) -> PyTree:
    """Marks the kernel of the output layer, or those of all other layers, however deep they lie."""

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


def create_schedule(
    peak: ArrayLike, kind: ArrayLike, warmup_steps: ArrayLike, num_steps: ArrayLike
) -> Callable[[ArrayLike], Array]:
    """Returns the learning rate as a function of the number of steps done; all may be traced.

    It rises in equal parts to the peak over `warmup_steps`. Then, by `kind`, the index of one of
    `SCHEDULES`, it stays, or falls towards 0, which it would reach after step `num_steps`: as half
    a cosine (I. Loshchilov, F. Hutter, "SGDR", 2017) or in equal parts. Optax has these schedules
    too, but wants their lengths as Python numbers, which a grid's axis is not.
    """

    def learning_rate(step: ArrayLike) -> Array:
        warmup = jnp.asarray(warmup_steps)
        done = jnp.maximum(step - warmup, 0) / (num_steps - warmup)
        falls = {
            "constant": jnp.ones_like(done),
            "cosine": (1 + jnp.cos(jnp.pi * done)) / 2,
            "linear": 1 - done,
        }
        risen = jnp.minimum(1, (jnp.asarray(step) + 1) / jnp.maximum(warmup, 1))
        share = risen * jnp.stack([falls[name] for name in SCHEDULES])[jnp.asarray(kind)]
        return jnp.asarray(peak) * share

    return learning_rate
