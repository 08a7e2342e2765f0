"""Reading of a run's files, none of which is trusted.

A run's directory may have been cut, copied, edited or made by somebody else. So only regular files
are opened, sizes are compared before memory is taken, and values have the shape that was asked for.
Functions that take a path raise `BadFileError` if they find anything else.
"""

import contextlib
import csv
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnist_jax import disk
from mnist_jax.arrays import read_npy
from mnist_jax.text import first_of, one_line

_MB = 2**20
_LIMITS = {  # in bytes: more than a million trials write
    "config.json": 128 * _MB,
    "parts.json": 64 * _MB,
    "processes.json": 16 * _MB,
    "summary.json": 1024 * _MB,
    "results.csv": 1024 * _MB,
    "chosen_trial.npz": 4096 * _MB,
    "metrics.jsonl": math.inf,  # is read line by line
}
_LONGEST = _MB  # bytes of a line
_DEEPEST = 16  # levels of JSON


class BadFileError(Exception):
    """A file cannot be read, or does not hold what a run writes there.

    Attributes:
        path: The file.
        missing: Whether there is none.
        denied: Whether it may not be read.
    """

    def __init__(self, path: Path, problem: object):
        """Takes the file, and what is wrong with it: words or an exception."""
        message = " ".join(str(problem).split())
        match problem:
            case MemoryError():
                message = "it needs more memory than there is"
            case RecursionError():
                message = "it is nested too deeply"
            case FileNotFoundError() | NotADirectoryError():
                message = "there is no such file"
            case OSError(strerror=str(reason)):
                message = reason
        super().__init__(f"{path.name}: {message[:200] or type(problem).__name__}")
        self.path = path
        self.missing = isinstance(problem, FileNotFoundError | NotADirectoryError)
        self.denied = isinstance(problem, PermissionError)


Shape = Any
"""What JSON must look like: a type, or None for null; a tuple of alternatives; a list with the
shape of every element; a dict with the shape of each key's value. A key that ends in "?" may be
missing. There may be further keys; {str: x} gives their shape."""

_POINT: Shape = {"point": int, "num_trials": int, "diverged_seeds": [int]}
_MADE: Shape = {"command": str, "data_checksum": str, "seconds": {"train": float, str: float}}
_SET: Shape = {"environment?": {str: str}, "devices?": {}}
_MADE |= {"earlier_processes?": {str: {"commit": object, "versions": object} | _SET}}
_MADE |= {key: {str: {"command": str} | _SET} for key in ("shards?", "pooled?")} | _SET
SUMMARY: Shape = {"dataset": str, "protocol": str, "chosen_trial": int, "grid": [_POINT]}
SUMMARY |= {"chosen_point": (int, None), "chosen_trial_missing?": str, "provenance": _MADE}
SUMMARY |= {"num_images?": {str: int}, "run?": str, "format?": int}
_MOMENTS: Shape = {"mean": [float], "deviation": [float]}
SUMMARY |= {
    "data?": {"image_shape": [int], "class_names": [str], "class_counts": {str: [int]}}
    | {"pixels?": str, "moments?": _MOMENTS}
}
PROCESS: Shape = dict.fromkeys(("commit", "versions", "machine"), object)
PROCESS |= {"data_checksum?": str, "seconds?": {str: float}} | _SET
PROCESS |= {"files?": {str: {"path": str, "sha256": str}}}
_SIZES = dict.fromkeys(("num_classes", "num_train", "num_test"), int)
CONFIG: Shape = {"name": str, "grid": str, "shard?": str, "files?": {str: str}}
CONFIG |= {"metrics?": [str], "num_test?": int, "test_seed?": int, "halving?": int}
CONFIG |= {"data?": {"checksum": str, "image_shape": [int]} | _SIZES}
"""The shapes of a run's files, which may hold more than is read."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file that is not larger than a run writes; a FIFO keeps nobody waiting.

    Raises:
        BadFileError: It cannot be opened, or something was raised while it was read.
    """
    limit = 4 * _LIMITS["chosen_trial.npz"] if path.parent.name == "weights" else 64 * _MB
    try:
        with disk.open_regular(path, _LIMITS.get(path.name, limit)) as file:
            yield file
    except BadFileError:
        raise
    except Exception as error:  # damage can make a parser fail in any way
        raise BadFileError(path, error) from None


def read_json(path: Path, shape: Shape = object) -> Any:
    """Reads a JSON file."""
    with opened(path) as file:
        if file.read(1) not in (b"{", b"["):  # before the rest is read into memory
            raise ValueError("it is not JSON of a run")
        file.seek(0)
        return parse_json(file.read(), shape)


def parse_json(text: bytes, shape: Shape = object) -> Any:
    """Returns the value of JSON text, whose numbers must fit into 64 bits.

    Raises:
        ValueError: It is not JSON, or has another shape; also RecursionError or MemoryError.
    """
    value = json.loads(text.decode("utf-8"))
    if where := _misfit(value, shape, 0):
        raise ValueError(f"{where} is not what a run writes; another version may have written it")
    return value


def fits(value: Any, shape: Shape) -> bool:
    """Says whether a value from JSON has a shape."""
    return not _misfit(value, shape, 0)


def _misfit(value: Any, shape: Shape, depth: int) -> str:
    """Returns the place where a value differs from a shape; empty if it fits."""
    match shape:
        case tuple():
            found = [_misfit(value, each, depth) for each in shape]
            return "" if "" in found else found[0]
        case dict() | list() if type(value) is not type(shape):
            return "the whole"
        case None if value is not None:
            return "the whole"
        case type() if shape is not object and not (
            type(value) is shape or (shape is float and type(value) is int)
        ):
            return "the whole"
    match value:
        case dict() | list() if depth == _DEEPEST:
            return "the whole"
        case dict():
            shapes = shape if isinstance(shape, dict) else {}
            always = shapes.get(str, object)
            for key in shapes:
                if key is not str and not key.endswith("?") and key not in value:
                    return f"{key} (missing)"
            pairs = [(k, v, shapes.get(k, shapes.get(f"{k}?", always))) for k, v in value.items()]
        case list():
            [each] = shape if isinstance(shape, list) else [object]
            pairs = [(i, v, each) for i, v in enumerate(value)]
        case int() if not -(2**63) <= value < 2**63:
            return "the whole"
        case float() if not math.isfinite(value):
            return "the whole"
        case _:
            return ""
    for key, inner, its_shape in pairs:
        if where := _misfit(inner, its_shape, depth + 1):
            return f"{key}" if where == "the whole" else f"{key}: {where}"
    return ""


def lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file with their newlines; lines longer than a run writes in pieces."""
    with opened(path) as file:
        while line := file.readline(_LONGEST):
            yield line


def read_table(path: Path, columns: Mapping[str, type]) -> list[dict[str, Any]]:
    """Reads a CSV file.

    Args:
        path: The file.
        columns: The type of each: int, float, str, or object for whichever of these or bool a value
            looks like, with None for an empty one.
    """
    with opened(path) as file:
        texts = (line.decode("utf-8") for line in iter(lambda: file.readline(_LONGEST), b""))
        rows = csv.reader(texts, strict=True)
        header = next(rows, [])
        if sorted(header) != sorted(columns):
            missing, unknown = columns.keys() - set(header), set(header) - columns.keys()
            problems = [  # in a file that is no table, names may be long
                f"{what} columns: {first_of([one_line(name)[:50] for name in sorted(names)], 3)}"
                for what, names in (("missing", missing), ("unknown", unknown))
                if names
            ]
            raise ValueError("; ".join(problems) or "a column occurs twice")
        kinds, found = [columns[name] for name in header], []
        for number, row in enumerate(rows, start=1):
            if len(row) != len(header):
                raise ValueError(f"row {number} has {len(row)} values; expected {len(header)}")
            values = [_parse(text, kind) for text, kind in zip(row, kinds, strict=True)]
            found.append(dict(zip(header, values, strict=True)))
        return found


_CONSTANTS = {"": None, "True": True, "False": False}


def _parse(text: str, kind: type) -> Any:
    """Returns a value of a table."""
    if kind is object and text in _CONSTANTS:
        return _CONSTANTS[text]
    whole = re.fullmatch(r"-?[0-9]{1,18}", text)
    if kind is object:
        kind = int if whole else float if re.fullmatch(r"-?[0-9.]+(e[-+]?[0-9]+)?", text) else str
    if (kind is int and not whole) or not text.isprintable() or len(text) > 10_000:
        raise ValueError(f"unexpected value {text[:40]!r}")
    return kind(text)


def read_arrays(path: Path, only: str | None = None) -> dict[str, np.ndarray]:
    """Reads a file of `numpy.savez` that is not compressed and holds no objects.

    If a name is given, it reads no array but that one.
    """
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > os.fstat(file.fileno()).st_size or any(m.compress_type for m in members):
            raise ValueError("its members are compressed, or claim more bytes than there are")
        found = {}
        for member in members:
            if only and member.filename != f"{only}.npy":
                continue
            with archive.open(member) as array:
                found[member.filename.removesuffix(".npy")] = read_npy(array, member.file_size)
        return found


def check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], kinds: Mapping[str, tuple[str, Sequence[int]]]
) -> None:
    """Checks the `dtype.kind` and shape of arrays; -1 in a shape stands for any length."""
    for name, (kind, shape) in kinds.items():
        found = arrays.get(name)
        if found is None or found.dtype.kind not in kind or found.ndim != len(shape):
            raise BadFileError(path, f"{name} is missing, or not what a run writes there")
        if any(want not in (-1, have) for want, have in zip(shape, found.shape, strict=True)):
            raise BadFileError(path, f"{name} has the shape {found.shape}")
