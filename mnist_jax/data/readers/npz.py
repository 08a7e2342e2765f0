"""npz files of NumPy: x_train, y_train, x_test, y_test, or train_images and so on."""

import functools
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_jax import arrays
from mnist_jax.data import formats
from mnist_jax.data.readers import raw
from mnist_jax.data.readers.raw import bad
from mnist_jax.data.splits import ARRAY_NAMES
from mnist_jax.data.user_files import KERAS_NAMES
from mnist_jax.text import first_of

_SPELLINGS = (KERAS_NAMES, ARRAY_NAMES)


def find(path: Path) -> raw.Found | None:
    """Returns the file if it is one of these."""
    if path.suffix.lower() != ".npz" or os.path.isdir(path):
        return None
    return raw.Found("npz file", [path], functools.partial(_read, path))


def _read(path: Path) -> raw.RawData:
    with raw.reading(path), formats.open_npz(path, raw.MOST_BYTES) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        names = next((names for names in _SPELLINGS if {*names[:2]} <= {*members}), None)
        if names is None:
            expected = " or ".join(", ".join(names) for names in _SPELLINGS)
            holds = first_of(members, 6) or "nothing"
            raise bad(path, f"it holds {holds}; expected {expected} (the last two may be missing)")
        test = [name for name in names[2:] if name in members]
        if len(test) == 1:
            problem = f"it has {test[0]}, but not both of {names[2]} and {names[3]}"
            raise bad(path, f"{problem}; add the other, or leave both out")
        if unread := [name for name in members if name not in (*names, "class_names")]:
            raw.caution(path, f"not used: {first_of(unread, 6)}")
        train = _read_split(path, archive, names[:2])
        tests = _read_split(path, archive, test) if test else None
        names_given = "class_names" in members
        return raw.RawData(train, tests, _class_names(path, archive) if names_given else None)


def _read_split(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> raw.Split:
    images, labels = f"{path} ({names[0]})", f"{path} ({names[1]})"
    shape, dtype = _header(archive, names[0])
    raw.check_shape(shape, dtype, images)
    label_shape, _ = _header(archive, names[1])
    raw.check_count(shape[0], label_shape[0] if label_shape else 0, images, labels)
    return raw.Split(
        raw.Column(_array(path, archive, names[0]), images, _places(path, names[0])),
        raw.Column(_array(path, archive, names[1]), labels, _places(path, names[1])),
    )


def _places(path: Path, name: str):
    return lambda i: f"{path} ({name}[{i}])"


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with formats.open_member(archive, f"{name}.npy") as member:
        shape, _, dtype = arrays.read_npy_header(member)
        return shape, dtype


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    shape, dtype = _header(archive, name)
    if dtype.hasobject:
        problem = f"{name} holds Python objects, which are never unpickled"
        raise bad(path, f"{problem}; save numbers, or text as np.array(..., dtype=str)")
    size, is_image = math.prod(shape) * dtype.itemsize, len(shape) > 2
    most = raw.MOST_BYTES if is_image else raw.MOST_LABEL_BYTES
    raw.check_size(size, f"{path} ({name})", most)
    with formats.open_member(archive, f"{name}.npy") as member:
        return arrays.read_npy(member, most)


def _class_names(path: Path, archive: zipfile.ZipFile) -> list[str]:
    found = _array(path, archive, "class_names")
    if found.dtype.kind != "U" or found.ndim != 1:
        problem = f"class_names is {found.dtype} {list(found.shape)}; expected text [classes]"
        raise bad(path, f"{problem}: save np.array(names, dtype=str)")
    return found.tolist()
