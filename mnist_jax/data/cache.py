"""Prepared data and compiled programs, kept where they can be made again.

What is kept is believed only if its checksum is known beforehand, or if nobody but the user (or
root) can have written it.
"""

import contextlib
import json
import logging
import math
import os
import stat
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import UserError, disk
from mnist_jax.arrays import npz_bytes
from mnist_jax.data import formats
from mnist_jax.text import error_line

STALE_S = 600.0  # what is half written for this long will not be finished

_log = logging.getLogger(__name__)


class Cached(NamedTuple):
    """What a cache file holds of a data set."""

    arrays: list[np.ndarray]
    checksum: str  # of the arrays, as `formats.checksum`
    source: str  # where they came from, for people


def cache_folder() -> Path:
    """Returns the folder for what can be made again: MNIST_JAX_CACHE_DIR, or the user's cache.

    Raises:
      UserError: there is no home directory, and no environment variable names a folder; or one
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


def stamp(path: Path) -> list:
    """Returns what changes when a file does."""
    try:
        found = os.stat(path)
        return [os.path.abspath(path), found.st_size, found.st_mtime_ns]
    except OSError as error:
        problem = f"it cannot be read ({error_line(error)}); make it readable, or replace it"
        raise UserError(f"{path}: {problem}") from error


def why_shared(path: Path) -> str | None:
    """Says why others than the user and root can have written a file or folder, if they can."""
    found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()):
        cure = "set MNIST_JAX_CACHE_DIR to a folder of yours"
        return f"{path} belongs to user {found.st_uid}; {cure}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write {path}; chmod go-w {path}"
    return None


def compiled_folder() -> Path | None:
    """Returns the folder of compiled programs, made if need be; None, with a line, if none is safe.

    What lies there is run, so that nobody else may put it there.
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


def read(
    name: str, shapes: Mapping[str, tuple[int, ...]], checksum: str | None, stamps: list
) -> Cached | None:
    """Returns the cached data set, if sound and, when `stamps` name source files, made from those.

    Args:
      name: of the data set.
      shapes: of its arrays, by their names.
      checksum: of its arrays, if known; if not, the cache must be the user's alone.
      stamps: of the files that it must have been made from, as `stamp` gives them; none if it may
        have come from anywhere.
    """
    path = cache_path(name)
    try:
        with formats.open_npz(path, sum(map(math.prod, shapes.values()))) as archive:
            if not checksum and (reason := why_shared(path.parent) or why_shared(path)):
                raise ValueError(reason)
            with formats.open_member(archive, "meta.json") as member:
                meta = json.loads(member.read(2**20))
            if meta["name"] != name:
                raise ValueError(f"it holds {meta['name']}")
            if stamps and meta["stamp"] != stamps:
                return None
            arrays = formats.read_npz(archive, shapes)
        # Each array's MD5 is left out: it would take thrice as long.
        if (found := formats.checksum(arrays)) != (expected := checksum or meta["checksum"]):
            raise ValueError(f"its arrays have {found}, not {expected}")
        return Cached(arrays, found, f"cache {path}, from {meta['source']}")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # `write` tells if it cannot be mended
    except Exception as error:  # zipfile raises a dozen types on damage
        _log.warning("ignoring the cache file %s (%s)", path, error_line(error))
        return None


def write(name: str, cached: Cached, names: Sequence[str], stamps: list) -> None:
    """Writes the cache file whole or not at all; a failure costs a warning.

    Args:
      name: of the data set.
      cached: what to write.
      names: of its arrays.
      stamps: of the files that they were made from, if any.
    """
    path = cache_path(name)
    meta = {"name": name, "checksum": cached.checksum, "source": cached.source, "stamp": stamps}
    content = npz_bytes(
        dict(zip(names, cached.arrays, strict=True)), {"meta.json": json.dumps(meta)}
    )
    try:
        # Whatever the umask, others may read what is kept, and not write it.
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        disk.replace(path, [content], mode=0o644, mark=uuid.uuid4().hex)
    except OSError as error:
        _log.warning("cannot cache %s in %s (%s)", name, path, error_line(error))


def remove_leftovers(name: str) -> None:
    """Removes what a process that was killed in `write` left there."""
    path = cache_path(name)
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 32}"):
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()
