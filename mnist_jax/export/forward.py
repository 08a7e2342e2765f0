"""The function that an exported file holds: from images to probabilities, for any batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from mnist_jax import layers
from mnist_jax.runs.trained_trial import TrainedTrial
from mnist_jax.training import trial

PLATFORMS = ("cpu", "cuda", "tpu")


class Forward(NamedTuple):
    """From images as the data set has them to probabilities, with the weights as constants."""

    program: ClosedJaxpr
    images: jax.ShapeDtypeStruct  # [batch, height, width], or with channels; the batch is symbolic

    def exported(self) -> jax.export.Exported:
        """Returns the program as StableHLO."""

        def predict(images):
            return jaxpr_as_fun(self.program)(images)[0]

        return jax.export.export(jax.jit(predict), platforms=PLATFORMS)(self.images)


def trace(trained: TrainedTrial) -> Forward:
    """Traces what a trial predicts, scaling included, in the plain operations of Flax.

    JAX must be set up, by `trained.jax()`.
    """
    recipe, hyper, variables = trained.program

    def predict(images: Any) -> jax.Array:
        return trial.probabilities(recipe, hyper, variables, images)

    def predict_each(images: Any) -> jax.Array:
        return jax.vmap(lambda image: predict(image[None])[0])(images)

    height, width, channels = trained.image_shape
    shape = (height, width, channels) if channels > 1 else (height, width)
    dtype = jnp.float32 if trained.takes_floats else jnp.uint8
    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, *shape), dtype)
    with layers.traced_plainly():
        try:
            program = jax.make_jaxpr(predict)(images)
        except Exception:  # of a model that asks for len(images), say
            program = jax.make_jaxpr(predict_each)(images)
    return Forward(program, images)
