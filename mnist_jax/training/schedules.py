"""The learning-rate schedules: how the rate rises and falls with the steps of training."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array

from mnist_jax.config.axes import SCHEDULES


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
        share = risen * lax.select_n(jnp.asarray(kind), *(falls[name] for name in SCHEDULES))
        return jnp.asarray(peak) * share

    return learning_rate
