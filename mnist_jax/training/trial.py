"""One trial as pure functions: initial state, train step, epoch, evaluation.

Nothing here knows of other trials: `sweep.py` adds the trial axis from outside.

Notation: `n` images in a split, `batch` images in a step, `steps = ceil(n / batch)`. The last,
partial batch is padded with images of weight 0, so that every step has one shape and every image
counts exactly once. A model's batch statistics must not include padding: with these, the last batch
is a step of its own with its own shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PyTree, UInt8

from mnist_jax.data.datasets import num_batches
from mnist_jax.data.splits import Moments
from mnist_jax.training.networks import Network
from mnist_jax.training.optimizers import Optimizer
from mnist_jax.training.schedules import create_schedule

HostOrDevice = Array | np.ndarray
Variables = dict[str, PyTree]
"""What a Flax module is applied with: `params`, and its other collections beside them."""
Images = UInt8[HostOrDevice, "n ..."] | Float[HostOrDevice, "n ..."]
"""Images [n, height, width], or with channels; bytes become 0 to 1, floats are used as they are."""
Metric = Callable[[Float[Array, "batch classes"], Integer[Array, " batch"]], Array]
"""From logits and labels to a number an image."""


class Hyperparameters(NamedTuple):
    """The traced numbers of a trial: one compiled program serves all their values.

    They are the traced axes of the config, those of the model and the optimizer by name. `schedule`
    is an index of `axes.SCHEDULES`, and `num_steps` the length of the schedule.
    """

    seed: Integer[HostOrDevice, ""]
    learning_rate: Float[HostOrDevice, ""]
    schedule: Integer[HostOrDevice, ""]
    warmup_steps: Integer[HostOrDevice, ""]
    num_steps: Integer[HostOrDevice, ""]
    label_smoothing: Float[HostOrDevice, ""]
    ema_decay: Float[HostOrDevice, ""]
    model: dict[str, HostOrDevice]
    optimizer: dict[str, HostOrDevice]


class Recipe(NamedTuple):
    """The static choices: they shape the compiled program."""

    network: Network
    optimizer: Optimizer
    batch_size: int
    eval_batch_size: int  # images scored at a time
    held_out: str | None  # the split that is scored after each epoch: `validation`, `test` or none
    choose_epoch: bool  # whether the weights of the epoch that is best on it are kept too
    use_ema: bool = False  # whether any trial averages its weights, and so needs a copy of them
    metrics: tuple[tuple[str, Metric], ...] = ()  # by name; beside loss and accuracy
    moments: Moments | None = None  # by which pixels are scaled beside, if the recipe asks for it
    max_shift: int = 0  # pixels by which training images are shifted at most, in each direction


class Split(NamedTuple):
    """A part of the data set on the device, as stored; pixels are scaled where they are used."""

    images: Images
    labels: Integer[HostOrDevice, " n"]


class Best(NamedTuple):
    """The weights of the best epoch so far, and how many held-out images they get right."""

    params: PyTree
    correct: Float[Array, ""]
    collections: Variables | None = None


class TrialState(NamedTuple):
    """What a trial carries from epoch to epoch."""

    params: PyTree
    opt_state: PyTree
    best: Best | None  # the best epoch so far, where one is chosen
    collections: Variables | None = None  # the model's other ones, such as batch statistics
    # The exponential moving average of the parameters since the initial ones, if the recipe asks
    # for it. It is scored with the current collections.
    average: PyTree | None = None
    step: Integer[Array, ""] | None = None  # steps done, if the model draws random numbers in them


class Sums(NamedTuple):
    """Sums over images, to be divided once by their number: exact for any batch size."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    metrics: dict[str, Array]


class EpochSums(NamedTuple):
    """What one epoch of one trial reports.

    `train` is summed over the epoch's steps, each scored before its update, as in Keras. `held_out`
    and `penalty`, the L2 term of the objective, are of the weights after the last step, or of their
    average.
    """

    train: Sums
    held_out: Sums | None
    penalty: Float[Array, ""]


class FinalSums(NamedTuple):
    """The scores of a finished trial's last weights, or their average, and of its best ones."""

    last: Sums
    best: Sums | None
    penalty: Float[Array, ""]


def init(recipe: Recipe, hyper: Hyperparameters) -> TrialState:
    """Returns initial weights, which depend on the seed alone, and the optimizer's state."""
    network = recipe.network
    images = jnp.zeros((1, *network.image_shape))
    module = network.bound(hyper.model)
    variables = dict(module.init(jax.random.key(hyper.seed), images, **network.keywords(False)))
    params = variables.pop("params")
    collections = variables or None
    return TrialState(
        params=params,
        opt_state=make_optimizer(recipe, hyper).init(params),
        best=Best(params, jnp.float32(-jnp.inf), collections) if recipe.choose_epoch else None,
        collections=collections,
        average=params if recipe.use_ema else None,
        step=jnp.int32(0) if network.draws or recipe.max_shift else None,
    )


def variables_of(state: TrialState | Best) -> Variables:
    """Returns what a trial's model is scored with."""
    average = state.average if isinstance(state, TrialState) else None
    params = state.params if average is None else average
    return {"params": params} | (state.collections or {})


def chosen_variables(state: TrialState) -> Variables:
    """Returns the variables that count: of the best epoch if an epoch is chosen, else the last."""
    return variables_of(state if state.best is None else state.best)


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
    scores = None if held_out is None else evaluate(recipe, hyper, variables_of(state), held_out)
    if state.best is not None and scores is not None:
        state = state._replace(best=_better(state.best, state, scores))
    return state, EpochSums(train_sums, scores, _penalty(recipe, hyper, state))


def _better(best: Best, state: TrialState, scores: Sums) -> Best:
    """Takes the weights if they are strictly better: the earliest of equally good epochs stays."""
    correct = jnp.where(jnp.isfinite(scores.loss), scores.correct, -1)
    better = correct > best.correct
    now = Best(variables_of(state)["params"], correct, state.collections)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)


def score(recipe: Recipe, hyper: Hyperparameters, state: TrialState, split: Split) -> FinalSums:
    """Scores a finished trial."""
    best = None if state.best is None else evaluate(recipe, hyper, variables_of(state.best), split)
    last = evaluate(recipe, hyper, variables_of(state), split)
    return FinalSums(last, best, _penalty(recipe, hyper, state))


def predict(recipe: Recipe, hyper: Hyperparameters, variables: Variables, images: Images) -> Array:
    """Returns class probabilities [n, classes], batch by batch."""

    def step(_, indices):
        return None, probabilities(recipe, hyper, variables, images[indices])

    indices, _ = _batches(jnp.arange(len(images)), recipe.eval_batch_size)
    _, found = jax.lax.scan(step, None, indices)
    return found.reshape(-1, found.shape[-1])[: len(images)]


def probabilities(
    recipe: Recipe, hyper: Hyperparameters, variables: Variables, images: Images
) -> Array:
    """Returns class probabilities [batch, classes] of one batch."""
    return jax.nn.softmax(_logits(recipe, hyper, variables, images))


def _penalty(recipe: Recipe, hyper: Hyperparameters, state: TrialState) -> Array:
    return recipe.optimizer.penalty(variables_of(state)["params"], **hyper.optimizer)


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
        indices = indices.astype(jnp.int32)  # only here: orders of many trials are large
        images, labels = split.images[indices], split.labels[indices]
        state, sums = train_step(recipe, hyper, state, images, labels, weights)
        return (state, jax.tree.map(jnp.add, total, sums)), None

    carry = state, _zero(recipe)
    whole = len(order)
    if recipe.network.collections:  # which must not see the images that fill up a batch
        whole -= len(order) % recipe.batch_size
    if whole:
        carry, _ = jax.lax.scan(step, carry, _batches(order[:whole], recipe.batch_size))
    if rest := len(order) - whole:
        carry, _ = step(carry, (order[whole:], jnp.ones(rest)))
    return carry


def train_step(
    recipe: Recipe,
    hyper: Hyperparameters,
    state: TrialState,
    images: Images,
    labels: Integer[Array, " batch"],
    weights: Float[Array, " batch"],
) -> tuple[TrialState, Sums]:
    """Takes one step on the mean loss; the sums are those of the weights before it."""
    gradient = jax.grad(_training_loss, has_aux=True)
    grads, (sums, collections) = gradient(
        state.params, recipe, hyper, state, images, labels, weights
    )
    updates, opt_state = make_optimizer(recipe, hyper).update(grads, state.opt_state, state.params)
    params, average, step = optax.apply_updates(state.params, updates), state.average, state.step
    if average is not None:
        d = hyper.ema_decay
        average = jax.tree.map(lambda old, new: d * old + (1 - d) * new, average, params)
    step = None if step is None else step + 1
    return TrialState(params, opt_state, state.best, collections, average, step), sums


def evaluate(recipe: Recipe, hyper: Hyperparameters, variables: Variables, split: Split) -> Sums:
    """Scores every image of the split once."""

    def step(total, batch):
        indices, weights = batch
        logits = _logits(recipe, hyper, variables, split.images[indices])
        sums = _sums(recipe, logits, split.labels[indices], weights)
        return jax.tree.map(jnp.add, total, sums), None

    in_order = jnp.arange(len(split.labels))
    return jax.lax.scan(step, _zero(recipe), _batches(in_order, recipe.eval_batch_size))[0]


def make_optimizer(recipe: Recipe, hyper: Hyperparameters) -> optax.GradientTransformation:
    """Returns the trial's optimizer, rebuilt for each use, since it holds traced numbers."""
    schedule = create_schedule(
        hyper.learning_rate, hyper.schedule, hyper.warmup_steps, hyper.num_steps
    )
    return recipe.optimizer.create(schedule, **hyper.optimizer)


def _training_loss(
    params, recipe, hyper, state, images, labels, weights
) -> tuple[Array, tuple[Sums, Variables | None]]:
    """Returns the mean cross-entropy with smoothed labels, the sums, which are without, and the
    model's other collections after the step."""
    network = recipe.network
    variables, options = {"params": params} | (state.collections or {}), network.keywords(True)
    if state.step is not None:
        key = jax.random.fold_in(jax.random.key(hyper.seed), 1)  # initial weights took the seed's
        key = jax.random.fold_in(key, state.step)
        options["rngs"] = {"dropout": key, "params": jax.random.fold_in(key, 0)}
        if recipe.max_shift:
            images = shifted(images, jax.random.fold_in(key, 1), recipe.max_shift)
    module, pixels = network.bound(hyper.model), scaled(recipe, images)
    collections = state.collections
    if network.collections:
        mutable = list(network.collections)
        output, changed = module.apply(variables, pixels, mutable=mutable, **options)
        collections = dict(changed)
    else:
        output = module.apply(variables, pixels, **options)
    logits = jnp.asarray(output, jnp.float32)  # whatever the model computes in
    sums = _sums(recipe, logits, labels, weights)
    evenly = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    share = hyper.label_smoothing
    loss = (1 - share) * sums.loss + share * jnp.sum(evenly * weights)
    return loss / jnp.sum(weights), (sums, collections)


def _logits(recipe: Recipe, hyper: Hyperparameters, variables: Variables, images: Images) -> Array:
    module, options = recipe.network.bound(hyper.model), recipe.network.keywords(False)
    return jnp.asarray(module.apply(variables, scaled(recipe, images), **options), jnp.float32)


def scaled(recipe: Recipe, images: Images) -> Float[Array, "batch height width channels"]:
    """Returns what the network sees of images as they are stored."""
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    images = images if images.ndim == 4 else images[..., None]
    if recipe.moments is None:
        return images
    mean, deviation = map(jnp.asarray, recipe.moments)
    return (images - mean) / deviation


def shifted(images: Images, key: Array, most: int) -> Images:
    """Returns images, each shifted by -`most` to `most` pixels down and across, at random.

    Pixels at the border are repeated outside it.
    """
    down, across = jax.random.randint(key, (2, len(images)), 0, 2 * most + 1)
    for axis, places in ((1, down), (2, across)):
        padding = [(most, most) if i == axis else (0, 0) for i in range(images.ndim)]
        padded, size = jnp.pad(images, padding, mode="edge"), images.shape[axis]
        # A choice among slices, since a CPU gathers pixels one by one.
        slices = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * most + 1)]
        places = places.reshape(-1, *[1] * (images.ndim - 1))
        images = jax.lax.select_n(jnp.broadcast_to(places, images.shape), *slices)
    return images


def _sums(recipe: Recipe, logits: Array, labels: Array, weights: Array) -> Sums:
    labels = labels.astype(jnp.int32)
    # By comparison: the gradient of an indexed logit is a scatter, a kernel of its own on a GPU.
    is_label = jnp.arange(logits.shape[-1]) == labels[:, None]
    own = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
    loss = jax.nn.logsumexp(logits, axis=-1) - own
    correct = jnp.argmax(logits, axis=-1) == labels
    metrics = {name: jnp.sum(measure(logits, labels) * weights) for name, measure in recipe.metrics}
    return Sums(jnp.sum(loss * weights), jnp.sum(correct * weights), metrics)


def _zero(recipe: Recipe) -> Sums:
    return Sums(jnp.zeros(()), jnp.zeros(()), {name: jnp.zeros(()) for name, _ in recipe.metrics})


def _batches(order: Integer[Array, " n"], batch_size: int) -> tuple[Array, Array]:
    """Cuts an order of images into [steps, batch] indices and weights, filling up with weight 0."""
    steps = num_batches(len(order), batch_size)
    padding = (0, steps * batch_size - len(order))
    indices = jnp.pad(order, padding)
    weights = jnp.pad(jnp.ones(len(order)), padding)
    return indices.reshape(steps, batch_size), weights.reshape(steps, batch_size)
