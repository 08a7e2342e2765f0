"""Runs on one's own data, from its file to reports, shards and comparisons."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
from server import ROOT
from test_resume import saved, stop

from mnist_jax.report import reading
from mnist_jax.runs import chosen_trial

NAMES = np.array(["apple", "fig", "kiwi", "lemon", "lime", "mango", "nut", "olive", "pear", "plum"])
NAMES = np.append(NAMES, ["a name of many letters, and more", "漢字"])
FLAGS = (
    f"--config={ROOT / 'configs' / 'baseline.py'}",
    "--config.hidden_sizes=8",
    "--config.num_seeds=2",
    "--config.learning_rate=0.05",
    "--config.batch_size=32",
)
EXACT = ("config.json", "metrics.jsonl", "results.csv", "chosen_trial.npz")


def made_up(n, num_classes, shape, dtype=np.uint8):
    """Returns n images, a part of each of which is bright, and which part it is."""
    labels = np.arange(n) % num_classes
    images = np.random.default_rng(n).integers(0, 100, (n, *shape))
    flat = images.reshape(n, -1)
    width = flat.shape[1] // num_classes
    for image, label in zip(flat, labels, strict=True):
        image[width * label : width * (label + 1)] = 255
    return (images if dtype is np.uint8 else images / 128 - 1).astype(dtype), labels


def same(path, other, names=EXACT):
    for name in names:
        assert (path / name).read_bytes() == (other / name).read_bytes(), name


# --- 32 x 32 colour images in 12 classes that have names ---


@pytest.fixture(scope="module")
def fruit(tmp_path_factory):
    """The file, and the flags of a run on it: scaled, shifted, of two programs."""
    path = tmp_path_factory.mktemp("fruit") / "fruit.npz"
    images, labels = made_up(120, 12, (32, 32, 3))
    test_images, test_labels = made_up(60, 12, (32, 32, 3))
    arrays = {"x_train": images, "y_train": NAMES[labels]}
    np.savez(path, **arrays, x_test=test_images, y_test=NAMES[test_labels])
    flags = (*FLAGS, "--config.num_epochs=5", "--config.protocol=validation")
    flags += ("--config.scaling=standard,unit", "--config.augmentation=shift")
    return path, (*flags, f"--config.dataset={path}")


@pytest.fixture(scope="module")
def whole(server, fruit, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    done = server.run("main", *fruit[1], f"--workdir={path}", draw=True)
    assert (done.status, done.err) == (0, "")
    said = "100 training images of 32 x 32 x 3 in 12 classes; val_ is validation images\n"
    assert done.out.count(said) == 1  # of both parts
    assert "baseline on fruit.npz: 2 grid points, 4 trials, 5 epochs" in done.out
    return path


def test_a_run_on_ones_own_images_ends_in_a_report(whole):
    run, chosen = reading.with_weights(reading.read_run(whole))
    data = run.summary["data"]
    assert data["image_shape"] == [32, 32, 3]
    assert data["class_names"] == sorted(NAMES)
    assert data["class_counts"]["test"] == [5] * 12
    assert sum(data["class_counts"]["validation"]) == 20
    assert [len(x) for x in data["moments"].values()] == [3, 3]
    assert run.config["data"]["checksum"] == run.summary["provenance"]["data_checksum"]
    assert chosen["params/hidden_1/kernel"].shape == (3072, 8)
    page = (whole / "report.html").read_text()
    assert "Images of 32 x 32 pixels, of 3 channels, in 12 classes: a name of many" in page
    assert "pixels are scaled by mean" in page
    drawn = {path.stem for path in (whole / "figures").iterdir()}
    assert {"classes", "first_layer", "accuracy_vs_scaling", "accuracy_curves"} <= drawn
    assert not list(whole.glob("**/*missing*"))


@pytest.mark.slow
def test_it_goes_on_after_a_kill_with_the_same_bits(server, fruit, whole, tmp_path):
    process = server.start("main", *fruit[1], f"--workdir={tmp_path / 'run'}")
    stop(process, signal.SIGKILL, saved(tmp_path / "run", 2 * 3))
    assert process.status == -signal.SIGKILL
    moved = shutil.move(fruit[0], tmp_path / fruit[0].name)  # it may be elsewhere by then
    try:
        flags = [f"--config.dataset={moved}" if "dataset" in flag else flag for flag in fruit[1]]
        done = server.run("main", *flags, f"--workdir={tmp_path / 'run'}")
        assert done.status == 0
        assert not re.sub("warning: checkpoint .* [(]it was not finished[)]\n", "", done.err)
        assert "resumed after epoch" in done.out
    finally:
        shutil.move(moved, fruit[0])
    same(tmp_path / "run", whole, EXACT[1:])


@pytest.mark.slow
def test_a_run_is_not_resumed_on_other_images(server, fruit, whole, tmp_path):
    run, other = shutil.copytree(whole, tmp_path / "run"), tmp_path / "fruit.npz"
    (run / "summary.json").unlink()
    arrays = dict(np.load(fruit[0]))
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(other, **arrays)
    flags = [f"--config.dataset={other}" if "dataset" in flag else flag for flag in fruit[1]]
    done = server.run("main", *flags, f"--workdir={run}")
    assert (done.status, done.out) == (2, "")
    assert f"holds a run that began with other data than {other} holds now: data.ch" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_shards_of_it_make_the_whole_and_need_no_data(server, fruit, whole, tmp_path):
    for i in range(2):
        done = server.run("main", *fruit[1], f"--shard={i}/2", f"--workdir={tmp_path / str(i)}")
        assert (done.status, done.err) == (0, "")
    moved = shutil.move(fruit[0], tmp_path / "moved.npz")
    try:
        output = tmp_path / "merged"
        done = server.run("report", tmp_path / "0", tmp_path / "1", f"--output={output}")
        assert (done.status, done.err) == (0, "")
        same(output, whole)
        run, merged = (reading.read_run(path) for path in (whole, output))
        assert merged.summary["data"] == run.summary["data"]
        again = shutil.copytree(whole, tmp_path / "again")
        done = server.run("report", again, draw=True)
        assert (done.status, done.err) == (0, "")
        same(again, whole, ("report.md", "figures/classes.svg"))
    finally:
        shutil.move(moved, fruit[0])


# --- other images ---


@pytest.mark.slow
def test_floats_in_47_classes_without_test_images_are_trained(server, tmp_path):
    images, labels = made_up(470, 47, (8, 8), np.float32)
    np.savez(tmp_path / "signs.npz", x_train=images, y_train=labels + 1)
    flags = (*FLAGS, "--config.model=cnn", "--config.conv_features=4", "--config.num_epochs=2")
    flags += (f"--config.dataset={tmp_path / 'signs.npz'}", "--config.num_test=94")
    done = server.run("main", *flags, f"--workdir={tmp_path / 'run'}", draw=True)
    assert done.status == 0, done.err
    assert done.err.count("\n") == 1
    assert "floats from -1 to 0.9922 are used as they are" in done.err
    cut = "test images cut from the training set"
    assert (
        f"376 training images of 8 x 8 x 1 in 47 classes; val_ is the test set; 94 {cut}"
        in done.out
    )
    assert f"epoch chosen on the test set; {cut}" in done.out
    run, chosen = reading.with_weights(reading.read_run(tmp_path / "run"))
    assert run.summary["data"]["class_counts"]["test"] == [2] * 47
    shown = chosen["mistake_images"].astype(float)
    stored = images[None] - images.min()
    stored = np.round(255 * stored / stored.max())[0]
    assert all((image == stored).all((1, 2)).any() for image in shown)
    page = (tmp_path / "run/report.md").read_text()
    assert f"epoch chosen on the test set; {cut}." in page
    assert "signs.npz has no test images: 94 images of it" in page
    assert "in 47 classes: 1, 2, 3," in page


@pytest.mark.slow
def test_labels_of_more_classes_than_a_byte_counts_are_kept(server, tmp_path):
    images, labels = made_up(600, 300, (20, 20))
    np.savez(tmp_path / "many.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    flags = (*FLAGS, "--config.num_epochs=1", f"--config.dataset={tmp_path / 'many.npz'}")
    done = server.run("main", *flags, f"--workdir={tmp_path / 'run'}", draw=True)
    assert done.status == 0, done.err
    chosen = chosen_trial.read_chosen_trial(tmp_path / "run")
    assert chosen["labels"].dtype == np.uint16
    np.testing.assert_array_equal(chosen["labels"], labels)
    assert chosen["probabilities"].shape == (600, 300)
    assert "the 15 classes of the lowest accuracy" in (tmp_path / "run/report.md").read_text()
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["num_classes"] == 300
