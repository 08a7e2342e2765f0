"""Finds or downloads a data set, verifies it, and returns it as uint8 NumPy arrays.

Images and labels are in the order of the original IDX files whatever the source, so that one seed
means one run. Sources in order: this package's cache, files of the user's (`--data_dir`, or the
environment variable MNIST_JAX_DATA_DIR), a prepared tensorflow-datasets folder, a download.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from mnist_jax import UserError, disk
from mnist_jax.data import cache, download, formats, own_data, published, user_files
from mnist_jax.data.datasets import DATASETS, canonical_name, is_path
from mnist_jax.data.published import PUBLISHED
from mnist_jax.data.splits import ARRAY_NAMES, Dataset
from mnist_jax.data.verify import make_dataset, verify
from mnist_jax.text import error_line


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Loads and checks a data set from the first source that has it.

    Args:
        name: One of DATASETS, in the spelling of `canonical_name` or another; or the path of the
            user's own data (`own_data.load`), to which nothing below applies.
        data_dir: Folder with the files, or one of them; None means the environment variable
            MNIST_JAX_DATA_DIR. Files that are named in either way are always used: a cached copy
            replaces them only while their sizes and times are unchanged. `digits` has no files
            and ignores it.

    Raises:
        UserError: The name is unknown; an address (gs://...) is given in place of a folder; the
            files are damaged, incomplete, or of another data set; there is no source.
    """
    name = canonical_name(name)
    if is_path(name):
        if os.path.lexists(name):
            return own_data.load(Path(name))
        names = ", ".join(DATASETS)
        raise UserError(f"dataset={name!r} is unknown; choose one of {names}, or the path of yours")
    if data_dir:
        disk.local_path(data_dir, "--data_dir")  # checked for digits too, which ignore it
    if name == "digits":
        return _load_digits()
    tried: list[str] = []
    files = _find_given(name, data_dir, tried)
    stamps = [cache.stamp(os.path.abspath(path)) for path in files.paths] if files else []
    cache.remove_leftovers(name)
    shapes = dict(zip(ARRAY_NAMES, published.shapes(name), strict=True))
    if cached := cache.read(name, shapes, PUBLISHED[name].checksum, stamps):
        return make_dataset(name, *cached)
    if files:
        dataset: Dataset | None = verify(name, files.read())
    else:
        dataset = _read_prepared(name, tried) or _download(name, tried)
    if dataset is None:
        *elsewhere, download_failed = tried
        also = f"; also, {'; '.join(elsewhere)}" if elsewhere else ""
        with contextlib.suppress(OSError):
            here = [each for each in sorted(os.listdir()) if canonical_name(each) == name]
            also += "".join(
                f"; {each} in the current folder is --config.dataset=./{each}" for each in here
            )
        raise UserError(
            f"data set {name} was not found and {download_failed}; give --data_dir=DIR, a folder"
            f" with {_expected(name, '(gzipped or not)')}, or --config.dataset=digits{also}"
        )
    arrays = {array: getattr(dataset, array) for array in ARRAY_NAMES}
    cache.write(name, arrays, dataset.checksum, dataset.source, stamps)
    return dataset


def _expected(name: str, note: str) -> str:
    """Names the files of a data set, for an error; `note` says that they may be gzipped."""
    known = PUBLISHED[name]
    return f"{known.archive}, or " * bool(known.archive) + f"{', '.join(known.files)} {note}"


def _find_given(name: str, data_dir: str | None, tried: list[str]) -> user_files.DataFiles | None:
    """Returns the user's files; None if there are none, with the reason in `tried`, if any."""
    folder, what = data_dir, "--data_dir"
    if not folder:
        folder, what = os.environ.get("MNIST_JAX_DATA_DIR"), "MNIST_JAX_DATA_DIR"
    if not folder:
        return None
    found = user_files.find(name, disk.local_path(folder, what))
    if isinstance(found, user_files.DataFiles):
        return found
    if data_dir:
        expected = f"it should hold {_expected(name, '(or .gz)')}"
        raise UserError(f"--data_dir={data_dir} {found}; {expected}")
    tried.append(f"MNIST_JAX_DATA_DIR={folder} {found}")
    return None


def _read_prepared(name: str, tried: list[str]) -> Dataset | None:
    """Reads what tensorflow-datasets has prepared; None, with the reason in `tried`, if nothing."""
    named = os.environ.get("TFDS_DATA_DIR")
    try:
        root = disk.local_path(named or "~/tensorflow_datasets", "TFDS_DATA_DIR")
        found = user_files.find(name, root)
        if isinstance(found, user_files.DataFiles):
            return verify(name, found.read())
        if named or root.exists():
            tried.append(f"{root} {found}")
    except UserError as error:  # which other programs have left there, or set
        tried.append(str(error))
    return None


def _download(name: str, tried: list[str]) -> Dataset | None:
    """Downloads the files; None, with the reason in `tried`, if that fails."""
    known = PUBLISHED[name]
    if not known.tfds:
        tried.append("is not downloaded, as no checksum of its files is known")
        return None
    try:
        files = (known.archive,) if known.archive else tuple(f"{file}.gz" for file in known.files)
        contents, hosts = download.fetch_files(name, known.tfds.partition("/")[0], files)
        source = f"download from {hosts}"
        if known.archive:
            [(url, file)] = contents.items()
            return verify(name, user_files.from_archive(name, file, url, source))
        arrays = [
            formats.parse(content, stored)
            for content, stored in zip(
                contents.values(), published.stored_files(name).values(), strict=True
            )
        ]
        digests = [hashlib.sha256(content.getbuffer()).hexdigest() for content in contents.values()]
        return verify(name, user_files.RawArrays(arrays, list(contents), source, digests))
    except ConnectionError as error:
        tried.append(f"cannot be downloaded ({error})")
    except Exception as error:  # tensorflow-datasets is missing, or broken
        tried.append(f"cannot be downloaded ({error_line(error)})")
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
    arrays = [images[train], labels[train], images[test], labels[test]]
    return make_dataset("digits", arrays, formats.checksum(arrays), "scikit-learn load_digits")
