"""Finds or downloads a data set, verifies it, and returns it as uint8 NumPy arrays.

Images and labels are in the order of the original IDX files whatever the source, so that one seed
means one run. Sources in order: this package's cache, files of the user's (`--data_dir`, or the
environment variable MNIST_JAX_DATA_DIR), a prepared tensorflow-datasets folder, a download.
"""

import hashlib
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_jax import UserError, disk
from mnist_jax.data import cache, download, formats, user_files
from mnist_jax.data.datasets import CLASS_NAMES, DATASETS, FACTS, canonical_name
from mnist_jax.data.splits import ARRAY_NAMES, Dataset
from mnist_jax.text import error_line

FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
MD5 = {
    "mnist": (
        *("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        *("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion_mnist": (
        *("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
        *("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
}
"""Of the decompressed files: gzip wrappers of the same bytes differ from mirror to mirror."""
GZIP_SHA256 = {
    "kmnist": (
        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    ),
}
"""Of the published gzip files, as tensorflow-datasets has them, where no MD5 is known."""
MOMENTS = {"kmnist": (0.1918, 0.3483)}
"""Mean and standard deviation of the training pixels, from 0 to 1, where no MD5 is known."""
CHECKSUMS = {"mnist": "sha256:b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"}
"""`Dataset.checksum` where it is known beforehand."""

_log = logging.getLogger(__name__)


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Loads and checks a data set from the first source that has it.

    Args:
        name: One of DATASETS, in the spelling of `canonical_name` or another.
        data_dir: Folder with the files, or one of them; None means the environment variable
            MNIST_JAX_DATA_DIR. Files that are named in either way are always used: a cached copy
            replaces them only while their sizes and times are unchanged. `digits` has no files
            and ignores it.

    Raises:
        UserError: The name is unknown; an address (gs://...) is given in place of a folder; the
            files are damaged, incomplete, or of another data set; there is no source.
    """
    name = canonical_name(name)
    if name not in DATASETS:
        raise UserError(f"dataset={name!r} is unknown; choose one of {', '.join(DATASETS)}")
    if data_dir:
        disk.local_path(data_dir, "--data_dir")  # checked for digits too, which ignore it
    if name == "digits":
        return _load_digits()
    tried: list[str] = []
    files = _find_given(name, data_dir, tried)
    stamps = [cache.stamp(path) for path in files.paths] if files else []
    cache.remove_leftovers(name)
    shapes = dict(zip(ARRAY_NAMES, _shapes(name), strict=True))
    if cached := cache.read(name, shapes, CHECKSUMS.get(name), stamps):
        return _make_dataset(name, *cached)
    if files:
        dataset: Dataset | None = _verify(name, files.read())
    else:
        dataset = _read_prepared(name, tried) or _download(name, tried)
    if dataset is None:
        raise UserError(
            f"data set {name} was not found: {'; '.join(tried)}. Give --data_dir=DIR, a folder with"
            f" {', '.join(FILES)} (gzipped or not), or use --config.dataset=digits"
        )
    arrays = {array: getattr(dataset, array) for array in ARRAY_NAMES}
    cache.write(name, arrays, dataset.checksum, dataset.source, stamps)
    return dataset


def _shapes(name: str) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes of the arrays, in the order of FILES."""
    (height, width, _), _, num_train, num_test, _ = FACTS[name]
    return ((num_train, height, width), (num_train,), (num_test, height, width), (num_test,))


def _make_dataset(name: str, arrays: Sequence[np.ndarray], checksum: str, source: str) -> Dataset:
    """Joins the arrays (in the order of FILES) to a data set without validation images."""
    images, labels, test_images, test_labels = arrays
    training = (images, labels, images[:0], labels[:0])
    return Dataset(name, *training, test_images, test_labels, CLASS_NAMES[name], checksum, source)


def _verify(name: str, found: user_files.RawArrays) -> Dataset:
    """Returns the data set if the arrays are those of `name`, as far as can be verified.

    The MD5 of each array's IDX file decides, where it is known; else the SHA-256 of the gzip files;
    or, with a warning, the labels' balance and the pixels' mean and spread.
    """
    owner_of = {
        digest: (owner, file)
        for known in (MD5, GZIP_SHA256)
        for owner, digests in known.items()
        for file, digest in zip(FILES, digests, strict=True)
    }
    digests = found.digests or [""] * len(FILES)
    for i, (array, place) in enumerate(zip(found.arrays, found.places, strict=True)):
        md5 = hashlib.md5(formats.idx_header(array.shape), usedforsecurity=False)
        md5.update(np.ascontiguousarray(array).data)
        content = md5.hexdigest()
        if name in MD5 and content == MD5[name][i]:
            continue
        owner, file = owner_of.get(content, owner_of.get(digests[i], (name, "")))
        if owner != name:
            raise UserError(
                f"{place}: this is {owner}'s {file}, not {name}'s (their files share names);"
                f" give the folder of {name} or use --config.dataset={owner}"
            )
        if name in MD5:
            raise UserError(
                f"{place}: its contents (as a decompressed IDX file) have MD5 {content},"
                f" but {name}'s {FILES[i]} has {MD5[name][i]}; replace it with the original"
            )
    if name not in MD5 and digests != list(GZIP_SHA256[name]):
        _verify_plausible(name, found)
        _log.warning(
            "%s: %s; these are not the published gzip files: only the shapes, the number of each"
            " label, and mean and spread of the pixels could be verified",
            *(name, found.source),
        )
    return _make_dataset(name, found.arrays, formats.checksum(found.arrays), found.source)


def _verify_plausible(name: str, found: user_files.RawArrays) -> None:
    """Refuses labels that are not balanced, and pixels of another mean and spread."""
    expected = np.array(MOMENTS[name])
    for array, place in zip(found.arrays, found.places, strict=True):
        if array.ndim == 1:
            each = len(array) // 10
            counts = np.bincount(array, minlength=10).tolist()
            if counts != [each] * 10:
                raise UserError(
                    f"{place}: {name} has {each} of each label 0..9, but this has {counts[:10]} and"
                    f" {sum(counts[10:])} other labels; replace it with the original"
                )
        else:
            # Of the test images only the order of magnitude is known.
            tolerance = 0.002 if len(array) == FACTS[name].num_train else 0.1
            moments = np.array(_moments(array))
            if (abs(moments - expected) > tolerance).any():
                raise UserError(
                    f"{place}: {name}'s pixels (from 0 to 1) have mean {expected[0]} and standard"
                    f" deviation {expected[1]}, but these {moments[0]:.4f} and {moments[1]:.4f};"
                    " replace it with the original"
                )


def _moments(images: np.ndarray) -> tuple[float, float]:
    parts = np.array_split(images, 64)  # bincount takes eight bytes for each of its input
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    return mean, np.average((values - mean) ** 2, weights=counts) ** 0.5


def _find_given(name: str, data_dir: str | None, tried: list[str]) -> user_files.DataFiles | None:
    """Returns the user's files; None, with the reason in `tried`, if there are none."""
    folder, what = data_dir, "--data_dir"
    if not folder:
        folder, what = os.environ.get("MNIST_JAX_DATA_DIR"), "MNIST_JAX_DATA_DIR"
    if not folder:
        tried.append("MNIST_JAX_DATA_DIR is not set")
        return None
    found = _find_in(name, disk.local_path(folder, what))
    if isinstance(found, user_files.DataFiles):
        return found
    if data_dir:
        expected = f"it should hold {', '.join(FILES)} (or .gz)"
        raise UserError(f"--data_dir={data_dir} {found}; {expected}")
    tried.append(f"MNIST_JAX_DATA_DIR={folder} {found}")
    return None


def _find_in(name: str, root: Path) -> user_files.DataFiles | str:
    shapes = dict(zip(FILES, _shapes(name), strict=True))
    md5 = dict(zip(FILES, MD5[name], strict=True)) if name in MD5 else {}
    return user_files.find(name, root, shapes, md5)


def _read_prepared(name: str, tried: list[str]) -> Dataset | None:
    """Reads what tensorflow-datasets has prepared; None, with the reason in `tried`, if nothing."""
    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        root = disk.local_path(folder, "TFDS_DATA_DIR")
        found = _find_in(name, root)
        if isinstance(found, user_files.DataFiles):
            return _verify(name, found.read())
        tried.append(f"{root} {found}")
    except UserError as error:  # which other programs have left there, or set
        tried.append(str(error))
    return None


def _download(name: str, tried: list[str]) -> Dataset | None:
    """Downloads the four files; None, with the reason in `tried`, if that fails."""
    try:
        contents, hosts = download.fetch_files(name, tuple(f"{file}.gz" for file in FILES))
        arrays = [
            formats.parse_idx(io.BytesIO(content), shape)
            for content, shape in zip(contents.values(), _shapes(name), strict=True)
        ]
        digests = [hashlib.sha256(content).hexdigest() for content in contents.values()]
        found = user_files.RawArrays(arrays, list(contents), f"download from {hosts}", digests)
        return _verify(name, found)
    except ConnectionError as error:
        tried.append(f"the download {error}")
    except Exception as error:  # tensorflow-datasets is missing, or broken
        tried.append(f"the download failed ({error_line(error)})")
    return None


def _load_digits() -> Dataset:
    """Returns scikit-learn's 1,797 real 8x8 digits, enlarged to 28x28, from 0..16 to 0..255.

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
    checksum = formats.checksum(arrays)
    return _make_dataset("digits", arrays, checksum, "scikit-learn load_digits")
