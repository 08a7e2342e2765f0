"""Every source, every fault: right arrays in the original order, or one clear line."""

import concurrent.futures
import contextlib
import gzip
import hashlib
import http.server
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mnist_jax import UserError, data

REAL_MNIST = os.environ.get("MNIST_JAX_DATA_DIR")  # read before the fixture below clears it
SIZES = (60, 20)  # numbers of training and test images of the small data sets here


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No test sees the machine's own cache, data, prepared folders, or network."""
    monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MNIST_JAX_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def small(monkeypatch):
    """Lets the data sets be small; gives the four arrays of one with balanced labels."""
    monkeypatch.setattr(data, "NUM_TRAIN", SIZES[0])
    monkeypatch.setattr(data, "NUM_TEST", SIZES[1])
    return make_arrays(*SIZES)


@pytest.fixture
def small_mnist(small, monkeypatch):
    """As `small`, with these arrays for the one true mnist."""
    contents = [idx_bytes(array) for array in small]
    digests = [hashlib.md5(c).hexdigest() for c in contents]
    monkeypatch.setattr(data, "MNIST_MD5", dict(zip(data.FILES, digests, strict=True)))
    return small


def make_arrays(num_train, num_test):
    rng = np.random.default_rng(0)
    arrays = []
    for number in (num_train, num_test):
        arrays.append(rng.integers(0, 256, (number, 28, 28), np.uint8))
        arrays.append(rng.permutation(np.arange(number) % 10).astype(np.uint8))
    return arrays


def idx_bytes(array):
    # Written out by hand: the test must not share the reader's own header code.
    mark = b"\x00\x00\x08" + bytes([array.ndim])
    return mark + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_idx(folder, arrays, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(data.FILES, arrays, strict=True):
        content = idx_bytes(array)
        if zipped:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / file).write_bytes(content)
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


def one_line(call, *arguments):
    """Calls, expects a UserError of one line, and returns that line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


class MakesFolder:
    """Unpickling one makes its folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.makedirs, (self.path, 0o777, True)


def cached_files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("*"))


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", ["", "fashion_mnist", "FashionMNIST/raw"])
def test_idx_files_in_each_layout(tmp_path, small, layout, zipped):
    folder = write_idx(tmp_path / "given" / layout, small, zipped)
    dataset = data.load_dataset("fashion_mnist", str(tmp_path / "given"))
    assert_holds(dataset, small)
    assert dataset.name == "fashion_mnist"
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.source == f"IDX files in {folder}"
    expected = hashlib.sha256(b"".join(map(idx_bytes, small))).hexdigest()
    assert dataset.checksum == f"sha256:{expected}"


def test_a_folder_of_the_data_sets_own_name_goes_first(tmp_path, small_mnist):
    write_idx(tmp_path, small_mnist)
    fashion = [255 - array if array.ndim == 3 else array[::-1] for array in small_mnist]
    write_idx(tmp_path / "fashion_mnist", fashion)
    assert_holds(data.load_dataset("fashion_mnist", str(tmp_path)), fashion)
    assert_holds(data.load_dataset("mnist", str(tmp_path)), small_mnist)


def test_environment_variable_names_the_folder(tmp_path, small, monkeypatch):
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(write_idx(tmp_path / "given", small)))
    assert_holds(data.load_dataset("kmnist"), small)


def test_the_flag_goes_before_the_environment_variable(tmp_path, small, monkeypatch):
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(write_idx(tmp_path / "variable", small)))
    other = [array[::-1] for array in small]
    write_idx(tmp_path / "flag", other)
    assert_holds(data.load_dataset("kmnist", str(tmp_path / "flag")), other)


def test_keras_file(tmp_path, small_mnist):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(tmp_path / "mnist.npz", **dict(zip(names, small_mnist, strict=True)))
    assert_holds(data.load_dataset("mnist", str(tmp_path)), small_mnist)


@pytest.mark.parametrize(
    "fault", ["garbage", "npy", "key", "pickle", "shape", "type", "bomb", "cut"]
)
def test_bad_keras_file(tmp_path, small_mnist, fault):
    path = tmp_path / "mnist.npz"
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), small_mnist, strict=True))
    if fault == "key":
        del arrays["y_test"]
    elif fault == "pickle":
        arrays["y_test"] = np.array([MakesFolder(tmp_path / "unpickled")] * SIZES[1])
    elif fault == "shape":
        arrays["x_test"] = arrays["x_test"].reshape(SIZES[1], 784)
    elif fault == "type":
        arrays["y_train"] = arrays["y_train"].astype(np.int8)
    elif fault == "bomb":
        arrays["x_train"] = np.zeros((50_000, 28, 28), np.uint8)
    np.savez_compressed(path, **arrays)
    if fault == "garbage":
        path.write_bytes(b"PK\x03\x04" + bytes(range(256)))
    elif fault == "npy":
        with open(path, "wb") as file:
            np.save(file, small_mnist[0])
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    tracemalloc.start()
    message = one_line(data.load_dataset, "mnist", str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in message
    assert not (tmp_path / "unpickled").exists()
    assert peak < 5e6  # the bomb holds 39 MB
    assert cached_files(tmp_path) == []


@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_JAX_DATA_DIR, the folder of MNIST, is not set")
def test_the_real_mnist(tmp_path):
    dataset = data.load_dataset("mnist", REAL_MNIST)
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    again = data.load_dataset("mnist")
    assert again.source.startswith(f"cache {tmp_path}")
    assert again.checksum == dataset.checksum
    assert "this is mnist's" in one_line(data.load_dataset, "fashion_mnist", REAL_MNIST)


def test_full_size(tmp_path):
    train, test = np.arange(60_000) % 10, np.arange(10_000) // 1_000
    arrays = [np.zeros((60_000, 28, 28), np.uint8), train.astype(np.uint8)]
    arrays += [np.zeros((10_000, 28, 28), np.uint8), test.astype(np.uint8)]
    write_idx(tmp_path / "given", arrays)
    dataset = data.load_dataset("kmnist", str(tmp_path / "given"))
    assert_holds(dataset, arrays)
    assert dataset.class_names == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    shutil.rmtree(tmp_path / "given")
    again = data.load_dataset("kmnist")
    assert_holds(again, arrays)
    assert again.checksum == dataset.checksum


# --- faults in files -----------------------------------------------------------------------------


def test_unknown_name():
    message = one_line(data.load_dataset, "mnits")
    assert "'mnits'" in message
    assert all(name in message for name in data.DATASETS)


def test_a_flag_without_files_is_an_error_even_with_a_cached_copy(tmp_path, small):
    data.load_dataset("kmnist", str(write_idx(tmp_path / "given", small)))
    (tmp_path / "empty").mkdir()
    message = one_line(data.load_dataset, "kmnist", str(tmp_path / "empty"))
    assert "holds no file of kmnist" in message
    assert data.FILES[3] in message
    message = one_line(data.load_dataset, "kmnist", str(tmp_path / "nowhere"))
    assert f"--data_dir={tmp_path / 'nowhere'} is not a folder" in message


@pytest.mark.parametrize("missing", data.FILES)
def test_three_of_four_files(tmp_path, small, missing):
    (write_idx(tmp_path, small) / f"{missing}.gz").unlink()
    message = one_line(data.load_dataset, "kmnist", str(tmp_path))
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
    write_idx(tmp_path, small_mnist, zipped=False)
    path = tmp_path / data.FILES[3]
    path.write_bytes(faulty(fault, path.read_bytes()))
    message = one_line(data.load_dataset, "mnist", str(tmp_path))
    assert str(path) in message
    assert data.MNIST_MD5[data.FILES[3]] in message
    assert cached_files(tmp_path) == []


def test_a_gzip_bomb_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((2, 3), np.uint8)) + bytes(50_000_000), 1))
    tracemalloc.start()
    message = one_line(data.read_idx, path, (2, 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "bytes follow" in message
    assert peak < 2e6


IDX_2_BY_3 = b"\x00\x00\x08\x02\x00\x00\x00\x02\x00\x00\x00\x03"


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    head=st.sampled_from([b"", IDX_2_BY_3, b"\x1f\x8b\x08"]),
    tail=st.binary(max_size=12),
    zipped=st.booleans(),
    cut=st.integers(0, 8),
)
def test_any_bytes_give_an_array_or_a_user_error(tmp_path_factory, head, tail, zipped, cut):
    content = head + tail
    written = gzip.compress(content) if zipped else content
    written = written[: max(0, len(written) - cut)]
    path = tmp_path_factory.getbasetemp() / "any_bytes"
    path.write_bytes(written)
    plain = written if not zipped else b"" if cut else content
    valid = plain[:12] == IDX_2_BY_3 and len(plain) == 18
    if valid:
        array = data.read_idx(path, (2, 3))
        assert array.shape == (2, 3)
        assert array.dtype == np.uint8
        assert array.tobytes() == plain[12:]
    else:
        one_line(data.read_idx, path, (2, 3))


def test_fashion_mnist_must_be_balanced(tmp_path, small):
    small[1][small[1] == 3] = 4
    message = one_line(data.load_dataset, "fashion_mnist", str(write_idx(tmp_path, small)))
    assert f"{data.FILES[1]}.gz" in message
    assert "[6, 6, 6, 0, 12, 6, 6, 6, 6, 6]" in message
    small[1][0] = 77
    write_idx(tmp_path, small)
    assert "1 other labels" in one_line(data.load_dataset, "fashion_mnist", str(tmp_path))


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_mnist_is_not_taken_for_another(tmp_path, small_mnist, name):
    message = one_line(data.load_dataset, name, str(write_idx(tmp_path, small_mnist)))
    assert f"this is mnist's {data.FILES[0]}, not {name}'s" in message


# --- the cache -----------------------------------------------------------------------------------


def forbid(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(data, name, lambda *_, name=name: pytest.fail(f"{name} was called"))


def test_the_cache_serves_unchanged_files_without_reading_them(tmp_path, small, monkeypatch):
    folder = str(write_idx(tmp_path / "given", small))
    first = data.load_dataset("kmnist", folder)
    assert cached_files(tmp_path) == ["kmnist-v1.npz"]
    forbid(monkeypatch, "read_idx", "_write_cache", "_read_prepared", "_download")
    for data_dir in (folder, None):
        dataset = data.load_dataset("kmnist", data_dir)
        assert_holds(dataset, small)
        assert dataset.checksum == first.checksum
        assert dataset.source == f"cache {tmp_path}/cache/kmnist-v1.npz, from IDX files in {folder}"


def test_changed_files_are_read_and_faults_in_them_reported(tmp_path, small):
    folder = write_idx(tmp_path / "given", small, zipped=False)
    data.load_dataset("kmnist", str(folder))
    path = folder / data.FILES[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")  # as long as before, but newer
    os.utime(path, ns=(1, 1))
    small[0][-1, -1, -1] = 0
    assert_holds(data.load_dataset("kmnist", str(folder)), small)
    assert_holds(data.load_dataset("kmnist"), small)
    path.write_bytes(b"")
    os.utime(path, ns=(1, 1))  # as old as before, but shorter
    assert str(path) in one_line(data.load_dataset, "kmnist", str(folder))


def test_files_elsewhere_replace_the_cached_copy(tmp_path, small):
    data.load_dataset("kmnist", str(write_idx(tmp_path / "one", small)))
    other = [array[::-1] for array in small]
    assert_holds(data.load_dataset("kmnist", str(write_idx(tmp_path / "two", other))), other)
    assert_holds(data.load_dataset("kmnist"), other)


@pytest.mark.parametrize("fault", ["empty", "garbage", "cut", "bit", "shape", "name", "pickle"])
def test_a_corrupt_cache_is_replaced_with_a_warning(tmp_path, small, caplog, fault):
    folder = str(write_idx(tmp_path / "given", small))
    data.load_dataset("kmnist", folder)
    path = tmp_path / "cache" / "kmnist-v1.npz"
    content = bytearray(path.read_bytes())
    with np.load(path) as archive:
        entries = dict(archive)
    if fault == "empty":
        path.write_bytes(b"")
    elif fault == "garbage":
        path.write_bytes(b"garbage")
    elif fault == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif fault == "shape":
        np.savez(path, **{**entries, "test_images": entries["test_images"][:-1]})
    elif fault == "name":
        meta = {**json.loads(str(entries["meta"])), "name": "mnist"}
        np.savez(path, **{**entries, "meta": np.array(json.dumps(meta))})
    elif fault == "pickle":
        labels = np.array([MakesFolder(tmp_path / "unpickled")] * SIZES[1])
        np.savez(path, **{**entries, "test_labels": labels})
    with caplog.at_level(logging.WARNING):
        assert_holds(data.load_dataset("kmnist", folder), small)
    assert f"ignoring the cache file {path}" in caplog.text
    assert not (tmp_path / "unpickled").exists()
    caplog.clear()
    assert data.load_dataset("kmnist").source.startswith("cache")
    assert caplog.text == ""


def test_an_unusable_cache_folder_costs_a_warning(tmp_path, small, caplog):
    (tmp_path / "cache").write_text("a file in place of the folder")
    assert_holds(data.load_dataset("kmnist", str(write_idx(tmp_path / "given", small))), small)
    assert "cannot cache kmnist" in caplog.text


def test_a_full_disk_costs_a_warning_and_leaves_nothing(tmp_path, small, caplog, monkeypatch):
    def savez(file, **_):
        file.write(b"the first bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    assert_holds(data.load_dataset("kmnist", str(write_idx(tmp_path / "given", small))), small)
    assert "No space left" in caplog.text
    assert cached_files(tmp_path) == []


def test_many_may_fill_the_cache_at_once(tmp_path, small, caplog, monkeypatch):
    folder = str(write_idx(tmp_path / "given", small))
    together, savez = threading.Barrier(4), np.savez

    def savez_together(*arguments, **arrays):
        savez(*arguments, **arrays)
        together.wait(timeout=30)  # all have written, none has moved its file into place

    with monkeypatch.context() as patch, concurrent.futures.ThreadPoolExecutor(4) as pool:
        patch.setattr(np, "savez", savez_together)
        for future in [pool.submit(data.load_dataset, "kmnist", folder) for _ in range(4)]:
            assert_holds(future.result(), small)
    assert_holds(data.load_dataset("kmnist"), small)
    assert cached_files(tmp_path) == ["kmnist-v1.npz"]
    assert caplog.text == ""


@pytest.mark.parametrize("variable", ["MNIST_JAX_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
def test_where_the_cache_is(tmp_path, small, monkeypatch, variable):
    for name in ("MNIST_JAX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    data.load_dataset("kmnist", str(write_idx(tmp_path / "given", small)))
    below = {"MNIST_JAX_CACHE_DIR": "", "XDG_CACHE_HOME": "mnist_jax", "HOME": ".cache/mnist_jax"}
    assert (tmp_path / "here" / below[variable] / "kmnist-v1.npz").is_file()


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


def test_a_prepared_folder_gives_the_original_order(tmp_path, small, monkeypatch):
    builder = prepare_array_record(tmp_path / "tfds", small)
    stored = [int(example["label"]) for example in builder.as_data_source("train")]
    assert stored != small[1].tolist()  # else this test could not fail
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    forbid(monkeypatch, "_download")
    dataset = data.load_dataset("fashion_mnist")
    assert_holds(dataset, small)
    assert dataset.source == f"tensorflow-datasets {builder.data_dir}"
    assert_holds(data.load_dataset("fashion_mnist"), small)
    assert cached_files(tmp_path) == ["fashion_mnist-v1.npz"]


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ('{"fileFormat": "tfrecord"}', "being tfrecord and not array_record"),
        ('{"fileFormat": "parquet"}', "being parquet and not array_record"),
        ('{"fileFormat": "array_record"}', "cannot be used"),
        ("garbage", "cannot be used"),
    ],
)
def test_other_prepared_folders_are_passed_over(tmp_path, small, monkeypatch, info, said):
    folder = tmp_path / "tfds" / "kmnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(info)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(data, "_download", lambda *_: None)
    message = one_line(data.load_dataset, "kmnist")
    assert str(folder) in message
    assert said in message


# --- download ------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(monkeypatch, respond):
    """Serves on 127.0.0.1 as tensorflow-datasets' address of kmnist; gives the list of requests."""
    import tensorflow_datasets as tfds

    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            respond(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(tfds.builder_cls("kmnist"), "URL", address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield paths
        server.shutdown()
        thread.join()


def answer(handler, content, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def test_download(tmp_path, small, monkeypatch):
    folder = write_idx(tmp_path / "served", small)

    def respond(handler):
        answer(handler, (folder / handler.path[1:]).read_bytes())

    with serving(monkeypatch, respond) as paths:
        dataset = data.load_dataset("kmnist")
        assert_holds(dataset, small)
        assert dataset.source.startswith("download from http://127.0.0.1:")
        assert_holds(data.load_dataset("kmnist"), small)  # from the cache
    assert paths == [f"/{file}.gz" for file in data.FILES]
    assert cached_files(tmp_path) == ["kmnist-v1.npz"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("absent", "HTTP code: 404"),
        ("cut", "IncompleteRead"),
        ("cut unannounced", "cut short"),
        ("busy", "too many 503"),
        ("silent", "timed out"),
        ("stalled", "timed out"),
        ("page", "begins with"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, small, monkeypatch, fault, said):
    folder = write_idx(tmp_path / "served", small)
    over = threading.Event()
    monkeypatch.setattr(data, "TIMEOUT_S", 0.3)

    def respond(handler):
        content = (folder / handler.path[1:]).read_bytes()
        if "t10k-images" not in handler.path:
            answer(handler, content)
        elif fault == "absent":
            handler.send_error(404)
        elif fault == "busy":
            handler.send_error(503)
        elif fault == "page":
            answer(handler, b"<html>Please log in</html>")
        elif fault == "silent":
            over.wait()
        elif fault == "cut unannounced":
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2])
        else:
            answer(handler, content[: len(content) // 2], length=len(content))
            if fault == "stalled":
                over.wait()

    with serving(monkeypatch, respond) as paths:
        message = one_line(data.load_dataset, "kmnist")
        over.set()
    assert "the download from http://127.0.0.1:" in message
    assert said in message
    assert len(paths) <= 4  # two good files and two attempts
    assert cached_files(tmp_path) == []


def test_without_any_source_the_error_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        monkeypatch.setattr(tfds.builder_cls("kmnist"), "URL", url)
        monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(tmp_path / "nowhere"))
        message = one_line(data.load_dataset, "kmnist")
    assert f"MNIST_JAX_DATA_DIR={tmp_path / 'nowhere'} is not a folder" in message
    assert f"{tmp_path / 'no_tfds'} holds no prepared kmnist" in message
    assert f"the download from {url} failed" in message
    assert "refused" in message
    assert "--data_dir=DIR" in message
    assert "--config.dataset=digits" in message
    assert all(file in message for file in data.FILES)
    assert cached_files(tmp_path) == []


# --- digits, hold-out, imports -------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    dataset = data.load_dataset("digits", "/no/such/folder")
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
    """A data set whose training images carry their own index in the first two pixels."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(10), counts)).astype(np.uint8)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    rest = (images[:0], labels[:0], images[:7], labels[:7], ("",) * 10, "sha256:0", "made")
    return data.Dataset("kmnist", images, labels, *rest)


def indices(images):
    return images[:, 0, 0].astype(int) * 256 + images[:, 0, 1]


@pytest.mark.parametrize("num_validation", [1, 13, 100, 549])
def test_hold_out_validation(num_validation):
    counts = np.arange(10) * 10 + 10
    whole = numbered(counts)
    cut = data.hold_out_validation(whole, num_validation)
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
    again = data.hold_out_validation(whole, num_validation)
    np.testing.assert_array_equal(indices(again.validation_images), validation)
    assert cut.test_images is whole.test_images
    assert cut.checksum == whole.checksum


def test_hold_out_validation_depends_on_its_seed_and_on_nothing_else():
    whole = numbered([20] * 10)._replace(train_labels=(np.arange(200) % 10).astype(np.uint8))
    chosen = [indices(data.hold_out_validation(whole, 50, s).validation_images) for s in (0, 1)]
    assert chosen[0].tolist() != chosen[1].tolist()
    # Golden: if the cut changes, results recorded with validation images lose their meaning.
    assert chosen[0][:8].tolist() == [14, 15, 16, 24, 26, 30, 34, 43]


def test_hold_out_of_nothing_and_of_too_much():
    whole = numbered([2] * 10)
    assert data.hold_out_validation(whole, 0) is whole
    for number in (-1, 20, 21):
        message = one_line(data.hold_out_validation, whole, number)
        assert f"num_validation={number} " in message
        assert "0 to 19" in message


def test_the_module_and_a_cached_load_import_nothing_heavy(tmp_path):
    arrays = make_arrays(*SIZES)
    write_idx(tmp_path / "given", arrays)
    code = (
        "import sys; from mnist_jax import data; data.NUM_TRAIN, data.NUM_TEST = 60, 20;"
        f"[data.load_dataset('kmnist', {str(tmp_path / 'given')!r}) for _ in range(2)];"
        "print(sorted({'jax', 'sklearn', 'tensorflow_datasets', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
