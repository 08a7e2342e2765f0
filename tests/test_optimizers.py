import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax import UserError
from mnist_jax.config.axes import OPTIMIZERS, SCHEDULES
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.training import models, networks, trial
from mnist_jax.training.optimizers import (
    MAKERS,
    Optimizer,
    check_optimizer,
    create_optimizer,
    kernel_mask,
    l2_penalty,
    sgd,
)
from mnist_jax.training.schedules import create_schedule


@pytest.fixture
def params():
    keys = iter(jax.random.split(jax.random.key(0), 4))
    return {
        layer: {
            "kernel": jax.random.normal(next(keys), (3, 2)),
            "bias": jax.random.normal(next(keys), (2,)),
        }
        for layer in ("hidden_1", "output")
    }


def optimizer(learning_rate=0.1, momentum=None, **changes):
    numbers = {"nesterov": False, "l2": 0.0, "l2_on_output": False, "weight_decay": 0.0}
    return sgd(learning_rate, momentum=momentum, **(numbers | changes))


@pytest.mark.parametrize("l2_on_output", [False, True])
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(None, False), (0.0, False), (0.9, False), (0.9, True)]
)
def test_two_steps_follow_the_documented_rule(params, momentum, nesterov, l2_on_output):
    rate, l2, decay = 0.1, 0.03, 0.2
    chain = optimizer(
        rate, momentum, nesterov=nesterov, l2=l2, l2_on_output=l2_on_output, weight_decay=decay
    )
    state, updated = chain.init(params), params
    weights = jax.tree.map(np.array, params)
    velocity = jax.tree.map(np.zeros_like, weights)
    for step in (1, 2):
        grads = jax.tree.map(lambda w, step=step: jnp.cos(w) * step, updated)
        updates, state = chain.update(grads, state, updated)
        updated = optax.apply_updates(updated, updates)
        for layer, leaves in weights.items():
            for name, w in leaves.items():
                decayed = name == "kernel" and (layer == "hidden_1" or l2_on_output)
                d = np.cos(w) * step + (2 * l2 * w if decayed else 0)
                velocity[layer][name] = d + (momentum or 0) * velocity[layer][name]
                u = d + momentum * velocity[layer][name] if nesterov else velocity[layer][name]
                leaves[name] = w - rate * (u + (decay * w if decayed else 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updated, weights)


def test_zero_l2_is_no_l2(params):
    grads = jax.tree.map(jnp.sin, params)
    chain = optimizer(l2_on_output=True)
    updates, _ = chain.update(grads, chain.init(params), params)
    jax.tree.map(lambda a, g: np.testing.assert_array_equal(a, -0.1 * g), updates, grads)


def test_masks_part_the_hidden_kernels_from_the_output_kernel(params):
    assert kernel_mask(params, of_output=False) == {
        "hidden_1": {"kernel": True, "bias": False},
        "output": {"kernel": False, "bias": False},
    }
    assert kernel_mask(params, of_output=True) == {
        "hidden_1": {"kernel": False, "bias": False},
        "output": {"kernel": True, "bias": False},
    }


@pytest.mark.parametrize("l2_on_output", [False, True])
def test_decay_is_the_gradient_of_the_penalty(params, l2_on_output):
    zero = jax.tree.map(jnp.zeros_like, params)
    chain = optimizer(1.0, l2=0.01, l2_on_output=l2_on_output)
    updates, _ = chain.update(zero, chain.init(params), params)
    gradient = jax.grad(lambda p: l2_penalty(p, 0.01, l2_on_output))(params)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(-u, g, rtol=1e-6), updates, gradient)


def test_penalty_is_l2_times_the_sum_of_squares(params):
    expected = 0.5 * np.sum(np.square(params["hidden_1"]["kernel"], dtype=np.float64))
    assert float(l2_penalty(params, 0.5, False)) == pytest.approx(expected, rel=1e-6)


def rates(kind, warmup_steps, num_steps):
    schedule = create_schedule(0.5, SCHEDULES.index(kind), warmup_steps, num_steps)
    return np.array([schedule(step) for step in range(num_steps)])


def test_a_constant_schedule_is_the_learning_rate_itself():
    assert (rates("constant", 0, 7) == np.float32(0.5)).all()


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_schedules_are_those_of_optax(warmup_steps):
    """Optax counts from a warm-up that starts at 0, ours from the first step above it."""
    fall = 20 - warmup_steps
    cosine, linear = optax.cosine_decay_schedule(0.5, fall), optax.linear_schedule(0.5, 0, fall)
    for kind, expected in (("cosine", cosine), ("linear", linear)):
        found = rates(kind, warmup_steps, 20)
        falling = [expected(step) for step in range(fall)]
        np.testing.assert_allclose(found[warmup_steps:], falling, rtol=1e-5)
        rising = 0.5 * (np.arange(warmup_steps) + 1) / max(warmup_steps, 1)
        np.testing.assert_allclose(found[:warmup_steps], rising, rtol=1e-6)


def test_the_optimizer_follows_the_schedule(params):
    chain = optimizer(create_schedule(0.5, SCHEDULES.index("linear"), 0, 4))
    ones, state = jax.tree.map(jnp.ones_like, params), chain.init(params)
    for expected in (0.5, 0.375, 0.25, 0.125):
        updates, state = chain.update(ones, state, params)
        np.testing.assert_allclose(updates["output"]["bias"], -expected, rtol=1e-6)


# --- the others: each by name, static parameters, numbers, and what it is in optax ---

PARAMETERS = {
    "sgd": (
        {"nesterov": True},
        {"momentum": 0.9, "l2": 0.01, "l2_on_output": 0.0, "weight_decay": 0.1},
        None,
    ),
    "adamw": (
        {"nesterov": False},
        {"b1": 0.8, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.1},
        optax.adamw,
    ),
    "nadamw": ({"nesterov": True}, {"b1": 0.8}, optax.adamw),
    "lion": ({}, {"b1": 0.8, "b2": 0.9, "weight_decay": 0.1}, optax.lion),
    "muon": (
        {"nesterov": False, "ns_steps": 4, "adaptive": True},
        {"beta": 0.9, "weight_decay": 0.1, "adam_b1": 0.8, "adam_b2": 0.9, "adam_weight_decay": 1},
        optax.contrib.muon,
    ),
}
FAST = {"xla_backend_optimization_level": "0"}  # to compile, as a sweep's init is
NUM_IMAGES = 11
ORDERS = [np.random.default_rng(epoch).permutation(NUM_IMAGES) for epoch in range(2)]


@functools.cache
def split():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 9, 9), np.uint8)
    return trial.Split(images, rng.integers(0, 10, NUM_IMAGES, np.uint8))


@functools.cache
def recipe(name):
    static, numbers, _ = PARAMETERS[name]
    model = models.MLP(hidden_sizes=(6,))
    network = networks.describe(model, (9, 9, 1), 10)
    make = "adamw" if name == "nadamw" else name
    made = create_optimizer(make, static, numbers, network.output)
    return trial.Recipe(network, made, 4, 4, held_out=None, choose_epoch=False)


def several(name):
    """Returns trials of which all but the first differ from it in one number."""
    _, numbers, _ = PARAMETERS[name]
    points = [numbers] + [numbers | {key: 0.3 * x + 0.1} for key, x in numbers.items()]
    zero = np.zeros(len(points), np.float32)
    return trial.Hyperparameters(
        seed=zero.astype(np.uint32),
        learning_rate=zero + np.float32(0.01),
        schedule=zero.astype(np.int32) + SCHEDULES.index("linear"),
        warmup_steps=zero.astype(np.int32),
        num_steps=zero.astype(np.int32) + 9,
        label_smoothing=zero,
        ema_decay=zero,
        model={},
        optimizer={key: np.float32([point[key] for point in points]) for key in numbers},
    )


def alone(function):
    return function


def in_turn(function):
    return lambda *trials: jax.lax.map(lambda trial: function(*trial), trials)


@functools.cache
def programs(name, over):
    """Returns init and epoch of trials, compiled once for all tests."""
    init = over(functools.partial(trial.init, recipe(name)))

    def epoch(order, hyper, state):
        images = jax.tree.map(jnp.asarray, split())

        def one(hyper, state):
            return trial.train_epoch(recipe(name), hyper, state, order, images)[0]

        return over(one)(hyper, state)

    # Bits of trials side by side are not compared.
    return (
        jax.jit(init, compiler_options=FAST),
        jax.jit(epoch, compiler_options=FAST if over is jax.vmap else None),
    )


def trained(name, over, hyper):
    init, epoch = programs(name, over)
    state = init(hyper)
    for order in ORDERS:
        state = epoch(order, hyper, state)
    return state


def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_close(found, expected):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * (x != "adamw")) for x in PARAMETERS if x != "sgd"],
)
def test_training_equals_optax_used_by_hand(name):
    """The numbers are float32 arrays here and Python's there, which costs about 1e-7."""
    static, numbers, make = PARAMETERS[name]
    hyper = pick(several(name), 0)
    found = trained(name, alone, hyper)
    plain = make(optax.linear_schedule(0.01, 0, 9), **static, **numbers)
    params = programs(name, alone)[0](hyper).params
    state = plain.init(params)

    @functools.partial(jax.jit, compiler_options=FAST)
    def step(params, state, images, labels):
        def loss(params):
            logits = recipe(name).network.module.apply({"params": params}, images / 255.0)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = plain.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for order in ORDERS:
        for i in range(0, NUM_IMAGES, 4):
            images, labels = (x[order[i : i + 4]] for x in split())
            params, state = step(params, state, images[..., None], labels.astype(np.int32))
    assert_close(found.params, params)
    assert_close(found.opt_state, state)
    assert recipe(name).optimizer.penalty(params, **hyper.optimizer) == 0


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x != "sgd")) for x in MAKERS]
)
def test_a_trial_of_many_equals_a_lone_run_and_every_number_has_its_effect(name):
    trials = several(name)
    turns, together = (trained(name, over, trials) for over in (in_turn, jax.vmap))
    for i in range(len(trials.seed)):
        lone = trained(name, alone, pick(trials, i))
        jax.tree.map(np.testing.assert_array_equal, pick(turns, i), lone)
        assert_close(pick(together, i), lone)
    for i, key in enumerate(trials.optimizer, start=1):
        changed = jax.tree.map(lambda x, i=i: np.any(x[i] != x[0]), turns.params)
        assert any(jax.tree.leaves(changed)), key


@pytest.mark.parametrize("name", MAKERS)
def test_a_checkpoint_gives_a_state_back_bit_for_bit(name, tmp_path):
    """Inside a state with a trial axis on two devices, filled up if need be, as a sweep has it."""
    trials = several(name)
    num_trials = len(trials.seed)
    by_trial = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("trial",)), P("trial"))

    def place(x):
        padding = [(0, num_trials % 2)] + [(0, 0)] * (x.ndim - 1)
        return jax.device_put(np.pad(x, padding, mode="edge"), by_trial)

    state = jax.tree.map(place, trained(name, in_turn, trials))
    with Checkpoints(tmp_path, run="this", num_trials=num_trials, keep=1) as saved:
        saved.save(2, state, {})
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_trial), state
        )
        restored = saved.restore(like).state
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert (a.dtype, a.sharding) == (b.dtype, by_trial)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_one_momentum_among_the_trials_is_a_buffer_for_all(params):
    static = {"nesterov": False}
    for momentum, buffers in (([0.0, 0.0], 0), ([0.0, 0.9], 4)):
        made = create_optimizer("sgd", static, {"momentum": np.float32(momentum)}, ("output",))
        numbers = {"momentum": 0.0, "l2": 0.0, "l2_on_output": 0.0, "weight_decay": 0.0}
        assert len(jax.tree.leaves(made.create(0.1, **numbers).init(params))) == buffers


def test_parameters_and_defaults_are_those_of_a_config_and_of_optax():
    for name, make in MAKERS.items():
        rate, *others = OPTIMIZERS[name]
        assert rate.name == "learning_rate"
        axes_of = {axis.name: axis.default for axis in others}
        defaults = {n: p.default for n, p in inspect.signature(make).parameters.items()}
        if make is sgd:
            assert axes_of.keys() == defaults.keys() - {"learning_rate", "output"}
        else:
            assert axes_of == {key: defaults[key] for key in axes_of}, name
    assert MAKERS.keys() == OPTIMIZERS.keys()


def test_optimizers_compare_by_value():
    """They are static: equal ones share a compiled program."""
    static, numbers = {"nesterov": True, "ns_steps": 4}, {"beta": np.float32([0.9])}
    first = create_optimizer("muon", static, numbers, ("output",))
    other_way_round = dict(reversed(static.items()))
    assert first == create_optimizer(MAKERS["muon"], other_way_round, {}, ("other",))
    assert hash(first) == hash(create_optimizer("muon", static, {}, ()))
    assert first != create_optimizer("muon", static | {"ns_steps": 5}, numbers, ("output",))


# --- one's own ---


def check(make, params, static=(), **numbers):
    numbers = {name: np.float32([value]) for name, value in numbers.items()}
    check_optimizer(Optimizer(make, static), "my_opt.py:make", params, numbers)


def test_ones_own_may_be_anything_that_optax_can_make(params):
    def make(learning_rate, *, clip: float, decay: float = 0.5, kind: str = "rms"):
        inner = optax.scale_by_rms(decay) if kind == "rms" else optax.identity()
        return optax.chain(
            optax.clip_by_global_norm(clip), inner, optax.scale_by_learning_rate(learning_rate)
        )

    check(make, params, static=(("kind", "none"),), clip=1.0)
    check(make, params, clip=1.0, decay=0.9)
    check(lambda rate: optax.MultiSteps(optax.sgd(rate), every_k_schedule=2), params)
    for name, (static, numbers, _) in PARAMETERS.items():
        if name in MAKERS:
            made = create_optimizer(name, static, numbers, ("output",))
            check_optimizer(made, name, params, jax.tree.map(np.float32, numbers))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda rate, decay: None, "gives an object of type NoneType; expected an optax.Gr"),
        (lambda rate, decay: optax.sgd(0.1), "never asks for the learning rate, its first param"),
        (lambda rate, decay: optax.sgd, "gives an object of type function; expected an optax.Gr"),
        (lambda rate: optax.sgd(rate), "the call fails: TypeError"),
        (lambda rate, decay: optax.sgd(2 * rate), "learning_rate is a schedule, a function of"),
        (
            lambda rate, decay: optax.sgd(rate) if decay > 0 else optax.identity(),
            "fails: TracerBoolConversionError (line 0): Attempted boolean conversion of traced",
        ),
        (
            lambda rate, decay: optax.GradientTransformation(lambda: 0, None),
            "its init fails: TypeError",
        ),
        (lambda rate, decay: optax.sgd(decay, float(decay)), "float parameters are traced arrays"),
        (lambda rate, decay: optax.lbfgs(), "its update fails: TypeError"),
        (
            lambda rate, decay: optax.GradientTransformation(
                lambda params: 0, lambda updates, state, params: (0, state)
            ),
            "its updates have not the shapes of the parameters",
        ),
        (
            lambda rate, decay: optax.GradientTransformation(
                lambda params: 0, lambda updates, state, params: (updates, (state,))
            ),
            "its update changes the structure, shapes or types of its state",
        ),
        (lambda rate, decay: optax.add_noise(0.1, 0.5, 0), "an array of key<fry>, which no check"),
    ],
)
def test_ones_own_that_cannot_be_trained_with_is_refused_in_a_line(params, make, said):
    with pytest.raises(UserError) as refused:
        check(make, params, decay=0.9)
    line = re.sub(r"line \d+", "line 0", str(refused.value))
    assert line.startswith("--config.optimizer=my_opt.py:make: ")
    assert said in line
    assert "\n" not in line
    assert len(line) < 450
