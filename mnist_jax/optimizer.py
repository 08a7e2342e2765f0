"""Stochastic gradient descent with the L2 penalty written as weight decay."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree


def create_optimizer(
    learning_rate: ArrayLike,
    momentum: ArrayLike | None,
    l2: ArrayLike,
    *,
    l2_on_output: bool,
) -> optax.GradientTransformation:
    """Builds the chain for one trial; every number may be traced.

    With `g` the gradient of the cross-entropy and `w` the weights, one step is

        d = g + 2 * l2 * w      for the kernels that `kernel_mask` selects, else d = g
        m = d + momentum * m    (m = d where `momentum` is None: no buffer is kept)
        w = w - learning_rate * m

    Keras' `regularizers.l2(l2)` adds `l2 * sum(w ** 2)` to the loss, whose gradient is
    `2 * l2 * w`. `add_decayed_weights` comes before `sgd` so that the learning rate and the
    momentum act on the penalty's gradient as on the rest of the loss.
    """
    return optax.chain(
        optax.add_decayed_weights(2 * l2, mask=lambda p: kernel_mask(p, l2_on_output=l2_on_output)),
        optax.sgd(learning_rate, momentum),
    )


def kernel_mask(params: PyTree, *, l2_on_output: bool) -> PyTree:
    """Marks the regularised leaves: all kernels, that of the `output` layer only if asked for."""

    def regularised(path: tuple, _) -> bool:
        *_, layer, name = (entry.key for entry in path)
        return name == "kernel" and (l2_on_output or layer != "output")

    return jax.tree_util.tree_map_with_path(regularised, params)


def l2_penalty(params: PyTree, l2: ArrayLike, *, l2_on_output: bool) -> Float[Array, ""]:
    """Returns `l2 * sum(w ** 2)` over the regularised kernels: `objective - loss`."""
    mask = kernel_mask(params, l2_on_output=l2_on_output)
    squares = jax.tree.map(lambda w, keep: jnp.sum(w**2) if keep else 0.0, params, mask)
    return jnp.asarray(l2) * sum(jax.tree.leaves(squares))
