import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from base import create_model
from flax import linen as nn

from mnist_jax import UserError, layers
from mnist_jax.config.axes import SCHEDULES
from mnist_jax.training import networks, optimizers, trial
from mnist_jax.training.trial import Hyperparameters, Recipe, Split

NUM_IMAGES = 11
# Compiled once for all tests that have the same recipe.
init, train_epoch, run_epoch, evaluate = (
    jax.jit(function, static_argnums=0)
    for function in (trial.init, trial.train_epoch, trial.run_epoch, trial.evaluate)
)


def recipe(model, use_momentum=True, **changes):
    defaults = {"batch_size": 4, "eval_batch_size": 4, "held_out": "test", "choose_epoch": True}
    network = networks.describe(model, (28, 28, 1), 10)
    static = {"nesterov": False}
    sgd = optimizers.create_optimizer("sgd", static, {"momentum": use_momentum}, network.output)
    return Recipe(network, sgd, **(defaults | changes))


def hyperparameters(**changes):
    numbers = {
        "learning_rate": 0.1,
        "momentum": 0.9,
        "l2": 0.01,
        "l2_on_output": 0.0,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
    }
    counts = {"seed": 0, "schedule": 0, "warmup_steps": 0, "num_steps": 24}
    given = {k: jnp.float32(changes.pop(k, v)) for k, v in numbers.items()}
    given |= {k: jnp.int32(changes.pop(k, v)) for k, v in counts.items()}
    assert not changes
    names = ("momentum", "l2", "l2_on_output", "weight_decay")
    given["optimizer"] = {name: given.pop(name) for name in names}
    given["model"] = {}
    return Hyperparameters(**given)


@pytest.fixture
def mlp():
    return create_model(conv_features=(), hidden_sizes=(6, 5))


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 28, 28), np.uint8)
    return Split(jnp.asarray(images), jnp.asarray(rng.integers(0, 10, NUM_IMAGES, np.uint8)))


def assert_trees_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def numpy_epochs(params, split, orders, batch_size, learning_rate, momentum, l2, smoothing):
    """Trains a 784-6-5-10 network by hand in float64, the learning rate falling along a line.

    Returns:
        Weights and last epoch's sums.
    """
    num_steps, steps = len(orders) * -(-len(split.labels) // batch_size), 0
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    velocity = jax.tree.map(np.zeros_like, params)
    names = ("hidden_1", "hidden_2", "output")
    x_all = np.asarray(split.images, np.float64).reshape(len(split.labels), -1) / 255
    y_all = np.eye(10)[np.asarray(split.labels)]
    for order in orders:
        loss, correct = 0.0, 0
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            inputs, target = [x_all[index]], y_all[index]
            for name in names:
                h = inputs[-1] @ params[name]["kernel"] + params[name]["bias"]
                inputs.append(np.maximum(h, 0) if name != "output" else h)
            logits = inputs.pop()
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            loss -= np.log(p[target == 1]).sum()
            correct += (p.argmax(axis=1) == target.argmax(axis=1)).sum()
            delta = (p - (1 - smoothing) * target - smoothing / 10) / len(index)
            rate, steps = learning_rate * (1 - steps / num_steps), steps + 1
            for name, h in zip(reversed(names), reversed(inputs), strict=True):
                kernel = params[name]["kernel"]
                decay = 0 if name == "output" else 2 * l2 * kernel
                grads = {"kernel": h.T @ delta + decay, "bias": delta.sum(axis=0)}
                delta = (delta @ kernel.T) * (h > 0)
                for leaf, g in grads.items():
                    velocity[name][leaf] = g + momentum * velocity[name][leaf]
                    params[name][leaf] = params[name][leaf] - rate * velocity[name][leaf]
    return params, loss, correct


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_trajectory_equals_one_computed_by_numpy_in_float64(mlp, split, smoothing):
    linear = SCHEDULES.index("linear")
    r, hyper = recipe(mlp), hyperparameters(schedule=linear, label_smoothing=smoothing)
    state = start = init(r, hyper)
    orders = [np.random.default_rng(e).permutation(NUM_IMAGES) for e in range(8)]
    for order in orders:
        state, sums = train_epoch(r, hyper, state, jnp.asarray(order), split)
    params, loss, correct = numpy_epochs(start.params, split, orders, 4, 0.1, 0.9, 0.01, smoothing)
    assert_trees_close(state.params, params, atol=1e-5)
    assert float(sums.loss) == pytest.approx(loss, rel=1e-5)
    assert int(sums.correct) == correct


@pytest.mark.parametrize("batch_size", [1, 4, NUM_IMAGES, 100])
def test_evaluation_scores_every_image_once(mlp, split, batch_size):
    params = init(recipe(mlp), hyperparameters()).params
    images = split.images[..., None] / 255.0
    logits = np.asarray(mlp.apply({"params": params}, images), np.float64)
    labels = np.asarray(split.labels)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(NUM_IMAGES), labels]
    sums = evaluate(
        recipe(mlp, eval_batch_size=batch_size), hyperparameters(), {"params": params}, split
    )
    assert float(sums.loss) == pytest.approx(losses.sum(), rel=1e-5)
    assert int(sums.correct) == (logits.argmax(axis=1) == labels).sum()


def test_an_order_is_widened_batch_by_batch(mlp, split):
    """Many trials have many orders, which are of 16 bits."""
    r, order = recipe(mlp), jnp.arange(NUM_IMAGES, dtype=jnp.uint16)
    epoch = functools.partial(trial.train_epoch, r)
    hyper = hyperparameters()
    text = str(jax.make_jaxpr(epoch)(hyper, init(r, hyper), order, split))
    sizes = [
        math.prod(map(int, found.split(","))) for found in re.findall(r"i32\[([\d,]+)\]", text)
    ]
    assert 0 < max(sizes) < NUM_IMAGES


def test_no_momentum_is_momentum_zero(mlp, split):
    hyper, order = hyperparameters(momentum=0.0), jnp.arange(NUM_IMAGES)
    trained = []
    for use_momentum in (False, True):
        r = recipe(mlp, use_momentum=use_momentum)
        state = init(r, hyper)
        trained.append(train_epoch(r, hyper, state, order, split)[0].params)
    assert_trees_close(*trained, rtol=1e-6)


def test_initial_weights_depend_on_the_seed_alone(mlp):
    first, same, other = (
        init(recipe(mlp), hyperparameters(seed=seed, l2=l2)).params
        for seed, l2 in [(0, 0.0), (0, 0.5), (1, 0.0)]
    )
    assert_trees_close(first, same, rtol=0)
    assert not np.array_equal(first["output"]["kernel"], other["output"]["kernel"])


def test_run_epoch_reports_the_held_out_split_and_the_penalty(mlp, split):
    r, hyper = recipe(mlp), hyperparameters(l2=0.5)
    tail = Split(split.images[8:], split.labels[8:])
    start, order = init(r, hyper), jnp.arange(8)
    state, sums = run_epoch(r, hyper, start, order, split, tail)
    assert_trees_close(
        sums.held_out, evaluate(r, hyperparameters(), {"params": state.params}, tail)
    )
    kernels = [np.asarray(state.params[k]["kernel"]) for k in ("hidden_1", "hidden_2")]
    assert float(sums.penalty) == pytest.approx(sum(0.5 * (k**2).sum() for k in kernels), rel=1e-5)
    assert run_epoch(r, hyper, start, order, split, None)[1].held_out is None


def test_the_weights_of_the_best_epoch_are_kept_and_scored(mlp, split):
    r, hyper = recipe(mlp), hyperparameters()
    state = init(r, hyper)
    history = []
    for epoch in range(12):
        order = jnp.asarray(np.random.default_rng(epoch).permutation(NUM_IMAGES))
        state, sums = run_epoch(r, hyper, state, order, split, split)
        history.append((int(sums.held_out.correct), state.params))
    counts = [correct for correct, _ in history]
    best = counts.index(max(counts))  # the earliest
    assert best < len(counts) - 1
    assert_trees_close(state.best.params, history[best][1], rtol=0)
    final = trial.score(r, hyper, state, split)
    assert int(final.best.correct) == max(counts)
    assert int(final.last.correct) == counts[-1]


@pytest.mark.parametrize("finite_first", [True, False])
def test_weights_that_are_not_numbers_are_best_only_before_all_others(mlp, split, finite_first):
    r, hyper = recipe(mlp), hyperparameters(learning_rate=0.0)
    sound = init(r, hyper)
    broken = sound._replace(params=jax.tree.map(lambda w: w * jnp.nan, sound.params))
    state = sound
    for now in (sound, broken) if finite_first else (broken, sound):
        state = now._replace(best=state.best)
        state, _ = run_epoch(r, hyper, state, jnp.arange(NUM_IMAGES), split, split)
    assert_trees_close(state.best.params, sound.params)


def test_nothing_is_kept_where_nothing_is_chosen(mlp, split):
    r, hyper = recipe(mlp, choose_epoch=False), hyperparameters()
    state, _ = run_epoch(r, hyper, init(r, hyper), jnp.arange(8), split, split)
    assert state.best is None
    assert trial.score(r, hyper, state, split).best is None


def test_predictions_are_the_softmax_of_every_image_in_order(mlp, split):
    params = init(recipe(mlp), hyperparameters()).params
    found = trial.predict(recipe(mlp), hyperparameters(), {"params": params}, split.images)
    images = split.images[..., None] / 255.0
    logits = np.asarray(mlp.apply({"params": params}, images), np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_loss_of_equal_logits_is_log_ten(split):
    class Zero(nn.Module):
        @nn.compact
        def __call__(self, images):
            bias = self.param("bias", nn.initializers.zeros, (10,))
            return jnp.zeros((len(images), 10)) + bias[None]

    sums = evaluate(recipe(Zero()), hyperparameters(), {"params": {"bias": jnp.zeros(10)}}, split)
    assert float(sums.loss) / NUM_IMAGES == pytest.approx(np.log(10), rel=1e-6)


# --- modules of others ---


class Block(nn.Module):
    """A module in a module, with batch statistics and dropout."""

    features: int = 3

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.features, (3, 3), (2, 2))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(0.3, deterministic=not train)(nn.relu(x))


class Nested(nn.Module):
    """Blocks three deep, whose last layer is not called the output."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Sequential([lambda x: Block()(x, train), lambda x: Block(2)(x, train)])(images)
        return nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))


class Normed(nn.Module):
    """A network with batch norm alone."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(6)(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(10)(nn.relu(x))


def test_what_must_be_known_of_a_module_is_found_out():
    found = networks.describe(Nested(), (28, 28, 1), 10)
    assert (found.collections, found.draws, found.takes_train) == (("batch_stats",), True, True)
    assert found.output == ("head",)
    table = networks.layer_table(found)
    assert "Block_1/BatchNorm_0" in table
    assert table.splitlines()[-1].split() == ["total", f"{3 * 10 + 3 * 2 + 2 * 28 + 2 * 2 + 990:,}"]
    plain = networks.describe(create_model(conv_features=(2,), hidden_sizes=()), (9, 9, 3), 10)
    assert (plain.collections, plain.draws, plain.takes_train) == ((), False, False)
    assert plain.output == ("output",)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda x: x, r"\(2, 28, 28, 1\) for 2 images; expected logits of shape \(2, 10\)"),
        (lambda x: (x, x), "gives tuple for 2 images"),
        (lambda x: jnp.zeros((2, 10)), "has no parameters"),
    ],
)
def test_a_module_that_gives_no_logits_is_refused(returned, said):
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, images):
            return returned(images)

    with pytest.raises(UserError, match=said):
        networks.describe(Odd(), (28, 28, 1), 10)


class Blind(nn.Module):
    """Drops always, whether it is trained or not."""

    @nn.compact
    def __call__(self, images):
        x = nn.Dropout(0.5, deterministic=False)(images.reshape(len(images), -1))
        return nn.Dense(10)(x)


class Restless(nn.Module):
    """Keeps statistics of every batch."""

    @nn.compact
    def __call__(self, images):
        x = nn.BatchNorm(use_running_average=False)(images.reshape(len(images), -1))
        return nn.Dense(10)(x)


class Growing(nn.Module):
    """Keeps what it sows in every step."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(10)(images.reshape(len(images), -1))
        self.sow("losses", "activity", jnp.sum(x**2))
        return x


class TwoHeaded(nn.Module):
    """Gives more than logits in training."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(10)(images.reshape(len(images), -1))
        return (x, x) if train else x


class Drifting(nn.Module):
    """Counts in a type that a step changes."""

    @nn.compact
    def __call__(self, images, *, train):
        count = self.variable("count", "batches", lambda: jnp.int32(0))
        if train:
            count.value = count.value + 1.0
        return nn.Dense(10)(images.reshape(len(images), -1))


class Deterministic(nn.Module):
    """Is told of training by another word."""

    @nn.compact
    def __call__(self, images, deterministic=True):
        x = nn.Dropout(0.5)(images.reshape(len(images), -1), deterministic=deterministic)
        return nn.Dense(10)(x)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Blind, "Blind draws random numbers, .* where images are scored; expected train, as in"),
        (Restless, "Restless .* changes its collections, where images are scored; expected train"),
        (Growing, r"Growing has variables that no run can keep, at \['losses'\]\['activity'\]"),
        (Drifting, "Drifting changes the structure, .* of its collection count in training"),
        (TwoHeaded, r"TwoHeaded gives tuple in training; expected logits of shape \(2, 10\)"),
        (Deterministic, "Deterministic takes deterministic, which nothing sets; expected train"),
    ],
)
def test_a_module_that_cannot_be_trained_or_scored_is_refused(module, said):
    with pytest.raises(UserError, match=said):
        networks.describe(module(), (28, 28, 1), 10)


def test_a_field_that_only_python_can_use_is_not_traced():
    class Named(nn.Module):
        rate: float = 0.5
        scale: float = 1.0

        @nn.compact
        def __call__(self, images):
            x = nn.Dense(10, name=f"output_{self.rate:.1f}")(images.reshape(len(images), -1))
            return x * self.scale

    found = networks.describe(Named(), (28, 28, 1), 10, ["rate", "scale"])
    assert found.numbers == ("scale",)
    assert found.output == ("output_0.5",)


def test_a_dropout_rate_is_traced_beside_batch_statistics():
    class Both(nn.Module):
        rate: float = 0.5

        @nn.compact
        def __call__(self, images, *, train):
            x = images.reshape(len(images), -1)
            x = nn.BatchNorm(use_running_average=not train)(x)
            return nn.Dense(10)(layers.Dropout(self.rate)(x, deterministic=not train))

    assert networks.describe(Both(), (28, 28, 1), 10, ["rate"]).numbers == ("rate",)


def test_the_penalty_leaves_out_the_last_layer_however_deep_the_others_lie():
    network = networks.describe(Nested(), (28, 28, 1), 10)
    params = init(recipe(Nested()), hyperparameters()).params
    marked = {
        "/".join(key.key for key in path)
        for path, of_it in jax.tree_util.tree_leaves_with_path(
            optimizers.kernel_mask(params, output=network.output, of_output=False)
        )
        if of_it
    }
    assert marked == {f"Sequential_0/Block_{i}/Conv_0/kernel" for i in (0, 1)}


def test_a_network_with_batch_norm_equals_a_plain_flax_loop(split):
    """The last batch has 3 images, not 4: what fills it up must not enter the statistics."""
    r, hyper = recipe(Normed()), hyperparameters(l2=0.0, momentum=0.5)
    state = start = init(r, hyper)
    params, stats = start.params, start.collections
    plain = optax.sgd(0.1, 0.5)
    opt_state = plain.init(params)

    def loss_of(params, stats, images, labels):
        variables = {"params": params, **stats}
        logits, new = Normed().apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

    gradient = jax.jit(jax.grad(loss_of, has_aux=True))
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(NUM_IMAGES)
        state, _ = run_epoch(r, hyper, state, jnp.asarray(order), split, split)
        for i in range(0, NUM_IMAGES, 4):
            images = split.images[order[i : i + 4]][..., None] / 255.0
            labels = split.labels[order[i : i + 4]].astype(jnp.int32)
            grads, stats = gradient(params, stats, images, labels)
            updates, opt_state = plain.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
    assert_trees_close(state.params, params, rtol=1e-4, atol=1e-6)
    assert_trees_close(state.collections, stats, rtol=1e-4)
    images = split.images[..., None] / 255.0
    logits = Normed().apply({"params": params, **stats}, images, train=False)
    sums = evaluate(r, hyperparameters(), trial.variables_of(state), split)
    assert int(sums.correct) == (logits.argmax(1) == split.labels).sum()
    assert set(state.best.collections) == {"batch_stats"}


def test_random_numbers_of_a_step_depend_on_seed_and_step_alone(split):
    r, order = recipe(Nested()), jnp.arange(NUM_IMAGES)
    hyper = hyperparameters()
    once, _ = train_epoch(r, hyper, init(r, hyper), order, split)
    assert int(once.step) == 3
    again = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, once))  # as a resumed run has it
    assert_trees_close(
        train_epoch(r, hyper, once, order, split), train_epoch(r, hyper, again, order, split)
    )
    reset = once._replace(step=jnp.int32(0))
    other = train_epoch(r, hyper, reset, order, split)[0].params["head"]["kernel"]
    assert not np.array_equal(
        other, train_epoch(r, hyper, once, order, split)[0].params["head"]["kernel"]
    )


def test_averaged_weights_follow_their_formula_and_are_those_that_count(mlp, split):
    r, hyper = recipe(mlp, use_ema=True), hyperparameters(ema_decay=0.7)
    state = init(r, hyper)
    average = state.params
    step = jax.jit(trial.train_step, static_argnums=0)
    for _ in range(4):
        arguments = split.images, split.labels, jnp.ones(NUM_IMAGES)
        state, _ = step(r, hyper, state, *arguments)
        average = jax.tree.map(lambda a, p: 0.7 * a + 0.3 * p, average, state.params)
    assert_trees_close(state.average, average, rtol=1e-5, atol=1e-7)
    assert_trees_close(trial.variables_of(state)["params"], state.average, rtol=0)
    found = trial.score(r, hyper, state, split).last
    assert_trees_close(found, evaluate(r, hyperparameters(), {"params": state.average}, split))


def test_what_is_measured_beside_accuracy_is_averaged_over_images(mlp, split):
    def brier(logits, labels):
        return jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(labels, 10)) ** 2, axis=-1)

    r, hyper = recipe(mlp, metrics=(("brier", brier),)), hyperparameters()
    state = init(r, hyper)
    sums = evaluate(r, hyperparameters(), trial.variables_of(state), split)
    logits = mlp.apply({"params": state.params}, split.images[..., None] / 255.0)
    assert float(sums.metrics["brier"]) == pytest.approx(float(brier(logits, split.labels).sum()))
