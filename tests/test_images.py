"""How images are scaled and shifted, from a data set to the trials of a sweep."""

import itertools
from fractions import Fraction

import base
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_experiment import read
from test_report import own_data
from test_sweep import OPTIONS, run, tiny_dataset, trials

from mnist_jax import UserError
from mnist_jax.data import splits
from mnist_jax.training import recipes, sweep, trial

SHIFT = {"max_shift": 2}


# --- mean and deviation ---


@pytest.mark.parametrize("shape", [(7, 5, 3), (4, 3, 2, 3)])
def test_moments_of_bytes_are_exact(shape):
    """As fractions; the last channel is nearly white, so that a difference of sums is small."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images[..., -1] = 250 + images[..., -1] % 5 if len(shape) == 4 else images[..., -1]
    found = splits.moments(images)
    channels = images.reshape(-1, shape[3] if len(shape) == 4 else 1).T.tolist()
    assert len(found.mean) == len(found.deviation) == len(channels)
    for values, mean, deviation in zip(channels, *found, strict=True):
        exact = Fraction(sum(values), len(values))
        variance = sum((value - exact) ** 2 for value in values) / len(values)
        assert mean == float(exact) / 255
        assert deviation == float(variance) ** 0.5 / 255


@pytest.mark.parametrize("channels", [(), (3,)])
def test_moments_of_floats_are_those_of_numpy_in_float64(channels):
    generator = np.random.default_rng(0)
    images = (1000 + generator.normal(size=(70, 3, 2, *channels))).astype(np.float32)
    found = splits.moments(images)
    wide = images.reshape(420, -1).astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, wide.std(0), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_channel_without_deviation_is_refused(dtype):
    images = np.random.default_rng(0).integers(0, 9, (5, 3, 2, 3)).astype(dtype)
    images[..., 1] = 7
    said = "scaling=standard: the training images have the same value everywhere in channel 1; use"
    with pytest.raises(UserError, match=said):
        splits.moments(images)


def test_a_recipe_scales_by_the_training_images_alone():
    data = own_data(shape=(8, 6, 3))
    data = data._replace(test_images=data.test_images // 2)
    experiment = read(scaling=("unit", "standard"), augmentation=("none", "shift"), l2=(0.0,))
    parts, moments = list(experiment.parts.values()), splits.moments(data.train_images)
    found = [recipes.create_recipe(experiment, part, data)[0] for part in parts]
    assert [(recipe.moments, recipe.max_shift) for recipe in found] == [
        (None, 0),
        (None, 2),
        (moments, 0),
        (moments, 2),
    ]
    assert recipes.create_recipe(experiment, parts[3])[0].moments is None  # nothing is trained


# --- scaling ---


def numbers(found):
    return [{name: np.asarray(values) for name, values in epoch.items()} for epoch in found]


def assert_close(found, expected, **tolerance):
    for one, other in zip(numbers(found), numbers(expected), strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("colour", [pytest.param(False, marks=pytest.mark.slow), True])
def test_standard_scaling_is_training_on_images_normalised_by_hand(colour):
    data = tiny_dataset()
    if colour:  # channels of other means and deviations
        fields = [name for name in data._fields if name.endswith("images")]
        data = data._replace(
            **{
                name: np.stack([images, images // 3, 200 - images // 2], axis=-1)
                for name in fields
                for images in [getattr(data, name)[:, ::4, ::4]]
            }
        )
    shape = splits.image_shape(data.train_images)
    moments = splits.moments(data.train_images)
    mean, deviation = (np.float32(x) if colour else np.float32(x[0]) for x in moments)

    def by_hand(images):
        return (images.astype(np.float32) / 255 - mean) / deviation

    hand = data._replace(**{n: by_hand(getattr(data, n)) for n in ("train_images", "test_images")})
    made = trials(seeds=(0, 1))
    scaled = run(made, data, moments=moments, image_shape=shape)
    assert_close(scaled, run(made, hand, image_shape=shape), rtol=2e-5)
    assert scaled[1]["train_loss"][0] != run(made, data, image_shape=shape)[1]["train_loss"][0]
    np.testing.assert_allclose(hand.train_images.reshape(-1, shape[2]).mean(0), 0, atol=1e-5)


@pytest.mark.slow
def test_floats_are_used_as_they_are():
    data = tiny_dataset()
    names = ("train_images", "test_images")
    floats = data._replace(**{n: getattr(data, n).astype(np.float32) / 255 for n in names})
    assert_close(run(trials(), floats), run(trials(), data), rtol=1e-6)
    doubled = floats._replace(**{n: 2 * getattr(floats, n) for n in names})
    assert run(trials(), doubled)[0]["train_loss"] != run(trials(), data)[0]["train_loss"]


# --- shifts ---


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (1, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_are_shifted_by_every_distance_with_their_borders_repeated(shape, dtype):
    images = np.random.default_rng(0).integers(0, 256, (400, *shape)).astype(dtype)
    found = np.asarray(trial.shifted(jnp.asarray(images), jax.random.key(0), 2))
    assert (found.shape, found.dtype) == (images.shape, dtype)
    height, width, distances = *shape[:2], []
    padding = [(0, 0), (2, 2), (2, 2), (0, 0)][: images.ndim]
    padded = np.pad(images, padding, mode="edge")
    for image, around in zip(found, padded, strict=True):
        distances += [
            {
                (y, x)
                for y, x in itertools.product(range(5), repeat=2)
                if (image == around[y : y + height, x : x + width]).all()
            }
        ]
    assert all(distances)
    if height > 1:
        assert {len(each) for each in distances} == {1}
        assert len(set.union(*distances)) == 25


def recorded_keys(monkeypatch, seed, steps, **changes):
    """Returns the key by which each of some steps shifts its images."""
    keys = []

    def shifted(images, key, most):
        keys.append(jax.random.key_data(key).tolist())
        return images

    monkeypatch.setattr(trial, "shifted", shifted)
    made = trials(seeds=(seed,), **changes)
    recipe = base.create_recipe(base.create_model(), made, max_shift=2)
    hyper = jax.tree.map(lambda x: jnp.asarray(x[0]), made)
    state, data = trial.init(recipe, hyper), tiny_dataset()
    for _ in range(steps):
        batch = data.train_images[:16], jnp.asarray(data.train_labels[:16]), jnp.ones(16)
        state, _ = trial.train_step(recipe, hyper, state, *batch)
    assert int(state.step) == steps
    test = trial.Split(jnp.asarray(data.test_images), jnp.asarray(data.test_labels))
    trial.evaluate(recipe, hyper, trial.variables_of(state), test)
    trial.predict(recipe, hyper, trial.variables_of(state), test.images)
    assert len(keys) == steps  # and none where images are scored
    return keys


@pytest.mark.slow
def test_shifts_are_those_of_seed_and_step_for_all_trials(monkeypatch):
    keys = recorded_keys(monkeypatch, 3, 2)
    assert len(set(map(tuple, keys))) == 2
    assert recorded_keys(monkeypatch, 3, 2, learning_rate=(0.01,), l2=(0.5,)) == keys
    others = recorded_keys(monkeypatch, 4, 1)
    assert not set(map(tuple, others)) & set(map(tuple, keys))


@pytest.mark.slow
def test_shifts_change_what_is_trained_and_not_the_initial_weights():
    made = trials(seeds=(0,))
    plain, shift = (
        base.create_recipe(base.create_model(), made, max_shift=most) for most in (0, 2)
    )
    hyper = jax.tree.map(lambda x: jnp.asarray(x[0]), made)
    one, other = (trial.init(recipe, hyper) for recipe in (plain, shift))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.step is None
    found = [run(made, **options)[0] for options in (SHIFT, {})]
    assert found[0]["train_loss"] != found[1]["train_loss"]


@pytest.mark.slow
def test_shifted_trials_have_the_bits_of_lone_runs(optimized):
    data = tiny_dataset()
    options = SHIFT | {"moments": splits.moments(data.train_images)}
    many = run(trials(seeds=range(3)), data, **options)
    for seed in (0, 2):
        for of_many, alone in zip(many, run(trials(seeds=[seed]), data, **options), strict=True):
            for name, values in of_many.items():
                assert values[seed] == alone[name][0], name


@pytest.mark.slow
def test_a_run_with_shifts_goes_on_with_the_same_bits(optimized):
    made = trials(seeds=(0, 1))
    program = base.compile_sweep(base.create_model(), made, tiny_dataset(), **OPTIONS, **SHIFT)
    states, whole = [], []
    for state, metrics in sweep.run(program, 3):
        states.append(jax.tree.map(lambda x: np.array(x), state))  # the next epoch overwrites it
        whole.append(metrics)
    steps = [int(state.step[0]) for state in states]
    assert steps == [4, 8, 12]

    def resume(state):
        placed = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding), state, program.state
        )
        return [metrics for _, metrics in sweep.run(program, 3, 1, placed)]

    for resumed, expected in zip(resume(states[0]), whole[1:], strict=True):
        for name in expected:
            np.testing.assert_array_equal(resumed[name], expected[name])
    forgotten = states[0]._replace(step=np.zeros_like(states[0].step))
    assert (resume(forgotten)[0]["train_loss"] != whole[1]["train_loss"]).all()
