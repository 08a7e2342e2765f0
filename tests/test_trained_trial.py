"""Trained trials, read back from runs: their weights, and what they predict."""

import json
import shutil

import jax
import numpy as np
import own
import pytest
from server import ROOT

from mnist_jax import UserError
from mnist_jax.runs.trained_trial import read_trained_trial
from mnist_jax.training import jax_setup

NAMES = [f"kind {i}" for i in range(10)]
IMAGES = np.random.default_rng(0).normal(size=(60, 12, 12, 3)).astype(np.float32)
FLAGS = (
    f"--config={ROOT / 'configs' / 'baseline.py'}",
    "--config.dataset=pets.npz",
    "--config.protocol=validation",
    "--config.scaling=standard",
    "--config.dropout=0.2,0.3",
    "--config.batch_size=32",
    "--config.num_epochs=2",
    "--config.num_seeds=2",
    *own.KEYS,
)


@pytest.fixture(scope="module")
def made(server, tmp_path_factory):
    """A run of a model of one's own on floats in colour, of which data and model are gone."""
    path = own.write(tmp_path_factory.mktemp("trained") / "here")
    labels = np.array(NAMES)[np.arange(60) % 10]
    np.savez(path / "pets.npz", x_train=IMAGES, y_train=labels, x_test=IMAGES, y_test=labels)
    done = server.run("main", *FLAGS, "--workdir=../run", cwd=path, optimize=True)
    assert done.status == 0, done.err
    shutil.rmtree(path)
    return path.parent / "run"


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run."""
    return shutil.copytree(made, tmp_path / "run")


def test_the_chosen_trial_predicts_the_bits_of_its_run_without_data_and_files(made):
    trial = read_trained_trial(made)
    settings = dict(jax.config.values)
    kept = np.load(made / "chosen_trial.npz")
    assert trial.number == kept["trial"] == trial.row["trial"]
    np.testing.assert_array_equal(trial.predict(IMAGES), kept["probabilities"])
    np.testing.assert_array_equal(trial.predict(IMAGES[7:8]), kept["probabilities"][7:8])
    assert jax.config.values == settings
    assert (trial.class_names, trial.image_shape, trial.takes_floats) == (NAMES, (12, 12, 3), True)
    assert trial.params["Dense_0"]["kernel"].shape == (8, 10)
    assert trial.variables["batch_stats"]["Block_0"]["Unit_0"]["BatchNorm_0"]["mean"].shape == (8,)
    assert trial.hyper.model["dropout"] == np.float32(trial.row["dropout"])
    assert trial.recipe.network.image_shape == (12, 12, 3)


def test_what_the_run_used_and_this_machine_lacks_is_done_without(run):
    config = json.loads((run / "config.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    del summary["run"]
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "config.json").write_text(
        json.dumps(config | {"platform": "gpu", "precision": "tf32", "devices": 64})
    )
    trial = read_trained_trial(run)
    kept = np.load(run / "chosen_trial.npz")["probabilities"]
    np.testing.assert_allclose(trial.predict(IMAGES), kept, atol=1e-6)


def test_weights_that_are_kept_beside_the_chosen_ones_are_read(run):
    arrays = dict(np.load(run / "chosen_trial.npz"))
    chosen = int(arrays["trial"])
    other = (chosen + 1) % 4
    variables = {name: 2 * x for name, x in arrays.items() if "/" in name}
    (run / "weights").mkdir()
    np.savez(run / f"weights/trial_{other}.npz", **variables, **{"state/step": np.array(3)})
    twice = read_trained_trial(run, other)
    assert set(twice.variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        twice.params["Dense_0"]["kernel"], variables["params/Dense_0/kernel"]
    )
    assert read_trained_trial(run).number == chosen
    lost = next(number for number in range(4) if number not in (chosen, other))
    there = ", ".join(map(str, sorted((chosen, other))))
    said = f"no weights of trial {lost}, but those of {there}: .*=all"
    with pytest.raises(UserError, match=said):
        read_trained_trial(run, lost)
    with pytest.raises(UserError, match="has no trial 4: expected one of 0, 1, 2, 3"):
        read_trained_trial(run, 4)


def test_a_run_that_is_not_finished_is_refused(run):
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="run has not finished: expected a run that has; wait, or"):
        read_trained_trial(run)
    (run / "config.json").unlink()
    with pytest.raises(UserError, match="run holds no finished run: expected config"):
        read_trained_trial(run)


def test_weights_that_do_not_fit_the_model_are_refused(run):
    arrays = dict(np.load(run / "chosen_trial.npz"))
    arrays["params/Dense_0/bias"] = np.zeros(9, np.float32)
    arrays["params/Dense_9/bias"] = np.zeros(9, np.float32)
    np.savez(run / "chosen_trial.npz", **arrays)
    said = r"cannot be read as a run: .* \(params/Dense_0/bias, params/Dense_9/bias\)"
    with pytest.raises(UserError, match=said):
        read_trained_trial(run).predict(IMAGES)
    (run / "chosen_trial.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"cannot be read as a run: chosen_trial.npz"):
        read_trained_trial(run)


def test_images_of_another_shape_or_other_values_are_refused(made):
    trial = read_trained_trial(made)
    for images, said in (
        (IMAGES[0], r"\[12, 12, 3\]: expected \[n, 12, 12, 3\]; of one image, give images\[None\]"),
        (IMAGES[..., 0], r"\[60, 12, 12\]: expected \[n, 12, 12, 3\]$"),
        (IMAGES[:0], r"\[0, 12, 12, 3\]: expected"),
        (np.zeros((2, 12, 12, 3), np.uint8), "images of uint8: expected floats as in the run's"),
    ):
        with pytest.raises(UserError, match=said):
            trial.predict(images)


def test_where_a_run_had_bytes_floats_are_from_0_to_1(run):
    summary = json.loads((run / "summary.json").read_text())
    summary["data"]["pixels"] = "uint8"
    (run / "summary.json").write_text(json.dumps(summary))
    trial = read_trained_trial(run)
    images = np.random.default_rng(0).integers(0, 256, IMAGES.shape)
    seen = trial.predict(images)
    np.testing.assert_array_equal(trial.predict(images.astype(np.uint8)), seen)
    np.testing.assert_allclose(trial.predict(images / 255), seen, atol=1e-6)
    expected = "expected whole numbers from 0 to 255, or floats from 0 to 1$"
    for wrong, said in (
        (images + 1, "images from 1 to 256: "),
        (images.astype(float), "floats from 0 to 255: "),
        (images / 127.5 - 1, "floats from -1 to 1: "),
        (images * np.nan, "floats from nan to nan: "),
        (images > 0, "images of bool: "),
    ):
        with pytest.raises(UserError, match=said + expected):
            trial.predict(wrong)


def test_a_run_without_the_weights_of_its_chosen_trial_is_said_to_lack_them(run):
    (run / "chosen_trial.npz").unlink()
    with pytest.raises(UserError, match=f"^{run} lacks chosen_trial.npz, the weights of its "):
        read_trained_trial(run)


def test_few_devices_are_no_matter_to_a_trial_alone(made, capsys, monkeypatch):
    monkeypatch.setattr(jax_setup, "num_cores", lambda: 99)
    jax_setup._say_what_it_costs.cache_clear()
    read_trained_trial(made).predict(IMAGES)
    assert "no more trials train at once" not in capsys.readouterr().err
    with jax_setup.jax_for(read_trained_trial(made).experiment, num_trials=3):
        pass
    assert "no more trials train at once" in capsys.readouterr().err
