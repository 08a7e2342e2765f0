import jax
import jax.numpy as jnp
import numpy as np
import pytest
from base import create_model
from flax import linen as nn
from server import ROOT

from mnist_jax.config.experiment import read_experiment
from mnist_jax.training.networks import describe, layer_table

LAYERS = {  # parameters per layer, as Keras' summary() counts them in the notebook
    "baseline": [50_240, 4_160, 650],
    "mlp": [392_500, 150_300, 3_010],
    "l2_sweep": [392_500, 150_300, 3_010],
    "cnn": [320, 18_496, 102_464, 650],
}


def model_of(name):
    values = read_experiment(str(ROOT / "configs" / f"{name}.py"), {}).values
    sizes = ("conv_features", "hidden_sizes")
    return create_model(**{key: values[key][0] for key in sizes if key in values})


def input_of_init(seed=0):
    return jax.random.key(seed), jnp.zeros((1, 28, 28, 1))


def initial_params(model, seed=0):
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": "0"})
    return init(*input_of_init(seed))["params"]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_notebooks_parameters(name):
    params = jax.eval_shape(model_of(name).init, *input_of_init())["params"]
    counts = [sum(leaf.size for leaf in layer.values()) for layer in params.values()]
    assert counts == LAYERS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_layer_table_shows_them(name):
    header, *rows, total = layer_table(describe(model_of(name), (28, 28, 1), 10)).splitlines()
    assert header.split()[0] == "Layer"
    assert [row.split()[-1] for row in rows] == [f"{n:,}" for n in LAYERS[name]]
    assert total.split() == ["total", f"{sum(LAYERS[name]):,}"]
    assert len({len(line) for line in (header, *rows, total)}) == 1


def test_layer_table_shows_output_shapes():
    rows = layer_table(describe(model_of("cnn"), (28, 28, 1), 10)).splitlines()[1:-1]
    shapes = [row[row.index("(") : row.index(")") + 1] for row in rows]
    assert shapes == ["(batch, 13, 13, 32)", "(batch, 5, 5, 64)", "(batch, 64)", "(batch, 10)"]


class Deep(nn.Module):
    """Blocks of blocks, whose names are long."""

    depth: int = 4

    @nn.compact
    def __call__(self, images, train):
        x = images
        for name in ("residual_branch_of_the_block", "shortcut_of_the_block"):
            if self.depth:
                x = Deep(self.depth - 1, name=f"{name}_{self.depth}")(x, train)
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(2, (3, 3))(x))
        return x if self.depth < 4 else nn.Dense(10)(x.reshape(len(x), -1))


def test_layers_of_layers_have_names_of_their_own_in_80_columns():
    lines = layer_table(describe(Deep(), (28, 28, 1), 10)).splitlines()
    assert len(lines) == 2 * 31 + 3
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines[1:]]
    assert len(set(names)) == len(names)
    assert names[0] == "resi…ck_4/resi…ck_3/resi…ck_2/resi…ck_1/Conv_0"


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_initial_weights_are_glorot_uniform_with_zero_biases(name):
    for layer in initial_params(model_of(name)).values():
        kernel = np.asarray(layer["kernel"])
        receptive_field = np.prod(kernel.shape[:-2], dtype=int)
        limit = np.sqrt(6 / (receptive_field * (kernel.shape[-2] + kernel.shape[-1])))
        assert np.abs(kernel).max() <= limit
        tolerance = 5 / np.sqrt(kernel.size)
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=tolerance)
        assert not layer["bias"].any()


class Stem(nn.Module):
    """Layers whose names are not in the order in which they are called."""

    @nn.compact
    def __call__(self, images):
        x = nn.LayerNorm(name="norm")(images)
        return nn.Conv(3, (5, 5), name="weights")(x)


class Backwards(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = Stem(name="z")(images).reshape(len(images), -1)
        return nn.Dense(10, name="head")(nn.Dense(4, name="a")(x))


class Embedded(nn.Module):
    """Words in place of pixels, and a kernel of its own."""

    @nn.compact
    def __call__(self, images):
        x = nn.Embed(256, 4)((255 * images[..., 0]).astype(int)).mean((1, 2))
        return x @ self.param("kernel", nn.initializers.ones, (4, 10))


def test_the_kernel_that_sees_the_images_is_found_whatever_its_name():
    network = describe(Backwards(), (28, 28, 1), 10)
    assert (network.first_kernel, network.output) == ("params/z/weights/kernel", ("head",))
    assert describe(model_of("cnn"), (28, 28, 1), 10).first_kernel == "params/conv_1/kernel"
    assert describe(Embedded(), (28, 28, 1), 10).first_kernel == "params/kernel"


class PlainCNN(nn.Module):
    """The notebook's network, in Flax's own layers."""

    @nn.compact
    def __call__(self, images):
        x = images
        for i, features in enumerate((32, 64), start=1):
            x = nn.relu(nn.Conv(features, (3, 3), padding="VALID", name=f"conv_{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64, name="hidden_1")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="output")(x)


def test_cnn_computes_what_flax_layers_compute():
    params = initial_params(model_of("cnn"))
    images = jax.random.uniform(jax.random.key(1), (5, 28, 28, 1))
    np.testing.assert_allclose(
        model_of("cnn").apply({"params": params}, images),
        PlainCNN().apply({"params": params}, images),
        atol=1e-5,
    )


def test_mlp_computes_the_textbook_formula():
    params = jax.tree.map(np.asarray, initial_params(model_of("baseline")))
    x = np.random.default_rng(0).random((5, 28, 28, 1), np.float32)
    h = x.reshape(5, -1)
    for layer in ("hidden_1", "hidden_2"):
        h = np.maximum(h @ params[layer]["kernel"] + params[layer]["bias"], 0)
    expected = h @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(
        model_of("baseline").apply({"params": params}, jnp.asarray(x)), expected, atol=1e-5
    )
