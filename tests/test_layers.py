"""The layers are those of Flax, in values, gradients and parameters, and make other programs."""

import functools
import re
from collections.abc import Callable

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import strategies as st

from mnist_jax import layers
from mnist_jax.training import networks
from mnist_jax.training.fused_layer import ConvReluMaxPool, conv_relu_max_pool
from mnist_jax.training.sweep import Mesh, P

PROPERTY = hypothesis.settings(max_examples=4, deadline=None, derandomize=True, database=None)


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


def assert_equal_gradients(*args, rtol=1e-4, run=value_and_gradients):
    """Values and all three gradients, under a cotangent that differs at every output."""
    shape = jax.eval_shape(reference, *args).shape
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(shape), args[0].dtype)

    def check(ours, theirs):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol, rtol * (float(jnp.abs(theirs).max()) + 1e-9))

    results = (run(function, weights, *args) for function in (layer, reference))
    jax.tree.map(check, *results)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [((10, 13), 9), ((28, 28), 1)])
def test_equals_flax_on_random_images(optimized, size, channels):
    def run(function, *args):
        return value_and_gradients.lower(function, *args).compile()(*args)

    assert_equal_gradients(*random_arguments((4, *size, channels), 6), run=run)


def test_equals_flax_in_float64():
    with jax.enable_x64(True):
        assert_equal_gradients(*random_arguments((2, 9, 8, 9), 5, np.float64), rtol=1e-12)


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


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("image", ["random", "stripes"])
@pytest.mark.parametrize(("size", "channels"), [((9, 10), 1), ((11, 8), 9)])
def test_accelerators_have_other_forms_of_the_same_layer(
    monkeypatch, size, channels, image, platform
):
    """All on a CPU. With stripes and whole-number kernels there are ties in every window."""
    x, kernel, bias = random_arguments((4, *size, channels), 6)
    if image == "stripes":
        x = jnp.zeros_like(x) + np.arange(size[1])[:, None] // 3 % 2
        kernel = jnp.round(kernel)
    args = x, kernel, bias
    weights = random_arguments(jax.eval_shape(layer, *args).shape, 1, seed=1)[0]
    expected = value_and_gradients(layer, weights, *args)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    there = functools.partial(layer)  # which has not been traced
    text = value_and_gradients.lower(there, weights, *args).as_text()
    assert ("convolution" in text, "xi8>" in text) == (platform == "tpu", platform == "gpu")
    found = value_and_gradients(there, weights, *args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 2e-5), found, expected)


@pytest.mark.parametrize("channels", [1, 9])
def test_a_gpu_keeps_factors_as_products_round_them(monkeypatch, channels):
    """With small whole numbers, which bfloat16 has, nothing is lost by that."""
    args = tuple(jnp.round(a) for a in random_arguments((4, 10, 8, channels), 6))
    weights = jnp.round(random_arguments(jax.eval_shape(layer, *args).shape, 1, seed=1)[0])
    expected = value_and_gradients(layer, weights, *args)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = functools.partial(layer)
    with jax.default_matmul_precision("BF16_BF16_F32"):
        text = value_and_gradients.lower(there, weights, *args).as_text()
        found = value_and_gradients(there, weights, *args)
    products = [line for line in text.splitlines() if "dot_general" in line and "16x9" not in line]
    assert products  # those with 16x9 transform kernels, in float32
    for line in products:
        assert re.search(r"xbf16>, tensor<\w+xbf16>\) -> tensor<\w+xf32>", line)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("channels", [1, 9])
def test_a_layer_in_bfloat16_stays_in_it(monkeypatch, channels, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    args = random_arguments((4, 10, 8, channels), 6, jnp.bfloat16)
    there = functools.partial(layer)
    with jax.default_matmul_precision("BF16_BF16_F32"):
        found = jax.eval_shape(functools.partial(value_and_gradients, there), args[2][0], *args)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "channels", "blocks"), [(1, 9, (2,)), (5, 1, (2, 4)), (8, 9, (1, 4))]
)
def test_blocks_change_nothing(batch, channels, blocks):
    args = random_arguments((batch, 6, 6, channels), 4)

    def loss(block):
        return lambda *a: jnp.sin(conv_relu_max_pool(*a, block)).sum()

    whole = jax.jit(jax.value_and_grad(loss(batch), (0, 1, 2)))(*args)
    for block in blocks:
        parts = jax.jit(jax.value_and_grad(loss(block), (0, 1, 2)))(*args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), whole, parts)


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


@pytest.mark.slow
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


def assert_close(ours, theirs, rtol=1e-5):
    def check(a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol, rtol * float(jnp.abs(b).max(initial=1e-3)))

    jax.tree.map(check, ours, theirs)


def value_and_vjp(function, *args):
    """The value, and the gradients under a cotangent that differs at every output."""

    @jax.jit
    def run(*args):
        y, vjp = jax.vjp(function, *args)
        weights = np.random.default_rng(1).standard_normal(y.shape)
        return y, vjp(jnp.asarray(weights, y.dtype))

    return run(*args)


def assert_equals_flax(layer, x, **arguments):
    """One set of initial weights, whose names and bits are alike; then values and gradients."""
    ours, theirs = (kind(precision="highest", **arguments) for kind in (layer, nn.Conv))
    initial, variables = jax.jit(lambda *a: (ours.init(*a), theirs.init(*a)))(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, initial, variables)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # the bias too is not zero
    assert_close(value_and_vjp(ours.apply, variables, x), value_and_vjp(theirs.apply, variables, x))


@st.composite
def convolutions(draw):
    """Arguments of `nn.Conv`, and the shape of what it takes."""
    axes = draw(st.sampled_from([2, 2, 2, 1, 3]))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    pairs = [(draw(st.integers(-1, 3)), draw(st.integers(0, 3))) for _ in range(axes)]
    padding = draw(st.sampled_from(["SAME", "VALID", "CIRCULAR", "SAME_LOWER", 1, pairs]))
    arguments = {
        "features": groups * draw(st.integers(1, 5)),
        "kernel_size": each(1, 4 if axes < 3 else 2),
        "strides": draw(st.sampled_from([1, each(1, 3)])),
        "padding": padding,
        "input_dilation": each(1, 2) if isinstance(padding, list) else 1,
        "kernel_dilation": draw(st.sampled_from([1, 1, each(1, 2)])),
        "feature_group_count": groups,
        "use_bias": draw(st.booleans()),
    }
    batch = draw(st.sampled_from([(), (1,), (5,), (6,), (2, 3)]))
    return arguments, (*batch, *each(6, 9), groups * draw(st.sampled_from([1, 3, layers.NARROW])))


@PROPERTY
@hypothesis.given(convolutions(), st.booleans())
def test_conv_equals_flax(drawn, small_blocks):
    arguments, shape = drawn
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(layers, "BLOCK_BYTES", {True: 20_000, False: 20_000})
        assert_equals_flax(layers.Conv, x, **arguments)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 8, 8, 3), {"kernel_size": (3, 3), "dtype": jnp.bfloat16}),
        pytest.param(
            (2, 8, 8, 3),
            {"kernel_size": (3, 3), "param_dtype": jnp.float16},
            marks=pytest.mark.slow,
        ),
        ((2, 8, 8, 3), {"kernel_size": (3, 3), "mask": np.tri(4, 3) * np.ones((3, 3, 1, 1))}),
        pytest.param(
            (2, 8, 8, 3),
            {"kernel_size": (3, 3), "kernel_init": nn.initializers.ones},
            marks=pytest.mark.slow,
        ),
        ((2, 8, 3), {"kernel_size": 3, "padding": "CAUSAL"}),
        pytest.param(
            (2, 8, 8, 3), {"kernel_size": (9, 9), "padding": "VALID"}, marks=pytest.mark.slow
        ),  # no output
        ((0, 8, 8, 3), {"kernel_size": (3, 3)}),  # no images
        ((2, 28, 28, 1), {"kernel_size": (7, 7), "strides": 7}),
    ],
)
def test_conv_takes_the_other_arguments_of_flax(shape, arguments):
    if "mask" in arguments:
        arguments = arguments | {"mask": jnp.asarray(arguments["mask"].swapaxes(2, 3))}
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    layer = nn.Conv(4, **arguments)

    @jax.jit
    def run(*args):
        mine = layers.Conv(4, **arguments)
        return mine.init_with_output(*args), layer.init_with_output(*args)

    ours, theirs = run(jax.random.key(0), x)
    rtol = {jnp.bfloat16: 2e-2, jnp.float16: 2e-3}.get(ours[0].dtype.type, 1e-5)
    assert_close(ours, theirs, rtol)


@pytest.mark.parametrize("channels", [2, layers.NARROW])
def test_conv_and_pool_differentiate_in_every_mode(channels, monkeypatch):
    """A product of the Hessian with a vector: forward over reverse, as Flax gives it."""
    monkeypatch.setattr(layers, "BLOCK_BYTES", {True: 20_000, False: 20_000})
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 9, 8, channels)), jnp.float32)
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((3, 3, channels, 5)), jnp.float32)

    def product(conv, max_pool, avg_pool):
        def loss(kernel):
            y = conv(5, (3, 3), use_bias=False, precision="highest").apply(
                {"params": {"kernel": kernel}}, x
            )
            return jnp.tanh(avg_pool(max_pool(jnp.tanh(y), (2, 2), (2, 2)), (2, 2))).sum()

        return jax.jit(lambda k: jax.jvp(jax.grad(loss), (k,), (jnp.cos(k),)))(kernel)

    ours = product(layers.Conv, layers.max_pool, layers.avg_pool)
    assert_close(ours, product(nn.Conv, nn.max_pool, nn.avg_pool), 1e-4)


@st.composite
def pools(draw):
    """Arguments of Flax's pools, and images whose values tie often."""
    axes = draw(st.sampled_from([2, 2, 1, 3]))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    window = each(1, 4)
    pairs = [(draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1))) for n in window]
    batch = draw(st.sampled_from([(3,), (), (2, 2)]))
    padding = draw(st.sampled_from(["SAME", "VALID", pairs][: None if len(batch) < 2 else 2]))
    strides = draw(st.sampled_from([None, window, each(1, 4)]))
    shape = *batch, *each(4, 9), draw(st.integers(1, 3))
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(-2, 3, shape)
    return jnp.asarray(values, jnp.float32), window, strides, padding


@PROPERTY
@hypothesis.given(pools())
def test_max_pool_equals_flax_ties_included(drawn):
    """Cotangents are whole numbers, so that sums over overlapping windows are equal bits too."""
    x, *arguments = drawn

    def run(pool):
        @jax.jit
        def values(x):
            y, vjp = jax.vjp(lambda x: pool(x, *arguments), x)
            return y, vjp(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))

        return values(x)

    jax.tree.map(np.testing.assert_array_equal, run(layers.max_pool), run(nn.max_pool))


@PROPERTY
@hypothesis.given(pools(), st.booleans())
def test_avg_pool_equals_flax(drawn, count_include_pad):
    x, *arguments = drawn

    def run(pool):
        return value_and_vjp(lambda x: pool(x, *arguments, count_include_pad), x)

    assert_close(run(layers.avg_pool), run(nn.avg_pool))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_pools_of_half_precision_and_of_images_too_small(name, dtype):
    ours, theirs = getattr(layers, name), getattr(nn, name)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 3, 4)), dtype)
    assert_close(ours(x, (2, 2), padding="SAME"), theirs(x, (2, 2), padding="SAME"), 2e-2)
    assert_close(ours(x, (4, 4), (2, 2)), theirs(x, (4, 4), (2, 2)))


def test_max_pool_keeps_nan():
    x = jnp.zeros((1, 6, 6, 1)).at[0, 2, 3].set(jnp.nan)
    np.testing.assert_array_equal(layers.max_pool(x, (3, 3)), nn.max_pool(x, (3, 3)))


class Net(nn.Module):
    """Some layers, one of them in a module within."""

    conv: type = layers.Conv
    max_pool: callable = staticmethod(layers.max_pool)
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(self.conv(4, (5, 5))(x))
        x = self.max_pool(x, (3, 3), (2, 2), "SAME")
        x = nn.Sequential([self.conv(layers.NARROW, (3, 3)), self.conv(4, (3, 3))])(x)
        x = layers.avg_pool(x, (2, 2), (2, 2))
        x = layers.Dropout(self.rate, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    "transform", [lambda f, *x: jax.vmap(f)(*x), lambda f, *x: jax.lax.map(lambda x: f(*x), x)]
)
def test_program_of_a_net_is_matrix_multiplications(transform):
    x = jnp.ones((2, 4, 12, 12, 1))
    keys = jax.random.split(jax.random.key(0))
    params = jax.eval_shape(jax.vmap(lambda key: Net().init(key, x[0])), keys)
    step = jax.grad(lambda params, x: jnp.sin(Net().apply(params, x)).sum())
    program = jax.jit(functools.partial(transform, step)).lower(params, x).as_text()
    assert "stablehlo.dot_general" in program
    for slow in ("convolution", "reduce_window", "select_and_scatter", "stablehlo.scatter"):
        assert slow not in program


class Ends(nn.Module):
    """A model that ends in a function of its logits."""

    end: Callable

    @nn.compact
    def __call__(self, images):
        return self.end(nn.Dense(3)(images.reshape(len(images), -1)))


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (nn.softmax, True),
        (jax.jit(lambda x: nn.softmax(x).astype(jnp.float16).astype(jnp.float32)), True),
        (lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), axis=-1, keepdims=True), True),
        (lambda x: x, False),
        (nn.log_softmax, False),
        (lambda x: x / jnp.sum(jnp.exp(x)), False),
        (lambda x: nn.softmax(x) * 30, False),
    ],
)
def test_a_model_that_ends_in_a_softmax_is_found(end, found):
    assert networks.ends_in_softmax(networks.describe(Ends(end), (12, 12, 1), 3)) == found


def test_plain_conv_is_found_in_any_depth():
    assert networks.describe(Net(nn.Conv), (12, 12, 1), 3).plain_conv
    assert not networks.describe(Net(layers.Conv), (12, 12, 1), 3).plain_conv


@pytest.mark.parametrize(
    ("rate", "arguments"),
    [
        *((rate, {}) for rate in (0.0, 0.1, 1.0)),
        (0.5, {"broadcast_dims": (-1,), "rng_collection": "other"}),
    ],
)
def test_dropout_equals_flax(rate, arguments):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 50)), jnp.float32)
    rngs = {arguments.get("rng_collection", "dropout"): jax.random.key(3)}

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, *rate):
        def apply(x):
            return layer(*rate, deterministic=False, **arguments).apply({}, x, rngs=rngs)

        return apply(x), jax.grad(lambda x: apply(x).sum())(x)

    theirs = run(lambda **more: nn.Dropout(rate, **more))
    constant = run(lambda **more: layers.Dropout(rate, **more))
    jax.tree.map(np.testing.assert_array_equal, constant, theirs)
    assert_close(run(layers.Dropout, jnp.float32(rate)), theirs, 1e-6)


def test_dropout_is_off_where_told_and_says_where_it_is_not():
    x = jnp.ones((2, 3))
    assert layers.Dropout(0.5).apply({}, x, deterministic=True) is x
    assert layers.Dropout(0.0, deterministic=False).apply({}, x) is x
    assert (
        layers.Dropout(0.5, deterministic=True).apply({}, x.astype(jnp.bfloat16)).dtype
        == "bfloat16"
    )
    dropped = layers.Dropout(jnp.float32(0.5)).apply(
        {}, x.astype(jnp.bfloat16), deterministic=False, rng=jax.random.key(0)
    )
    assert dropped.dtype == "bfloat16"
    with pytest.raises(ValueError, match="deterministic"):
        layers.Dropout(0.5).apply({}, x)


def test_rate_varies_with_the_trial_under_every_transform():
    """Masks are those of a lone call, whatever runs beside it."""
    x = jnp.ones((4, 20))
    rates, keys = jnp.array([0.0, 0.2, 0.7, 1.0]), jax.random.split(jax.random.key(0), 4)

    def trial(rate, key):
        def step(total, i):
            rngs = {"dropout": jax.random.fold_in(key, i)}
            return total + layers.Dropout(rate, deterministic=False).apply({}, x, rngs=rngs), None

        return jax.lax.scan(step, jnp.zeros_like(x), jnp.arange(3))[0]

    def mapped(rates, keys):
        return jax.lax.map(lambda args: trial(*args), (rates, keys))

    mesh = Mesh(np.array(jax.devices()), ("trial",))
    alone = jnp.stack([jax.jit(trial)(*args) for args in zip(rates, keys, strict=True)])
    sharded = jax.shard_map(
        mapped, mesh=mesh, in_specs=P("trial"), out_specs=P("trial"), check_vma=False
    )
    for together in (jax.vmap(trial), mapped, sharded):
        np.testing.assert_array_equal(jax.jit(together)(rates, keys), alone)
    np.testing.assert_array_equal(alone[0], 3 * x)
    np.testing.assert_array_equal(alone[3], 0 * x)
