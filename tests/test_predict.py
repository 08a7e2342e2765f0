"""One's own pictures: read, brought to the form of a data set's images, and classified."""

import json
import os
from pathlib import Path

import in_process
import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from server import ROOT
from untrained import images_of, write_run

from mnist_jax import UserError
from mnist_jax.data import fitting
from mnist_jax.data.loading import load_dataset
from mnist_jax.data.readers import pictures

REAL_MNIST = os.environ.get("MNIST_JAX_DATA_DIR")
SHAPE = (28, 28, 1)


def drawn(digit, ink=255, ground=0, size=(300, 240), place=(90, 20), mode="L"):
    """Returns a picture of a digit, drawn with a font."""
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    image = Image.new(mode, size, ground)
    ImageDraw.Draw(image).text(place, str(digit), ink, ImageFont.truetype(font, 150))
    return image


def mass(image):
    weights = image.astype(float)
    middle = [weights.sum(1 - i) @ np.arange(28) / weights.sum() for i in (0, 1)]
    return np.array(middle)


# --- the form of the images ---


@pytest.mark.parametrize("digit", range(10))
def test_a_drawing_becomes_an_image_of_mnist(digit):
    image, done = fitting.fit(np.asarray(drawn(digit)), SHAPE, "mnist")
    assert done == "dark ground; what is drawn in 20x20, centred by mass"
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert abs(mass(image) - 14).max() <= 0.5
    assert (image.dtype, image.shape, image.max()) == (np.uint8, (28, 28), 255)


INK_ALONE = drawn(5, (200, 0, 0, 255), (0, 0, 0, 0), mode="RGBA")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (drawn(5, 0, 255), "light ground; inverted"),
        (drawn(5, 90, 160), "light ground; inverted"),
        (drawn(5, 160, 90), "dark ground"),
        (drawn(5, size=(700, 200), place=(550, 10)), "dark ground"),
        (drawn(5, (20, 30, 200), (250, 250, 240), mode="RGB"), "light ground; inverted"),
        (INK_ALONE, "transparent made white; light ground; inverted"),
        (
            drawn(5, (240, 240, 240, 255), (255, 255, 255, 0), mode="RGBA"),
            "transparent made black; dark ground",
        ),
        (drawn(5, (0, 255), (255, 255), mode="LA"), "light ground; inverted"),
    ],
)
def test_colours_ground_size_and_place_change_nothing(picture, said):
    wanted, _ = fitting.fit(np.asarray(drawn(5)), SHAPE, "mnist")
    image, done = fitting.fit(np.asarray(picture), SHAPE, "mnist")
    assert done == f"{said}; what is drawn in 20x20, centred by mass"
    assert np.abs(image.astype(int) - wanted).mean() < 2


def test_noise_and_faint_lines_are_no_matter():
    wanted, _ = fitting.fit(np.asarray(drawn(5)), SHAPE, "mnist")
    noise = np.random.default_rng(0).normal(0, 5, (240, 300))
    picture = (255 - 0.5 * np.asarray(drawn(5)) - 30 + noise).clip(0, 255).astype(np.uint8)
    image, _ = fitting.fit(picture, SHAPE, "mnist")
    assert np.abs(image.astype(int) - wanted).mean() < 6
    image = Image.new("L", (1000, 1000), 255)
    ImageDraw.Draw(image).line((200, 200, 800, 800), 0, 4)
    assert fitting.fit(np.asarray(image), SHAPE, "mnist")[0].max() == 255


def test_each_data_set_has_its_own_form():
    picture = np.asarray(drawn(1, place=(20, 20)))
    for dataset, said, height in (
        ("emnist_letters", "dark ground; what is drawn in 24x24, centred", 24),
        ("fashion_mnist", "dark ground; what is drawn in 28x28, centred", 28),
        ("kmnist", "dark ground; resized from 240x300", 14),
        ("mine.npz", "resized from 240x300", 14),
    ):
        image, done = fitting.fit(picture, SHAPE, dataset)
        assert done == said
        found = np.flatnonzero((image > 64).any(1))
        assert abs(np.ptp(found) + 1 - height) <= 1
    small, done = fitting.fit(picture[:28, :28], SHAPE, "mnist")
    assert done == "blank, as far as can be seen; used as it is"
    np.testing.assert_array_equal(small, picture[:28, :28])


def test_colour_pictures_are_resized():
    picture = np.asarray(drawn(5, (20, 30, 200), (250, 250, 240), mode="RGB"))
    image, done = fitting.fit(picture, (32, 24, 3), "cifar10")
    assert (image.shape, done) == ((32, 24, 3), "resized from 240x300")
    assert image[0, 0].tolist() == [250, 250, 240]
    clear = np.asarray(INK_ALONE)
    image, done = fitting.fit(clear, (32, 24, 3), "cifar10")
    assert (image[0, 0].tolist(), done) == (
        [255] * 3,
        "transparent made white; resized from 240x300",
    )
    assert fitting.fit(clear, (32, 24, 4), "mine")[0][0, 0].tolist() == [0, 0, 0, 0]
    grey, _ = fitting.fit(np.asarray(drawn(5)), (32, 24, 3), "mine", invert=True)
    assert grey[0, 0].tolist() == [255] * 3


def test_what_the_border_says_can_be_overruled():
    touching = np.full((100, 100), 255, np.uint8)
    touching[40:60, 20:80] = 0  # black on white, in a black frame
    touching[[0, -1]] = touching[:, [0, -1]] = 0
    image, done = fitting.fit(touching[1:-1, 1:-1], SHAPE, "mnist")
    told, said = fitting.fit(touching, SHAPE, "mnist", invert=True)
    assert done.startswith("light ground; inverted; ")
    assert said.startswith("dark ground; inverted; ")
    assert (image[14, 14], told[14, 14], told[9, 14]) == (255, 255, 0)
    _, done = fitting.fit(touching[1:-1, 1:-1], SHAPE, "mnist", invert=False)
    assert done == "light ground; what is drawn in 20x20, centred by mass"


def test_a_blank_picture_is_said_to_be_one():
    blank, done = fitting.fit(np.full((50, 60), 200, np.uint8), SHAPE, "mnist")
    assert done.startswith("blank, as far as can be seen; ")
    assert blank.shape == (28, 28)


# --- reading ---


def test_pictures_of_every_kind_are_read(tmp_path):
    grey = drawn(7)
    wanted = np.asarray(grey)
    for name in ("a.png", "a.bmp", "a.gif", "a.tif", "a.webp"):
        grey.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        found = pictures.read_any(tmp_path / name)
        grey_again = fitting.fit(found, (240, 300, 1), "mine")[0]
        np.testing.assert_allclose(grey_again, wanted, atol=1)
    Image.fromarray(wanted.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(pictures.read_any(tmp_path / "deep.png"), wanted)
    turned = Image.new("L", (40, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert pictures.read_any(tmp_path / "turned.jpg").shape == (40, 20)
    assert pictures.read_any(tmp_path / "a.png").shape == (240, 300)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.png", None, "there is no such file; name a picture"),
        (".", None, r"it is a folder; give its files, as in .*/\*\.png"),
        ("e.png", b"", "it is empty; replace or repair it"),
        ("t.png", b"hello", "it is damaged, or no picture that Pillow opens; replace"),
        ("z.png", b"PK\x03\x04", "it is a zip archive: unpack it, not a picture that Pillow"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        pictures.read_any(tmp_path / name)


# --- the program ---


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A run on digits, with pictures of test images, enlarged and dark on light, beside it."""
    path = tmp_path_factory.mktemp("predict")
    keys = ("dataset=digits", "num_seeds=1", "num_epochs=8", "batch_size=32", "hidden_sizes=32")
    config = f"--config={ROOT / 'configs' / 'baseline.py'}"
    flags = (config, *(f"--config.{key}" for key in keys), f"--workdir={path / 'run'}")
    assert server.run("main", *flags).status == 0
    for i, image in enumerate(load_dataset("digits").test_images[:60]):
        enlarged = Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC)
        enlarged.save(path / f"{i:02}.png")
    return path


def test_enlarged_and_inverted_test_images_are_recognised(trained, server):
    files = [f"{i:02}.png" for i in range(60)]
    done = server.run("predict", "run", *files, "--json", cwd=trained)
    assert (done.status, done.err) == (0, "")
    found = json.loads(done.out)
    assert [each["file"] for each in found] == files
    said = "light ground; inverted; what is drawn in 24x24, centred"
    assert {each["picture"] for each in found} == {said}
    for each in found:
        shares = each["probabilities"]
        assert each["class"] == max(shares, key=shares.get)
        assert sum(shares.values()) == pytest.approx(1)
    labels = load_dataset("digits").test_labels[:60]
    right = [each["class"] == str(label) for each, label in zip(found, labels, strict=True)]
    assert np.mean(right) > 0.8


def test_a_table_shows_the_classes_and_what_was_done(trained, server):
    drawn(3, 0, 255).save(trained / "three.png")
    done = server.run("predict", "run", "00.png", "three.png", "01.png", cwd=trained)
    title, _, names, *rows, _, note = done.out.splitlines()
    assert title.startswith("trial 0 of baseline on digits (seed 0): best-epoch test accuracy ")
    assert names.split() == ["file", "class", "probability", "next"]
    assert [row.split()[0] for row in rows] == ["00.png", "three.png", "01.png"]
    assert all(len(row.split()) == 7 for row in rows)
    said = "light ground; inverted; what is drawn in 24x24, centred"
    assert note == f"00.png, three.png, 01.png: {said}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("bytes",),
            "1 arguments: expected the directory of a finished run, and one picture or more; see"
            " --help",
        ),
        (
            ("none", "a.png"),
            "none holds no finished run: expected config.json in it; name the work",
        ),
        (("bytes", "a.png"), "a.png: there is no such file; name a picture"),
        (("bytes", "a.png", "--trial=3"), "bytes has no trial 3: expected one of 0"),
        (("bytes", "a.png", "--invert=3"), "--invert=3: expected True or False; see --help"),
        (("bytes", "a.png", "--data_dir=x"), "--data_dir: a prediction needs no data set; leave"),
        (("bytes", "a.png", "--workdir=x"), "--workdir: a prediction does not know it; see --help"),
        (("floats", "a.png"), "floats: its images are floats, which no picture is; give arrays"),
    ],
)
def test_bad_input_costs_a_line(tmp_path, capsys, arguments, said):
    kind = np.float32 if "floats" in arguments else np.uint8
    data = images_of((9, 9), kind, "signs.npz")
    write_run(tmp_path / ("floats" if kind is np.float32 else "bytes"), data, hidden_sizes=(4,))
    done = in_process.run(capsys, "predict", *arguments, cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {said}")
    assert done.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_JAX_DATA_DIR does not name a folder with MNIST")
def test_a_network_trained_on_mnist_reads_pictures(server, tmp_path):
    config = f"--config={ROOT / 'configs' / 'baseline.py'}"
    flags = (config, "--config.num_seeds=1", "--config.num_epochs=4", f"--data_dir={REAL_MNIST}")
    assert server.run("main", *flags, f"--workdir={tmp_path / 'run'}").status == 0
    dataset = load_dataset("mnist", REAL_MNIST)
    for i, image in enumerate(dataset.test_images[:300]):
        Image.fromarray(255 - image).resize((280, 280)).save(tmp_path / f"{i:03}.png")
    for digit in range(10):
        drawn(digit, 0, 255).save(tmp_path / f"drawn{digit}.png")
    files = sorted(path.name for path in tmp_path.glob("*.png"))
    done = server.run("predict", "run", *files, "--json", cwd=tmp_path)
    found = [each["class"] for each in json.loads(done.out)]
    labels = [*map(str, dataset.test_labels[:300]), *map(str, range(10))]
    right = np.array(found) == labels
    assert right[:300].mean() > 0.92
    assert right[300:].sum() >= 7
