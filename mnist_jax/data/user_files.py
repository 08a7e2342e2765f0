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
from typing import IO, NamedTuple

import numpy as np

from mnist_jax import UserError, disk
from mnist_jax.data import formats, published, tfds
from mnist_jax.data.published import PUBLISHED
from mnist_jax.text import bare, error_line, first_of

KERAS_NAMES = ("x_train", "y_train", "x_test", "y_test")
MOST_BYTES = 2**30  # of an archive


class RawArrays(NamedTuple):
    """The arrays of a data set as a source has them, neither verified nor normalised."""

    arrays: list[np.ndarray]  # images and labels for training, images and labels for tests
    places: list[str]  # where each came from, for an error
    source: str  # the same of all, for people
    digests: list[str] | None = None  # SHA-256 of the IDX files as stored, or of the archive


class DataFiles(NamedTuple):
    """Files that have the names of a data set's, not read yet."""

    paths: list[Path]
    read: Callable[[], RawArrays]  # raises UserError


def find(name: str, root: Path) -> DataFiles | str:
    """Finds the files of a data set in a folder, or in a folder of the data set's name in it.

    `root` is the folder, or one of the files.

    Returns:
        The files, or what is there instead, to follow the folder's name in an error.

    Raises:
        UserError: Some of the files are there, and others are missing.
    """
    known, stored = PUBLISHED[name], published.stored_files(name)
    named = {*known.npz, known.archive, *(x for file in stored for x in _spellings(file))}
    if os.path.isdir(root):
        folders = list(_folders(name, root))
    elif not os.path.isfile(root):
        return "is not a folder"
    elif root.name in named:
        folders = [root.parent]
    elif root.suffix == ".npz" and not known.transposed:
        return _one_npz(name, root)
    else:
        return f"is {formats.kind_of_file(root) or 'a file'}, not a folder"
    missing_files, passed_over = [], []
    for folder in folders:
        if known.archive and (archive := _first_file(folder, [known.archive])):
            return DataFiles([archive], functools.partial(_read_archive, name, archive))
        originals = {file: _first_file(folder, _spellings(file)) for file in stored}
        npz = {file: _first_file(folder, [file]) for file in known.npz}
        for kind, read in ((originals, _read_originals), (npz, _read_npz_files)):
            paths = [path for path in kind.values() if path]
            if paths and len(paths) == len(kind):
                return DataFiles(paths, functools.partial(read, name, paths))
            if paths:
                missing = " and ".join(file for file, path in kind.items() if not path)
                missing_files.append(f"{folder} lacks {missing} of {name}; add it")
        for path in _children(folder):
            same = path.suffix == ".npz" and bare(path.stem) == bare(name)
            if same and os.path.isfile(path) and not known.transposed:
                return _one_npz(name, path)
        versions = [path for path in _children(folder) if re.match(r"[0-9]+\.", path.name)]
        for version in (folder, *filter(os.path.isdir, versions)):
            shards = tfds.find_shards(known.tfds.partition("/")[0] or name, version)
            if isinstance(shards, str):
                passed_over.append(shards)
            elif shards:
                paths = [path for split in shards.values() for path in split]
                return DataFiles(paths, functools.partial(_read_shards, name, version, shards))
    if missing_files:
        raise UserError(f"{missing_files[0]}, gzipped or not")
    return passed_over[0] if passed_over else _lacks(name, root)


def _spellings(file: str) -> list[str]:
    """Returns names of an IDX file: with - or a dot, gzipped or not, or in a folder of its name."""
    both = (file, file.replace("-idx", ".idx"))
    names = [spelled + packed for spelled in both for packed in ("", ".gz")]
    return [*names, *(os.path.join(file, name) for name in names)]


def _folders(name: str, root: Path) -> Iterator[Path]:
    known = PUBLISHED[name]
    family, _, variant = known.tfds.partition("/")
    own = [path for path in _children(root) if bare(path.name) in (bare(name), family)]
    own.sort(key=lambda path: (bare(path.name) != bare(name), path.name != name))
    below = [part for part in ("raw", known.folder, variant) if part]
    for folder in (*own, root):
        places = (folder, *(folder / part for part in dict.fromkeys(below)))
        yield from filter(os.path.isdir, places)


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


def _read_originals(name: str, paths: list[Path]) -> RawArrays:
    known, stored = PUBLISHED[name], published.stored_files(name)
    arrays, digests = [], []
    for path, (file, form) in zip(paths, stored.items(), strict=True):
        md5 = dict(zip(known.files, known.md5, strict=True)).get(file) if known.md5 else None
        arrays.append(formats.read_file(path, form, md5))
        with open(path, "rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    folder, is_idx = paths[0].parent, all(form.is_idx for form in stored.values())
    # Arrays of batches come from all files.
    places = list(map(str, paths)) if is_idx else [str(folder)] * 4
    source = f"{'IDX' if is_idx else 'binary'} files in {folder}"
    return RawArrays(published.to_arrays(name, arrays), places, source, digests)


def _read_archive(name: str, path: Path) -> RawArrays:
    known = PUBLISHED[name]
    try:
        with disk.open_regular(path, MOST_BYTES) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != known.sha256[0]:
                raise ValueError(f"it has SHA-256 {digest}, not {known.sha256[0]}")
            return from_archive(name, file, str(path), str(path))
    except Exception as error:
        problem = f"it is not the published {known.archive} ({error_line(error)})"
        cure = "download it again, or unpack it and give the folder"
        raise UserError(f"{path}: {problem}; {cure}") from error


def from_archive(name: str, file: IO[bytes], place: str, source: str) -> RawArrays:
    """Reads a data set from its archive, which is known to be the published one."""
    file.seek(0)
    arrays = formats.read_archive(file, published.stored_files(name))
    digests = list(PUBLISHED[name].sha256)
    return RawArrays(published.to_arrays(name, arrays), [place] * 4, source, digests)


def _one_npz(name: str, path: Path) -> DataFiles:
    members = dict(zip(KERAS_NAMES, published.shapes(name), strict=True))

    def read() -> RawArrays:
        arrays = _read_npz(path, members, f"Keras' {path.name}")
        return RawArrays(arrays, [f"{path} ({key})" for key in members], f"Keras' {path}")

    return DataFiles([path], read)


def _read_npz_files(name: str, paths: list[Path]) -> RawArrays:
    arrays = [
        _read_npz(path, {"arr_0": shape}, f"{name.upper()}'s {path.name}")[0]
        for path, shape in zip(paths, published.shapes(name), strict=True)
    ]
    source = f"{name.upper()}'s npz files in {paths[0].parent}"
    return RawArrays(arrays, list(map(str, paths)), source)


def _read_npz(path: Path, members: Mapping[str, tuple[int, ...]], what: str) -> list[np.ndarray]:
    try:
        with formats.open_npz(path, sum(map(math.prod, members.values()))) as archive:
            return formats.read_npz(archive, members)
    except Exception as error:  # zipfile raises a dozen types on damage
        problem = f"it is not {what} ({error_line(error)})"
        raise UserError(f"{path}: {problem}; replace it with the original") from error


def _read_shards(name: str, folder: Path, shards: Mapping[str, list[Path]]) -> RawArrays:
    images = [shape for shape in published.shapes(name) if len(shape) > 1]
    try:
        arrays = [
            array
            for (split, paths), shape in zip(shards.items(), images, strict=True)
            for array in tfds.read_split(split, paths, shape)
        ]
    except Exception as error:  # whatever another program left there
        problem = f"cannot be used ({error_line(error)})"
        raise UserError(f"{folder} {problem}; prepare it again") from error
    return RawArrays(arrays, [str(folder)] * len(arrays), f"tensorflow-datasets {folder}")
