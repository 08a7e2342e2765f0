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

from mnist_jax.optimizer import create_optimizer, create_schedule, l2_penalty

IMAGE_SIZE = 28
HostOrDevice = Array | np.ndarray


class Hyperparameters(NamedTuple):
    """The traced numbers of a trial: one compiled program serves all their values.

    They are those of `grid.Point`; `schedule` is an index of `grid.SCHEDULES`, and `num_steps` the
    length of the schedule.
    """

    seed: Integer[HostOrDevice, ""]
    learning_rate: Float[HostOrDevice, ""]
    schedule: Integer[HostOrDevice, ""]
    warmup_steps: Integer[HostOrDevice, ""]
    num_steps: Integer[HostOrDevice, ""]
    momentum: Float[HostOrDevice, ""]
    l2: Float[HostOrDevice, ""]
    l2_on_output: Float[HostOrDevice, ""]
    weight_decay: Float[HostOrDevice, ""]
    label_smoothing: Float[HostOrDevice, ""]


class Recipe(NamedTuple):
    """The static choices: they shape the compiled program.

    Attributes:
        model: The Flax module.
        batch_size: Images in a training step.
        eval_batch_size: Images scored at a time.
        use_momentum: Whether any trial has momentum, and so needs a buffer for it.
        nesterov: Whether the momentum is Nesterov's.
        choose_epoch: Whether the weights of the best epoch are kept beside the last.
    """

    model: nn.Module
    batch_size: int
    eval_batch_size: int
    use_momentum: bool
    nesterov: bool
    choose_epoch: bool


class Split(NamedTuple):
    """A part of the data set on the device, as stored; pixels are scaled where they are used."""

    images: UInt8[HostOrDevice, "n height width"]
    labels: UInt8[HostOrDevice, " n"]


class Best(NamedTuple):
    """The weights of the best epoch so far, and how many held-out images they get right."""

    params: PyTree
    correct: Float[Array, ""]


class TrialState(NamedTuple):
    """What a trial carries from epoch to epoch."""

    params: PyTree
    opt_state: PyTree
    best: Best | None


class Sums(NamedTuple):
    """Sums over images, to be divided once by their number: exact for any batch size."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]


class EpochSums(NamedTuple):
    """What one epoch of one trial reports.

    `train` is summed over the epoch's steps, each scored before its update, as Keras reports
    training accuracy. `held_out` is of the weights after the last step, and so is `penalty`, the
    L2 term of the objective.
    """

    train: Sums
    held_out: Sums | None
    penalty: Float[Array, ""]


class FinalSums(NamedTuple):
    """The scores of a finished trial: of its last weights, and of those of its best epoch."""

    last: Sums
    best: Sums | None
    penalty: Float[Array, ""]


def init(recipe: Recipe, hyper: Hyperparameters) -> TrialState:
    """Returns initial weights, which depend on the seed alone, and the optimizer's state."""
    images = jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE))
    params = recipe.model.init(jax.random.key(hyper.seed), images)["params"]
    best = Best(params, jnp.float32(-jnp.inf)) if recipe.choose_epoch else None
    return TrialState(params, make_optimizer(recipe, hyper).init(params), best)


def run_epoch(
    recipe: Recipe,
    hyper: Hyperparameters,
    state: TrialState,
    order: Integer[Array, " n"],
    split: Split,
    held_out: Split | None,
) -> tuple[TrialState, EpochSums]:
    """Trains one epoch in the given order of images, then scores the held-out split."""
    state, train_sums = train_epoch(recipe, hyper, state, order, split)
    scores = None if held_out is None else evaluate(recipe, state.params, held_out)
    if state.best is not None and scores is not None:
        state = state._replace(best=_better(state.best, state.params, scores))
    return state, EpochSums(train_sums, scores, _penalty(hyper, state.params))


def _better(best: Best, params: PyTree, scores: Sums) -> Best:
    """Takes the weights if they are strictly better: the earliest of equally good epochs stays."""
    correct = jnp.where(jnp.isfinite(scores.loss), scores.correct, -1)
    better = correct > best.correct
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), Best(params, correct), best)


def score(recipe: Recipe, hyper: Hyperparameters, state: TrialState, split: Split) -> FinalSums:
    """Scores a finished trial."""
    best = None if state.best is None else evaluate(recipe, state.best.params, split)
    last = evaluate(recipe, state.params, split)
    return FinalSums(last, best, _penalty(hyper, state.params))


def predict(recipe: Recipe, params: PyTree, images: UInt8[Array, "n height width"]) -> Array:
    """Returns class probabilities [n, classes]."""

    def step(_, indices):
        return None, jax.nn.softmax(_logits(recipe, params, images[indices]))

    indices, _ = _batches(jnp.arange(len(images)), recipe.eval_batch_size)
    _, probabilities = jax.lax.scan(step, None, indices)
    return probabilities.reshape(-1, probabilities.shape[-1])[: len(images)]


def _penalty(hyper: Hyperparameters, params: PyTree) -> Array:
    return l2_penalty(params, hyper.l2, hyper.l2_on_output)


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
    gradient = jax.grad(_training_loss, has_aux=True)
    grads, sums = gradient(state.params, recipe, hyper, images, labels, weights)
    updates, opt_state = make_optimizer(recipe, hyper).update(grads, state.opt_state, state.params)
    return TrialState(optax.apply_updates(state.params, updates), opt_state, state.best), sums


def evaluate(recipe: Recipe, params: PyTree, split: Split) -> Sums:
    """Scores every image of the split once."""

    def step(total, batch):
        indices, weights = batch
        logits = _logits(recipe, params, split.images[indices])
        sums = _sums(logits, split.labels[indices], weights)
        return jax.tree.map(jnp.add, total, sums), None

    in_order = jnp.arange(len(split.labels))
    return jax.lax.scan(step, _zero(), _batches(in_order, recipe.eval_batch_size))[0]


def make_optimizer(recipe: Recipe, hyper: Hyperparameters) -> optax.GradientTransformation:
    """Returns the trial's optimizer; made anew where it is used, since it holds traced numbers."""
    return create_optimizer(
        create_schedule(hyper.learning_rate, hyper.schedule, hyper.warmup_steps, hyper.num_steps),
        hyper.momentum if recipe.use_momentum else None,
        nesterov=recipe.nesterov,
        l2=hyper.l2,
        l2_on_output=hyper.l2_on_output,
        weight_decay=hyper.weight_decay,
    )


def _training_loss(params, recipe, hyper, images, labels, weights) -> tuple[Array, Sums]:
    """Returns the mean cross-entropy with smoothed labels, and the sums, which are without."""
    logits = _logits(recipe, params, images)
    sums = _sums(logits, labels, weights)
    evenly = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    share = hyper.label_smoothing
    loss = (1 - share) * sums.loss + share * jnp.sum(evenly * weights)
    return loss / jnp.sum(weights), sums


def _logits(recipe: Recipe, params: PyTree, images: UInt8[Array, "batch height width"]) -> Array:
    return jnp.asarray(recipe.model.apply({"params": params}, images.astype(jnp.float32) / 255))


def _sums(logits: Array, labels: Array, weights: Array) -> Sums:
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
