"""The work of a step is that of a plain implementation, whatever the program does instead."""

import functools
import itertools

import base
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

from mnist_jax import layers
from mnist_jax.benchmark import work
from mnist_jax.training import models, optimizers

NETWORKS = {  # the configs' (conv_features, hidden_sizes, batch_size) and MFLOP a step
    "baseline": ((), (64, 64), 128, 29.3),
    "mlp": ((), (500, 300), 128, 318),
    "cnn": ((32, 64), (64,), 64, 946),
}


class Plain(nn.Module):
    """The package's networks as Flax alone has them."""

    conv_features: tuple
    hidden_sizes: tuple

    @nn.compact
    def __call__(self, x):
        for features in self.conv_features:
            x = nn.relu(nn.Conv(features, (3, 3), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for size in self.hidden_sizes:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(10)(x)


class LeNet(nn.Module):
    """With padding, strides and groups, and a layer in a module within."""

    conv: type
    max_pool: callable = staticmethod(nn.max_pool)

    @nn.compact
    def __call__(self, x):
        x = self.max_pool(nn.relu(self.conv(6, (5, 5))(x)), (2, 2), (2, 2))
        x = nn.Sequential([self.conv(16, (5, 5), (2, 2), feature_group_count=2), nn.relu])(x)
        return nn.Dense(10)(x.reshape(len(x), -1))


def products_of(model, batch_size=8):
    trials = base.create_trials([base.BASE], [0], num_images=100)
    return work.step_products(base.create_recipe(model, trials, batch_size=batch_size), trials)


def counted_by_xla(model, batch_size):
    """Returns what the compiler counts in the gradient of a loss, without any loop."""
    images, labels = jnp.zeros((batch_size, 28, 28, 1)), jnp.zeros(batch_size, jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params):
        logits = model.apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]


@pytest.mark.parametrize("name", NETWORKS)
def test_work_of_a_step_is_that_of_a_plain_one(name):
    conv_features, hidden_sizes, batch_size, mflop = NETWORKS[name]
    products = products_of(base.create_model(conv_features, hidden_sizes), batch_size)
    counted = counted_by_xla(Plain(conv_features, hidden_sizes), batch_size)
    assert work.flop(products) / 1e6 == pytest.approx(mflop, rel=2e-3)
    assert 0.96 * counted < work.flop(products) < counted  # which has the element-wise work, too
    side, channels, per_image = 28, 1, []
    for features in conv_features:
        side -= 2
        per_image.append(side * side * 9 * channels * features)
        side, channels = side // 2, features
    sizes = side * side * channels, *hidden_sizes, 10
    per_image += [a * b for a, b in itertools.pairwise(sizes)]
    # Forward, the gradient of the weights, and but for the first layer that of the inputs.
    assert work.flop(products) == 2 * batch_size * (3 * sum(per_image) - per_image[0])


def test_the_largest_product_has_its_shape():
    products = products_of(base.create_model((32, 64), (64,)), 64)
    largest = max(products, key=lambda product: product.multiply_adds)
    assert largest == (64 * 11 * 11, 9 * 32, 64, 64 * 11 * 11 * 9 * 32 * 64)


def test_layers_that_are_fast_count_as_those_of_flax():
    ours, flax = LeNet(layers.Conv, staticmethod(layers.max_pool)), LeNet(nn.Conv)
    assert products_of(ours) == products_of(flax)
    counted = counted_by_xla(flax, 8)
    assert 0.9 * counted < work.flop(products_of(flax)) < counted
    x = jnp.zeros((8, 28, 28, 1))  # and they are themselves again
    text = str(jax.make_jaxpr(lambda: ours.init(jax.random.key(0), x))())
    assert "conv_general_dilated" not in text


def count(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return list(work.count_products(jax.make_jaxpr(function)(*arrays).jaxpr))


@pytest.mark.parametrize(
    ("image", "kernel", "options"),
    [
        ((9, 7), (3, 2), {}),
        ((9, 7), (3, 3), {"padding": "SAME"}),
        ((9, 7), (3, 3), {"padding": "SAME", "window_strides": (2, 3)}),
        ((9, 7), (2, 3), {"padding": ((3, 1), (0, 2)), "rhs_dilation": (2, 1)}),
        ((5, 6), (3, 3), {"padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 3)}),
        ((9, 7), (3, 3), {"feature_group_count": 2}),
        ((9, 7), (3, 3), {"batch_group_count": 2}),
    ],
)
def test_a_convolution_is_what_xla_counts(image, kernel, options):
    options = {"window_strides": (1, 1), "padding": "VALID"} | options
    depth = 6 // options.get("feature_group_count", 1)
    convolve = functools.partial(
        lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )
    shapes = (4, *image, 6), (*kernel, depth, 8)
    (product,) = count(convolve, *shapes)
    arrays = [jnp.zeros(shape) for shape in shapes]
    assert 2 * product.multiply_adds == jax.jit(convolve).lower(*arrays).cost_analysis()["flops"]
    batch, *out, features = jax.eval_shape(convolve, *arrays).shape
    assert product[:3] == (batch * np.prod(out), depth * np.prod(kernel), features)


def test_a_product_of_stacks_counts_each():
    (product,) = count(lambda x, y: jnp.einsum("bij,kjb->bik", x, y), (5, 2, 3), (4, 3, 5))
    assert product == (10, 3, 4, 5 * 2 * 3 * 4)


def test_loops_count_as_often_as_they_run_and_of_branches_the_costliest():
    square = lambda x: x @ x  # noqa: E731
    twice = lambda x: x @ x @ x  # noqa: E731
    programs = {
        1: jax.jit(square),
        2: jax.checkpoint(twice),
        7: lambda x: lax.scan(lambda x, _: (x @ x, None), x, length=7)[0],
        8: lambda x: lax.scan(lambda x, _: (lax.map(square, x[None])[0], None), x, length=8)[0],
        5: lambda x: lax.fori_loop(0, 5, lambda _, x: x @ x, x),
    }
    once = 2 * 4**3
    for times, program in programs.items():
        assert work.flop(count(program, (4, 4))) == times * once
    branches = count(lambda x: lax.cond(x[0, 0] > 0, twice, square, x), (4, 4))
    assert work.flop(branches) == 2 * once
    custom = jax.custom_jvp(square)
    custom.defjvps(lambda t, ans, x: 2 * t)
    assert work.flop(count(custom, (4, 4))) == once
    repeated = count(programs[7], (4, 4))
    assert repeated == [(4, 4, 4, 7 * 4**3)]


def test_the_optimizers_products_count():
    """An iteration of Newton and Schulz makes a = x x', a a, and (b a + c a a) x."""
    model = models.MLP(hidden_sizes=(6,))
    trials = base.create_trials([base.BASE], [0], num_images=100)
    recipe = base.create_recipe(model, trials, batch_size=8)
    made = optimizers.create_optimizer("muon", {"ns_steps": 3}, {}, ())
    muon = work.step_products(recipe._replace(optimizer=made), trials._replace(optimizer={}))
    extra = work.flop(muon) - work.flop(work.step_products(recipe, trials))
    per_step = [2 * m * m * n + m**3 for m, n in ((6, 784), (6, 10))]
    assert extra == 2 * 3 * sum(per_step)
