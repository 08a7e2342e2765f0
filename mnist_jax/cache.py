"""Prepared data, kept where it can be made again."""

import contextlib
import json
import logging
import math
import os
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError, formats, workdirs

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
            return workdirs.local_path(given, variable) / below
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
        problem = f"it cannot be read ({formats.one_line(error)}); make it readable, or replace it"
        raise UserError(f"{path}: {problem}") from error


def read(name: str, shapes: Mapping[str, tuple[int, ...]], stamps: list) -> Cached | None:
    """Returns the cached data set, if sound and, when `stamps` name source files, made from those.

    Args:
      name: of the data set.
      shapes: of its arrays, by their names.
      stamps: of the files that it must have been made from, as `stamp` gives them; none if it may
        have come from anywhere.
    """
    path = cache_path(name)
    try:
        with formats.open_npz(path, sum(map(math.prod, shapes.values()))) as archive:
            with formats.open_member(archive, "meta.json") as member:
                meta = json.loads(member.read(2**20))
            if meta["name"] != name:
                raise ValueError(f"it holds {meta['name']}")
            if stamps and meta["stamp"] != stamps:
                return None
            arrays = formats.read_npz(archive, shapes)
        # The contents' own check is left out: it would take thrice as long.
        if (found := formats.checksum(arrays)) != meta["checksum"]:
            raise ValueError(f"its arrays have {found}, not {meta['checksum']}")
        return Cached(arrays, found, f"cache {path}, from {meta['source']}")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # `write` tells if it cannot be mended
    except Exception as error:  # zipfile raises a dozen types on damage
        _log.warning("ignoring the cache file %s (%s)", path, formats.one_line(error))
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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    meta = {"name": name, "checksum": cached.checksum, "source": cached.source}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                members: dict[str, Any] = dict(zip(names, cached.arrays, strict=True))
                np.savez(file, **members)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr("meta.json", json.dumps({**meta, "stamp": stamps}))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot cache %s in %s (%s)", name, path, formats.one_line(error))


def remove_leftovers(name: str) -> None:
    """Removes what a process that was killed in `write` left there."""
    path = cache_path(name)
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 32}"):
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()
