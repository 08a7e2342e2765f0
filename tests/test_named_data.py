"""EMNIST, QMNIST and CIFAR-10 from small stand-ins of their official files."""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile

import hypothesis
import numpy as np
import pytest
from test_data import (
    PROPERTY,
    answer,
    idx_bytes,
    know,
    little_memory,
    one_line,
    serving,
    some_bytes,
    write_tfrecord,
)

from mnist_jax.data import datasets, download, formats, loading, published
from mnist_jax.data.datasets import CLASS_NAMES, FACTS
from mnist_jax.data.published import PUBLISHED

EMNIST = ("emnist_balanced", "emnist_letters", "emnist_digits")
NAMES = (*EMNIST, "qmnist", "cifar10")

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def small(monkeypatch):
    """Lets a data set be small; gives a function of its name that gives its four arrays."""

    def make(name):
        (height, width, channels), num_classes, *_ = FACTS[name]
        num_train = 10 * num_classes if name == "cifar10" else 2 * num_classes
        rng, arrays = np.random.default_rng(0), []
        for size in (num_train, num_classes):
            shape = (size, height, width, channels) if channels > 1 else (size, height, width)
            arrays.append(rng.integers(0, 256, shape, np.uint8))
            arrays.append(rng.permutation(np.arange(size) % num_classes).astype(np.uint8))
        facts = FACTS[name]._replace(num_train=num_train, num_test=num_classes)
        monkeypatch.setitem(datasets.FACTS, name, facts)
        if name == "qmnist":
            pixels = arrays[0] / 255
            counts = tuple(tuple(np.bincount(labels).tolist()) for labels in arrays[1::2])
            know(monkeypatch, name, counts=counts, moments=(pixels.mean(), pixels.std()))
        return arrays

    return make


def official(name, arrays):
    """The official files of these arrays, not packed, by name, written out by hand."""
    images, labels, test_images, test_labels = arrays
    if name == "cifar10":
        rows = [
            bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            for label, image in zip(
                np.r_[labels, test_labels], np.concatenate([images, test_images]), strict=True
            )
        ]
        batches = [b"".join(rows[i : i + 20]) for i in range(0, 100, 20)]
        files = {f"data_batch_{i}.bin": batch for i, batch in enumerate(batches, 1)}
        return files | {"test_batch.bin": b"".join(rows[100:])}
    files = {}
    for split, x, y in (("train", images, labels), ("test", test_images, test_labels)):
        if name == "qmnist":
            columns = np.random.default_rng(1).integers(0, 300_000, (len(y), 8))
            columns[:, 0] = y
            table = b"\0\0\x0c\2" + len(y).to_bytes(4, "big") + b"\0\0\0\x08"
            files[f"qmnist-{split}-images-idx3-ubyte"] = idx_bytes(x)
            table += columns.astype(">i4").tobytes()
            files[f"qmnist-{split}-labels-idx2-int"] = table
        else:
            start = f"emnist-{name.removeprefix('emnist_')}-{split}"
            lying = np.stack([image.T for image in x])
            files[f"{start}-images-idx3-ubyte"] = idx_bytes(lying)
            files[f"{start}-labels-idx1-ubyte"] = idx_bytes(y + (name == "emnist_letters"))
    return files


def write(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        if packed:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / file).write_bytes(content)
    return folder


def archive_of(name, files):
    """The bytes of the official archive, with other files in it."""
    buffer = io.BytesIO()
    if name == "cifar10":
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for file, content in reversed({"readme.html": b"<html>", **files}.items()):
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("gzip/", "")
            archive.writestr("gzip/emnist-mnist-train-labels-idx1-ubyte.gz", b"another")
            for file, content in files.items():
                archive.writestr(f"gzip/{file}.gz", gzip.compress(content, 1))
    return buffer.getvalue()


def publish(monkeypatch, name, arrays):
    """Lets the archive of these arrays be the published one; gives its bytes."""
    content = archive_of(name, official(name, arrays))
    know(monkeypatch, name, sha256=(hashlib.sha256(content).hexdigest(),))
    return content


def assert_holds(name, dataset, arrays):
    found = (
        *(dataset.train_images, dataset.train_labels),
        *(dataset.test_images, dataset.test_labels),
    )
    for one, other in zip(found, arrays, strict=True):
        assert one.dtype == np.uint8
        assert one.flags.c_contiguous
        np.testing.assert_array_equal(one, other)
    assert dataset.class_names == CLASS_NAMES[name]
    checksum = hashlib.sha256(b"".join(map(idx_bytes, arrays))).hexdigest()
    assert dataset.checksum == f"sha256:{checksum}"


def test_the_facts_are_those_of_the_authors():
    import tensorflow_datasets as tfds

    for name, facts in FACTS.items():
        assert len(CLASS_NAMES[name]) == len({*CLASS_NAMES[name]}) == facts.num_classes
    configs = {x.name: x for x in tfds.builder_cls("emnist").BUILDER_CONFIGS}
    for variant in ("balanced", "digits"):
        facts, known = FACTS[f"emnist_{variant}"], configs[variant]
        assert facts[1:4] == (known.class_number, known.train_examples, known.test_examples)
    # 145,600 letters, as the authors say; tensorflow-datasets cuts the files at an older size.
    assert sum(FACTS["emnist_letters"][2:4]) == 145_600
    assert [sum(counts) for counts in PUBLISHED["qmnist"].counts] == [60_000, 60_000]
    assert "".join(CLASS_NAMES["emnist_balanced"][-13:]) == "YZabdefghnqrt"


@pytest.mark.parametrize("name", [*EMNIST, "cifar10"])
def test_archives_are_those_that_tensorflow_datasets_knows(name):
    import tensorflow_datasets as tfds

    known = PUBLISHED[name]
    [(url, info)] = tfds.builder_cls(known.tfds.partition("/")[0]).url_infos.items()
    assert url.endswith(f"/{known.archive}")
    assert known.sha256 == (info.checksum,)


LAYOUTS = {
    "emnist_balanced": ("", "gzip", "EMNIST/raw", "emnist/gzip"),
    "emnist_letters": ("EMNIST-letters",),
    "emnist_digits": ("emnist",),
    "qmnist": ("", "QMNIST/raw"),
    "cifar10": ("", "cifar-10-batches-bin", "CIFAR-10/cifar-10-batches-bin"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in NAMES for layout in LAYOUTS[name]]
)
def test_files_in_each_layout(tmp_path, small, caplog, name, layout, packed):
    arrays = small(name)
    folder = write(tmp_path / "given" / layout, official(name, arrays), packed)
    given = str(tmp_path / "given")
    dataset = loading.load_dataset(name.replace("_", "-").upper(), given)
    assert_holds(name, dataset, arrays)
    kind = "binary" if name == "cifar10" else "IDX"
    assert dataset.source == f"{kind} files in {folder}"
    [record] = caplog.records
    reason = f"this is not the published {PUBLISHED[name].archive}"
    verified = "the shapes and the number of each label"
    if name == "qmnist":
        reason = "no checksum of its files is known"
        verified = "the shapes, the number of each label, and mean and spread of the pixels"
    said = f"{name}: {dataset.source}; {reason}: only {verified} could be verified"
    assert record.getMessage() == said
    again = loading.load_dataset(name, given)
    assert again.source.startswith("cache ")
    assert_holds(name, again, arrays)


@pytest.mark.parametrize("name", [*EMNIST, "cifar10"])
def test_the_published_archive_is_known_to_the_last_byte(
    tmp_path, small, monkeypatch, caplog, name
):
    arrays = small(name)
    content = publish(monkeypatch, name, arrays)
    path = tmp_path / PUBLISHED[name].archive
    path.write_bytes(content)
    for given in (path, tmp_path):
        dataset = loading.load_dataset(name, str(given))
        assert_holds(name, dataset, arrays)
    assert caplog.text == ""
    assert dataset.source.endswith(f"from {path}")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = one_line(loading.load_dataset, name, str(tmp_path))
    assert message.startswith(f"{path}: it is not the published {path.name} (")
    assert f", not {PUBLISHED[name].sha256[0]})" in message
    assert message.endswith("; download it again, or unpack it and give the folder")


@pytest.mark.parametrize("name", ["emnist_letters", "cifar10"])
def test_an_archive_with_other_arrays_than_expected_is_one_line(tmp_path, small, monkeypatch, name):
    arrays = small(name)
    content = publish(monkeypatch, name, [np.concatenate([x, x]) for x in arrays])
    (tmp_path / PUBLISHED[name].archive).write_bytes(content)
    message = one_line(loading.load_dataset, name, str(tmp_path))
    assert "its header claims" in message or "bytes follow its contents" in message
    content = archive_of(name, {})
    know(monkeypatch, name, sha256=(hashlib.sha256(content).hexdigest(),))
    (tmp_path / PUBLISHED[name].archive).write_bytes(content)
    assert f"no {PUBLISHED[name].files[0]} in it" in one_line(
        loading.load_dataset, name, str(tmp_path)
    )


@pytest.mark.parametrize("name", ["emnist_digits", "cifar10"])
def test_what_is_named_as_an_archive_takes_no_memory(tmp_path, small, name):
    small(name)
    path = tmp_path / PUBLISHED[name].archive
    path.touch()
    os.truncate(path, 2**40)
    with little_memory():
        message = one_line(loading.load_dataset, name, str(tmp_path))
    assert f"it has {2**40} bytes; expected at most" in message


@pytest.mark.parametrize("name", ["emnist_letters", "cifar10"])
def test_download(tmp_path, small, monkeypatch, caplog, name):
    arrays, known = small(name), PUBLISHED[name]
    content = publish(monkeypatch, name, arrays)
    monkeypatch.setattr(download, "LARGE", 100)
    family = known.tfds.partition("/")[0]
    with serving(
        monkeypatch, {known.archive: content}, lambda x: answer(x, content), family
    ) as paths:
        dataset = loading.load_dataset(name)
        assert_holds(name, dataset, arrays)
        assert dataset.source.startswith("download from http://127.0.0.1:")
        assert_holds(name, loading.load_dataset(name), arrays)  # from the cache
    assert paths == [f"/{known.archive}"]
    [record] = caplog.records
    assert record.getMessage().startswith(f"downloading {name} (0 MB) from http://127.0.0.1:")
    monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / "other"))
    with serving(monkeypatch, {known.archive: content}, lambda x: answer(x, content[:-1]), family):
        message = one_line(loading.load_dataset, name)
    assert f" bytes, not {len(content)}" in message
    assert f"a folder with {known.archive}, or {known.files[0]}, " in message


def test_qmnist_is_not_downloaded(tmp_path):
    message = one_line(loading.load_dataset, "qmnist")
    assert "was not found and is not downloaded, as no checksum of its files is known" in message
    assert "a folder with qmnist-train-images-idx3-ubyte, qmnist-train-labels-idx2-int" in message


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("emnist_balanced", (3, 5), "emnist_balanced has 1 of each label 0..46, but this has [0, "),
        ("emnist_letters", (0, 5), "emnist_letters has 1 of each label 1..26, but this has [0, "),
        ("emnist_letters", (0, 255), "and 1 other labels"),  # 0 in the file, where they begin at 1
        ("qmnist", (0, 256), "qmnist has [1, 1, 1, 1, 1, 1, 1, 1, 1, 1] of the labels 0..9, but"),
        ("qmnist", (0, -1), "and 1 other labels"),
        ("cifar10", (0, 77), "cifar10 has 1 of each label 0..9, but this has [0, 1, "),
    ],
)
def test_other_labels_are_refused(tmp_path, small, monkeypatch, name, change, said):
    arrays = small(name)
    labels = arrays[3].astype(int)
    if name != "emnist_balanced":
        labels[np.argmin(labels)] = change[1]
    else:
        labels[np.argmin(labels)] = 1
    arrays[3] = labels if name == "qmnist" else labels.astype(np.uint8)
    write(tmp_path, official(name, arrays))
    message = one_line(loading.load_dataset, name, str(tmp_path))
    place = tmp_path if name == "cifar10" else tmp_path / PUBLISHED[name].files[3]
    assert message.startswith(f"{place}: ")
    assert said in message
    assert message.endswith("; replace it with the original")


def test_pixels_that_are_not_qmnists_are_refused(tmp_path, small):
    arrays = small("qmnist")
    arrays[2] = 255 - arrays[2] // 4
    write(tmp_path, official("qmnist", arrays))
    message = one_line(loading.load_dataset, "qmnist", str(tmp_path))
    assert "qmnist-test-images-idx3-ubyte: qmnist's pixels (from 0 to 1) have mean" in message


@pytest.mark.parametrize(
    ("name", "file", "fault", "said"),
    [
        ("cifar10", 2, "cut", "it ends after 61459 of 61460 bytes of contents"),
        ("cifar10", 5, "more", "bytes follow its contents"),
        ("cifar10", 0, "sparse", f"it has {2**40} bytes; expected at most"),
        ("cifar10", 0, "page", "it is a web page"),
        ("cifar10", 0, "bomb", "bytes follow its contents"),
        ("qmnist", 1, "bomb", "bytes follow its contents"),
        ("qmnist", 1, "sparse", f"it has {2**40} bytes; expected at most"),
        ("qmnist", 1, "page", "it is a web page"),
        ("qmnist", 1, "claim", "its header claims dimensions [4294967295, 8], not [20, 8]"),
        ("emnist_letters", 0, "claim", "its header claims dimensions [4294967295, 28, 28], not"),
    ],
)
def test_a_faulty_file_is_named_and_takes_no_memory(tmp_path, small, name, file, fault, said):
    path = write(tmp_path, official(name, small(name))) / PUBLISHED[name].files[file]
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "more": content + b"\0",
            "page": b"<!DOCTYPE html>",
            "bomb": gzip.compress(content + bytes(50_000_000), 1),
            "claim": content[:4] + b"\xff\xff\xff\xff" + content[8:],
            "sparse": content,
        }[fault]
    )
    if fault == "sparse":
        os.truncate(path, 2**40)
    with little_memory():
        message = one_line(loading.load_dataset, name, str(tmp_path))
    assert message.startswith(f"{path}: {said}")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_missed(tmp_path, small, name):
    known = PUBLISHED[name]
    (write(tmp_path, official(name, small(name))) / known.files[-1]).unlink()
    message = one_line(loading.load_dataset, name, str(tmp_path))
    assert message == f"{tmp_path} lacks {known.files[-1]} of {name}; add it, gzipped or not"
    (tmp_path / "empty").mkdir()
    message = one_line(loading.load_dataset, name, str(tmp_path / "empty"))
    assert f"is empty; it should hold {known.archive}" in message
    assert message.endswith(f"{known.files[-1]} (or .gz)")


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar10", "cifar10/3.0.2"), ("emnist_balanced", "emnist/balanced/3.1.0")]
)
def test_what_tensorflow_datasets_has_prepared(tmp_path, small, name, folder):
    arrays = small(name)
    stored = list(arrays)
    if name == "emnist_balanced":
        stored[0], stored[2] = (np.ascontiguousarray(arrays[i].swapaxes(1, 2)) for i in (0, 2))
    write_tfrecord(tmp_path / folder, stored, name=folder.partition("/")[0])
    for below in ("", folder):
        assert_holds(name, loading.load_dataset(name, str(tmp_path / below)), arrays)


def test_an_npz_of_emnist_is_not_taken_as_its_images_may_lie(tmp_path, small):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(
        tmp_path / "emnist_digits.npz", **dict(zip(names, small("emnist_digits"), strict=True))
    )
    message = one_line(loading.load_dataset, "emnist_digits", str(tmp_path))
    assert "holds no file of emnist_digits, but emnist_digits.npz; it should hold" in message


FORMS = [
    (formats.Stored((2, 3), is_idx=False), b"sixbyt"),
    (formats.Stored((1, 2), "int32"), b"\0\0\x0c\2\0\0\0\1\0\0\0\2" + b"\0\0\0\7\0\0\0\x09"),
]


@pytest.mark.parametrize(("stored", "sound"), FORMS, ids=["raw", "int"])
def test_any_bytes_give_an_array_or_an_error(stored, sound):
    @PROPERTY
    @hypothesis.given(some_bytes(sound, gzip.compress(sound, mtime=0)))
    def check(content):
        try:
            array = formats.parse(io.BytesIO(content), stored)
        except ValueError:
            return
        assert (array.shape, array.dtype.name) == (stored.shape, stored.dtype)

    check()


def test_stored_forms_fit_the_official_files(small):
    for name in NAMES:
        files = official(name, small(name))
        stored = published.stored_files(name)
        assert [*stored] == [*files]
        for form, content in zip(stored.values(), files.values(), strict=True):
            assert len(form.header) + form.num_bytes == len(content)
            assert content.startswith(form.header)
