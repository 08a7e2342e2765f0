import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax.grid import SCHEDULES
from mnist_jax.optimizer import create_schedule, kernel_mask, l2_penalty, sgd


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
