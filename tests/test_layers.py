"""The fused layer is `nn.Conv`, `nn.relu` and `nn.max_pool`, in values, gradients and programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mnist_jax.layers import ConvReluMaxPool, conv_relu_max_pool


def reference(x, kernel, bias):
    """Plain Flax, as a user would write it."""
    conv = nn.Conv(kernel.shape[-1], (3, 3), padding="VALID", precision="highest")
    y = conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    return nn.max_pool(nn.relu(y), (2, 2), strides=(2, 2))


def layer(x, kernel, bias):
    return conv_relu_max_pool(x, kernel, bias, 2)


def random_arguments(shape, features, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = shape, (3, 3, shape[-1], features), (features,)
    return tuple(jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, weights, *args):
    return function(*args), jax.grad(lambda *a: (function(*a) * weights).sum(), (0, 1, 2))(*args)


def assert_equal_gradients(*args, rtol=1e-4):
    """Values and all three gradients, under a cotangent that differs at every output."""
    shape = jax.eval_shape(reference, *args).shape
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(shape), args[0].dtype)

    def check(ours, theirs):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol, rtol * (float(jnp.abs(theirs).max()) + 1e-9))

    results = (value_and_gradients(function, weights, *args) for function in (layer, reference))
    jax.tree.map(check, *results)


@pytest.mark.parametrize("channels", [1, 3, 9])
@pytest.mark.parametrize("size", [(5, 4), (10, 13), (28, 28)])
def test_equals_flax_on_random_images(size, channels):
    assert_equal_gradients(*random_arguments((4, *size, channels), 6))


@pytest.mark.parametrize("channels", [1, 9])
def test_equals_flax_in_float64(channels):
    with jax.enable_x64(True):
        assert_equal_gradients(*random_arguments((2, 9, 8, channels), 5, np.float64), rtol=1e-12)


@pytest.mark.parametrize("bias", [0.5, -0.5])
def test_blank_background_ties_bit_for_bit(bias):
    """Any kernel: on a constant image each bias gradient is the count of windows, none shared."""
    _, kernel, _ = random_arguments((2, 10, 9, 9), 6)
    x = jnp.full((2, 10, 9, 9), 0.7)
    assert_equal_gradients(x, kernel, jnp.full(6, bias))


@pytest.mark.parametrize("bias", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("image", ["zero", "constant", "stripes"])
@pytest.mark.parametrize("channels", [1, 9])
def test_first_of_equal_values_takes_the_gradient(channels, image, bias):
    """Whole-number kernels, so that equal sums are equal bits whatever their order."""
    rng = np.random.default_rng(0)
    x = np.zeros((2, 10, 9, channels), np.float32)
    x[...] = {"zero": 0, "constant": 1, "stripes": np.arange(10)[:, None, None] // 3 % 2}[image]
    kernel = jnp.asarray(rng.integers(-2, 4, (3, 3, channels, 6)), jnp.float32)
    assert_equal_gradients(jnp.asarray(x), kernel, jnp.full(6, bias))


@pytest.mark.parametrize("channels", [1, 9])
def test_nan_stays_nan(channels):
    x, kernel, bias = random_arguments((2, 8, 8, channels), 3)
    x = x.at[0, 3, 3].set(jnp.nan)
    ours, theirs = layer(x, kernel, bias), reference(x, kernel, bias)
    assert jnp.isnan(ours).any()
    np.testing.assert_array_equal(jnp.isnan(ours), jnp.isnan(theirs))


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("batch", [1, 5, 8])
def test_blocks_change_nothing(batch, channels):
    args = random_arguments((batch, 6, 6, channels), 4)

    def loss(block):
        return lambda *a: jnp.sin(conv_relu_max_pool(*a, block)).sum()

    whole = jax.jit(jax.value_and_grad(loss(batch), (0, 1, 2)))(*args)
    for block in (1, 2, 4):
        blocks = jax.jit(jax.value_and_grad(loss(block), (0, 1, 2)))(*args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), whole, blocks)


def trials_gradient(transform, channels):
    """Gradients of three trials, each with its own weights, over shared images, inside a scan."""
    x = random_arguments((4, 6, 6, channels), 4)[0]
    draws = [random_arguments(x.shape, 4, seed=seed) for seed in range(3)]
    _, kernels, biases = jax.tree.map(lambda *a: jnp.stack(a), *draws)

    def trial(parameters):
        def step(total, images):
            grads = jax.grad(lambda p: jnp.sin(layer(images, *p)).sum())(parameters)
            return jax.tree.map(jnp.add, total, grads), None

        return jax.lax.scan(step, jax.tree.map(jnp.zeros_like, parameters), jnp.stack([x, 2 * x]))[
            0
        ]

    return jax.jit(lambda p: transform(trial, p)), (kernels, biases)


@pytest.mark.parametrize("channels", [1, 9])
def test_trials_under_vmap_and_map_agree(channels):
    vmapped, parameters = trials_gradient(lambda f, p: jax.vmap(f)(p), channels)
    mapped, _ = trials_gradient(jax.lax.map, channels)

    def check(a, b):
        np.testing.assert_allclose(a, b, 1e-5, 1e-4)

    jax.tree.map(check, vmapped(parameters), mapped(parameters))


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize(
    "transform", [lambda f, p: jax.vmap(f)(p), jax.lax.map], ids=["vmap", "map"]
)
def test_program_is_matrix_multiplications(transform, channels):
    """The slow operations, and what `vmap` makes of a convolution, never appear."""
    function, parameters = trials_gradient(transform, channels)
    program = function.lower(parameters).as_text()
    assert "stablehlo.dot_general" in program
    for slow in (
        "convolution",
        "reduce_window",
        "select_and_scatter",
        "stablehlo.scatter",
        "stablehlo.sort",
    ):
        assert slow not in program


def test_parameters_are_those_of_flax():
    """Same names, shapes and bits, so that a seed means one initial model."""

    class Net(nn.Module):
        layer: type

        @nn.compact
        def __call__(self, x):
            return self.layer(name="conv")(x)

    def plain(name):
        return nn.Conv(
            5, (3, 3), padding="VALID", kernel_init=nn.initializers.glorot_uniform(), name=name
        )

    x = jnp.zeros((1, 8, 8, 2))
    ours = Net(lambda name: ConvReluMaxPool(5, name=name)).init(jax.random.key(3), x)
    theirs = Net(plain).init(jax.random.key(3), x)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
