import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_jax.optimizer import create_optimizer, kernel_mask, l2_penalty


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


@pytest.mark.parametrize("l2_on_output", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.9])
def test_two_steps_follow_the_documented_rule(params, momentum, l2_on_output):
    learning_rate, l2 = 0.1, 0.03
    optimizer = create_optimizer(learning_rate, momentum, l2, l2_on_output=l2_on_output)
    state, updated = optimizer.init(params), params
    weights = jax.tree.map(np.array, params)
    velocity = jax.tree.map(np.zeros_like, weights)
    for step in (1, 2):
        grads = jax.tree.map(lambda w, step=step: jnp.cos(w) * step, updated)
        updates, state = optimizer.update(grads, state, updated)
        updated = optax.apply_updates(updated, updates)
        for layer, leaves in weights.items():
            for name, w in leaves.items():
                decayed = name == "kernel" and (layer == "hidden_1" or l2_on_output)
                g = np.cos(w) * step + (2 * l2 * w if decayed else 0)
                velocity[layer][name] = g + (momentum or 0) * velocity[layer][name]
                weights[layer][name] = w - learning_rate * velocity[layer][name]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updated, weights)


def test_zero_l2_is_no_l2(params):
    grads = jax.tree.map(jnp.sin, params)
    with_chain, _ = (o := create_optimizer(0.1, None, 0.0, l2_on_output=True)).update(
        grads, o.init(params), params
    )
    jax.tree.map(lambda a, g: np.testing.assert_array_equal(a, -0.1 * g), with_chain, grads)


def test_mask_is_the_hidden_kernels_and_on_request_the_output_kernel(params):
    assert kernel_mask(params, l2_on_output=False) == {
        "hidden_1": {"kernel": True, "bias": False},
        "output": {"kernel": False, "bias": False},
    }
    assert kernel_mask(params, l2_on_output=True)["output"] == {"kernel": True, "bias": False}


@pytest.mark.parametrize("l2_on_output", [False, True])
def test_decay_is_the_gradient_of_the_penalty(params, l2_on_output):
    zero = jax.tree.map(jnp.zeros_like, params)
    optimizer = create_optimizer(1.0, None, 0.01, l2_on_output=l2_on_output)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    gradient = jax.grad(lambda p: l2_penalty(p, 0.01, l2_on_output=l2_on_output))(params)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(-u, g, rtol=1e-6), updates, gradient)


def test_penalty_is_l2_times_the_sum_of_squares(params):
    expected = 0.5 * np.sum(np.square(params["hidden_1"]["kernel"], dtype=np.float64))
    assert float(l2_penalty(params, 0.5, l2_on_output=False)) == pytest.approx(expected, rel=1e-6)
