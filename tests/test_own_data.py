"""One's own data: each form gives the arrays that were written, each fault one clear line."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow
import pytest
from faults import PROPERTY, MakesFolder, idx_bytes, little_memory, one_line, some_bytes
from PIL import Image
from pyarrow import parquet

from mnist_jax import UserError
from mnist_jax.data import formats, loading, own_data
from mnist_jax.data.readers import raw

REAL_MNIST = os.environ.get("MNIST_JAX_DATA_DIR")
pytestmark = pytest.mark.usefixtures("nothing_waits_for_ever")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / "cache"))


def make_parts(*shape, num_classes=3, sizes=(24, 9), dtype=np.uint8):
    """Images and labels of both splits: {"train": (images, labels), "test": ...}."""
    rng, parts = np.random.default_rng(0), {}
    for split, size in zip(("train", "test"), sizes, strict=True):
        images = rng.integers(0, 256, (size, *shape)).astype(dtype)
        parts[split] = images, rng.permutation(np.arange(size) % num_classes)
    return parts


GREY, COLOUR = make_parts(5, 5), make_parts(5, 5, 3)


def assert_holds(dataset, parts, class_names=("0", "1", "2")):
    assert dataset.class_names == class_names
    for split in ("train", "test"):
        images, labels = parts.get(split, (GREY["train"][0][:0], GREY["train"][1][:0]))
        found, found_labels = (
            getattr(dataset, f"{split}_images"),
            getattr(dataset, f"{split}_labels"),
        )
        if split in parts:
            assert found.dtype == images.dtype
            np.testing.assert_array_equal(found, images)
        assert len(found) == len(images)
        assert found_labels.dtype == np.uint8
        np.testing.assert_array_equal(found_labels, labels)
    arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    assert dataset.checksum == formats.checksum(arrays)
    assert dataset.validation_images.shape == (0, *dataset.train_images.shape[1:])


# --- writers -------------------------------------------------------------------------------------


def keras(parts):
    names = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
    pairs = [zip(names[split], part, strict=True) for split, part in parts.items()]
    return {name: array for pair in pairs for name, array in pair}


def write_npz(path, parts=GREY, **further):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **keras(parts) | further)
    return path


def csv_text(images, labels, header=True, last=False):
    rows = [
        [str(label), *map(str, image.ravel().tolist())]
        for image, label in zip(images, labels, strict=True)
    ]
    if header:
        rows.insert(0, ["label", *(f"pixel{i}" for i in range(images[0].size))])
    return "".join(",".join(row[1:] + row[:1] if last else row) + "\n" for row in rows)


def write_csv(folder, parts=GREY, name="{}.csv", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in parts.items():
        content = csv_text(*part, **options).encode()
        path = folder / name.format(split)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return folder


def encoded(image, form="PNG", mode=None, **options):
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(buffer, form, **options)
    return buffer.getvalue()


def write_pictures(folder, parts=GREY):
    for split, (images, labels) in parts.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            below = folder / split / f"{label}"
            below.mkdir(parents=True, exist_ok=True)
            (below / f"{i:05}.png").write_bytes(encoded(image))
    return folder


def table(images, labels, kind="hugging face", names=None):
    cells = {
        "hugging face": lambda: [
            {"bytes": encoded(x), "path": f"{i}.png"} for i, x in enumerate(images)
        ],
        "bytes": lambda: list(map(encoded, images)),
        "lists": lambda: images.tolist(),
        "flat lists": lambda: images.reshape(len(images), -1).tolist(),
    }
    if kind == "columns":
        columns = dict(
            zip(map(str, range(images[0].size)), images.reshape(len(images), -1).T, strict=True)
        )
        return pyarrow.table({"label": labels, **columns})
    found = pyarrow.table({"image": cells[kind](), "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        noted = json.dumps({"info": {"features": features}})
        found = found.replace_schema_metadata({"huggingface": noted})
    return found


def write_parquet(folder, parts=GREY, shards=1, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in parts.items():
        count = shards if split == "train" else 1
        for i, part in enumerate(np.array_split(np.arange(len(labels)), count)):
            path = folder / f"{split}-{i:05}-of-{count:05}.parquet"
            parquet.write_table(table(images[part], labels[part], **options), path)
    return folder


def write_idx(folder, parts=GREY, name="{}-{}-idx-ubyte"):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in parts.items():
        for what, array in (("images", images), ("labels", labels.astype(np.uint8))):
            path = folder / name.format(split, what)
            content = idx_bytes(array)
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return folder


WRITERS = {
    "npz": lambda path, parts: write_npz(path / "own.npz", parts),
    "csv": write_csv,
    "pictures": write_pictures,
    "parquet": write_parquet,
    "idx": write_idx,
}


# --- each form -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["both", "train"])
@pytest.mark.parametrize("parts", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_what_was_written_and_so_does_the_cache(tmp_path, form, parts, part):
    if part == "train":
        parts = {"train": parts["train"]}
    path = WRITERS[form](tmp_path / "leaves", parts)
    for source in ("", f"cache {tmp_path}"):
        dataset = own_data.load(path)
        assert_holds(dataset, parts)
        assert dataset.name == path.name
        assert dataset.source.startswith(source)
        guess = f", rows of {dataset.train_images[0].size} numbers taken as 5x5 " * (form == "csv")
        assert f"{path}{guess}" in dataset.source
    assert dataset.facts.image_shape == (5, 5, 1 if parts["train"][0].ndim == 3 else 3)


def test_the_names_that_loading_gives_are_read_too(tmp_path):
    arrays = dict(zip(loading.ARRAY_NAMES, [*GREY["train"], *GREY["test"]], strict=True))
    np.savez(tmp_path / "own.npz", **arrays, val_images=np.zeros(3))
    assert_holds(own_data.load(tmp_path / "own.npz"), GREY)


@pytest.mark.parametrize("options", [{}, {"header": False}, {"last": True}])
@pytest.mark.parametrize("name", ["{}.csv", "mnist_{}.csv.gz"])
def test_csv_tables_with_and_without_header(tmp_path, name, options):
    assert_holds(own_data.load(write_csv(tmp_path / "own", name=name, **options)), GREY)


@pytest.mark.parametrize("label", ["Label", "CLASS", "target", "y", "digit"])
def test_labels_of_other_names(tmp_path, label):
    text = csv_text(*GREY["train"]).replace("label", label)
    (tmp_path / "all.csv").write_text(f"\ufeff{text}\n\n")
    assert_holds(own_data.load(tmp_path / "all.csv"), {"train": GREY["train"]})


def test_the_test_part_beside_a_file(tmp_path):
    write_csv(tmp_path, name="a_{}.csv")
    write_parquet(tmp_path / "p")
    assert_holds(own_data.load(tmp_path / "a_train.csv"), GREY)
    assert_holds(own_data.load(tmp_path / "a_test.csv"), {"train": GREY["test"]})
    assert_holds(own_data.load(tmp_path / "p" / "train-00000-of-00001.parquet"), GREY)


def test_headers_of_numbers_and_of_a_label_alone(tmp_path):
    rows = csv_text(*GREY["train"], header=False)
    for head in (["label", *map(str, range(25))], list(map(str, range(26)))):
        (tmp_path / "all.csv").write_text(",".join(head) + "\n" + rows)
        assert_holds(own_data.load(tmp_path / "all.csv"), {"train": GREY["train"]})


@pytest.mark.parametrize("kind", ["hugging face", "bytes", "lists", "flat lists", "columns"])
@pytest.mark.parametrize("parts", [GREY, COLOUR], ids=["grey", "colour"])
def test_parquet_of_each_kind(tmp_path, kind, parts):
    assert_holds(own_data.load(write_parquet(tmp_path / "own", parts, kind=kind)), parts)


@pytest.mark.parametrize("text", [False, True])
def test_parquet_in_shards_with_names_of_classes(tmp_path, text):
    parts, names = GREY, ["ash", "elm", "box"]
    if text:
        parts = {split: (x, np.array(names)[y]) for split, (x, y) in GREY.items()}
    folder = write_parquet(tmp_path / "own", parts, shards=3, names=names)
    assert_holds(own_data.load(folder), GREY, tuple(names))
    (folder / "train-00001-of-00003.parquet").unlink()
    assert "it holds 2 of 3 files of train; add the others" in one_line(own_data.load, folder)
    message = one_line(own_data.load, folder / "train-00000-of-00003.parquet")
    assert "it is one of 3 files; give their folder" in message


def test_shards_with_other_names_of_classes(tmp_path):
    folder = write_parquet(tmp_path / "own", shards=2, names=["ash", "elm", "box"])
    other = table(*GREY["test"], names=["elm", "ash", "box"])
    parquet.write_table(other, folder / "test-00000-of-00001.parquet")
    message = one_line(own_data.load, folder)
    assert "its classes are elm, ash, box, those of " in message
    assert message.endswith("ash, elm, box; expected the same, in the same order")


@pytest.mark.parametrize(
    "name",
    [
        "{}-{}-idx3-float",
        "{}-{}-idx3-ubyte.gz",
        "{}-{}.idx-ubyte",
        "my_{}_{}",
        "own.{}.{}.gz",
        "{}{}.idx",
    ],
)
def test_idx_files_of_any_names(tmp_path, name):
    folder = write_idx(tmp_path / "own", name=name)
    assert_holds(own_data.load(folder), GREY)
    assert_holds(own_data.load(folder / name.format("train", "labels")), GREY)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("test", "t10k"))
    assert_holds(own_data.load(folder), GREY)


def test_emnist_is_put_upright(tmp_path):
    lying = {split: (x.swapaxes(1, 2), y + 1) for split, (x, y) in make_parts(4, 6).items()}
    write_idx(tmp_path / "own", lying, "emnist-letters-{}-{}-idx-ubyte")
    path = tmp_path / "own" / "emnist-letters-train-images-idx-ubyte"
    assert_holds(own_data.load(path), make_parts(4, 6), ("1", "2", "3"))
    assert_holds(own_data.load(path.parent), make_parts(4, 6), ("1", "2", "3"))
    write_idx(tmp_path / "own", lying, "emnist-digits-{}-{}-idx-ubyte")
    message = one_line(own_data.load, path.parent)
    assert "several data sets: emnist-digits" in message
    assert_holds(own_data.load(path), make_parts(4, 6), ("1", "2", "3"))
    square = {split: (x.swapaxes(1, 2), y) for split, (x, y) in GREY.items()}
    write_csv(tmp_path / "csv", square, "emnist-letters-{}.csv", header=False)
    assert_holds(own_data.load(tmp_path / "csv"), GREY)


def test_qmnists_labels(tmp_path):
    folder = write_idx(tmp_path / "own", name="qmnist-{}-{}-idx-ubyte")
    for split, (_, labels) in GREY.items():
        wide = np.concatenate([labels[:, None], np.full((len(labels), 7), 2**20)], 1)
        content = b"\0\0\x0c\x02" + struct.pack(">2I", *wide.shape) + wide.astype(">i4").tobytes()
        path = folder / f"qmnist-{split}-labels-idx2-int.gz"
        path.write_bytes(gzip.compress(content))
        (folder / f"qmnist-{split}-labels-idx-ubyte").unlink()
    assert_holds(own_data.load(folder), GREY)


@pytest.mark.parametrize("dtype", [">i2", ">f8"])
def test_idx_files_of_other_types(tmp_path, dtype):
    folder, code = write_idx(tmp_path / "own"), {">i2": 11, ">f8": 14}[dtype]
    parts = {split: (x.astype(">f4" if code == 14 else "u1"), y) for split, (x, y) in GREY.items()}
    for split, (images, _) in GREY.items():
        path = folder / f"{split}-images-idx-ubyte"
        path.write_bytes(
            b"\0\0" + bytes([code]) + idx_bytes(images)[3:16] + images.astype(dtype).tobytes()
        )
    dataset = own_data.load(folder)
    assert dataset.train_images.dtype == (np.float32 if code == 14 else np.uint8)
    np.testing.assert_array_equal(dataset.train_images, parts["train"][0])


# --- pictures ------------------------------------------------------------------------------------


def test_class_folders_without_splits_and_with_other_names(tmp_path):
    write_pictures(tmp_path / "own")
    assert_holds(own_data.load(tmp_path / "own" / "train"), {"train": GREY["train"]})
    (tmp_path / "own" / "train").rename(tmp_path / "own" / "Training")
    (tmp_path / "own" / "test").rename(tmp_path / "own" / "testing")
    assert_holds(own_data.load(tmp_path / "own"), GREY)


def test_pictures_are_sorted_by_file_name_then_class(tmp_path):
    image = np.arange(4, dtype=np.uint8).reshape(2, 2)
    for i, name in enumerate(["b/1.png", "a/2.png", "b/2.PNG", "a/3.jpeg"]):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image + i * 60, "JPEG" if "jpeg" in name else "PNG"))
    dataset = own_data.load(tmp_path / "own")
    assert dataset.class_names == ("a", "b")
    assert dataset.train_labels.tolist() == [1, 1, 0, 0]  # 2.PNG goes before 2.png
    np.testing.assert_array_equal(dataset.train_images[:3, 0, 0], [0, 120, 60])


@pytest.mark.parametrize(
    ("mode", "channels"),
    [
        ("1", ()),
        ("L", ()),
        ("LA", (2,)),
        ("P", (3,)),
        ("RGB", (3,)),
        ("RGBA", (4,)),
        ("CMYK", (3,)),
    ],
)
def test_modes_of_pictures(tmp_path, mode, channels):
    image = np.full((3, 4, 3), 255, np.uint8)
    for label in "ab":
        form = "JPEG" if mode == "CMYK" else "PNG"
        path = tmp_path / "own" / label / f"1.{form.lower()}"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(image, form, mode))
    images = own_data.load(tmp_path / "own").train_images
    assert images.shape == (2, 3, 4, *channels)
    assert images.min() >= 250


def test_what_is_no_picture_is_told_and_left_out(tmp_path, caplog):
    folder = write_pictures(tmp_path / "own")
    (folder / "train" / "1" / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / "1" / ".hidden.png").write_bytes(b"x")
    (folder / "train" / "readme.txt").write_bytes(b"x")
    write_pictures(folder / "val", GREY)
    assert_holds(own_data.load(folder), GREY)
    [val, other] = [record.getMessage() for record in caplog.records]
    assert "val is not used" in val
    assert other.endswith("1 files that are no PNG or JPEG are not used: Thumbs.db")


def test_a_picture_beside_the_folders_of_classes_is_told(tmp_path, caplog):
    folder = write_pictures(tmp_path / "own")
    (folder / "train" / "a.png").write_bytes(encoded(GREY["train"][0][0]))
    assert_holds(own_data.load(folder), GREY)
    said = "1 pictures in no folder of a class are not used: a.png"
    assert caplog.records[0].getMessage() == f"{folder / 'train'}: {said}"


def test_pictures_are_turned_as_their_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    image = np.arange(12, dtype=np.uint8).reshape(3, 4) + 100
    for label in "ab":
        (tmp_path / "own" / label).mkdir(parents=True)
        (tmp_path / "own" / label / "1.png").write_bytes(encoded(image, exif=exif))
    found = own_data.load(tmp_path / "own").train_images
    np.testing.assert_array_equal(found[0], np.rot90(image, -1))


def png(size, content=b"", chunks=b""):
    """A PNG file whose header claims (width, height), 8 bits of grey."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + data + chunk(b"IEND", b"")


DEEP = np.zeros((5, 5), np.uint16)
PICTURES = {
    "html": (b"<html>", "it is a web page (or XML) that was saved in place of the file, not a PNG"),
    "empty": (b"", "it is empty; replace"),
    "cut": (encoded(GREY["train"][0][0])[:-30], "cannot be read (OSError: "),
    "gif": (encoded(GREY["train"][0][0], "GIF"), "it is damaged, or no PNG or JPEG file; "),
    "animated": (
        encoded(GREY["train"][0][0], save_all=True, append_images=[Image.new("L", (5, 5))]),
        "it is animated; expected one picture",
    ),
    "size": (encoded(np.zeros((5, 6), np.uint8)), "it is 5 by 6 grey, but "),
    "colour": (encoded(COLOUR["train"][0][0]), "it is 5 by 5 RGB, but "),
    "deep": (encoded(DEEP), "its pixels are of the kind I;16; expected 8 bits a channel"),
    "large": (png((513, 1), bytes(514)), "it has 1 by 513 pixels; expected 1 to 512"),
    "bomb": (png((5_000, 5_000)), "it has 5000 by 5000 pixels; expected 1 to 512"),
    "huge": (png((2**31 - 1, 2**31 - 1)), "it is larger than 512 by 512 pixels"),
    "long": (png((5, 5), bytes(100_000_000)), ""),
    "none": (png((0, 5)), ""),
}


@pytest.mark.parametrize("fault", PICTURES)
def test_bad_pictures(tmp_path, fault):
    path = write_pictures(tmp_path / "own") / "train" / "1" / "00010.png"
    content, said = PICTURES[fault]
    if fault == "long":  # is decoded as far as its size goes
        path = next((tmp_path / "own").glob("train/*/00010.png"))
        path.write_bytes(content)
        with little_memory():
            own_data.load(tmp_path / "own")
        return
    path = next((tmp_path / "own").glob("train/*/00010.png"))
    path.write_bytes(content)
    with little_memory():
        message = one_line(own_data.load, tmp_path / "own")
    assert message.startswith(f"{path}: ")
    assert said in message


def test_folders_without_what_they_should_hold(tmp_path):
    folder = write_pictures(tmp_path / "own")
    (folder / "train" / "7").mkdir()
    message = one_line(own_data.load, folder)
    assert message.startswith(f"{folder / 'train' / '7'}: it holds no PNG or JPEG file")
    (folder / "train" / "7").rmdir()
    (folder / "train").rename(folder / "other")
    assert "it holds other, test, but no train; add it" in one_line(own_data.load, folder)
    (folder / "train").mkdir()
    message = one_line(own_data.load, folder)
    assert message.startswith(f"{folder / 'train'}: it holds no folder with pictures; expected")
    (folder / "Train").mkdir(exist_ok=True)
    if len(os.listdir(folder)) == 4:  # case matters to the file system
        assert "it holds Train and train; leave one" in one_line(own_data.load, folder)


# --- images and labels ---------------------------------------------------------------------------


def load_arrays(tmp_path, images, labels, **further):
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, **further)
    return own_data.load(tmp_path / "own.npz")


TEN = np.random.default_rng(0).integers(0, 256, (10, 3, 4))
LABELS = np.arange(10) % 3


@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4", "uint16", "uint64"])
def test_whole_pixels_become_uint8(tmp_path, dtype):
    for images in (
        TEN.astype(dtype),
        np.asfortranarray(TEN.astype(dtype)),
        TEN.astype(dtype)[..., None],
    ):
        found = load_arrays(tmp_path, images, LABELS).train_images
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, TEN)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_floats_are_used_as_they_are_and_that_is_told(tmp_path, caplog, dtype):
    images = (TEN / 100 - 1).astype(dtype)
    for _ in range(2):
        dataset = load_arrays(tmp_path, images, LABELS)
        assert dataset.train_images.dtype == np.float32
        np.testing.assert_array_equal(dataset.train_images, images.astype(np.float32))
        assert dataset.source.endswith(", of floats")
    said = "x_train): floats from -1 to 1.55 are used as they are"
    assert [said in record.getMessage() for record in caplog.records] == [True, True]


def test_floats_that_nobody_has_scaled_are_told(tmp_path, caplog):
    for _ in range(2):  # from the cache, too
        caplog.clear()
        load_arrays(tmp_path, TEN.clip(max=255) / 1, LABELS)
        said = (
            f"floats from {TEN.min()} to {TEN.max()} are used unscaled: --config.scaling=standard"
        )
        assert f"{said}, or divide them by 255" in caplog.text


def test_what_is_true_is_white(tmp_path, caplog):
    images = load_arrays(tmp_path, TEN > 100, LABELS).train_images
    np.testing.assert_array_equal(images, 255 * (TEN > 100))
    [record] = caplog.records
    assert record.getMessage().endswith("images are True and False, which become 255 and 0")


def test_faint_images_are_told(tmp_path, caplog):
    assert load_arrays(tmp_path, (TEN > 100) * 1, LABELS).train_images.max() == 1
    assert "the largest pixel is 1 of 255: images are nearly black; scale them" in caplog.text


def spoilt(images, value, dtype=None):
    images = images.astype(dtype or images.dtype)
    images[7, 2, 1] = value
    return images


BAD_IMAGES = {
    "above": (spoilt(TEN, 256), "(x_train[7]): the pixel at [2, 1] is 256; expected 0 to 255"),
    "below": (spoilt(TEN, -1), "(x_train[7]): the pixel at [2, 1] is -1; expected 0 to 255"),
    "nan": (
        spoilt(TEN, np.nan, float),
        "(x_train[7]): the pixel at [2, 1] is nan; expected a finite",
    ),
    "inf": (
        spoilt(TEN, np.inf, float),
        "(x_train[7]): the pixel at [2, 1] is inf; expected a finite",
    ),
    "beyond": (spoilt(TEN, 1e300, float), "the pixel at [2, 1] is 1e+300; expected a finite"),
    "complex": (
        TEN.astype(complex),
        "images are complex128; expected whole numbers 0..255, or floats",
    ),
    "text": (TEN.astype(str), "images are <U21; expected"),
    "time": (TEN.astype("M8[s]"), "images are datetime64[s]; expected"),
    "flat": (TEN.reshape(10, 12), "it has the shape [10, 12]; expected images [n, height, width]"),
    "deep": (TEN[..., None, None], "it has the shape [10, 3, 4, 1, 1]; expected images"),
    "scalar": (np.uint8(1), "it has the shape []; expected images"),
    "channels first": (np.zeros((10, 3, 8, 8), np.uint8), "with the channels first; expected"),
    "channels": (np.zeros((10, 8, 8, 5), np.uint8), "it has 5 channels; expected 1 to 4"),
    "no channel": (np.zeros((10, 8, 8, 0), np.uint8), "it has 0 channels; expected 1 to 4"),
    "high": (np.zeros((10, 513, 1), np.uint8), "images of 513 by 1 pixels; expected 1 to 512"),
    "no width": (np.zeros((10, 5, 0), np.uint8), "images of 5 by 0 pixels; expected 1 to 512"),
    "none": (TEN[:0], "it holds no image; add some, or leave the split out"),
    "objects": (TEN.astype(object), "x_train holds Python objects, which are never unpickled"),
    "more": (np.concatenate([TEN, TEN]), "20 images, but 10 labels in "),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_bad_images(tmp_path, fault):
    images, said = BAD_IMAGES[fault]
    message = one_line(load_arrays, tmp_path, images, LABELS)
    assert message.startswith(f"{tmp_path / 'own.npz'}")
    assert said in message


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (LABELS, None, ("0", "1", "2")),
        (LABELS + 1, None, ("1", "2", "3")),
        (LABELS.astype(float) + 1, None, ("1", "2", "3")),
        (LABELS[:, None], None, ("0", "1", "2")),
        (np.array(["elm", "ash", "yew"])[LABELS], None, ("ash", "elm", "yew")),
        (np.array([b"a", b"b", b"c"])[LABELS], None, ("a", "b", "c")),
        (np.array(["elm", "ash", "yew"])[LABELS], ["yew", "ash", "elm"], ("yew", "ash", "elm")),
        (LABELS, ["yew", "ash", "elm"], ("yew", "ash", "elm")),
        (LABELS + 1, ["yew", "ash", "elm"], ("yew", "ash", "elm")),
        (LABELS + 1, ["yew", "ash", "elm", "oak"], ("yew", "ash", "elm", "oak")),
        (LABELS * 2, None, ("0", "1", "2", "3", "4")),
        (LABELS > 0, None, ("0", "1")),
    ],
)
def test_labels(tmp_path, caplog, labels, names, expected):
    further = {"class_names": np.array(names)} if names else {}
    test = {"x_test": TEN[:5], "y_test": labels[:5]}
    dataset = load_arrays(tmp_path, TEN, labels, **further, **test)
    assert dataset.class_names == expected
    assert dataset.train_labels.dtype == np.uint8
    found = np.array(expected)[dataset.train_labels]
    flat = labels.ravel()
    if flat.dtype.kind in "US":
        np.testing.assert_array_equal(found, flat.astype(str))
    elif names:
        shift = len(names) == 3 and flat.min()
        np.testing.assert_array_equal(dataset.train_labels, flat - shift)
    else:
        np.testing.assert_array_equal(found.astype(int), flat.astype(int))
    np.testing.assert_array_equal(dataset.test_labels, dataset.train_labels[:5])
    assert ("no image of class" in caplog.text) == (len(expected) > 3)


def test_more_classes_than_a_byte_counts(tmp_path):
    labels, images = np.arange(300), np.full((300, 1, 1), 255, np.uint8)
    for each in (labels, np.array([f"{i:05}" for i in labels])):
        for _ in range(2):
            dataset = load_arrays(tmp_path, images, each)
            assert dataset.train_labels.dtype == np.uint16
            np.testing.assert_array_equal(dataset.train_labels, labels)
    assert len(dataset.class_names) == 300


BAD_LABELS = {
    "negative": (LABELS - 1, "(y_train[0]): label -1; expected 0 to 65535"),
    "large": (LABELS * 40_000, "(y_train[2]): label 80000; expected 0 to 65535"),
    "from 2": (LABELS + 2, "the least label is 2; number classes from 0 or 1"),
    "gaps": (LABELS * 9, "only 3 of 19 classes have an image (not 1, 2, 3, 4"),
    "one": (LABELS * 0, "number of classes: 1; expected 2 to 65536"),
    "one text": (np.array(["a"] * 10), "number of classes: 1; expected 2 to 65536"),
    "half": (LABELS / 2, "(y_train[1]): label 0.5; expected a whole number"),
    "nan": (np.where(LABELS, LABELS, np.nan), "(y_train[0]): label nan; expected a whole number"),
    "one-hot": (np.eye(3)[LABELS], "labels have the shape [10, 3]; expected one class number"),
    "scalar": (np.uint8(3), "10 images, but 0 labels in "),
    "fewer": (LABELS[:9], "(x_train): 10 images, but 9 labels in "),
    "objects": (LABELS.astype(object), "y_train holds Python objects, which are never unpickled"),
    "complex": (LABELS.astype(complex), "labels are complex128; expected whole numbers or text"),
    "control": (
        np.array(["a", "b\n", "c"])[LABELS],
        "(y_train[1]): the label or class name 'b\\n'",
    ),
    "missing": (np.array(["a", "b", ""])[LABELS], "(y_train[2]): the label or class name ''"),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_bad_labels(tmp_path, fault):
    labels, said = BAD_LABELS[fault]
    assert said in one_line(load_arrays, tmp_path, TEN, labels)


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"y_test": LABELS}, "it has y_test, but not both of x_test and y_test"),
        ({"x_test": TEN, "y_test": LABELS + 1}, "(y_test[2]): label 3 is in the test part alone"),
        ({"x_test": TEN, "y_test": LABELS.astype(str)}, "(y_test): labels are text, those of"),
        ({"x_test": TEN[:0], "y_test": LABELS[:0]}, "(x_test): it holds no image"),
        ({"x_test": TEN[:, :2], "y_test": LABELS}, "test images are uint8 [2, 4], training images"),
        ({"x_test": TEN / 1, "y_test": LABELS}, "test images are float32 [3, 4], training images"),
        ({"class_names": np.array(["a", "b"])}, "(y_train[2]): label 2; expected 0 to 1"),
        ({"class_names": np.array(["a", "b", "b"])}, "two classes have the same name"),
        ({"class_names": np.array([], str)}, "number of classes: 0; expected 2"),
        ({"class_names": np.array([["a"]])}, "class_names is <U1 [1, 1]; expected text"),
        ({"class_names": np.arange(3)}, "class_names is int64 [3]; expected text [classes]"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, further, said):
    assert said in one_line(lambda: load_arrays(tmp_path, TEN, LABELS, **further))


def test_text_labels_of_the_test_part_alone(tmp_path):
    further = {"x_test": TEN, "y_test": np.array(["a", "b", "d"])[LABELS]}
    message = one_line(lambda: load_arrays(tmp_path, TEN, np.array([*"abc"])[LABELS], **further))
    assert "(y_test[2]): label 'd' is no class of the training images: a, b, c" in message


# --- faults of CSV -------------------------------------------------------------------------------

HEAD, LINE = "label,a,b,c,d\n", "1,2,3,4,5\n"
BAD_TABLES = {
    "empty": ("", "", "it is empty, not a CSV table"),
    "head alone": (HEAD, "", "it holds no image; expected"),
    "missing": (HEAD + LINE, "2,3,,4,5\n", ", line 3: a missing cell in column 3 (b); expected"),
    "missing label": (HEAD + "0,1,2,3,4\n", ",3,4,5,6\n", ", line 3: the label or class name ''"),
    "word": (HEAD + LINE, "2,3,4,x,5\n", ", line 3: 'x' in column 4 (c); expected a whole number"),
    "word at first": ("0,x,1,2,3\n", LINE, ", line 1: 'x' in column 2; expected"),
    "missing at first": ("0,,1,2,3\n", LINE, ", line 1: a missing cell in column 2; expected"),
    "large": (HEAD + LINE, "2,3,256,4,5\n", ", line 3: '256' in column 3 (b); expected"),
    "negative": (HEAD + LINE, "2,3,-1,4,5\n", ", line 3: '-1' in column 3 (b); expected"),
    "nan": (
        HEAD + LINE,
        "2,3,nan,4,5\n",
        ", line 3: the pixel at [0, 1] is nan; expected a finite",
    ),
    "few": (HEAD + LINE, "2,3,4,5\n", ", line 3: 4 cells; expected 5"),
    "many": (HEAD + LINE, "2,3,4,5,6,7\n", ", line 3: 6 cells; expected 5"),
    "no square": ("label,a,b\n", "1,2,3\n", "2 pixels make no square image; expected a label and"),
    "an index alone": (
        ",p0,p1,p2,p3\n",
        LINE,
        "every column is one of pixels (p0, p1, p2, ..., p3)",
    ),
    "no label": ("p0,p1,p2,p3,p4\n", LINE, "every column is one of pixels (p0, p1, p2, ..., p4)"),
    "numbers alone": (",0,1,2,3,4,5\n", "", ": 5 pixels make no square image"),
    "several": ("id,k,p0,p1,p2\n", LINE, "the columns id, k are none of pixels; name that of the"),
    "an odd column": (
        "label,p0,p1,p2,p3,file\n",
        "1,2,3,4,5,6\n",
        "among its columns file: neither the label (label) nor pixels (p0, p1, p2, ..., p3)",
    ),
    "two labels": (
        "label,p0,p1,p2,p3,y\n",
        LINE,
        "among its columns y: neither the label (label) nor",
    ),
    "a guess": ("species,sl,sw,pl,pw\n", LINE, "no column has a name of labels (label, labels, c"),
    "twice": ("label,p0,p1,p1,p3\n", LINE, "two columns have the name p1; rename one"),
    "one column": ("label\n", "3\n", "its first line has one cell; expected a label and pixels"),
    "semicolons": (
        "label;a;b\n",
        "1;2;3\n",
        "its cells are separated by semicolons; save it with commas",
    ),
    "tabs": ("label\ta\n", "1\t2\n", "separated by tabs; save"),
    "html": ("<!DOCTYPE html>\n", "<p>", "it is a web page (or XML) that was saved"),
    "quote": ('label,"a,b,c,d\n', LINE, "its first line is no line of a CSV table in UTF-8"),
    "label": (HEAD + LINE, "9999999,2,3,4,5\n", ", line 3: label 9999999; expected"),
    "long": (HEAD + LINE, "1" * 40_000_000, "a line is too long; expected"),
    "long at first": ("1," * 20_000_000, "", "its first line is longer than one of 786432 pixels"),
    "long label": (HEAD + LINE, "x" * 201 + ",2,3,4,5\n", ", line 3: a label of 201 characters"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fault", BAD_TABLES)
def test_bad_tables_name_the_line(tmp_path, fault, packed):
    start, end, said = BAD_TABLES[fault]
    content = (start + end).encode()
    path = tmp_path / ("own.csv.gz" if packed else "own.csv")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    message = one_line(own_data.load, path)
    assert message.startswith(str(path))
    assert said in message


def test_text_that_is_not_utf_8(tmp_path):
    (tmp_path / "own.csv").write_bytes(HEAD.encode() + b"\xff,1,2,3,4\n")
    assert "own.csv, line 2: the label is not UTF-8" in one_line(
        own_data.load, tmp_path / "own.csv"
    )
    (tmp_path / "own.csv").write_text(HEAD + LINE, encoding="utf-16")
    assert "in UTF-8" in one_line(own_data.load, tmp_path / "own.csv")


def test_floats_in_a_table(tmp_path):
    parts = {split: (x.astype(np.float32) / 256, y) for split, (x, y) in GREY.items()}
    parts["train"][0][0] = 0
    text = {split: csv_text(*part).replace("0.0,", "0,") for split, part in parts.items()}
    (tmp_path / "train.csv").write_text(text["train"])
    (tmp_path / "test.csv").write_text(csv_text(np.zeros((1, 5, 5), np.uint8), [1]))
    dataset = own_data.load(tmp_path)
    np.testing.assert_array_equal(dataset.train_images, parts["train"][0])
    assert dataset.test_images.dtype == np.float32


def test_labels_in_a_table_are_numbers_only_if_all_are(tmp_path):
    rows = ["2,1,2,3,4\n", "04,1,2,3,40\n", "2.0,1,2,3,4\n", "1,2,3,4,5\n"]
    (tmp_path / "own.csv").write_text(HEAD + "".join(rows))
    dataset = own_data.load(tmp_path / "own.csv")
    assert dataset.class_names == ("1", "2", "3", "4")
    assert dataset.train_labels.tolist() == [1, 3, 1, 0]
    (tmp_path / "own.csv").write_text(HEAD + "".join(rows) + "x,1,2,3,4\n")
    assert own_data.load(tmp_path / "own.csv").class_names == ("04", "1", "2", "2.0", "x")


def test_a_test_part_of_other_columns(tmp_path):
    write_csv(tmp_path)
    text = (tmp_path / "test.csv").read_text()
    faults = {
        text.replace("pixel0,pixel1", "pixel0,pixel25"): "its columns differ from those of",
        text.replace("label", "digit"): "its columns differ from those of",
        text.partition("\n")[2]: "its columns differ from those of",
        HEAD + LINE: "it has 4 columns of pixels, the training part 25 columns of pixels",
    }
    for content, said in faults.items():
        (tmp_path / "test.csv").write_text(content)
        assert one_line(own_data.load, tmp_path).startswith(f"{tmp_path / 'test.csv'}: {said}")


# --- columns -------------------------------------------------------------------------------------


NUMBERED = [f"pixel{i}" for i in range(25)]
TEXT_SORTED = sorted(NUMBERED)  # pixel0, pixel1, pixel10


def write_columns(folder, form, split, names, index=None):
    """A table with columns of these names in this order; `index` is what pandas notes as one."""
    images, labels = GREY[split]
    known = dict(zip(NUMBERED, images.reshape(len(images), -1).T, strict=True))
    numbers = np.arange(len(labels)) + 1000
    kinds = {"id": numbers, "": numbers, "Unnamed: 0": numbers, "__index_level_0__": numbers}
    columns = {name: (known | kinds).get(name, labels) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        rows = [names, *zip(*columns.values(), strict=True)]
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        (folder / f"{split}.csv").write_text(text)
        return
    found = pyarrow.table(columns)
    if index:
        noted = {"pandas": json.dumps({"index_columns": [index]})}
        found = found.replace_schema_metadata(noted)
    parquet.write_table(found, folder / f"{split}.parquet")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["label", *NUMBERED], ["label", *NUMBERED[::-1]], ["sorted by their numbers"]),
        (["label", *TEXT_SORTED], ["label", *NUMBERED], ["(pixel0, pixel1, pixel10, ..., pixel9)"]),
        ([*TEXT_SORTED, "labels"], [*TEXT_SORTED, "labels"], ["sorted"] * 2),
        ([*NUMBERED, "digit"], ["digit", *NUMBERED], []),
        (["category", *NUMBERED], ["category", *NUMBERED], []),
        (["", "label", *NUMBERED], ["label", *NUMBERED], ["'' is an index, which is not used"]),
        (["Unnamed: 0", *NUMBERED, "digit"], [*NUMBERED, "digit"], ["'Unnamed: 0' is an index"]),
        ([*NUMBERED, "y", "__index_level_0__"], [*NUMBERED, "y"], ["'__index_level_0__' is an"]),
    ],
)
def test_columns_are_known_by_their_names(tmp_path, caplog, form, train, test, said):
    write_columns(tmp_path, form, "train", train)
    write_columns(tmp_path, form, "test", test)
    for _ in range(2):
        caplog.clear()
        assert_holds(own_data.load(tmp_path), GREY)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == len(said)
        assert all(part in message for part, message in zip(said, messages, strict=True))


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("head", [["digit", *NUMBERED], ["label", *NUMBERED[:24], "pixel25"]])
def test_a_test_part_whose_columns_have_other_names(tmp_path, form, head):
    write_columns(tmp_path, form, "train", ["label", *NUMBERED])
    write_columns(tmp_path, form, "test", head)
    message = one_line(own_data.load, tmp_path)
    assert message.startswith(f"{tmp_path / f'test.{form}'}: its columns differ from those of ")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("test", [NUMBERED, ["id", *NUMBERED], TEXT_SORTED])
def test_a_test_part_without_labels_is_told_and_left_out(tmp_path, caplog, form, test):
    write_columns(tmp_path, form, "train", ["label", *NUMBERED])
    write_columns(tmp_path, form, "test", test)
    for path in (tmp_path, tmp_path / f"train.{form}"):
        assert_holds(own_data.load(path), {"train": GREY["train"]})
        said = "it has no column label, so it is not used as the test part"
        assert caplog.records[-1].getMessage() == f"{tmp_path / f'test.{form}'}: {said}"


def test_what_pandas_notes_as_the_index_is_left_out_but_for_the_label(tmp_path):
    write_columns(tmp_path, "parquet", "train", ["label", *NUMBERED, "id"], index="id")
    assert_holds(own_data.load(tmp_path), {"train": GREY["train"]})
    write_columns(tmp_path, "parquet", "train", [*NUMBERED, "label"], index="label")
    assert_holds(own_data.load(tmp_path), {"train": GREY["train"]})
    write_columns(tmp_path, "parquet", "train", ["label", *NUMBERED, "id"])
    message = one_line(own_data.load, tmp_path)
    assert "among its columns id: neither the label (label) nor pixels (pixel0, " in message


def test_rows_and_columns_in_names_and_colours(tmp_path):
    images, labels = GREY["train"]
    head = ["label", *(f"{i + 1}x{j + 1}" for j in range(5) for i in range(5))]
    rows = csv_text(images.swapaxes(1, 2), labels, header=False)
    (tmp_path / "grey.csv").write_text(",".join(head) + "\n" + rows)
    assert_holds(own_data.load(tmp_path / "grey.csv"), {"train": GREY["train"]})
    images, labels = COLOUR["train"]
    head = ["label", *(f"{c}{i}" for c in "rgb" for i in range(25))]
    rows = csv_text(np.moveaxis(images, -1, 1), labels, header=False)
    (tmp_path / "rgb.csv").write_text(",".join(head) + "\n" + rows)
    assert_holds(own_data.load(tmp_path / "rgb.csv"), {"train": COLOUR["train"]})


@pytest.mark.parametrize("last", [False, True])
def test_names_that_are_numbers_beside_one_that_is_none(tmp_path, last):
    head = [*map(str, range(25))]
    head = [*head, "digit"] if last else ["digit", *head]
    rows = csv_text(*GREY["train"], header=False, last=last)
    (tmp_path / "own.csv").write_text(",".join(head) + "\n" + rows)
    assert_holds(own_data.load(tmp_path / "own.csv"), {"train": GREY["train"]})


def test_the_cell_that_made_a_table_floats_is_named(tmp_path, caplog):
    (tmp_path / "own.csv").write_text(HEAD + LINE + "0,2,2e2,4,5\n")
    own_data.load(tmp_path / "own.csv")
    said = "divide them by 255 (line 3 has '2e2' in column 3, which is no whole number)"
    assert said in caplog.text


# --- faults of Parquet ---------------------------------------------------------------------------

PIXELS = GREY["train"][0].reshape(24, 25).tolist()
IMAGES = GREY["train"][0].tolist()
Y = GREY["train"][1].tolist()
PNGS = list(map(encoded, GREY["train"][0]))


def at_7(cells, cell):
    return [*cells[:7], cell, *cells[8:]]


BAD_PARQUET = {
    "a null": ({"image": at_7(PIXELS, None), "label": Y}, "row 7: a list is missing"),
    "a null pixel": ({"image": at_7(PIXELS, [None] * 25), "label": Y}, "row 7: a pixel is missing"),
    "an inner null": (
        {"image": at_7(IMAGES, [[1] * 5, None, *[[1] * 5] * 3]), "label": Y},
        "row 7: a list",
    ),
    "a length": (
        {"image": at_7(PIXELS, [1] * 16), "label": Y},
        "row 7: its lists have other lengths",
    ),
    "an inner length": (
        {"image": at_7(IMAGES, [[1] * 4] * 5), "label": Y},
        "row 7: its lists have other",
    ),
    "no square": ({"image": [[1] * 7] * 24, "label": Y}, "7 pixels make no square image"),
    "empty lists": ({"image": [[]] * 24, "label": Y}, ""),
    "words": ({"image": [["a"]] * 24, "label": Y}, "expected lists of numbers"),
    "large": ({"image": at_7(PIXELS, [256] * 25), "label": Y}, "row 7: the pixel at [0, 0] is 256"),
    "no bytes": ({"image": at_7(PNGS, None), "label": Y}, "row 7: its image has no bytes"),
    "a path": ({"image": [{"bytes": None, "path": "a"}] * 24, "label": Y}, ""),
    "no picture": (
        {"image": at_7(PNGS, b"xyz"), "label": Y},
        "row 7: it is damaged, or no PNG",
    ),
    "a bomb": (
        {"image": at_7(PNGS, png((5_000, 5_000))), "label": Y},
        "row 7: it has 5000 by 5000",
    ),
    "a label": ({"image": PNGS, "label": at_7(Y, None)}, "row 7: its label is missing"),
    "labels": (
        {"image": PNGS, "label": [[1]] * 24},
        "expected a column of labels named label, labels, class",
    ),
    "no label": ({"image": PNGS}, "its columns are image (binary); expected a column of labels"),
    "which label": ({"image": PNGS, "a": Y, "b": Y}, "expected a column of labels named"),
    "dates": ({"image": PNGS, "label": np.array(Y).astype("M8[s]")}, "labels are timestamp["),
    "two images": (
        {"a": PNGS, "b": PNGS, "label": Y},
        "expected one column of images (bytes or lists)",
    ),
    "words in columns": ({"label": Y, "a": ["x"] * 24}, "expected one column of images"),
    "null columns": ({"label": Y, "a": at_7(Y, None)}, "row 7: a is missing"),
    "no rows": ({"image": pyarrow.array([], pyarrow.binary()), "label": []}, "it claims 0 rows"),
}


@pytest.mark.parametrize("fault", BAD_PARQUET)
def test_bad_parquet(tmp_path, fault):
    columns, said = BAD_PARQUET[fault]
    path = tmp_path / "own.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    message = one_line(own_data.load, path)
    assert message.startswith(str(path))
    assert said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty, not a Parquet file"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a Git LFS pointer: `git lfs pull`",
        ),
        (b"PAR1", "it cannot be read (ArrowInvalid: "),
        (b"PAR1" + bytes(40) + b"PAR1", "it cannot be read ("),
        (b"PAR1" + b"\xff" * 40 + b"PAR1", "it cannot be read ("),
    ],
)
def test_files_that_are_no_parquet(tmp_path, content, said):
    (tmp_path / "own.parquet").write_bytes(content)
    assert f"own.parquet: {said}" in one_line(own_data.load, tmp_path / "own.parquet")


def test_shards_of_different_images(tmp_path):
    folder = write_parquet(tmp_path / "own", shards=2)
    images, labels = COLOUR["train"]
    parquet.write_table(table(images, labels), folder / "train-00001-of-00002.parquet")
    message = one_line(own_data.load, folder)
    assert "train-00001-of-00002.parquet (images): it holds uint8 [5, 5, 3], but " in message
    parquet.write_table(table(*GREY["train"]), folder / "train-00001-of-00002.parquet")
    parquet.write_table(
        table(GREY["train"][0], LABELS.repeat(3)[:24] - 1), folder / "train-00001-of-00002.parquet"
    )
    assert "train-00001-of-00002.parquet, row 0: label -1; expected" in one_line(
        own_data.load, folder
    )


# --- faults of IDX and npz, bombs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<html>", "it is a web page"),
        (b"\0\0\x07\1\0\0\0\3abc", "it begins with 00000701, which is no IDX mark"),
        (b"\0\0\x08\0abc", "it begins with 00000800, which is no IDX mark"),
        (b"\0\0\x08\2\0\0\0\3", "it ends inside its header"),
        (idx_bytes(GREY["train"][0])[:-1], "it ends after 599 of 600 bytes of contents"),
        (idx_bytes(GREY["train"][0]) + b"x", "bytes follow its contents"),
        (gzip.compress(idx_bytes(GREY["train"][0]), mtime=0)[:-9], "the gzip stream is cut short"),
        (gzip.compress(b"<html>", mtime=0), "what it holds packed is a web page"),
        (idx_bytes(GREY["train"][0][:23]), "23 images, but 24 labels in "),
        (b"\0\0\x08\3" + b"\xff" * 12, "images of 4294967295 by 4294967295 pixels"),
        (
            b"\0\0\x0e\4" + struct.pack(">4I", 2**31, 512, 512, 4),
            "bytes; expected at most 8589934592",
        ),
        (b"\0\0\x08\3" + struct.pack(">3I", 24, 512, 512), "it ends after 0 of 6291456 bytes"),
        (
            gzip.compress(
                b"\0\0\x08\3" + struct.pack(">3I", 24, 9, 9) + bytes(50_000_000), 1, mtime=0
            ),
            "bytes follow",
        ),
        (
            gzip.compress(
                b"\0\0\x08\3" + struct.pack(">3I", 63776, 28, 28) + bytes(50_000_000), 1, mtime=0
            ),
            "63776 images",
        ),
    ],
)
def test_bad_idx_files_take_no_memory(tmp_path, content, said):
    folder = write_idx(tmp_path / "own")
    path = folder / "train-images-idx-ubyte"
    path.write_bytes(content)
    with little_memory():
        message = one_line(own_data.load, folder)
    assert message.startswith(f"{path}: ")
    assert said in message


def test_idx_files_that_lack_one(tmp_path):
    for missing in ("train-images", "train-labels", "test-labels"):
        folder = write_idx(tmp_path / missing)
        (folder / f"{missing}-idx-ubyte").unlink()
        split, what = missing.split("-")
        assert f"it lacks the {what} of {split}; add them" in one_line(own_data.load, folder)


def bomb(shape):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return head.getvalue()


@pytest.mark.parametrize(
    ("images", "method", "said"),
    [
        (
            bomb((2**20, 512, 512)),
            zipfile.ZIP_STORED,
            "claims 274877906944 bytes; expected at most",
        ),
        (bomb((10**6, 28, 28)) + bytes(50_000_000), zipfile.ZIP_DEFLATED, "1000000 images, but 10"),
        (
            bomb((10, 5, 5)) + bytes(50_000_000),
            zipfile.ZIP_DEFLATED,
            "not of the size that it claims",
        ),
        (bomb((10, 512, 512)), zipfile.ZIP_DEFLATED, "not of the size that it claims"),
        (bomb((10, 5, 5)) + bytes(50_000_000), zipfile.ZIP_BZIP2, "is compressed by method 12"),
        (bomb((10, 5, 5))[:-9], zipfile.ZIP_STORED, ""),
    ],
)
def test_bombs_in_npz_take_no_memory(tmp_path, images, method, said):
    path = tmp_path / "own.npz"
    labels = io.BytesIO()
    np.save(labels, LABELS)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x_train.npy", images)
        archive.writestr("y_train.npy", labels.getvalue())
    with little_memory():
        message = one_line(own_data.load, path)
    assert message.startswith(str(path))
    assert said in message


def test_bombs_of_gzipped_text_take_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "own.csv.gz"
    path.write_bytes(gzip.compress(b"0," * 30_000_000, 1))  # a line without end
    assert "its first line is longer than " in one_line(own_data.load, path)
    path.write_bytes(gzip.compress((HEAD + LINE * 1_500_000).encode(), 1))
    monkeypatch.setattr(raw, "MOST_BYTES", 2**22)
    with little_memory(30e6):
        assert "bytes; expected at most 4194304" in one_line(own_data.load, path)


def test_the_whole_is_capped_whatever_the_form(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MOST_BYTES", 500)
    for form, write in WRITERS.items():
        message = one_line(own_data.load, write(tmp_path / form, GREY))
        assert "expected at most 500" in message or "expected at most 1049076" in message


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "mnist.pkl.gz",
            "a pickle, which is never opened, since it may run any code; save its arrays",
        ),
        ("own.pickle", "a pickle, which is never opened"),
        ("own.pkl", "a pickle, which is never opened"),
        ("own.mat", "a format that is not read; save its arrays by np.savez"),
        ("own.h5", "a format that is not read"),
        ("own.zip", "an archive; unpack it and give the folder"),
        ("own.tar.gz", "an archive; unpack it"),
        ("own.tar", "an archive; unpack it"),
        ("own.npy", "a single array; save its arrays by np.savez"),
        ("own.dat", "it is a pickle, which is never opened; expected an npz file, a CSV"),
        ("own.npz", "it is a pickle, which is never opened"),
    ],
)
def test_files_that_are_not_read(tmp_path, name, said):
    path = tmp_path / "own" / name
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(MakesFolder(tmp_path / "unpickled")))
    message = one_line(own_data.load, path)
    assert message.startswith(f"{path}: ")
    assert said in message
    if "expected" not in said and name != "own.npz":
        assert said in one_line(own_data.load, path.parent)
    assert not (tmp_path / "unpickled").exists()


def test_paths_that_hold_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "dangling.npz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    faults = {
        "empty": "it holds nothing; expected an npz file",
        "nowhere": "it cannot be found (No such file or directory); expected an npz file",
        "dangling.npz": "it cannot be found (No such file or directory)",
        "loop.npz": "it cannot be found (Too many levels of symbolic links)",
        "pipe.csv": "it is neither a file nor a folder; give an npz file",
        "device.csv": "it is neither a file nor a folder",
    }
    for name, said in faults.items():
        assert one_line(own_data.load, tmp_path / name).startswith(f"{tmp_path / name}: {said}")
    assert one_line(own_data.load, Path("/")).startswith("/: it has no name; give ")


@pytest.mark.parametrize("link", [False, True])
def test_what_lies_in_place_of_a_file(tmp_path, link):
    folder = write_pictures(tmp_path / "own")
    path = next(folder.glob("train/*/00010.png"))
    path.unlink()
    if link:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    assert one_line(own_data.load, folder).startswith(f"{path}: it is not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="no file is closed to root")
@pytest.mark.parametrize("form", WRITERS)
def test_files_that_may_not_be_read(tmp_path, form):
    path = WRITERS[form](tmp_path / "own", GREY)
    for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
        file.chmod(0)
    assert "Permission denied" in one_line(own_data.load, path)


def test_links_to_files_and_folders_are_followed(tmp_path):
    (tmp_path / "link").symlink_to(write_csv(tmp_path / "own"))
    assert_holds(own_data.load(tmp_path / "link"), GREY)
    (tmp_path / "link.npz").symlink_to(write_npz(tmp_path / "own.npz"))
    assert_holds(own_data.load(tmp_path / "link.npz"), GREY)


@pytest.mark.parametrize("kind", ["csv", "parquet", "idx"])
def test_a_file_of_a_data_set_that_is_none_is_not_left_out(tmp_path, kind):
    folder = WRITERS[kind](tmp_path / "own", GREY)
    path = next(folder.glob("test*"))
    path.unlink()
    os.mkfifo(path)
    given = [folder, *folder.glob("train.csv")]
    for each in given:
        assert one_line(own_data.load, each).startswith(f"{path}: it is not a regular file")


def test_control_characters_in_names(tmp_path):
    assert "control characters; rename" in one_line(own_data.load, write_npz(tmp_path / "a\nb.npz"))
    folder = write_pictures(tmp_path / "own")
    (folder / "train" / "1").rename(folder / "train" / "1\n")
    assert "the label or class name '1\\n'" in one_line(own_data.load, folder)
    (folder / "train" / "1\n").rename(folder / "train" / "1")
    (folder / "train" / "1" / "0\n.png").write_bytes(b"x")
    assert "0 .png: it is damaged" in one_line(own_data.load, folder)


def test_a_folder_of_several_forms(tmp_path):
    write_csv(tmp_path / "own")
    write_parquet(tmp_path / "own")
    assert "it holds CSV and Parquet; give the path of the one" in one_line(
        own_data.load, tmp_path / "own"
    )
    write_csv(tmp_path / "two", name="a_{}.csv")
    write_csv(tmp_path / "two", name="b_{}.csv")
    message = one_line(own_data.load, tmp_path / "two")
    assert "several files of test: a_test.csv, b_test.csv; give the path of one" in message
    (write_csv(tmp_path / "half") / "train.csv").unlink()
    assert "it holds test.csv, but no file with train in its name" in one_line(
        own_data.load, tmp_path / "half"
    )
    write_npz(tmp_path / "one" / "some.npz")
    assert "it holds some.npz; give the path of that" in one_line(own_data.load, tmp_path / "one")
    write_csv(tmp_path / "contest", name="la{}.csv")
    write_csv(tmp_path / "contest", name="s{}.csv")
    message = one_line(own_data.load, tmp_path / "contest")
    assert "stest.csv, strain.csv, none with the word train in its name; give the path" in message


@pytest.mark.parametrize("below", [".", "train"])
def test_tables_beside_folders_of_pictures(tmp_path, below):
    folder = write_csv(tmp_path / "own", {"train": GREY["train"]})
    write_pictures(tmp_path / "pictures")
    (folder / "plots").mkdir()
    (folder / "plots" / "a.png").write_bytes(b"x")
    assert_holds(own_data.load(folder), {"train": GREY["train"]})
    for each in (tmp_path / "pictures" / "train").iterdir():
        (folder / below).mkdir(exist_ok=True)
        each.rename(folder / below / each.name)
    message = one_line(own_data.load, folder)
    assert "it holds CSV and folders of pictures; move away what is not to be used" in message


def test_tables_of_validation_are_told_and_left_out(tmp_path, caplog):
    folder = write_parquet(tmp_path / "own")
    parquet.write_table(table(*GREY["test"]), folder / "validation-00000-of-00001.parquet")
    parquet.write_table(table(*GREY["test"]), folder / "dev.parquet")
    assert_holds(own_data.load(folder), GREY)
    texts = [record.getMessage() for record in caplog.records]
    assert [text.partition(": it is not used: ")[0] for text in texts] == [
        str(folder / name) for name in ("dev.parquet", "validation-00000-of-00001.parquet")
    ]


def test_the_name_is_no_other_data_sets(tmp_path, monkeypatch):
    write_csv(tmp_path / "MNIST")
    assert own_data.load(tmp_path / "MNIST").name == "./MNIST"
    monkeypatch.chdir(tmp_path / "MNIST")
    assert own_data.load(Path(".")).name == "./MNIST"
    assert own_data.load(Path("train.csv")).name == "train.csv"


# --- the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
def test_the_cache_is_used_while_all_files_are_unchanged(tmp_path, form):
    path = WRITERS[form](tmp_path / "own", GREY)
    assert not own_data.load(path).source.startswith("cache")
    assert own_data.load(path).source.startswith("cache")
    for file in [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))[::7]:
        os.utime(file, ns=(0, 12345))
        assert not own_data.load(path).source.startswith("cache")
        assert own_data.load(path).source.startswith("cache")


def test_a_change_that_hides_its_time_is_seen(tmp_path):
    path = write_npz(tmp_path / "own.npz")
    own_data.load(path)
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not own_data.load(path).source.startswith("cache")


def test_a_new_file_is_seen(tmp_path):
    for form, write in WRITERS.items():
        if form == "npz":
            continue
        path = write(tmp_path / form, {"train": GREY["train"]})
        assert len(own_data.load(path).test_labels) == 0
        write(tmp_path / form, GREY)
        assert len(own_data.load(path).test_labels) == 9


def test_one_of_many_files_is_seen_to_change(tmp_path):
    path = write_pictures(tmp_path / "own", make_parts(1, 1, sizes=(90, 20)))
    own_data.load(path)
    assert own_data.load(path).source.startswith("cache")
    os.utime(next(path.glob("test/*/00001.png")), ns=(0, 12345))
    assert not own_data.load(path).source.startswith("cache")


def test_two_paths_have_two_copies(tmp_path):
    write_npz(tmp_path / "a" / "own.npz", GREY)
    write_npz(tmp_path / "b" / "own.npz", COLOUR)
    for cached in (False, True):
        for folder, parts in (("a", GREY), ("b", COLOUR)):
            dataset = own_data.load(tmp_path / folder / "own.npz")
            assert_holds(dataset, parts)
            assert dataset.source.startswith("cache") == cached


def test_a_cache_that_others_can_write_or_that_is_damaged_is_not_believed(tmp_path, caplog):
    path = write_npz(tmp_path / "own.npz")
    own_data.load(path)
    [cached] = (tmp_path / "cache").iterdir()
    cached.chmod(0o666)
    assert not own_data.load(path).source.startswith("cache")
    assert "others can write" in caplog.text
    content = cached.read_bytes()
    for fault in (
        content[:-30],
        content.replace(b'"uint8"', b'"int64"'),
        b"",
        content[:900] + content[901:],
    ):
        cached.write_bytes(fault)
        assert_holds(own_data.load(path), GREY)
        assert caplog.records[-1].getMessage().startswith(f"ignoring the cache file {cached}")
        assert own_data.load(path).source.startswith("cache")


def test_files_that_change_while_they_are_read(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "own.npz")
    normalise = own_data.normalise

    def change(data):
        os.utime(path, ns=(0, 12345))
        return normalise(data)

    monkeypatch.setattr(own_data, "normalise", change)
    assert "its files changed while they were read" in one_line(own_data.load, path)


def test_a_cached_load_imports_nothing_heavy(tmp_path):
    paths = [str(WRITERS[form](tmp_path / form, GREY)) for form in WRITERS]
    for path in paths:
        own_data.load(Path(path))
    code = (
        "import sys; from pathlib import Path; from mnist_jax.data import own_data;"
        f"assert all(own_data.load(Path(p)).source.startswith('cache') for p in {paths});"
        "print(sorted({'jax', 'pyarrow', 'PIL', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["pyarrow", "PIL"])
def test_a_package_that_is_not_installed(tmp_path, monkeypatch, module):
    path = write_csv(tmp_path / "own") if module == "pyarrow" else write_pictures(tmp_path / "own")
    monkeypatch.setitem(sys.modules, module, None)
    assert f"{module} is not installed; pip install" in one_line(own_data.load, path)


# --- any bytes, and MNIST ------------------------------------------------------------------------

TINY = {split: (x[:8, :2, :2], y[:8]) for split, (x, y) in GREY.items()}


def tiny_files(tmp_path):
    """By form: the path to give, the file to damage, and sound contents of it."""
    for form, write in WRITERS.items():
        path = write(tmp_path / form, TINY)
        files = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
        file = next(file for file in files if "test" not in str(file.relative_to(tmp_path)))
        yield form, path, file, [file.read_bytes()]


@pytest.mark.parametrize("form", WRITERS)
def test_any_bytes_give_a_data_set_or_a_user_error(tmp_path, form, monkeypatch):
    path, file, sound = {form: rest for form, *rest in tiny_files(tmp_path)}[form]
    if form == "csv":
        sound = [*sound, csv_text(*TINY["train"], header=False).encode(), gzip.compress(sound[0])]
    elif form == "idx":
        sound = [*sound, gzip.compress(sound[0])]
    elif form == "pictures":
        sound = [*sound, encoded(TINY["train"][0][0], "JPEG")]
    elif form == "parquet":
        for kind in ("bytes", "lists", "columns"):
            buffer = io.BytesIO()
            parquet.write_table(table(*TINY["train"], kind=kind), buffer)
            sound.append(buffer.getvalue())
    monkeypatch.setattr(own_data.cache, "write", lambda *_: None)

    @PROPERTY
    @hypothesis.given(some_bytes(*sound))
    def check(content):
        file.write_bytes(content)
        try:
            dataset = own_data.load(path)
        except UserError as error:
            message = str(error)
            assert "\n" not in message
            assert str(tmp_path / form) in message
        else:
            assert len(dataset.train_images) == len(dataset.train_labels) > 0
            assert dataset.train_labels.max() < len(dataset.class_names)

    check()


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_JAX_DATA_DIR, the folder of MNIST, is not set")
@pytest.mark.parametrize("form", WRITERS)
def test_mnist_in_each_form_is_mnist(tmp_path, form):
    mnist = loading.load_dataset("mnist", REAL_MNIST)
    parts = {
        "train": (mnist.train_images, mnist.train_labels),
        "test": (mnist.test_images, mnist.test_labels),
    }
    dataset = loading.load_dataset(str(WRITERS[form](tmp_path / "own", parts)))
    assert_holds(dataset, parts, mnist.class_names)
    assert dataset.checksum == mnist.checksum
