"""Every source, every fault: right arrays in the original order, or one clear line."""

import concurrent.futures
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
import zipfile

import hypothesis
import numpy as np
import pytest
from faults import (
    PROPERTY,
    MakesFolder,
    idx_bytes,
    little_memory,
    one_line,
    some_bytes,
)
from hypothesis import strategies as st

from mnist_jax import UserError, disk
from mnist_jax.data import (
    datasets,
    download,
    formats,
    loading,
    splits,
    user_files,
    verify,
)
from mnist_jax.data.datasets import DataFacts
from mnist_jax.data.published import FILES, PUBLISHED

REAL_MNIST = os.environ.get("MNIST_JAX_DATA_DIR")  # read before the fixture `isolated` clears it
SIZES = (60, 20)  # numbers of training and test images of the small data sets here

pytestmark = pytest.mark.usefixtures("nothing_waits_for_ever", "isolated")


@pytest.fixture
def small(monkeypatch):
    """Lets the data sets be small; gives the four arrays of one with balanced labels.

    Of kmnist is known what is of the true one: the gzip files, as `write_idx` makes them of these
    arrays, and mean and spread of the pixels.
    """
    arrays = make_arrays(*SIZES)
    for name in ("mnist", "fashion_mnist", "kmnist"):
        monkeypatch.setitem(datasets.FACTS, name, DataFacts((28, 28, 1), 10, *SIZES))
    digests = tuple(hashlib.sha256(zipped(array)).hexdigest() for array in arrays)
    know(monkeypatch, "kmnist", sha256=digests, moments=moments(arrays[0]))
    return arrays


def know(monkeypatch, name, **facts):
    monkeypatch.setitem(PUBLISHED, name, PUBLISHED[name]._replace(**facts))


def known_by_md5(monkeypatch, name, arrays):
    digests = tuple(hashlib.md5(idx_bytes(array)).hexdigest() for array in arrays)
    know(monkeypatch, name, md5=digests)
    know(monkeypatch, "kmnist", sha256=("",) * 4)


@pytest.fixture
def small_fashion(small, monkeypatch):
    """As `small`, with these arrays for the one true fashion_mnist."""
    known_by_md5(monkeypatch, "fashion_mnist", small)
    return small


@pytest.fixture
def small_mnist(small, monkeypatch):
    """As `small`, with these arrays for the one true mnist."""
    known_by_md5(monkeypatch, "mnist", small)
    checksum = hashlib.sha256(b"".join(map(idx_bytes, small))).hexdigest()
    know(monkeypatch, "mnist", checksum=f"sha256:{checksum}")
    return small


def moments(images):
    return float(images.mean() / 255), float(images.std() / 255)


def zipped(array):
    return gzip.compress(idx_bytes(array), 1, mtime=0)


def make_arrays(num_train, num_test):
    rng = np.random.default_rng(0)
    arrays = []
    for number in (num_train, num_test):
        arrays.append(rng.integers(0, 256, (number, 28, 28), np.uint8))
        arrays.append(rng.permutation(np.arange(number) % 10).astype(np.uint8))
    return arrays


def write_idx(folder, arrays, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(FILES, arrays, strict=True):
        if packed:
            (folder / f"{file}.gz").write_bytes(zipped(array))
        else:
            (folder / file).write_bytes(idx_bytes(array))
    return folder


def assert_holds(dataset, arrays):
    found = (
        *(dataset.train_images, dataset.train_labels),
        *(dataset.test_images, dataset.test_labels),
    )
    for one, other in zip(found, arrays, strict=True):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
    assert dataset.validation_images.shape == (0, 28, 28)
    assert dataset.validation_labels.shape == (0,)


def cached_files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("*"))


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "layout",
    [
        *("", "raw", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST", "fashion-mnist"),
        *("Fashion-MNIST", "FASHION_MNIST/raw"),
    ],
)
def test_idx_files_in_each_layout(tmp_path, small_fashion, layout, packed):
    folder = write_idx(tmp_path / "given" / layout, small_fashion, packed)
    dataset = loading.load_dataset("fashion_mnist", str(tmp_path / "given"))
    assert_holds(dataset, small_fashion)
    assert dataset.name == "fashion_mnist"
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.source == f"IDX files in {folder}"
    expected = hashlib.sha256(b"".join(map(idx_bytes, small_fashion))).hexdigest()
    assert dataset.checksum == f"sha256:{expected}"


@pytest.mark.parametrize("spelling", ["dot", "dot.gz", "folder", "dot in folder"])
def test_idx_files_under_the_names_that_tools_give_them(tmp_path, small, spelling):
    write_idx(tmp_path, small, packed="gz" in spelling)
    for file in FILES:
        path = tmp_path / f"{file}.gz" if "gz" in spelling else tmp_path / file
        name = path.name.replace("-idx", ".idx") if "dot" in spelling else path.name
        content = path.read_bytes()
        path.unlink()
        if "folder" in spelling:
            path.mkdir()
            (path / name).write_bytes(content)
        else:
            (tmp_path / name).write_bytes(content)
    assert_holds(loading.load_dataset("kmnist", str(tmp_path)), small)


def test_any_one_of_the_files_names_their_folder(tmp_path, small_fashion, monkeypatch):
    write_idx(tmp_path / "FashionMNIST" / "raw", small_fashion)
    for file in FILES:
        path = tmp_path / "FashionMNIST" / "raw" / f"{file}.gz"
        assert_holds(loading.load_dataset("fashion_mnist", str(path)), small_fashion)
        monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(path))
        assert_holds(loading.load_dataset("fashion_mnist"), small_fashion)


def test_a_whole_set_is_found_beside_parts_of_one(tmp_path, small):
    write_idx(tmp_path, small)
    (write_idx(tmp_path / "kmnist", small) / f"{FILES[2]}.gz").unlink()
    assert_holds(loading.load_dataset("kmnist", str(tmp_path)), small)
    (tmp_path / f"{FILES[1]}.gz").unlink()
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path))
    assert message.startswith(f"{tmp_path / 'kmnist'} lacks {FILES[2]} of kmnist; add it")


def test_kmnists_own_npz_files(tmp_path, small):
    for name, array in zip(PUBLISHED["kmnist"].npz, small, strict=True):
        np.savez_compressed(tmp_path / name, array)
    for given in (tmp_path, tmp_path / PUBLISHED["kmnist"].npz[2]):
        dataset = loading.load_dataset("kmnist", str(given))
        assert_holds(dataset, small)
        assert dataset.source.endswith(f"KMNIST's npz files in {tmp_path}")
    assert "holds no file of mnist, but " in one_line(loading.load_dataset, "mnist", str(tmp_path))
    (tmp_path / PUBLISHED["kmnist"].npz[1]).write_bytes(b"<html>")
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path))
    assert message.startswith(f"{tmp_path / PUBLISHED['kmnist'].npz[1]}: it is not KMNIST's")
    assert "a web page" in message
    (tmp_path / PUBLISHED["kmnist"].npz[1]).unlink()
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path))
    assert f"lacks {PUBLISHED['kmnist'].npz[1]} of kmnist" in message


def test_the_path_of_an_npz_file(tmp_path, small_mnist):
    path = save_keras(tmp_path, small_mnist).rename(tmp_path / "any name.npz")
    assert_holds(loading.load_dataset("mnist", str(path)), small_mnist)
    assert "any name.npz" in one_line(loading.load_dataset, "mnist", str(tmp_path))
    folder = tmp_path / "MNIST"
    folder.mkdir()
    path.rename(folder / "MNIST.npz")
    assert_holds(loading.load_dataset("mnist", str(tmp_path)), small_mnist)


@pytest.mark.parametrize("below", ["", "kmnist", "kmnist/3.0.1"])
def test_a_prepared_folder_may_be_given(tmp_path, small, below):
    folder = write_tfrecord(tmp_path / "kmnist" / "3.0.1", small)
    dataset = loading.load_dataset("kmnist", str(tmp_path / below))
    assert_holds(dataset, small)
    assert dataset.source == f"tensorflow-datasets {folder}"
    assert loading.load_dataset("kmnist", str(tmp_path / below)).source.startswith("cache")


KINDS = {
    b"": "it is empty",
    b"\xef\xbb\xbf\n <!DOCTYPE html>": "it is a web page (or XML)",
    b"<?xml version='1.0'?><Error>": "it is a web page (or XML)",
    b"version https://git-lfs.github.com/spec/v1\noid": "it is a Git LFS pointer: `git lfs pull`",
    b"/annex/objects/SHA256E-s47040016--0": "it is a git-annex pointer",
    b"PK\3\4" + bytes(30): "it is a zip archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "it is an archive: unpack it",
    bytes(40): "it begins with 00000000, not with the IDX mark",
    b"train-images-idx3-ubyte".ljust(257, b"\0") + b"ustar": "it is an archive: unpack it",
    b'{"error": 404}': "it is JSON",
    b"label,pixel1,pixel2": "it is a CSV table",
    gzip.compress(b"<html>", mtime=0): "what it holds packed is a web page",
    gzip.compress(gzip.compress(b"", mtime=0), mtime=0): "what it holds packed is a gzip file",
}


@pytest.mark.parametrize("content", KINDS, ids=range(len(KINDS)))
def test_what_lies_there_by_mistake_is_named(tmp_path, small, content):
    path = write_idx(tmp_path, small, packed=False) / FILES[1]
    path.write_bytes(content)
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path))
    assert message.startswith(f"{path}: {KINDS[content]}")
    if content and KINDS[content].startswith("it is a"):
        given = tmp_path / "download"
        given.write_bytes(content)
        message = one_line(loading.load_dataset, "kmnist", str(given))
        assert message.startswith(f"--data_dir={given} {KINDS[content][3:][:9]}")
        assert ", not a folder; it should hold " in message


def test_what_a_folder_holds_instead_is_named(tmp_path):
    assert f"{tmp_path} is empty; it should hold " in one_line(
        loading.load_dataset, "mnist", str(tmp_path)
    )
    for name in ("g.zip", "a\nb", "c", "d", "e", "f", "h" * 99):
        (tmp_path / name).touch()
    message = one_line(loading.load_dataset, "mnist", str(tmp_path))
    assert "holds no file of mnist, but a b, c, d, e, f and 2 more; it should hold " in message


@pytest.mark.parametrize("name", ["KMNIST", "K-MNIST", "k_mnist", "Kmnist"])
def test_names_in_another_spelling(tmp_path, small, name):
    dataset = loading.load_dataset(name, str(write_idx(tmp_path, small)))
    assert dataset.name == "kmnist"
    assert cached_files(tmp_path) == ["kmnist-v2.npz"]


def test_a_folder_of_the_data_sets_own_name_goes_first(tmp_path, small_mnist, monkeypatch):
    write_idx(tmp_path, small_mnist)
    fashion = [255 - array if array.ndim == 3 else array[::-1] for array in small_mnist]
    write_idx(tmp_path / "fashion_mnist", fashion)
    known_by_md5(monkeypatch, "fashion_mnist", fashion)
    assert_holds(loading.load_dataset("fashion_mnist", str(tmp_path)), fashion)
    assert_holds(loading.load_dataset("mnist", str(tmp_path)), small_mnist)


def test_environment_variable_names_the_folder(tmp_path, small, monkeypatch):
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(write_idx(tmp_path / "given", small)))
    assert_holds(loading.load_dataset("kmnist"), small)


def test_the_flag_goes_before_the_environment_variable(tmp_path, small, monkeypatch):
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(write_idx(tmp_path / "variable", small)))
    other = [array[::-1] for array in small]
    write_idx(tmp_path / "flag", other)
    assert_holds(loading.load_dataset("kmnist", str(tmp_path / "flag")), other)


def test_keras_file(tmp_path, small_mnist):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(tmp_path / "mnist.npz", **dict(zip(names, small_mnist, strict=True)))
    assert_holds(loading.load_dataset("mnist", str(tmp_path)), small_mnist)


def save_keras(folder, arrays):
    folder.mkdir(exist_ok=True)
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(folder / "mnist.npz", **dict(zip(names, arrays, strict=True)))
    return folder / "mnist.npz"


def npy_bytes(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def rewrite(path, changes, compression=zipfile.ZIP_DEFLATED):
    """Writes a zip file anew with some members changed, or left out where the change is None."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {**members, **changes}.items():
            if content is not None:
                archive.writestr(name, content)


NPZ_FAULTS = (
    *("empty", "garbage", "cut", "bit", "npy", "pickle", "sparse", "pipe", "missing", "bytes"),
    *("pickled array", "pickle for array", "shape", "type", "order", "scalar", "zip in zip"),
    *("bomb", "bz2 bomb", "lzma bomb", "hidden bomb", "promise", "negative", "nested", "mark"),
    *("more", "fewer", "encrypted"),
)


def damage(path, fault, images, labels):
    """Gives a sound npz file a fault; `images`, `labels`: names of the arrays that get it."""
    content, evil = path.read_bytes(), MakesFolder(path.parent / "unpickled")
    with np.load(path) as archive:
        label_array = archive[labels]
    head = npy_bytes(label_array)[:-20]  # 20 labels
    locked = bytearray(content)
    locked[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of the directory's last member
    in_whole = {
        "empty": b"",
        "garbage": b"PK\x03\x04" + bytes(range(256)),
        "cut": content[:-500],
        "bit": content[:20_000] + bytes([content[20_000] ^ 1]) + content[20_001:],
        "npy": npy_bytes(label_array),
        "pickle": pickle.dumps(evil),
        "encrypted": bytes(locked),
    }
    in_labels = {
        "missing": None,
        "bytes": b"garbage",
        "pickled array": npy_bytes(np.array([evil] * len(label_array))),
        "pickle for array": pickle.dumps(evil),
        "shape": npy_bytes(label_array[:, None]),
        "type": npy_bytes(label_array.astype(np.int8)),
        "scalar": npy_bytes(label_array[0]),
        "zip in zip": content,
        "promise": head.replace(b"(20,), }         ", b"(4294967296,), } "),
        "negative": head.replace(b"(20,), } ", b"(-20,), }"),
        "nested": head[:8] + b"\xff\xff" + b"(" * 65535,
        "mark": b"\x93NUMPX" + head[6:] + bytes(20),
        "hidden bomb": head + bytes(40_000_000),
        "more": head + bytes(21),
        "fewer": head + bytes(19),
    }
    zeros = npy_bytes(np.zeros((40_000, 28, 28), np.uint8))
    bombs = {
        "bomb": zipfile.ZIP_DEFLATED,
        "bz2 bomb": zipfile.ZIP_BZIP2,
        "lzma bomb": zipfile.ZIP_LZMA,
    }
    if fault in in_whole:
        path.write_bytes(in_whole[fault])
    elif fault in in_labels:
        assert in_labels[fault] != head
        rewrite(path, {f"{labels}.npy": in_labels[fault]})
    elif fault in bombs:
        rewrite(path, {f"{images}.npy": zeros}, bombs[fault])
    elif fault == "order":
        with np.load(path) as archive:
            array = np.asfortranarray(archive[images])
        rewrite(path, {f"{images}.npy": npy_bytes(array)})
    elif fault == "sparse":
        os.truncate(path, 2**40)
    else:
        assert fault == "pipe"
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize("fault", NPZ_FAULTS)
def test_bad_keras_file(tmp_path, small_mnist, fault):
    path = save_keras(tmp_path / "given", small_mnist)
    damage(path, fault, "x_train", "y_test")
    with little_memory():
        message = one_line(loading.load_dataset, "mnist", str(path.parent))
    if fault == "pipe":
        assert message.startswith(f"--data_dir={path.parent} holds no file of mnist")
    else:
        assert message.startswith(f"{path}: it is not Keras' mnist.npz (")
        assert message.endswith("; replace it with the original")
    assert not (path.parent / "unpickled").exists()
    assert cached_files(tmp_path) == []


def test_any_bytes_for_keras_file_are_the_true_arrays_or_a_user_error(tmp_path, small_mnist):
    path = save_keras(tmp_path / "given", small_mnist)
    deflated = path.read_bytes()
    rewrite(path, {}, zipfile.ZIP_STORED)

    @PROPERTY
    @hypothesis.given(some_bytes(deflated, path.read_bytes()))
    def check(content):
        path.write_bytes(content)
        message = ""
        with warnings.catch_warnings(action="error"):
            try:
                found = user_files.find("mnist", path.parent).read()
                assert_holds(verify.verify("mnist", found), small_mnist)
            except UserError as error:
                message = str(error)
        assert not message or (message.startswith(str(path)) and "\n" not in message)

    check()


@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_JAX_DATA_DIR, the folder of MNIST, is not set")
def test_the_real_mnist(tmp_path):
    dataset = loading.load_dataset("mnist", REAL_MNIST)
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    again = loading.load_dataset("mnist")
    assert again.source.startswith(f"cache {tmp_path}")
    assert again.checksum == dataset.checksum == PUBLISHED["mnist"].checksum
    assert "this is mnist's" in one_line(loading.load_dataset, "fashion_mnist", REAL_MNIST)


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch):
    know(monkeypatch, "kmnist", moments=(0.0, 0.0))
    train, test = np.arange(60_000) % 10, np.arange(10_000) // 1_000
    arrays = [np.zeros((60_000, 28, 28), np.uint8), train.astype(np.uint8)]
    arrays += [np.zeros((10_000, 28, 28), np.uint8), test.astype(np.uint8)]
    write_idx(tmp_path / "given", arrays)
    dataset = loading.load_dataset("kmnist", str(tmp_path / "given"))
    assert_holds(dataset, arrays)
    assert dataset.class_names == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    shutil.rmtree(tmp_path / "given")
    again = loading.load_dataset("kmnist")
    assert_holds(again, arrays)
    assert again.checksum == dataset.checksum


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gs://bucket/run", "expected a path on this machine, not an address; mount it here"),
        ("S3://bucket", "expected a path on this machine, not an address; mount it here"),
        ("https://example.org/a.npz", "expected a path on this machine, not an address; mount it"),
        ("file:///tmp/run", "not an address; leave file:// out"),
        ("~nobody_here/run", "no such home directory"),
    ],
)
def test_what_is_no_path_of_this_machine(given, said):
    assert one_line(disk.local_path, given, "--flag").startswith(f"--flag={given}: ")
    assert said in one_line(disk.local_path, given, "--flag")


@pytest.mark.parametrize("given", ["", ".", "/a", "a:b", "a/b:", "http:/a", "C:\\a", "~/a"])
def test_what_is_a_path_of_this_machine(given):
    found = disk.local_path(given, "--flag")
    assert str(found) == (os.path.expanduser(given) or ".")


@pytest.mark.parametrize(
    "variable", ["MNIST_JAX_DATA_DIR", "MNIST_JAX_CACHE_DIR", "XDG_CACHE_HOME", "TFDS_DATA_DIR"]
)
def test_an_address_in_the_environment_makes_no_folder(tmp_path, small, monkeypatch, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "_download", lambda *_: None)
    if variable == "XDG_CACHE_HOME":
        monkeypatch.delenv("MNIST_JAX_CACHE_DIR")
    monkeypatch.setenv(variable, "gs://bucket/here")
    message = one_line(loading.load_dataset, "kmnist")
    assert f"{variable}=gs://bucket/here: expected a path on this machine" in message
    if variable in ("MNIST_JAX_CACHE_DIR", "XDG_CACHE_HOME"):  # not only where nothing is found
        message = one_line(
            loading.load_dataset, "kmnist", str(write_idx(tmp_path / "given", small))
        )
        assert message.startswith(f"{variable}=gs://bucket/here: ")
    assert "gs:" not in os.listdir(tmp_path)


# --- faults in files -----------------------------------------------------------------------------


def test_unknown_name():
    message = one_line(loading.load_dataset, "mnits")
    assert "'mnits'" in message
    assert all(name in message for name in datasets.DATASETS)


def test_a_flag_without_files_is_an_error_even_with_a_cached_copy(tmp_path, small):
    loading.load_dataset("kmnist", str(write_idx(tmp_path / "given", small)))
    (tmp_path / "empty").mkdir()
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path / "empty"))
    assert "is empty; it should hold" in message
    assert FILES[3] in message
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path / "nowhere"))
    assert f"--data_dir={tmp_path / 'nowhere'} is not a folder" in message


@pytest.mark.parametrize("missing", FILES)
def test_three_of_four_files(tmp_path, small, missing):
    (write_idx(tmp_path, small) / f"{missing}.gz").unlink()
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path))
    assert f"lacks {missing} of kmnist" in message


def faulty(fault, good):
    """The bytes of a test label file with one fault."""
    zipped = gzip.compress(good)
    return {
        "empty": b"",
        "garbage": b"<!DOCTYPE html> not here",
        "short header": good[:6],
        "wrong mark": b"\x00\x00\x09" + good[3:],
        "images for labels": b"\x00\x00\x08\x03" + good[4:],
        "claims more": good[:4] + b"\xff\xff\xff\xff" + good[8:],
        "cut short": good[:-1],
        "bytes follow": good + b"\x00",
        "zipped bytes follow": gzip.compress(good + b"\x00"),
        "zipped cut short": gzip.compress(good[:-1]),
        "gzip cut in the contents": zipped[:-12],
        "gzip cut in its end mark": zipped[:-3],
        "gzip checksum": zipped[:-5] + bytes([zipped[-5] ^ 1]) + zipped[-4:],
        "gzip data": zipped[:14] + b"\xff" * 8 + zipped[22:],
        "gzip of nothing": gzip.compress(b""),
        "only gzip's mark": b"\x1f\x8b",
        "garbage follows gzip": zipped + b"garbage",
        "other bytes": good[:-1] + bytes([(good[-1] + 1) % 10]),
    }[fault]


@pytest.mark.parametrize(
    "fault",
    [
        *("empty", "garbage", "short header", "wrong mark", "images for labels", "claims more"),
        *("cut short", "bytes follow", "zipped bytes follow", "zipped cut short"),
        *("gzip cut in the contents", "gzip cut in its end mark", "gzip checksum", "gzip data"),
        *("gzip of nothing", "only gzip's mark", "garbage follows gzip", "other bytes"),
    ],
)
def test_a_faulty_file_is_named_with_its_true_md5(tmp_path, small_mnist, fault):
    write_idx(tmp_path, small_mnist, packed=False)
    path = tmp_path / FILES[3]
    path.write_bytes(faulty(fault, path.read_bytes()))
    message = one_line(loading.load_dataset, "mnist", str(tmp_path))
    assert str(path) in message
    assert PUBLISHED["mnist"].md5[3] in message
    assert cached_files(tmp_path) == []


IDX_2_BY_3 = b"\x00\x00\x08\x02\x00\x00\x00\x02\x00\x00\x00\x03"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bomb", "bytes follow its contents"),
        ("bomb by its header", "its header claims dimensions [4294967295, 4294967295], not [2, 3]"),
        ("promise", "its header claims dimensions [4294967295, 4294967295], not [2, 3]"),
        ("sparse", f"it has {2**40} bytes; expected at most"),
        ("endless name", f"it has {2**40} bytes; expected at most"),
        ("folder", "it is not a regular file"),
        ("pipe", "it is not a regular file"),
        ("device", "it is not a regular file"),
        ("absent", "it cannot be read (FileNotFoundError: "),
        ("dangling", "it cannot be read (FileNotFoundError: "),
        ("loop", "it cannot be read (OSError: "),
        ("pickle", "it is a pickle, which is never opened"),
    ],
)
def test_what_is_no_idx_file_takes_neither_memory_nor_time(tmp_path, fault, said):
    path = tmp_path / "file"
    promise = IDX_2_BY_3[:4] + b"\xff" * 8
    contents = {
        "bomb": gzip.compress(IDX_2_BY_3 + bytes(50_000_000), 1),
        "bomb by its header": gzip.compress(promise + bytes(50_000_000), 1),
        "promise": promise,
        "sparse": IDX_2_BY_3,
        "endless name": b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03name",
        "pickle": pickle.dumps(MakesFolder(tmp_path / "unpickled")),
    }
    if fault in contents:
        path.write_bytes(contents[fault])
    if fault in ("sparse", "endless name"):
        os.truncate(path, 2**40)
    elif fault == "folder":
        path.mkdir()
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault == "device":
        path.symlink_to("/dev/zero")
    elif fault == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif fault == "loop":
        path.symlink_to(path)
    with little_memory():
        message = one_line(formats.read_file, path, formats.Stored((2, 3)))
    assert message.startswith(f"{path}: {said}")
    assert message.endswith("; replace it with the original file")
    assert not (tmp_path / "unpickled").exists()


@PROPERTY
@hypothesis.given(
    some_bytes(
        IDX_2_BY_3 + b"pixels",
        gzip.compress(IDX_2_BY_3 + b"pixels"),
        gzip.compress(IDX_2_BY_3) + gzip.compress(b"pixels"),
    )
)
def test_any_bytes_give_an_array_or_a_user_error(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    try:
        plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except Exception:
        plain = b""
    with warnings.catch_warnings(action="error"):
        if plain[:12] == IDX_2_BY_3 and len(plain) == 18:
            array = formats.read_file(path, formats.Stored((2, 3)))
            assert array.shape == (2, 3)
            assert array.dtype == np.uint8
            assert array.tobytes() == plain[12:]
        else:
            assert one_line(formats.read_file, path, formats.Stored((2, 3))).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling"])
def test_something_in_place_of_a_file_is_a_missing_file(tmp_path, small, kind):
    path = write_idx(tmp_path / "given", small) / f"{FILES[1]}.gz"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nowhere")
    message = one_line(loading.load_dataset, "kmnist", str(path.parent))
    assert f"lacks {FILES[1]} of kmnist" in message


def test_a_file_that_vanishes_meanwhile(tmp_path, monkeypatch):
    path = tmp_path / "vanished"
    found = user_files.DataFiles([path] * 4, lambda: pytest.fail("it was read"))
    monkeypatch.setattr(loading, "_find_given", lambda *_: found)
    assert str(path) in one_line(loading.load_dataset, "kmnist", str(tmp_path))


def test_kmnist_must_be_balanced(tmp_path, small):
    small[1][small[1] == 3] = 4
    message = one_line(loading.load_dataset, "kmnist", str(write_idx(tmp_path, small)))
    assert f"{FILES[1]}.gz" in message
    assert "[6, 6, 6, 0, 12, 6, 6, 6, 6, 6]" in message
    small[1][0] = 77
    write_idx(tmp_path, small)
    assert "1 other labels" in one_line(loading.load_dataset, "kmnist", str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
@pytest.mark.parametrize("owner", ["mnist", "fashion_mnist", "kmnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_no_data_set_is_taken_for_another(tmp_path, small, monkeypatch, owner, name, packed):
    if owner != "kmnist":
        known_by_md5(monkeypatch, owner, small)
        know(monkeypatch, owner, checksum=None)
    folder = str(write_idx(tmp_path, small, packed))
    if owner == name:
        assert_holds(loading.load_dataset(name, folder), small)
    elif owner == "kmnist" and not packed:
        message = one_line(loading.load_dataset, name, folder)
        assert f"but {name}'s {FILES[0]} has {PUBLISHED[name].md5[0]}" in message
    else:
        message = one_line(loading.load_dataset, name, folder)
        assert f"this is {owner}'s {FILES[0]}, not {name}'s" in message
        assert f"use --config.dataset={owner}" in message


def test_fashion_mnist_is_known_to_the_last_byte(tmp_path, small_fashion):
    small_fashion[1][:2] = small_fashion[1][[1, 0]]
    write_idx(tmp_path, small_fashion)
    message = one_line(loading.load_dataset, "fashion_mnist", str(tmp_path))
    assert f"but fashion_mnist's {FILES[1]} has {PUBLISHED['fashion_mnist'].md5[1]}" in message


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_not_known_of_kmnist_is_said(tmp_path, small, caplog, packed):
    loading.load_dataset("kmnist", str(write_idx(tmp_path / "given", small, packed)))
    if packed:  # as published
        assert caplog.text == ""
    else:
        [record] = caplog.records
        assert "these are not the published gzip files" in caplog.text
        assert f"kmnist: IDX files in {tmp_path / 'given'};" in record.getMessage()


@pytest.mark.parametrize(
    ("which", "fault"),
    [(0, "random"), (2, "random"), (0, "inverted"), (2, "inverted"), (0, "flat")],
)
def test_pixels_that_are_not_kmnists_are_refused(tmp_path, small, monkeypatch, which, fault):
    dark = [array // 4 if array.ndim == 3 else array for array in small]
    know(monkeypatch, "kmnist", moments=moments(dark[0]))
    assert_holds(loading.load_dataset("kmnist", str(write_idx(tmp_path, dark))), dark)
    images = {"random": small[which], "inverted": 255 - dark[which]}
    dark[which] = images.get(fault, np.full_like(dark[which], round(dark[which].mean())))
    message = one_line(loading.load_dataset, "kmnist", str(write_idx(tmp_path, dark)))
    assert message.startswith(f"{tmp_path / FILES[which]}.gz: kmnist's pixels (from 0 to 1)")


@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_JAX_DATA_DIR, the folder of MNIST, is not set")
def test_moments_are_those_that_everybody_normalises_mnist_by():
    images = loading.load_dataset("mnist", REAL_MNIST).train_images
    [mean], [deviation] = splits.channel_moments(images)
    assert (round(mean, 4), round(deviation, 4)) == (0.1307, 0.3081)


def test_what_is_known_of_kmnist_is_what_tensorflow_datasets_knows():
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls("kmnist")
    published = [builder.url_infos[f"{builder.URL}{file}.gz"].checksum for file in FILES]
    assert list(PUBLISHED["kmnist"].sha256) == published


# --- the cache -----------------------------------------------------------------------------------


def forbid(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(loading, name, lambda *_, name=name: pytest.fail(f"{name} was called"))


def test_the_cache_serves_unchanged_files_without_reading_them(tmp_path, small, monkeypatch):
    folder = str(write_idx(tmp_path / "given", small))
    first = loading.load_dataset("kmnist", folder)
    assert cached_files(tmp_path) == ["kmnist-v2.npz"]
    forbid(monkeypatch, "verify", "_read_prepared", "_download")
    for data_dir in (folder, None):
        dataset = loading.load_dataset("kmnist", data_dir)
        assert_holds(dataset, small)
        assert dataset.checksum == first.checksum
        assert dataset.source == f"cache {tmp_path}/cache/kmnist-v2.npz, from IDX files in {folder}"


def test_changed_files_are_read_and_faults_in_them_reported(tmp_path, small):
    folder = write_idx(tmp_path / "given", small, packed=False)
    loading.load_dataset("kmnist", str(folder))
    path = folder / FILES[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")  # as long as before, but newer
    os.utime(path, ns=(1, 1))
    small[0][-1, -1, -1] = 0
    assert_holds(loading.load_dataset("kmnist", str(folder)), small)
    assert_holds(loading.load_dataset("kmnist"), small)
    path.write_bytes(b"")
    os.utime(path, ns=(1, 1))  # as old as before, but shorter
    assert str(path) in one_line(loading.load_dataset, "kmnist", str(folder))


def test_files_elsewhere_replace_the_cached_copy(tmp_path, small):
    loading.load_dataset("kmnist", str(write_idx(tmp_path / "one", small)))
    other = [array[::-1] for array in small]
    assert_holds(loading.load_dataset("kmnist", str(write_idx(tmp_path / "two", other))), other)
    assert_holds(loading.load_dataset("kmnist"), other)


@pytest.mark.parametrize("fault", [*NPZ_FAULTS, "name", "no meta", "deep meta", "labels"])
def test_a_corrupt_cache_is_replaced_with_a_warning(tmp_path, small, caplog, fault):
    folder = str(write_idx(tmp_path / "given", small))
    loading.load_dataset("kmnist", folder)
    path = tmp_path / "cache" / "kmnist-v2.npz"
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
    changes = {
        "name": {"meta.json": json.dumps({**meta, "name": "mnist"})},
        "no meta": {"meta.json": None},
        "deep meta": {"meta.json": "[" * 100_000},
        "labels": {"train_labels.npy": npy_bytes(np.full(SIZES[0], 77, np.uint8))},
    }
    if fault in changes:
        rewrite(path, changes[fault])
    else:
        damage(path, fault, "train_images", "test_labels")
    assert_holds(loading.load_dataset("kmnist", folder), small)
    [record] = caplog.records
    assert record.getMessage().startswith(f"ignoring the cache file {path} (")
    assert "\n" not in record.getMessage()
    assert not (tmp_path / "cache" / "unpickled").exists()
    caplog.clear()
    assert loading.load_dataset("kmnist").source.startswith("cache")
    assert caplog.text == ""


def test_mnist_in_the_cache_is_what_it_must_be(tmp_path, small_mnist, caplog):
    folder = str(write_idx(tmp_path / "given", small_mnist))
    loading.load_dataset("mnist", folder)
    path = tmp_path / "cache" / "mnist-v2.npz"
    # One bad write by this very package, with everything in the file as it should be.
    wrong = [small_mnist[0], small_mnist[1][::-1], *small_mnist[2:]]
    arrays = dict(zip(loading.ARRAY_NAMES, wrong, strict=True))
    stamps = [loading.cache.stamp(tmp_path / "given" / f"{file}.gz") for file in FILES]
    loading.cache.write("mnist", arrays, formats.checksum(wrong), "a bad write", stamps)
    assert_holds(loading.load_dataset("mnist", folder), small_mnist)
    [record] = caplog.records
    assert record.getMessage().startswith(f"ignoring the cache file {path} (ValueError: its arrays")
    path.chmod(0o666)
    assert loading.load_dataset("mnist", folder).source.startswith("cache")  # which proves itself


@pytest.mark.parametrize("below", [".", "kmnist-v2.npz"])
@pytest.mark.parametrize("fault", [0o020, 0o002, "owner"])
def test_a_cache_that_others_can_write_is_not_believed(
    tmp_path, small, monkeypatch, caplog, fault, below
):
    folder = str(write_idx(tmp_path / "given", small))
    loading.load_dataset("kmnist", folder)
    path = tmp_path / "cache" / below
    if fault != "owner":
        path.chmod(path.stat().st_mode | fault)
        said = f"others can write {path}; chmod go-w {path}"
    elif os.geteuid() == 0:
        os.chown(path, 12345, -1)
        said = f"{path} belongs to user 12345; set MNIST_JAX_CACHE_DIR to a folder of yours"
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        said = f"belongs to user {os.getuid()}; set MNIST_JAX_CACHE_DIR to a folder of yours"
    for _ in range(2):
        caplog.clear()
        assert loading.load_dataset("kmnist", folder).source.startswith("IDX files")
        [record] = caplog.records
        assert "ignoring the cache file " in record.getMessage()
        assert said in record.getMessage()
        if below != ".":
            break  # and the file was replaced


def test_the_cache_is_writable_by_nobody_else_whatever_the_umask(tmp_path, small, caplog):
    before = os.umask(0)
    try:
        folder = str(write_idx(tmp_path / "given", small))
        loading.load_dataset("kmnist", folder)
        compiled = loading.cache.compiled_folder()
    finally:
        os.umask(before)
    assert loading.load_dataset("kmnist", folder).source.startswith("cache")
    assert compiled.stat().st_mode & 0o777 == 0o700
    assert caplog.text == ""
    compiled.parent.chmod(0o777)
    assert loading.cache.compiled_folder() is None
    assert "compiled programs are not kept (others can write" in caplog.text


@pytest.mark.parametrize("seconds", [0, 10**10])  # the years 1970 and 2286
def test_the_cache_is_written_whatever_the_clock_says(tmp_path, small, monkeypatch, seconds):
    monkeypatch.setattr("time.time", lambda: seconds)
    folder = str(write_idx(tmp_path / "given", small, packed=False))
    loading.load_dataset("kmnist", folder)
    assert loading.load_dataset("kmnist", folder).source.startswith("cache")
    with np.load(tmp_path / "cache" / "kmnist-v2.npz") as archive:
        np.testing.assert_array_equal(archive["train_images"], small[0])


def test_a_bomb_in_the_cache_does_not_fill_the_memory(tmp_path, small):
    folder = str(write_idx(tmp_path / "given", small))
    loading.load_dataset("kmnist", folder)
    path = tmp_path / "cache" / "kmnist-v2.npz"
    rewrite(path, {"meta.json": bytes(50_000_000)})
    with little_memory():
        assert loading.load_dataset("kmnist", folder).source.startswith("IDX files")


def test_any_bytes_for_the_cache_leave_the_true_arrays(tmp_path, small, caplog):
    folder = str(write_idx(tmp_path / "given", small))
    loading.load_dataset("kmnist", folder)
    path = tmp_path / "cache" / "kmnist-v2.npz"
    sound = path.read_bytes()

    @PROPERTY
    @hypothesis.given(some_bytes(sound))
    def check(content):
        path.write_bytes(content)
        caplog.clear()
        with warnings.catch_warnings(action="error"):
            dataset = loading.load_dataset("kmnist", folder)
        assert_holds(dataset, small)
        # Some bytes have no meaning, such as the files' times; what is damaged is replaced.
        damaged = not dataset.source.startswith("cache")
        assert len(caplog.records) == damaged
        assert loading.load_dataset("kmnist").source.startswith("cache")

    check()


def test_an_unusable_cache_folder_costs_a_warning(tmp_path, small, caplog):
    (tmp_path / "cache").write_text("a file in place of the folder")
    assert_holds(loading.load_dataset("kmnist", str(write_idx(tmp_path / "given", small))), small)
    [record] = caplog.records
    assert record.getMessage().startswith("cannot cache kmnist")


@pytest.mark.parametrize("file", ["cache", "cache/jax", "cache-above"])
def test_compiled_programs_are_not_kept_where_no_folder_can_be_made(
    tmp_path, monkeypatch, caplog, file
):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("a file in place of the folder")
    if file == "cache-above":
        monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / file / "cache"))
    assert loading.cache.compiled_folder() is None
    [record] = caplog.records
    assert record.getMessage().startswith(f"compiled programs are not kept ({tmp_path / file}")


@pytest.mark.parametrize("mode", [0o000, 0o555])
@pytest.mark.skipif(os.geteuid() == 0, reason="no folder is closed to root")
def test_a_closed_cache_folder_costs_a_warning(tmp_path, small, caplog, mode):
    (tmp_path / "cache").mkdir(mode=mode)
    assert_holds(loading.load_dataset("kmnist", str(write_idx(tmp_path / "given", small))), small)
    (tmp_path / "cache").chmod(0o755)
    [record] = caplog.records
    assert record.getMessage().startswith("cannot cache kmnist")


def test_a_folder_in_place_of_the_cache_file_costs_warnings(tmp_path, small, caplog):
    (tmp_path / "cache" / "kmnist-v2.npz").mkdir(parents=True)
    assert_holds(loading.load_dataset("kmnist", str(write_idx(tmp_path / "given", small))), small)
    assert "not a regular file" in caplog.text
    assert "cannot cache kmnist" in caplog.text
    assert cached_files(tmp_path) == ["kmnist-v2.npz"]


def python(code, **options):
    """Starts a Python process whose kmnist is as small as the fixture `small` has it."""
    small = "from mnist_jax.data import datasets, loading\n"
    small += "datasets.FACTS['kmnist'] = datasets.DataFacts((28, 28, 1), 10, 60, 20)\n"
    small += "loading.download.MIRRORS = {'kmnist': ()}\n"
    small += "from mnist_jax.data.published import FILES, PUBLISHED, Published\n"
    small += f"PUBLISHED['kmnist'] = {PUBLISHED['kmnist']}\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", small + code], **pipes, **options)


def test_a_full_disk_costs_a_warning_and_leaves_nothing(tmp_path, small):
    folder = str(write_idx(tmp_path / "given", small))
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"  # a disk of that size
    code = f"import resource; {limit}; print(loading.load_dataset('kmnist', {folder!r}).checksum)"
    process = python(code)
    output, errors = process.communicate()
    assert process.returncode == 0
    assert output.startswith("sha256:")
    [line] = errors.splitlines()
    assert line.startswith("cannot cache kmnist")
    assert "File too large" in line
    assert cached_files(tmp_path) == []


def test_what_a_killed_process_left_is_removed_once_nobody_can_be_writing_it(tmp_path, small):
    folder = str(write_idx(tmp_path / "given", small))
    code = (
        "import os\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        f"loading.load_dataset('kmnist', {folder!r})"
    )
    process = python(code)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    [left] = (tmp_path / "cache").iterdir()
    (tmp_path / "cache" / ".kmnist-v2.npz.mine").touch()
    os.utime(tmp_path / "cache" / ".kmnist-v2.npz.mine", (0, 0))  # old, but not made by the package
    assert_holds(loading.load_dataset("kmnist", folder), small)
    assert left.exists()  # for all that this process knows, the other is still writing
    os.utime(left, (0, 0))
    assert loading.load_dataset("kmnist", folder).source.startswith("cache")
    assert cached_files(tmp_path) == [".kmnist-v2.npz.mine", "kmnist-v2.npz"]


def test_a_new_cache_file_does_not_disturb_who_reads_the_old(tmp_path, small):
    loading.load_dataset("kmnist", str(write_idx(tmp_path / "one", small)))
    with open(tmp_path / "cache" / "kmnist-v2.npz", "rb") as file:
        before = file.read()
        loading.load_dataset("kmnist", str(write_idx(tmp_path / "two", [a[::-1] for a in small])))
        file.seek(0)
        assert file.read() == before


def test_processes_that_fill_and_lose_one_cache_see_no_half_file(tmp_path, small):
    folder = str(write_idx(tmp_path / "given", small))
    code = (
        "for _ in range(40):\n"
        f"  print(loading.load_dataset('kmnist', {folder!r}).checksum)\n"
        "  loading.cache.cache_path('kmnist').unlink(missing_ok=True)\n"
    )
    processes = [python(code) for _ in range(2)]
    results = [process.communicate() for process in processes]
    digest = hashlib.sha256(b"".join(map(idx_bytes, small))).hexdigest()
    for process, (output, errors) in zip(processes, results, strict=True):
        assert errors == ""
        assert output.splitlines() == [f"sha256:{digest}"] * 40
        assert process.returncode == 0
    assert cached_files(tmp_path) == []


def test_many_may_fill_the_cache_at_once(tmp_path, small, caplog, monkeypatch):
    folder = str(write_idx(tmp_path / "given", small))
    together, replace = threading.Barrier(4), os.replace

    def replace_together(*arguments):
        together.wait(timeout=30)  # all have written, none has moved its file into place
        replace(*arguments)

    with monkeypatch.context() as patch, concurrent.futures.ThreadPoolExecutor(4) as pool:
        patch.setattr(os, "replace", replace_together)
        for future in [pool.submit(loading.load_dataset, "kmnist", folder) for _ in range(4)]:
            assert_holds(future.result(), small)
    assert_holds(loading.load_dataset("kmnist"), small)
    assert cached_files(tmp_path) == ["kmnist-v2.npz"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        ("MNIST_JAX_CACHE_DIR", "here", "here"),
        ("MNIST_JAX_CACHE_DIR", "~/there", "home/there"),
        ("XDG_CACHE_HOME", "here", "here/mnist_jax"),
        ("HOME", "here", "here/.cache/mnist_jax"),
    ],
)
def test_where_the_cache_is(tmp_path, small, monkeypatch, variable, value, folder):
    for name in ("MNIST_JAX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, value if "~" in value else str(tmp_path / value))
    loading.load_dataset("kmnist", str(write_idx(tmp_path / "given", small)))
    assert (tmp_path / folder / "kmnist-v2.npz").is_file()


def test_without_a_home_the_error_says_what_to_set(tmp_path, small, monkeypatch):
    def getpwuid(uid):
        raise KeyError(uid)

    for name in ("MNIST_JAX_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.chdir(tmp_path)
    message = one_line(loading.load_dataset, "kmnist", str(write_idx(tmp_path / "given", small)))
    assert "set MNIST_JAX_CACHE_DIR to a folder" in message
    assert os.listdir(tmp_path) == ["given"]
    monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / "cache"))
    assert_holds(loading.load_dataset("kmnist", str(tmp_path / "given")), small)


# --- tensorflow-datasets -------------------------------------------------------------------------


def prepare_array_record(root, arrays):
    """Prepares FashionMNIST as tensorflow-datasets does, only fed from arrays (no TensorFlow)."""
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import mnist

    splits = {"train": arrays[:2], "test": arrays[2:]}

    def examples(images, labels):
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": Image.fromarray(image), "label": int(label)}

    with registered.skip_registration():
        members = {
            "name": "fashion_mnist",
            "pkg_dir_path": None,
            "_split_generators": lambda self, _: {s: examples(*a) for s, a in splits.items()},
            "_generate_examples": lambda self, *_: None,
        }
        builder = type("FashionMNIST", (mnist.FashionMNIST,), members)(
            data_dir=root, file_format="array_record"
        )
        tfds.disable_progress_bar()
        builder.download_and_prepare()
    return builder


def test_a_prepared_folder_gives_the_original_order(tmp_path, small_fashion, monkeypatch):
    builder = prepare_array_record(tmp_path / "tfds", small_fashion)
    stored = [int(example["label"]) for example in builder.as_data_source("train")]
    assert stored != small_fashion[1].tolist()  # else this test could not fail
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    forbid(monkeypatch, "_download")
    dataset = loading.load_dataset("fashion_mnist")
    assert_holds(dataset, small_fashion)
    assert dataset.source == f"tensorflow-datasets {builder.data_dir}"
    assert_holds(loading.load_dataset("fashion_mnist"), small_fashion)
    assert cached_files(tmp_path) == ["fashion_mnist-v2.npz"]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_prepared_folder_of_tfrecord_is_read_without_tensorflow(
    tmp_path, small, monkeypatch, shards
):
    folder = write_tfrecord(tmp_path / "tfds" / "kmnist" / "3.0.1", small, shards)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    forbid(monkeypatch, "_download")
    dataset = loading.load_dataset("kmnist")
    assert_holds(dataset, small)
    assert dataset.source == f"tensorflow-datasets {folder}"


def write_tfrecord(folder, arrays, shards=1, name="kmnist"):
    """Writes a data set as tensorflow-datasets does, in the order of the hashes of the keys."""
    from PIL import Image
    from tensorflow_datasets.core import hashing
    from tensorflow_datasets.proto import tf_example_pb2

    folder.mkdir(parents=True)
    for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        records = []
        for index in sorted(range(len(labels)), key=hashing.Hasher(split).hash_key):
            png, example = io.BytesIO(), tf_example_pb2.Example()
            Image.fromarray(images[index]).save(png, "PNG")
            feature = example.features.feature
            feature["image"].bytes_list.value.append(png.getvalue())
            feature["label"].int64_list.value.append(int(labels[index]))
            content = example.SerializeToString()
            records.append(len(content).to_bytes(8, "little") + bytes(4) + content + bytes(4))
        size = -(-len(records) // shards)
        for shard in range(shards):
            path = folder / f"{name}-{split}.tfrecord-{shard:05}-of-{shards:05}"
            path.write_bytes(b"".join(records[shard * size : (shard + 1) * size]))
    return folder


def renamed(**words):
    def change(path):
        name = path.name
        for old, new in words.items():
            name = name.replace(old.replace("_", "-"), new)
        path.rename(path.with_name(name))

    return change


@pytest.mark.parametrize(
    ("said", "damage"),
    [
        ("and parquet in", renamed(tfrecord="parquet")),
        ("only array_record and tfrecord, whole, are read", renamed(of_00001="of-00002")),
        ("only array_record and tfrecord, whole, are read", os.unlink),
        ("train has 0 examples, not 60", lambda path: path.write_bytes(b"")),
        ("is cut short", lambda path: path.write_bytes(path.read_bytes()[:-5])),
        ("has more than 60 examples", lambda path: path.write_bytes(path.read_bytes() * 2)),
        ("claims an example of", lambda path: path.write_bytes(bytes(4) + b"\1" * 99)),
        ("expected at most", lambda path: os.truncate(path, 2**40)),
        ("cannot be used", lambda path: path.write_bytes(b"<html>" * 40)),
        ("cannot be used", lambda path: path.write_bytes(b"\3" + bytes(18))),
    ],
)
def test_a_faulty_prepared_folder_is_passed_over_unless_it_is_given(
    tmp_path, small, monkeypatch, said, damage
):
    folder = write_tfrecord(tmp_path / "tfds" / "kmnist" / "3.0.1", small)
    damage(folder / "kmnist-train.tfrecord-00000-of-00001")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(loading, "_download", lambda _, tried: tried.append("is not downloaded"))
    with little_memory(6e6):
        message = one_line(loading.load_dataset, "kmnist")
    assert message.startswith("data set kmnist was not found and is not downloaded; give --data_d")
    for text in (message, one_line(loading.load_dataset, "kmnist", str(tmp_path / "tfds"))):
        assert str(folder) in text
        assert said in text


@pytest.mark.parametrize("place", ["given", "environment"])
def test_a_prepared_folder_runs_no_code_and_takes_no_memory_by_its_claims(
    tmp_path, small_fashion, monkeypatch, place
):
    folder = tmp_path / "tfds" / "fashion_mnist" / "3.0.1"
    prepare_array_record(tmp_path / "tfds", small_fashion)
    assert folder.is_dir()
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["pythonClassName"] = "evil_feature.Label"
    features["featuresDict"]["features"]["image"]["image"]["shape"]["dimensions"] = ["99999999"] * 3
    (folder / "features.json").write_text(json.dumps(features))
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["1000000000000"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "evil_feature.py").write_text("import os\nos.mkdir('was run')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forbid(monkeypatch, "_download")
    if place == "given":
        dataset = loading.load_dataset("fashion_mnist", str(tmp_path / "tfds"))
    else:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
        dataset = loading.load_dataset("fashion_mnist")
    assert_holds(dataset, small_fashion)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("size", [300_000_000, 6])
def test_a_bomb_in_an_array_record_is_not_unpacked(tmp_path, small, size):
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = tmp_path / "kmnist" / "3.0.1"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        path = folder / f"kmnist-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        writer.write(bytes(size))
        writer.close()
        assert path.stat().st_size < 140_000
    message = one_line(loading.load_dataset, "kmnist", str(tmp_path))
    assert f"{folder} cannot be used" in message
    assert (" claims 300000154 bytes of contents" in message) == (size > 6)


# --- download ------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(monkeypatch, contents, respond, name="kmnist"):
    """Serves on 127.0.0.1 as tensorflow-datasets' address of `name`; gives the list of requests.

    `contents` are those of the files by name, to which tensorflow-datasets' checksums belong here;
    `respond` is called with the request's handler.
    """
    import tensorflow_datasets as tfds

    paths, over = [], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.over = over  # waited for by who never answers
            with contextlib.suppress(ConnectionError):  # of a client that has gone
                respond(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        infos = {
            address + name: tfds.download.checksums.UrlInfo(
                size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=name
            )
            for name, content in contents.items()
        }
        builder = tfds.builder_cls(name)
        monkeypatch.setattr(builder, "URL", address, raising=False)
        monkeypatch.setattr(builder, "url_infos", infos)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield paths
        finally:
            over.set()
            server.shutdown()
            thread.join()


def zipped_files(arrays):
    return {f"{file}.gz": zipped(array) for file, array in zip(FILES, arrays, strict=True)}


def answer(handler, content, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def test_tensorflow_datasets_has_a_checksum_of_each_file():
    import tensorflow_datasets as tfds

    for name in ("mnist", "fashion_mnist", "kmnist"):
        builder = tfds.builder_cls(name)
        for file in FILES:
            expected = builder.url_infos[f"{builder.URL}{file}.gz"]
            assert 1_000 < expected.size < 30_000_000
            assert len(expected.checksum) == 64


@pytest.mark.parametrize("hindrance", ["none", "redirected", "busy once", "cut once"])
def test_download(tmp_path, small, monkeypatch, hindrance):
    contents = zipped_files(small)

    def respond(handler):
        name, first = handler.path[1:].split("?")[0], len(paths) == 1
        if hindrance == "redirected" and "?" not in handler.path:
            handler.send_response(302)
            handler.send_header("Location", f"/{name}?again")
            handler.end_headers()
        elif hindrance == "busy once" and first:
            handler.send_error(503)
        elif hindrance == "cut once" and first:
            answer(handler, contents[name][:99], length=len(contents[name]))
        else:
            answer(handler, contents[name])

    with serving(monkeypatch, contents, respond) as paths:
        dataset = loading.load_dataset("kmnist")
        assert_holds(dataset, small)
        assert dataset.source.startswith("download from http://127.0.0.1:")
        assert_holds(loading.load_dataset("kmnist"), small)  # from the cache
    assert len(paths) == {"none": 4, "redirected": 8}.get(hindrance, 5)
    assert cached_files(tmp_path) == ["kmnist-v2.npz"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("absent", "404"),
        ("failing", "500"),
        ("busy", "503"),
        ("no content", "has 0 bytes, not"),
        ("redirected for ever", "redirects"),
        ("reset", "Connection"),
        ("not http", "BadStatusLine"),
        ("cut", "IncompleteRead"),
        ("cut unannounced", "bytes, not"),
        ("silent", "nothing came for 1 s"),
        ("stalled", "nothing came for 1 s"),
        ("dripping", "nothing came for 1 s"),
        ("slow", "came for 1 s"),
        ("page", "has 26 bytes, not"),
        ("endless", "has more than"),
        ("other bytes", "has SHA-256"),
        ("bomb", "has more than"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, small, monkeypatch, fault, said):
    contents = zipped_files(small)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "tmp"))
    if fault == "slow":
        monkeypatch.setattr(download, "LEAST_SPEED", 100_000.0)
    if "came for 1 s" in said:
        monkeypatch.setattr(download, "TIMEOUT_S", 1.0)
    bomb = gzip.compress(bytes(50_000_000))

    def respond(handler):
        content = contents[handler.path[1:]]
        if "t10k-images" not in handler.path:
            answer(handler, content)
        elif fault in ("absent", "failing", "busy"):
            handler.send_error({"absent": 404, "failing": 500, "busy": 503}[fault])
        elif fault == "no content":
            handler.send_response(204)
            handler.end_headers()
        elif fault == "redirected for ever":
            handler.send_response(302)
            handler.send_header("Location", handler.path)
            handler.end_headers()
        elif fault == "not http":
            handler.wfile.write(b"220 mail.example.org ready\r\n")
        elif fault == "page":
            answer(handler, b"<html>Please log in</html>")
        elif fault == "other bytes":
            answer(handler, content[:-1] + bytes([content[-1] ^ 1]))
        elif fault == "bomb":
            handler.send_response(200)
            handler.send_header("Content-Encoding", "gzip")
            handler.end_headers()
            handler.wfile.write(bomb)
        elif fault in ("silent", "reset"):
            if fault == "silent":
                handler.over.wait()
        elif fault in ("cut", "stalled"):
            answer(handler, content[: len(content) // 2], length=len(content))
            if fault == "stalled":
                handler.over.wait()
        else:
            handler.send_response(200)
            handler.end_headers()
            if fault == "cut unannounced":
                handler.wfile.write(content[: len(content) // 2])
            elif fault == "dripping":
                while not handler.over.wait(0.02):
                    handler.wfile.write(b".")
            elif fault == "slow":
                for start in range(0, len(content), 8192):
                    handler.wfile.write(content[start : start + 8192])
                    handler.over.wait(0.6)
            else:
                for _ in range(5_000):
                    handler.wfile.write(bytes(10_000))

    frugal = little_memory(2e7) if fault in ("bomb", "endless") else contextlib.nullcontext()
    with serving(monkeypatch, contents, respond) as paths, frugal:
        message = one_line(loading.load_dataset, "kmnist")
    assert "cannot be downloaded (" in message
    assert said in message
    assert len(paths) <= 2 + 2 * (31 if fault == "redirected for ever" else 1)
    assert cached_files(tmp_path) == []
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        ("absent", [2, 4]),  # as any failure, tried again once
        ("other bytes", [2, 4]),
        ("silent", [1, 4]),
        ("third absent", [2 + 2, 2]),
        ("both", [2, 2]),
    ],
)
def test_a_download_goes_on_at_another_address(tmp_path, small, monkeypatch, fault, asked):
    import tensorflow_datasets as tfds

    contents = zipped_files(small)

    def respond(handler):
        folder, _, name = handler.path[1:].rpartition("/")
        if folder == "mirror" and fault != "both":
            answer(handler, contents[name])
        elif fault == "silent":
            handler.over.wait()
        elif fault == "other bytes":
            answer(handler, bytes(len(contents[name])))
        elif fault == "third absent" and "t10k" not in name:
            answer(handler, contents[name])
        else:
            handler.send_error(404)

    with serving(monkeypatch, contents, respond) as paths:
        url = tfds.builder_cls("kmnist").URL
        monkeypatch.setitem(download.MIRRORS, "kmnist", (f"{url}mirror/",))
        if fault == "silent":
            monkeypatch.setattr(download, "TIMEOUT_S", 1.0)
        if fault == "both":
            message = one_line(loading.load_dataset, "kmnist")
            host = url.split("/")[2]
            assert f" and cannot be downloaded (HTTP status 404: {host}, {host}); give" in message
        else:
            dataset = loading.load_dataset("kmnist")
            assert_holds(dataset, small)
            first = f"{url} and " if fault == "third absent" else ""
            assert dataset.source == f"download from {first}{url}mirror/"
    mirrored = sum(path.startswith("/mirror/") for path in paths)
    assert [len(paths) - mirrored, mirrored] == asked


def test_a_name_lookup_without_end_holds_neither_the_call_nor_the_process():
    process = python(
        "import socket, threading\n"
        "socket.getaddrinfo = lambda *_, **__: threading.Event().wait()\n"
        "loading.download.TIMEOUT_S = 0.1\n"
        "loading.load_dataset('kmnist')\n"
    )
    try:
        _, errors = process.communicate(timeout=50)
    finally:
        process.kill()
    assert "mnist_jax.UserError: data set kmnist was not found" in errors
    assert "nothing came for 0.1 s" in errors


def test_ctrl_c_ends_a_stalled_download_at_once(tmp_path, small, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    asked = threading.Event()

    def respond(handler):
        asked.set()
        handler.over.wait()

    with serving(monkeypatch, zipped_files(small), respond):
        import tensorflow_datasets as tfds

        builder = tfds.builder_cls("kmnist")
        code = (
            "import signal\n"  # a shell's background process ignores Ctrl-C
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "import tensorflow_datasets as tfds\n"
            "loading.download.TIMEOUT_S = 1000.0\n"
            "builder = tfds.builder_cls('kmnist')\n"
            f"builder.URL = {builder.URL!r}\n"
            "info = next(iter(builder.url_infos.values()))\n"
            "builder.url_infos = {builder.URL + f + '.gz': info for f in FILES}\n"
            "loading.load_dataset('kmnist')\n"
        )
        process = python(code)
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert errors.endswith("KeyboardInterrupt\n")
    assert cached_files(tmp_path) == os.listdir(tmp_path / "tmp") == []


def test_an_unknown_host_is_told_in_three_words():
    import requests
    from urllib3 import exceptions

    unknown = exceptions.NameResolutionError("nowhere", None, socket.gaierror(-2, "not known"))
    error = requests.ConnectionError(exceptions.MaxRetryError(None, "/file", unknown))
    assert download._reason(error) == "no such host"


def test_without_any_source_the_error_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        builder = tfds.builder_cls("kmnist")
        infos = {url + key.rpartition("/")[2]: info for key, info in builder.url_infos.items()}
        monkeypatch.setattr(builder, "URL", url)
        monkeypatch.setattr(builder, "url_infos", infos)
        monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(tmp_path / "nowhere"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "K-MNIST").mkdir()
        message = one_line(loading.load_dataset, "kmnist")
    assert message.endswith("; K-MNIST in the current folder is --config.dataset=./K-MNIST")
    assert f"MNIST_JAX_DATA_DIR={tmp_path / 'nowhere'} is not a folder" in message
    assert f"{tmp_path / 'no_tfds'} is not a folder" in message
    refused = f"connection refused: {url.split('/')[2]}"
    beginning = f"data set kmnist was not found and cannot be downloaded ({refused}); give --data_"
    assert message.startswith(beginning)
    assert "--config.dataset=digits" in message
    assert all(file in message for file in FILES)
    assert cached_files(tmp_path) == []


# --- digits, hold-out, imports -------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    dataset = loading.load_dataset("digits", "/no/such/folder")
    assert dataset.train_images.shape == (1437, 28, 28)
    assert dataset.test_images.shape == (360, 28, 28)
    assert dataset.train_images.dtype == dataset.train_labels.dtype == np.uint8
    assert np.bincount(dataset.test_labels).min() >= 35
    assert dataset.test_images.max() == 255
    small, labels = load_digits(return_X_y=True)
    expected = sorted((*(row * 255 // 16), label) for row, label in zip(small, labels, strict=True))
    images = np.concatenate([dataset.train_images, dataset.test_images])
    found_labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    for offset in range(3):  # each pixel became a square of 3 by 3
        rows = images[:, 2 + offset : 26 : 3, 4 - offset : 26 : 3].reshape(-1, 64).astype(float)
        assert (
            sorted((*row, label) for row, label in zip(rows, found_labels, strict=True)) == expected
        )
    for border in (images[:, :2], images[:, -2:], images[:, :, :2], images[:, :, -2:]):
        assert not border.any()
    # If this changes, so do all recorded results on `digits`: find out which library moved.
    golden = "sha256:f44f8bd2d47e37872aa43f10d229755334a5b13d423e58e4914f18df2228f3a6"
    assert dataset.checksum == golden


def numbered(counts):
    """A data set of images, as small as they can be, that carry their own index."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(10), counts)).astype(np.uint8)
    images = np.arange(len(labels), dtype=np.uint16)[:, None, None]
    rest = (images[:0], labels[:0], images[:7], labels[:7], tuple("0123456789"), "sha256:0", "made")
    return splits.Dataset("kmnist", images, labels, *rest)


def indices(images):
    return images[:, 0, 0].astype(int)


@pytest.mark.parametrize("num_validation", [1, 13, 100, 549])
def test_hold_out_validation(num_validation):
    counts = np.arange(10) * 10 + 10
    whole = numbered(counts)
    cut = splits.hold_out_validation(whole, num_validation)
    train, validation = indices(cut.train_images), indices(cut.validation_images)
    assert len(validation) == num_validation
    assert sorted([*train, *validation]) == list(range(550))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    np.testing.assert_array_equal(cut.train_labels, whole.train_labels[train])
    np.testing.assert_array_equal(cut.validation_labels, whole.train_labels[validation])
    share = np.bincount(cut.validation_labels, minlength=10) - num_validation * counts / 550
    assert np.abs(share).max() < 1
    if num_validation == 13:  # shares .24 .47 .71 .95 1.18 1.42 1.65 1.89 2.13 2.36, by hand
        assert np.bincount(cut.validation_labels).tolist() == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2]
    again = splits.hold_out_validation(whole, num_validation)
    np.testing.assert_array_equal(indices(again.validation_images), validation)
    assert cut.test_images is whole.test_images
    assert cut.checksum == whole.checksum


def test_test_images_are_cut_as_validation_images_are():
    whole = numbered([20] * 10)._replace(test_images=np.empty((0, 1, 1)), test_labels=np.empty(0))
    cut, other = splits.cut_test(whole, 50, seed=3), splits.hold_out_validation(whole, 50, seed=3)
    np.testing.assert_array_equal(cut.test_images, other.validation_images)
    np.testing.assert_array_equal(cut.test_labels, other.validation_labels)
    np.testing.assert_array_equal(cut.train_images, other.train_images)
    assert cut.num_images == {"train": 150, "validation": 0, "test": 50}


def test_hold_out_validation_depends_on_its_seed_and_on_nothing_else():
    whole = numbered([20] * 10)._replace(train_labels=(np.arange(200) % 10).astype(np.uint8))
    chosen = [indices(splits.hold_out_validation(whole, 50, s).validation_images) for s in (0, 1)]
    assert chosen[0].tolist() != chosen[1].tolist()
    # Golden: if the cut changes, results recorded with validation images lose their meaning.
    assert chosen[0][:8].tolist() == [14, 15, 16, 24, 26, 30, 34, 43]


def test_hold_out_of_nothing_and_of_too_much():
    whole = numbered([2] * 10)
    assert splits.hold_out_validation(whole, 0) is whole
    for split, cut in (("validation", splits.hold_out_validation), ("test", splits.cut_test)):
        for number in (-1, 20, 21):
            message = one_line(cut, whole, number)
            assert f"num_{split}={number} " in message
            assert "0 to 19" in message
    for seed in (-1, 2**32):
        message = one_line(splits.hold_out_validation, whole, 5, seed)
        assert f"seed={seed} " in message
        assert f"0 to {2**32 - 1}" in message


def assert_stratified(whole, num_validation, seed=0):
    """Checks a cut of a data set of `numbered` images."""
    cut = splits.hold_out_validation(whole, num_validation, seed)
    train, validation = indices(cut.train_images), indices(cut.validation_images)
    assert len(validation) == num_validation
    everything = np.sort(np.concatenate([train, validation]))
    assert np.array_equal(everything, np.arange(len(whole.train_labels)))
    assert np.array_equal(cut.train_labels, whole.train_labels[train])
    assert np.array_equal(cut.validation_labels, whole.train_labels[validation])
    counts = np.bincount(whole.train_labels)
    found = np.bincount(cut.validation_labels, minlength=len(counts))
    assert np.abs(found - num_validation * counts / counts.sum()).max() < 1


def test_hold_out_of_every_size_of_digits():
    digits = loading.load_dataset("digits")
    images = numbered(np.bincount(digits.train_labels)).train_images
    for num_validation in range(len(images)):
        assert_stratified(digits._replace(train_images=images), num_validation)


@PROPERTY
@hypothesis.given(
    counts=st.lists(st.integers(0, 30), min_size=10, max_size=10).filter(any),
    share=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_hold_out_of_any_classes(counts, share, seed):
    assert_stratified(numbered(counts), int(share * sum(counts)), seed)


@pytest.mark.parametrize(
    ("counts", "num_validation", "said"),
    [
        ([10] * 10, 98, "leaves no training image of class 0, 1, 2, 3, 4, 5, 6, 7"),
        ([10] * 10, 9, "num_validation=9 of 100 images leaves no validation image of class 9"),
        ([0] + [10] * 9, 9, None),
        ([10] * 10, 10, None),
        ([10] * 10, 90, None),
    ],
)
def test_a_class_left_without_an_image_is_told(caplog, counts, num_validation, said):
    splits.hold_out_validation(numbered(counts), num_validation)
    assert [said in record.getMessage() for record in caplog.records] == [True] * (said is not None)


def test_the_module_and_a_cached_load_import_nothing_heavy(tmp_path):
    arrays = make_arrays(*SIZES)
    write_idx(tmp_path / "given", arrays)
    code = (
        "import sys; from mnist_jax.data import datasets, loading;"
        "datasets.FACTS['kmnist'] = datasets.DataFacts((28, 28, 1), 10, 60, 20);"
        "from mnist_jax.data.published import PUBLISHED as p;"
        f"p['kmnist'] = p['kmnist']._replace(moments={moments(arrays[0])});"
        f"[loading.load_dataset('kmnist', {str(tmp_path / 'given')!r}) for _ in range(2)];"
        "print(sorted({'jax', 'sklearn', 'tensorflow_datasets', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
