"""The cache: prepared data and compiled programs, which can be rebuilt.

A cached file is trusted only if its checksum is known beforehand, or if nobody but the user and
root can have written it.
"""

import contextlib
import json
import logging
import math
import os
import stat
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError, disk
from mnist_jax.arrays import npz_bytes
from mnist_jax.data import formats
from mnist_jax.text import error_line

STALE_S = 600.0  # after this time nobody is still writing a temporary file

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Returns the cache folder: MNIST_JAX_CACHE_DIR, or one in the user's cache.

    Raises:
        UserError: There is no home directory and no environment variable names a folder, or one
            names an address.
    """
    for variable, below in (("MNIST_JAX_CACHE_DIR", ""), ("XDG_CACHE_HOME", "mnist_jax")):
        if given := os.environ.get(variable):
            return disk.local_path(given, variable) / below
    try:
        return Path("~/.cache/mnist_jax").expanduser()
    except RuntimeError:
        raise UserError("there is no home directory; set MNIST_JAX_CACHE_DIR to a folder") from None


def cache_path(name: str) -> Path:
    """Returns the cache file of a data set."""
    return cache_folder() / f"{name}-v2.npz"  # v2: the layout; raise it when that changes


def stamp(path: str | Path) -> list:
    """Returns absolute path, size and times of a file, which change when the file does.

    Raises:
        UserError: It cannot be read.
    """
    try:
        found = os.stat(path)
        # The time of the last change can be set; that of the inode cannot.
        return [os.fspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    except OSError as error:
        problem = f"it cannot be read ({error_line(error)}); make it readable, or replace it"
        raise UserError(f"{path}: {problem}") from error


def why_shared(path: Path) -> str | None:
    """Returns why others than the user and root may have written a file or folder; None if not."""
    found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()):
        cure = "set MNIST_JAX_CACHE_DIR to a folder of yours"
        return f"{path} belongs to user {found.st_uid}; {cure}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write {path}; chmod go-w {path}"
    return None


def compiled_folder() -> Path | None:
    """Returns the folder of compiled programs, created if needed; None, with a warning, if unsafe.

    The programs in it are run, so nobody else may write there.
    """
    folder = cache_folder() / "jax"
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        reason = why_shared(folder.parent) or why_shared(folder)
    except OSError as error:
        reason = f"{error.filename} cannot be made a folder of yours: {error.strerror}"
    if reason:
        _log.warning("compiled programs are not kept (%s)", reason)
        return None
    return folder


class Cached(NamedTuple):
    """What the cache has of a data set."""

    arrays: list[np.ndarray]
    checksum: str  # `formats.checksum` of the arrays
    source: str  # where they came from, for people


def read(
    name: str, shapes: Mapping[str, tuple[int, ...]], checksum: str | None, stamps: list
) -> Cached | None:
    """Reads a data set; None if the cache has no sound one, with a warning where it is damaged.

    Where its `checksum` is not known, only the user may have write access to the cache. `stamps`
    are those of the source files that it must come from; none if it may come from anywhere.
    """
    found = _read(name, sum(map(math.prod, shapes.values())), checksum, stamps, shapes)
    return found and found[0]


def read_own(name: str, most_bytes: int, stamps: list) -> tuple[Cached, dict[str, Any]] | None:
    """Reads a data set of the user's, whose shapes are in the cache alone, as `read`.

    Returns:
        It, and the facts that `write` was given.
    """
    return _read(name, most_bytes, None, stamps, None)


def _read(
    name: str,
    most_bytes: int,
    checksum: str | None,
    stamps: list,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> tuple[Cached, dict[str, Any]] | None:
    path = cache_path(name)
    try:
        with formats.open_npz(path, most_bytes) as archive:
            if not checksum and (reason := why_shared(path.parent) or why_shared(path)):
                raise ValueError(reason)
            with formats.open_member(archive, "meta.json") as member:
                # Names of 65,536 classes take megabytes.
                meta = json.loads(member.read(2**20 if shapes else 2**24))
            if meta["name"] != name:
                raise ValueError(f"it holds {meta['name']}")
            if stamps and meta["stamp"] != stamps:
                return None
            dtypes: dict[str, str] = {}
            if shapes is None:
                dtypes = {key: dtype for key, (dtype, _) in meta["arrays"].items()}
                shapes = {key: tuple(shape) for key, (_, shape) in meta["arrays"].items()}
            arrays = formats.read_npz(archive, shapes, dtypes)
        # Each array's MD5 is left out: it would take thrice as long.
        if (found := formats.checksum(arrays)) != (expected := checksum or meta["checksum"]):
            raise ValueError(f"its arrays have {found}, not {expected}")
        source = f"cache {path}, from {meta['source']}"
        return Cached(arrays, found, source), meta.get("facts", {})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # `write` warns if the cache cannot be written
    except Exception as error:  # zipfile raises a dozen types on damage
        _log.warning("ignoring the cache file %s (%s)", path, error_line(error))
        return None


def write(
    name: str,
    arrays: Mapping[str, np.ndarray],
    checksum: str,
    source: str,
    stamps: list,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes the cache file, which `read` reads, in one atomic step; a failure is a warning."""
    path = cache_path(name)
    meta: dict[str, Any] = {"name": name, "checksum": checksum, "source": source, "stamp": stamps}
    meta["arrays"] = {key: [array.dtype.name, array.shape] for key, array in arrays.items()}
    meta["facts"] = dict(facts)
    content = npz_bytes(arrays, {"meta.json": json.dumps(meta)})
    try:
        # Whatever the umask, others may read the cache but not write it.
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        disk.replace(path, [content], mode=0o644, mark=uuid.uuid4().hex)
    except OSError as error:
        _log.warning("cannot cache %s in %s (%s)", name, path, error_line(error))


def remove_leftovers(name: str) -> None:
    """Removes temporary files of processes that were killed in `write`."""
    path = cache_path(name)
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 32}"):
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()
