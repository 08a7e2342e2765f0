"""What `python -m mnist_jax.data` says of a data set, and its sheet of examples."""

import io
import os

import in_process
import numpy as np
import pytest
from PIL import Image

from mnist_jax.data import inspection, loading, sheet
from mnist_jax.data.splits import Dataset


def made(train, test, num_classes=3, name="made"):
    """A data set of (images, labels) for training and tests."""
    (x, y), (test_x, test_y) = train, test
    names = tuple(f"class {i}" for i in range(num_classes))
    rest = (test_x, test_y, names, "sha256:0", "here")
    return Dataset(name, x, y, x[:0], y[:0], *rest)


def random_set(shape, num_train=30, num_test=9, num_classes=3, dtype=np.uint8):
    rng = np.random.default_rng(0)
    labels = np.arange(num_train + num_test) % num_classes
    labels = labels.astype(np.uint8 if num_classes <= 256 else np.uint16)
    images = rng.integers(0, 256, (len(labels), *shape)).astype(dtype)
    parts = [(images[part], labels[part]) for part in (slice(num_train), slice(num_train, None))]
    return made(*parts, num_classes)


def test_digits_are_described_and_drawn(capsys, tmp_path):
    done = in_process.run(capsys, "data", "Digits", cwd=tmp_path)
    assert (done.status or 0, done.err) == (0, "")
    lines = done.out.splitlines()
    kind = "1,437 training and 360 test images, 28x28, grey, uint8, 10 classes"
    assert lines[:2] == [f"digits: {kind}", "from scikit-learn load_digits"]
    dataset = loading.load_dataset("digits")
    assert lines[2] == dataset.checksum
    pixels = dataset.train_images / 255
    moments = f"mean {pixels.mean():.4f}, standard deviation {pixels.std():.4f}"
    assert lines[3] == f"training pixels, from 0 to 1: {moments}"
    assert lines[5].split() == ["class", "train", "test"]
    assert lines[9].split() == ["3", "146", "37"]
    assert lines[-2:] == [
        "No training image occurs twice, or in the test set.",
        "Examples: digits_examples.png",
    ]
    with Image.open(tmp_path / "digits_examples.png") as picture:
        row = np.asarray(picture)[4 * 60 : 4 * 60 + 56, -60:-4]  # of class 3, the last example
    twelfth = dataset.train_images[np.flatnonzero(dataset.train_labels == 3)[11]]
    np.testing.assert_array_equal(row[::2, ::2, 0], twelfth)
    np.testing.assert_array_equal(row[1::2, 1::2, 2], twelfth)


def test_a_sheet_takes_no_file_of_another(capsys, tmp_path):
    for name in ("digits_examples.png", "digits_examples_3.png"):
        (tmp_path / name).write_text("mine")
    for name in ("digits_examples_2.png", "digits_examples_4.png"):
        done = in_process.run(capsys, "data", "digits", cwd=tmp_path)
        assert done.out.endswith(f"\nExamples: {name}\n")
    done = in_process.run(capsys, "data", "digits", "--output=~/x.PNG", cwd=tmp_path, HOME="here")
    assert done.status == 2
    (tmp_path / "here").mkdir()
    done = in_process.run(capsys, "data", "digits", "--output=here/x.PNG", cwd=tmp_path)
    assert done.out.endswith("\nExamples: here/x.PNG\n")
    assert (tmp_path / "digits_examples.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "0 arguments: expected one, the path of your files or a name: mnist, "),
        (["mnist", "digits"], "2 arguments: expected one"),
        (["mnits"], "mnits: "),
        (["gs://bucket/a"], "gs://bucket/a: expected a path on this machine"),
        (["digits", "--seed=1"], "--seed: the inspection of a data set does not know it"),
        (["digits", "--config.l2=1"], "--config: the inspection of a data set does not know it"),
        (["digits", "--workdir=a"], "--workdir: the inspection of a data set does not know it"),
        (["digits", "--output=a.jpg"], "--output=a.jpg: expected a file whose name ends with .png"),
        (["digits", "--output=no/a.png"], "--output=no/a.png: there is no such folder"),
        (["digits", "--output=old.png"], "--output=old.png: exists; choose another name"),
        (["old.png", "--data_dir=."], "--data_dir=.: only a name needs it; leave it out"),
        (["digits", "--outpt=a.png"], "--outpt: no such flag; did you mean --output?"),
        (["cifar10", "--data_dir=old.png"], "--data_dir=old.png is empty, not a folder; it should"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, arguments, said):
    (tmp_path / "old.png").touch()
    done = in_process.run(capsys, "data", *arguments, cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {said}")
    assert done.err.count("\n") == 1
    assert os.listdir(tmp_path) == ["old.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="no folder is closed to root")
def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    tmp_path.chmod(0o500)
    done = in_process.run(capsys, "data", "digits", cwd=tmp_path)
    assert done.status == 2
    assert "digits_examples.png: cannot be written" in done.err


def test_images_that_occur_twice_are_counted():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 2, 3, 3), np.uint8)
    train, labels = images[[0, 1, 2, 1, 3, 1, 4]], np.uint8([0, 1, 2, 0, 0, 2, 0])
    test, test_labels = images[[5, 4, 0, 6, 6]], np.uint8([0, 0, 1, 1, 1])
    dataset = made((train, labels), (test, test_labels))
    twins = inspection.find_twins(dataset)
    assert twins[:3] == (2, 2, 2)  # image 1 twice more; tests 1 and 2; images 1 and 0
    lines = inspection.describe(dataset).splitlines()[-3:]
    assert lines == [
        "warning: training images that equal an earlier one: 2 (training image 3 is training"
        " image 1); they bias the validation accuracy",
        "warning: test images that equal a training image: 2 (test image 1 is training image 6);"
        " they bias the test accuracy",
        "warning: images that occur with several labels: 2 (training image 3 (class 0) is training"
        " image 1 (class 1)); some of these are wrong",
    ]
    almost = train.copy()
    almost[3, 1, 2, 2] ^= 1
    almost[5, 0, 0, 0] ^= 1
    assert (
        inspection.find_twins(made((almost, labels), (test[:1], test_labels[:1])))[:3] == (0,) * 3
    )


def test_many_classes_are_cut_and_the_extremes_named():
    dataset = random_set((2, 2), num_train=599, num_test=30, num_classes=300)
    text = inspection.describe(dataset)
    line = "and 280 more. Training images of a class: 1 (class 299) to 2 (class 0)"
    assert f"\nclass 19      2     1\n{line}\n" in text
    assert "class 20 " not in text


def test_colours_and_floats_and_missing_tests_are_told():
    dataset = random_set((4, 5, 3))
    text = inspection.describe(dataset)
    pixels = (dataset.train_images / 255).reshape(-1, 3)
    means = " ".join(f"{x:.4f}" for x in pixels.mean(0))
    assert "4x5, in colour (RGB), uint8" in text
    assert f"from 0 to 1: mean {means}, standard deviation " in text
    floats = random_set((4, 5), dtype=np.float32, num_test=0)
    floats = floats._replace(train_images=floats.train_images / 100 - 1)
    text = inspection.describe(floats)
    x = floats.train_images.astype(float)
    found = f"mean {x.mean():.4f}, standard deviation {x.std():.4f}"
    assert f"training pixels, as they are: from {x.min():.4g} to {x.max():.4g}: {found}\n" in text
    assert text.endswith("--config.num_test=N cuts N from the others.")


@pytest.mark.parametrize(
    "shape", [(1, 1), (28, 28), (1, 512), (300, 200, 3), (512, 2, 4), (3, 3, 2), (32, 32, 3)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_sheet_of_any_shape(shape, dtype):
    dataset = random_set(shape, num_train=9, num_test=3, dtype=dtype)
    names = ("ä\n" * 40, "", "$x^")
    with Image.open(io.BytesIO(sheet.draw(dataset._replace(class_names=names)))) as picture:
        assert picture.size[1] == 4 * 60
        pixels = np.asarray(picture.convert("L"))
    drawn = pixels[60:, -12 * 60 : -9 * 60] < 250  # three examples a class
    assert drawn.any()
    assert (pixels[60:, -9 * 60 :] == 255).all()


def test_equal_floats_are_drawn():
    dataset = random_set((3, 3), dtype=np.float32)
    sheet.draw(dataset._replace(train_images=np.ones_like(dataset.train_images)))


def test_of_many_classes_some_are_drawn():
    dataset = random_set((2, 2), num_train=600, num_classes=300)
    with Image.open(io.BytesIO(sheet.draw(dataset))) as picture:
        assert picture.size[1] == 21 * 60


def test_ones_own_pictures(capsys, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    for i, file in enumerate(("train/elm/0", "train/oak/0", "test/oak/0", "train/oak/1")):
        path = tmp_path / "leaves.v1" / f"{file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i % 3]).save(path)
    done = in_process.run(capsys, "data", "leaves.v1", cwd=tmp_path)
    assert (done.status or 0, done.err) == (0, "")
    lines = done.out.splitlines()
    kind = "3 training and 1 test images, 5x6, in colour (RGB), uint8, 2 classes"
    assert lines[:2] == [f"leaves.v1: {kind}", f"from pictures in {tmp_path / 'leaves.v1'}"]
    assert lines[6].split() == ["elm", "1", "0"]
    assert lines[-1] == "Examples: leaves.v1_examples.png"
    assert "several labels: 1 (training image 2 (oak) is training image 0 (elm))" in lines[-2]
