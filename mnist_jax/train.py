"""One trial as pure functions: initial state, train step, epoch, evaluation.

Nothing here knows that there are many trials: `sweep.py` adds the trial axis from outside.

Notation: `n` images in a split, `batch` images in a step, `steps = ceil(n / batch)`. The last,
partial batch is filled up with images of weight 0, so that every step has one shape and every
image counts exactly once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Integer, PyTree, UInt8

from mnist_jax.optimizer import create_optimizer, l2_penalty

IMAGE_SIZE = 28
HostOrDevice = Array | np.ndarray


class Hyperparameters(NamedTuple):
    """The traced numbers of a trial: one compiled program serves all their values."""

    seed: Integer[HostOrDevice, ""]
    learning_rate: Float[HostOrDevice, ""]
    momentum: Float[HostOrDevice, ""]
    l2: Float[HostOrDevice, ""]


class Recipe(NamedTuple):
    """The static choices: they shape the compiled program.

    Attributes:
        model: The Flax module.
        batch_size: Images in a training step.
        eval_batch_size: Images scored at a time.
        use_momentum: Whether any trial has momentum, and so needs a buffer for it.
        l2_on_output: Whether the penalty covers the output kernel too.
    """

    model: nn.Module
    batch_size: int
    eval_batch_size: int
    use_momentum: bool
    l2_on_output: bool


class Split(NamedTuple):
    """A part of the data set on the device, as stored; pixels are scaled where they are used."""

    images: UInt8[HostOrDevice, "n height width"]
    labels: UInt8[HostOrDevice, " n"]


class TrialState(NamedTuple):
    """What a trial carries from step to step."""

    params: PyTree
    opt_state: PyTree


class Sums(NamedTuple):
    """Sums over images, to be divided once by their number: exact for any batch size."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]


class EpochSums(NamedTuple):
    """What one epoch of one trial reports.

    `train` is summed over the epoch's steps, each scored before its update, as Keras reports
    training accuracy. `held_out` (by split name) is of the weights after the last step, and so
    is `penalty`, the L2 term of the objective.
    """

    train: Sums
    held_out: dict[str, Sums]
    penalty: Float[Array, ""]


def init(recipe: Recipe, hyper: Hyperparameters) -> TrialState:
    """Returns initial weights, which depend on the seed alone, and the optimizer's state."""
    images = jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE))
    params = recipe.model.init(jax.random.key(hyper.seed), images)["params"]
    return TrialState(params, make_optimizer(recipe, hyper).init(params))


def run_epoch(
    recipe: Recipe,
    hyper: Hyperparameters,
    state: TrialState,
    order: Integer[Array, " n"],
    split: Split,
    held_out: dict[str, Split],
) -> tuple[TrialState, EpochSums]:
    """Trains one epoch in the given order of images, then scores the held-out splits."""
    state, train_sums = train_epoch(recipe, hyper, state, order, split)
    scores = {name: evaluate(recipe, state.params, held) for name, held in held_out.items()}
    penalty = l2_penalty(state.params, hyper.l2, l2_on_output=recipe.l2_on_output)
    return state, EpochSums(train_sums, scores, penalty)


def train_epoch(
    recipe: Recipe,
    hyper: Hyperparameters,
    state: TrialState,
    order: Integer[Array, " n"],
    split: Split,
) -> tuple[TrialState, Sums]:
    """Visits every image once, in the given order."""

    def step(carry, batch):
        state, total = carry
        indices, weights = batch
        images, labels = split.images[indices], split.labels[indices]
        state, sums = train_step(recipe, hyper, state, images, labels, weights)
        return (state, jax.tree.map(jnp.add, total, sums)), None

    (state, sums), _ = jax.lax.scan(step, (state, _zero()), _batches(order, recipe.batch_size))
    return state, sums


def train_step(
    recipe: Recipe,
    hyper: Hyperparameters,
    state: TrialState,
    images: UInt8[Array, "batch height width"],
    labels: UInt8[Array, " batch"],
    weights: Float[Array, " batch"],
) -> tuple[TrialState, Sums]:
    """Takes one SGD step on the mean loss; the sums are those of the weights before it."""
    gradient = jax.grad(_mean_loss, has_aux=True)
    grads, sums = gradient(state.params, recipe, images, labels, weights)
    updates, opt_state = make_optimizer(recipe, hyper).update(grads, state.opt_state, state.params)
    return TrialState(optax.apply_updates(state.params, updates), opt_state), sums


def evaluate(recipe: Recipe, params: PyTree, split: Split) -> Sums:
    """Scores every image of the split once."""

    def step(total, batch):
        indices, weights = batch
        sums = _sums(params, recipe, split.images[indices], split.labels[indices], weights)
        return jax.tree.map(jnp.add, total, sums), None

    in_order = jnp.arange(len(split.labels))
    return jax.lax.scan(step, _zero(), _batches(in_order, recipe.eval_batch_size))[0]


def make_optimizer(recipe: Recipe, hyper: Hyperparameters) -> optax.GradientTransformation:
    """Returns the trial's optimizer; made anew where it is used, since it holds traced numbers."""
    momentum = hyper.momentum if recipe.use_momentum else None
    return create_optimizer(
        hyper.learning_rate, momentum, hyper.l2, l2_on_output=recipe.l2_on_output
    )


def _mean_loss(params, recipe, images, labels, weights) -> tuple[Array, Sums]:
    sums = _sums(params, recipe, images, labels, weights)
    return sums.loss / jnp.sum(weights), sums


def _sums(params, recipe, images, labels, weights) -> Sums:
    logits = recipe.model.apply({"params": params}, images.astype(jnp.float32) / 255)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(jnp.int32))
    correct = jnp.argmax(logits, axis=-1) == labels
    return Sums(jnp.sum(loss * weights), jnp.sum(correct * weights))


def _zero() -> Sums:
    return Sums(jnp.zeros(()), jnp.zeros(()))


def _batches(order: Integer[Array, " n"], batch_size: int) -> tuple[Array, Array]:
    """Cuts an order of images into [steps, batch] indices and weights, filling up with weight 0."""
    steps = -(-len(order) // batch_size)
    padding = (0, steps * batch_size - len(order))
    indices = jnp.pad(order.astype(jnp.int32), padding)
    weights = jnp.pad(jnp.ones(len(order)), padding)
    return indices.reshape(steps, batch_size), weights.reshape(steps, batch_size)
