"""What is measured of every image beside loss and accuracy.

A metric is a function from logits [batch, classes] and labels [batch] to one number an image, of
which a run reports the mean over a split. Those here have the names of `columns.METRICS`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mnist_jax import UserError
from mnist_jax.config import user_code

Logits = Float[Array, "batch classes"]
Labels = Integer[Array, " batch"]
Numbers = Float[Array, " batch"]


def top_2_accuracy(logits: Logits, labels: Labels) -> Numbers:
    """Returns 1 where the label is of the two likeliest classes (the first of equals), else 0."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1])[None] < labels[:, None]
    ahead = (logits > own) | ((logits == own) & earlier)
    return (jnp.sum(ahead, axis=1) < 2).astype(logits.dtype)


def brier_score(logits: Logits, labels: Labels) -> Numbers:
    """Returns the sum over classes of (probability - target)^2, from 0 (best) to 2.

    G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950. For two
    classes, some divide it by 2.
    """
    targets = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return ((jax.nn.softmax(logits) - targets) ** 2).sum(axis=1)


def confidence(logits: Logits, labels: Labels) -> Numbers:
    """Returns the probability of the likeliest class; if calibrated, the accuracy on average."""
    return jax.nn.softmax(logits).max(axis=1)


def check_metric(function: Callable, name: str, num_classes: int) -> None:
    """Traces the user's own metric, which the config calls by that name; computes nothing.

    Raises:
        UserError: It fails, or gives something else than a number an image.
    """
    batch = num_classes + 1
    logits = jax.ShapeDtypeStruct((batch, num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    given = f"--config.metrics={name}"
    try:
        found = jax.eval_shape(function, logits, labels)
    except (Exception, SystemExit) as error:  # a program may raise anything
        why = user_code.why(error, user_code.path_of(function))
        raise UserError(
            f"{given}: fails on logits of shape {logits.shape} and labels of shape {labels.shape},"
            f" both traced arrays: {why.rstrip('.')}; mend it"
        ) from None
    shape = getattr(found, "shape", None)
    if shape != labels.shape or jnp.issubdtype(found.dtype, jnp.complexfloating):
        got = type(found).__name__ if shape is None else f"{found.dtype} of shape {shape}"
        raise UserError(
            f"{given}: gives {got} for {batch} images; expected a number an image, of shape"
            f" {labels.shape}"
        )
