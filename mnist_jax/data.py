"""Find or fetch a data set, check it, and hand it over as uint8 NumPy arrays.

Images and labels come in the order of the original IDX files whatever the source, so that one seed
means one run. Sources in order: this package's cache, files of the user's (`--data_dir`, or the
environment variable MNIST_JAX_DATA_DIR), a prepared tensorflow-datasets folder, a download.
"""

import contextlib
import gzip
import hashlib
import json
import logging
import math
import os
import tempfile
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    # The data sets' authors' own names, as tensorflow-datasets spells them.
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "digits": tuple("0123456789"),
}
DATASETS = tuple(CLASS_NAMES)

NUM_TRAIN, NUM_TEST = 60_000, 10_000  # of mnist, fashion_mnist and kmnist alike
NUM_TRAINING_IMAGES = {name: 1_437 if name == "digits" else NUM_TRAIN for name in DATASETS}
# MD5 of mnist's decompressed files: gzip wrappers of the same bytes differ from mirror to mirror.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FILES = tuple(MNIST_MD5)
KERAS_NAMES = ("x_train", "y_train", "x_test", "y_test")
ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
TORCHVISION_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
TIMEOUT_S = 15.0  # a server that is silent for this long is given up

_log = logging.getLogger(__name__)


class Dataset(NamedTuple):
    """One data set: grey images 0..255 and class numbers 0..9, in the original order."""

    name: str  # one of DATASETS
    train_images: np.ndarray  # uint8 [num_train, 28, 28]
    train_labels: np.ndarray  # uint8 [num_train]
    validation_images: np.ndarray  # uint8 [num_validation, 28, 28]; 0 until hold_out_validation
    validation_labels: np.ndarray  # uint8 [num_validation]
    test_images: np.ndarray  # uint8 [num_test, 28, 28]
    test_labels: np.ndarray  # uint8 [num_test]
    class_names: tuple[str, ...]  # 10
    checksum: str  # "sha256:..." over the four arrays as IDX files, before any hold-out
    source: str  # where it came from, for people


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Loads and checks a data set from the first source that has it.

    Args:
      name: one of DATASETS.
      data_dir: folder with the files; None means the environment variable MNIST_JAX_DATA_DIR.
        Files given either way are always the ones used: a cached copy stands in for them only
        while their sizes and times are unchanged. `digits` has no files and ignores it.

    Raises:
      UserError: unknown name; files damaged, incomplete, or of another data set; no source.
    """
    if name not in DATASETS:
        raise UserError(f"dataset={name!r} is unknown; choose one of {', '.join(DATASETS)}")
    if name == "digits":
        return _load_digits()
    tried: list[str] = []
    paths = _find_files(name, data_dir, tried)
    stamp = [[os.path.abspath(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    dataset = _read_cache(name, stamp)
    if dataset is not None:
        return dataset
    if paths:
        dataset = _read_files(name, paths)
    else:
        dataset = _read_prepared(name, tried) or _download(name, tried)
    if dataset is None:
        raise UserError(
            f"data set {name} was not found: {'; '.join(tried)}. Give --data_dir=DIR, a folder with"
            f" {', '.join(FILES)} (gzipped or not), or use --config.dataset=digits"
        )
    _write_cache(dataset, stamp)
    return dataset


def hold_out_validation(dataset: Dataset, num_validation: int, seed: int = 0) -> Dataset:
    """Moves a stratified sample of the training images to validation; both keep their order.

    Each class gives its share of `num_validation`, rounded so that the total is exact. The cut
    depends on the labels, `num_validation` and `seed` (0..2**32-1) alone; 0 images changes nothing.

    Raises:
      UserError: `num_validation` is negative or leaves no training image.
    """
    labels = dataset.train_labels
    if not 0 <= num_validation < len(labels):
        raise UserError(
            f"num_validation={num_validation} of the {len(labels)} training images of"
            f" {dataset.name}; choose 0 to {len(labels) - 1}"
        )
    if num_validation == 0:
        return dataset
    quota, remainder = np.divmod(np.bincount(labels) * num_validation, len(labels))
    largest = np.argsort(-remainder, kind="stable")
    quota[largest[: num_validation - quota.sum()]] += 1
    # RandomState, because NumPy promises that its stream never changes between versions.
    rank = np.random.RandomState(seed).random_sample(len(labels))
    held_out = np.zeros(len(labels), bool)
    for label, count in enumerate(quota):
        members = np.flatnonzero(labels == label)
        held_out[members[np.argsort(rank[members])[:count]]] = True
    return dataset._replace(
        train_images=dataset.train_images[~held_out],
        train_labels=labels[~held_out],
        validation_images=dataset.train_images[held_out],
        validation_labels=labels[held_out],
    )


def read_idx(path: Path, shape: tuple[int, ...], md5: str | None = None) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, gzipped or not.

    Format: bytes 0, 0, 8 (unsigned byte), number of dimensions; each dimension as a big-endian
    uint32; the contents (described by LeCun et al. with the MNIST files).

    Args:
      path: the file; compression is told by its first bytes.
      shape: the shape it must have. Its header is compared with this, and at most one byte more
        than this is read, so that no header and no gzip bomb decides how much memory is taken.
      md5: what the decompressed contents should have, if known; only named in the error.

    Raises:
      UserError: the file cannot be read or is not exactly such an array.
    """
    header, size = _idx_header(shape), math.prod(shape)
    try:
        with open(path, "rb") as raw, contextlib.ExitStack() as stack:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            file = stack.enter_context(gzip.open(raw)) if zipped else raw
            found = file.read(len(header))
            if found == header:
                content = file.read(size + 1)
                if len(content) == size:
                    return np.frombuffer(content, np.uint8).reshape(shape)
                short = f"it ends after {len(content)} of {size} bytes of contents"
                problem = short if len(content) < size else "bytes follow its contents"
            elif len(found) < len(header):
                problem = f"it is {len(found)} bytes long, shorter than its header should be"
            elif found[:4] != header[:4]:
                problem = (
                    f"it begins with {found[:4].hex()}, not with the IDX mark {header[:4].hex()}"
                )
            else:
                claimed = np.frombuffer(found[4:], ">u4").tolist()
                problem = f"its header claims dimensions {claimed}, not {list(shape)}"
    except EOFError:
        problem = "the gzip stream is cut short"
    except (OSError, zlib.error) as error:
        problem = f"it cannot be read ({_one_line(error)})"
    known = f" whose decompressed contents have MD5 {md5}" if md5 else ""
    raise UserError(f"{path}: {problem}; replace it with the original file{known}")


def _idx_header(shape: Sequence[int]) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _shapes() -> tuple[tuple[int, ...], ...]:
    """Shapes of the arrays, in the order of FILES."""
    return ((NUM_TRAIN, 28, 28), (NUM_TRAIN,), (NUM_TEST, 28, 28), (NUM_TEST,))


def _make_dataset(
    name: str, arrays: Sequence[np.ndarray], source: str, checksum: str | None = None
) -> Dataset:
    """Joins the arrays (in the order of FILES) to a data set without validation images."""
    if checksum is None:
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(_idx_header(array.shape))
            digest.update(np.ascontiguousarray(array).data)
        checksum = f"sha256:{digest.hexdigest()}"
    images, labels, test_images, test_labels = arrays
    training = (images, labels, images[:0], labels[:0])
    return Dataset(name, *training, test_images, test_labels, CLASS_NAMES[name], checksum, source)


def _check(name: str, arrays: Sequence[np.ndarray], places: Sequence[str], source: str) -> Dataset:
    """Makes the data set if the arrays truly are `name`; `places` names each array in an error."""
    for file, shape, array, place in zip(FILES, _shapes(), arrays, places, strict=True):
        if array.shape != shape or array.dtype != np.uint8:
            raise UserError(f"{place}: it is {array.dtype} {array.shape}, not uint8 {shape}")
        digest = hashlib.md5(_idx_header(shape), usedforsecurity=False)
        digest.update(np.ascontiguousarray(array).data)
        md5 = digest.hexdigest()
        if name == "mnist":
            if md5 != MNIST_MD5[file]:
                raise UserError(
                    f"{place}: its contents (as a decompressed IDX file) have MD5 {md5}, but"
                    f" mnist's {file} has {MNIST_MD5[file]}; replace it with the original"
                )
        elif md5 in MNIST_MD5.values():
            raise UserError(
                f"{place}: this is mnist's {file}, not {name}'s (their files share names);"
                f" give the folder of {name} or use --config.dataset=mnist"
            )
        elif array.ndim == 1:
            each = len(array) // 10
            counts = np.bincount(array, minlength=10).tolist()
            if counts != [each] * 10:
                raise UserError(
                    f"{place}: {name} has {each} of each label 0..9, but this has {counts[:10]} and"
                    f" {sum(counts[10:])} other labels; replace it with the original"
                )
    return _make_dataset(name, arrays, source)


# --- the cache -----------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Returns the folder for what can be made again: MNIST_JAX_CACHE_DIR, or the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("MNIST_JAX_CACHE_DIR") or os.path.join(base, "mnist_jax"))


def _cache_path(name: str) -> Path:
    return cache_folder() / f"{name}-v1.npz"  # v1: the layout; raise it when that changes


def _read_npz(archive, names: Sequence[str]) -> list[np.ndarray]:
    """Reads arrays in the order of FILES from an open npz file.

    Raises ValueError for another shape or type, and whatever zipfile and NumPy do on damage, which
    zipfile finds by each array's CRC-32.
    """
    arrays = []
    for name, shape in zip(names, _shapes(), strict=True):
        # Looked at first: zipfile yields no more bytes than this field says.
        if archive.zip.getinfo(f"{name}.npy").file_size > math.prod(shape) + 4096:
            raise ValueError(f"{name} is larger than uint8 {shape}")
        array = archive[name]
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not uint8 {shape}")
        arrays.append(array)
    return arrays


def _read_cache(name: str, stamp: list) -> Dataset | None:
    """The cached data set, if sound and, when `stamp` names source files, made from those."""
    path = _cache_path(name)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            meta = json.loads(str(archive["meta"]))
            if meta["name"] != name:
                raise ValueError(f"it holds {meta['name']}")
            if stamp and meta["stamp"] != stamp:
                return None
            arrays = _read_npz(archive, ARRAY_NAMES)
        source = f"cache {path}, from {meta['source']}"
        return _make_dataset(name, arrays, source, meta["checksum"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # zipfile and NumPy raise a dozen types on damage
        _log.warning("ignoring the cache file %s (%s)", path, _one_line(error))
        return None


def _write_cache(dataset: Dataset, stamp: list) -> None:
    """Writes the cache file whole or not at all; a failure costs a warning."""
    path = _cache_path(dataset.name)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    meta = {"name": dataset.name, "checksum": dataset.checksum, "source": dataset.source}
    arrays = {name: getattr(dataset, name) for name in ARRAY_NAMES}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                np.savez(file, meta=np.array(json.dumps({**meta, "stamp": stamp})), **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot cache %s in %s (%s)", dataset.name, path, _one_line(error))


# --- the other sources ---------------------------------------------------------------------------


def _find_files(name: str, data_dir: str | None, tried: list[str]) -> list[Path]:
    """The four IDX files in the order of FILES, or Keras' mnist.npz alone, or nothing."""
    given = data_dir or os.environ.get("MNIST_JAX_DATA_DIR")
    if not given:
        tried.append("MNIST_JAX_DATA_DIR is not set")
        return []
    root = Path(os.path.expanduser(given))
    for folder in (root / name, root / TORCHVISION_FOLDERS[name] / "raw", root):
        choices = [(folder / file, folder / f"{file}.gz") for file in FILES]
        found = [next(filter(os.path.isfile, choice), None) for choice in choices]
        paths = [path for path in found if path]
        if len(paths) == len(FILES):
            return paths
        if paths:
            missing = " and ".join(
                file for file, path in zip(FILES, found, strict=True) if not path
            )
            raise UserError(f"{folder} lacks {missing} of {name}; add it, gzipped or not")
        if name == "mnist" and os.path.isfile(folder / "mnist.npz"):
            return [folder / "mnist.npz"]
    fault = f"holds no file of {name}" if os.path.isdir(root) else "is not a folder"
    if data_dir:
        raise UserError(
            f"--data_dir={data_dir} {fault}; it should hold {', '.join(FILES)} (or .gz)"
        )
    tried.append(f"MNIST_JAX_DATA_DIR={given} {fault}")
    return []


def _read_files(name: str, paths: Sequence[Path]) -> Dataset:
    if len(paths) == len(FILES):
        known = MNIST_MD5 if name == "mnist" else {}
        arrays = [
            read_idx(p, s, known.get(f)) for p, s, f in zip(paths, _shapes(), FILES, strict=True)
        ]
        return _check(name, arrays, [str(p) for p in paths], f"IDX files in {paths[0].parent}")
    [path] = paths
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = _read_npz(archive, KERAS_NAMES)
    except Exception as error:  # as in _read_cache
        problem = f"it is not Keras' mnist.npz ({_one_line(error)}); replace it with the original"
        raise UserError(f"{path}: {problem}") from error
    return _check(name, arrays, [f"{path} ({key})" for key in KERAS_NAMES], f"Keras' {path}")


def _read_prepared(name: str, tried: list[str]) -> Dataset | None:
    """Reads a prepared tensorflow-datasets folder, if one is in a format that needs no TensorFlow.

    That is array_record. Its parquet files are known to lose examples silently.
    """
    root = Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    infos = sorted((root / name).glob("*/dataset_info.json"))
    if not infos:
        tried.append(f"{root} holds no prepared {name}")
    for info in infos:
        folder = info.parent
        try:
            file_format = json.loads(info.read_text())["fileFormat"]
            if file_format != "array_record":
                tried.append(f"{folder} is passed over, being {file_format} and not array_record")
                continue
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(folder)
            arrays = [a for split in ("train", "test") for a in _read_split(builder, split)]
            return _check(name, arrays, [str(folder)] * len(FILES), f"tensorflow-datasets {folder}")
        except Exception as error:  # whatever another program left there
            tried.append(f"{folder} cannot be used ({_one_line(error)})")
    return None


def _read_split(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split of a tensorflow-datasets builder, in the original order."""
    from tensorflow_datasets.core import hashing

    source = builder.as_data_source(split=split)
    examples = source.__getitems__(range(len(source)))
    # Examples are stored in the order of the hashes of their keys, which are their indices.
    stored = sorted(range(len(source)), key=hashing.Hasher(split).hash_key)
    original = np.argsort(stored)
    images = np.stack([example["image"] for example in examples])[..., 0]
    labels = np.array([example["label"] for example in examples], np.uint8)
    return images[original], labels[original]


def _download(name: str, tried: list[str]) -> Dataset | None:
    """Fetches the four files from the address, and against the checksums, that TFDS keeps."""
    url = ""
    try:
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        url = tfds.builder_cls(name).URL
        _log.warning("downloading %s from %s", name, url)
        # Not in the cache folder: that may be read-only, and nothing unchecked belongs there.
        with tempfile.TemporaryDirectory() as folder, _impatient_requests():
            manager = tfds.download.DownloadManager(download_dir=folder, dataset_name=name)
            # One by one, so that after a failure no other thread still waits or writes.
            paths = [Path(manager.download(f"{url}{file}.gz")) for file in FILES]
            arrays = [read_idx(path, shape) for path, shape in zip(paths, _shapes(), strict=True)]
            places = [f"{url}{file}.gz" for file in FILES]
            return _check(name, arrays, places, f"download from {url}")
    except Exception as error:  # no tfds, network or server; wrong bytes
        tried.append(f"the download from {url} failed ({_one_line(error)})")
        return None


@contextlib.contextmanager
def _impatient_requests() -> Iterator[None]:
    """Within it, tensorflow-datasets tries an address twice and waits TIMEOUT_S for an answer.

    By itself it tries eleven times with growing pauses (minutes without a network), and waits
    without limit for a silent server; it has no public setting for either.
    """
    import requests
    from tensorflow_datasets.core.download import downloader

    adapter: Any = requests.adapters.HTTPAdapter
    send = adapter.send

    def send_with_timeout(self, request, **kwargs):
        return send(self, request, **{**kwargs, "timeout": TIMEOUT_S})

    downloader.MAX_RETRIES = 1  # private: a version that lacks it ignores this and is only slower
    adapter.send = send_with_timeout
    retries = logging.getLogger("urllib3")  # whose warnings say what the error says again
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        yield
    finally:
        adapter.send = send
        retries.setLevel(level)


def _load_digits() -> Dataset:
    """scikit-learn's 1,797 real 8x8 digits, values 0..16, enlarged to 28x28 and 0..255.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    small = (small.reshape(-1, 8, 8) * 255 // 16).astype(np.uint8)
    images = np.pad(np.kron(small, np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
    labels = labels.astype(np.uint8)
    split = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    train, test = map(np.sort, split)
    arrays = (images[train], labels[train], images[test], labels[test])
    return _make_dataset("digits", arrays, "scikit-learn load_digits")
