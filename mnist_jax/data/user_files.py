"""The user's files of a data set: in which folders they may be, and under which names.

Only names are looked at here. `loading` verifies the contents.
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import UserError
from mnist_jax.data import formats, tfds
from mnist_jax.text import bare, error_line, first_of

KERAS_NAMES = ("x_train", "y_train", "x_test", "y_test")
KMNIST_FILES = (
    *("kmnist-train-imgs.npz", "kmnist-train-labels.npz"),
    *("kmnist-test-imgs.npz", "kmnist-test-labels.npz"),
)


class RawArrays(NamedTuple):
    """The arrays of a data set as a source has them, not verified."""

    arrays: list[np.ndarray]  # images and labels for training, images and labels for tests
    places: list[str]  # where each came from, for an error
    source: str  # the same of all, for people
    digests: list[str] | None = None  # SHA-256 of the IDX files as stored


class DataFiles(NamedTuple):
    """Files that have the names of a data set's, not read yet."""

    paths: list[Path]
    read: Callable[[], RawArrays]  # raises UserError


Shapes = Mapping[str, tuple[int, ...]]
"""Of the arrays of a data set, by the names of the original IDX files."""


def find(name: str, root: Path, shapes: Shapes, md5: Mapping[str, str]) -> DataFiles | str:
    """Finds the files of a data set in a folder, or in a folder of the data set's name in it.

    `root` is the folder, or one of the files. Errors name `md5`, as those of `formats.read_idx`.

    Returns:
        The files, or what is there instead, to follow the folder's name in an error.

    Raises:
        UserError: Some of the files are there, and others are missing.
    """
    named = {*KMNIST_FILES, *(spelling for file in shapes for spelling in _spellings(file))}
    if os.path.isdir(root):
        folders = list(_folders(name, root))
    elif not os.path.isfile(root):
        return "is not a folder"
    elif root.name in named:
        folders = [root.parent]
    elif root.suffix == ".npz":
        return _one_npz(root, shapes)
    else:
        return f"is {formats.kind_of_file(root) or 'a file'}, not a folder"
    missing_files, passed_over = [], []
    for folder in folders:
        idx = {file: _first_file(folder, _spellings(file)) for file in shapes}
        own = {file: _first_file(folder, [file]) for file in KMNIST_FILES if name == "kmnist"}
        for kind, read in ((idx, _read_idx_files), (own, _read_kmnist_files)):
            paths = [path for path in kind.values() if path]
            if paths and len(paths) == len(kind):
                return DataFiles(paths, functools.partial(read, paths, shapes, md5))
            if paths:
                missing = " and ".join(file for file, path in kind.items() if not path)
                missing_files.append(f"{folder} lacks {missing} of {name}; add it")
        for path in _children(folder):
            if path.suffix == ".npz" and bare(path.stem) == bare(name) and os.path.isfile(path):
                return _one_npz(path, shapes)
        versions = [path for path in _children(folder) if re.match(r"[0-9]+\.", path.name)]
        for version in (folder, *filter(os.path.isdir, versions)):
            shards = tfds.find_shards(name, version)
            if isinstance(shards, str):
                passed_over.append(shards)
            elif shards:
                paths = [path for split in shards.values() for path in split]
                return DataFiles(paths, functools.partial(_read_shards, version, shards, shapes))
    if missing_files:
        raise UserError(f"{missing_files[0]}, gzipped or not")
    return passed_over[0] if passed_over else _lacks(name, root)


def _spellings(file: str) -> list[str]:
    """Returns names of an IDX file: with - or a dot, gzipped or not, or in a folder of its name."""
    both = (file, file.replace("-idx", ".idx"))
    names = [spelled + packed for spelled in both for packed in ("", ".gz")]
    return [*names, *(os.path.join(file, name) for name in names)]


def _folders(name: str, root: Path) -> Iterator[Path]:
    own = [path for path in _children(root) if bare(path.name) == bare(name)]
    own.sort(key=lambda path: path.name != name)
    for folder in (*own, root):
        yield from filter(os.path.isdir, (folder, folder / "raw"))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _lacks(name: str, root: Path) -> str:
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        return f"holds no file of {name} that could be seen ({error.strerror})"
    shown = first_of([" ".join(name.split())[:50] for name in names], 5)
    return f"holds no file of {name}, but {shown}" if names else "is empty"


def _first_file(folder: Path, names: list[str]) -> Path | None:
    return next(filter(os.path.isfile, (folder / name for name in names)), None)


def _read_idx_files(paths: list[Path], shapes: Shapes, md5: Mapping[str, str]) -> RawArrays:
    arrays, digests = [], []
    for path, (file, shape) in zip(paths, shapes.items(), strict=True):
        arrays.append(formats.read_idx(path, shape, md5.get(file)))
        with open(path, "rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    return RawArrays(arrays, list(map(str, paths)), f"IDX files in {paths[0].parent}", digests)


def _one_npz(path: Path, shapes: Shapes) -> DataFiles:
    members = dict(zip(KERAS_NAMES, shapes.values(), strict=True))

    def read() -> RawArrays:
        arrays = _read_npz(path, members, f"Keras' {path.name}")
        return RawArrays(arrays, [f"{path} ({key})" for key in members], f"Keras' {path}")

    return DataFiles([path], read)


def _read_kmnist_files(paths: list[Path], shapes: Shapes, _: Mapping[str, str]) -> RawArrays:
    arrays = [
        _read_npz(path, {"arr_0": shape}, f"KMNIST's {path.name}")[0]
        for path, shape in zip(paths, shapes.values(), strict=True)
    ]
    return RawArrays(arrays, list(map(str, paths)), f"KMNIST's npz files in {paths[0].parent}")


def _read_npz(path: Path, members: Shapes, what: str) -> list[np.ndarray]:
    try:
        with formats.open_npz(path, sum(map(math.prod, members.values()))) as archive:
            return formats.read_npz(archive, members)
    except Exception as error:  # zipfile raises a dozen types on damage
        problem = f"it is not {what} ({error_line(error)})"
        raise UserError(f"{path}: {problem}; replace it with the original") from error


def _read_shards(folder: Path, shards: Mapping[str, list[Path]], shapes: Shapes) -> RawArrays:
    sizes = [shape[0] for shape in shapes.values() if len(shape) == 1]
    try:
        arrays = [
            array
            for (split, paths), size in zip(shards.items(), sizes, strict=True)
            for array in tfds.read_split(split, paths, size)
        ]
    except Exception as error:  # whatever another program left there
        problem = f"cannot be used ({error_line(error)})"
        raise UserError(f"{folder} {problem}; prepare it again") from error
    return RawArrays(arrays, [str(folder)] * len(arrays), f"tensorflow-datasets {folder}")
