"""What a reader finds and returns, and what the readers share."""

import contextlib
import contextvars
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import UserError
from mnist_jax.text import error_line, first_of, one_line

MOST_BYTES = 2**33  # of all images of a split; and of a file
MOST_LABEL_BYTES = 2**28
MOST_LABEL_LENGTH = 200  # characters
MOST_SIZE = 512  # pixels high or wide
MOST_CHANNELS = 4

_log = logging.getLogger(__name__)
_told = contextvars.ContextVar[list[str] | None]("told", default=None)


class Column(NamedTuple):
    """The images or the labels of a split as a file has them, with their place for an error."""

    array: np.ndarray
    place: str
    at: Callable[[int], str]  # the place of one of them
    why_floats: str = ""  # what made a table's numbers floats


class Split(NamedTuple):
    """Images and labels, which need not be as many."""

    images: Column
    labels: Column


class RawData(NamedTuple):
    """What the files hold, of whatever type and shape."""

    train: Split
    test: Split | None
    class_names: Sequence[str] | None = None
    guess: str = ""  # of the images' shape, for people


class Found(NamedTuple):
    """Files that have the names of a data set, not read yet."""

    form: str  # for people
    files: Sequence[str | Path]
    read: Callable[[], RawData]  # raises UserError


def bad(place: object, problem: str) -> UserError:
    """Returns an error of one line, whatever the names in it."""
    return UserError(one_line(f"{place}: {problem}"))


def caution(place: object, problem: str) -> None:
    """Tells what is odd in a data set that is used nevertheless, in one line."""
    text, told = one_line(f"{place}: {problem}"), _told.get()
    if told is not None:
        if text in told:
            return
        told.append(text)
    _log.warning("%s", text)


@contextlib.contextmanager
def cautions() -> Iterator[list[str]]:
    """Yields a list that each caution within is added to, and told, once."""
    token = _told.set(told := list[str]())
    try:
        yield told
    finally:
        _told.reset(token)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns whatever a library raises while it reads a file into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise bad(path, f"{error.name} is not installed; pip install {error.name}") from None
    except MemoryError:
        raise bad(path, "it needs more memory than there is; give fewer images") from None
    except EOFError:
        raise bad(path, "the gzip stream is cut short; replace the file") from None
    except Exception as error:  # damage can make a parser fail in any way
        ours = type(error) is ValueError
        problem = str(error) if ours else f"it cannot be read ({error_line(error)})"
        raise bad(path, f"{problem}; replace or repair it") from error


def check_shape(shape: Sequence[int], dtype: np.dtype, place: str) -> None:
    """Checks shape and size of the images of a split, before or after they are read.

    Raises:
        UserError: They are not [n, height, width] or [n, height, width, channels].
    """
    expected = "expected images [n, height, width] or [n, height, width, channels]"
    if len(shape) not in (3, 4):
        raise bad(place, f"it has the shape {list(shape)}; {expected}: reshape it")
    if len(shape) == 4 and shape[1] <= MOST_CHANNELS < shape[3]:
        raise bad(
            place,
            f"it has the shape {list(shape)}, with the channels first; {expected}:"
            " np.moveaxis(images, 1, -1) puts them last",
        )
    if len(shape) == 4 and not 1 <= shape[3] <= MOST_CHANNELS:
        raise bad(place, f"it has {shape[3]} channels; expected 1 to {MOST_CHANNELS}")
    if not all(1 <= size <= MOST_SIZE for size in shape[1:3]):
        raise bad(place, f"images of {shape[1]} by {shape[2]} pixels; expected 1 to {MOST_SIZE}")
    if shape[0] == 0:
        raise bad(place, "it holds no image; add some, or leave the split out")
    check_size(math.prod(shape) * dtype.itemsize, place)


def check_size(num_bytes: int, place: object, most: int | None = None) -> None:
    """Checks that the images of a split (or what `most` is for) are not too large."""
    most = most or MOST_BYTES
    if num_bytes > most:
        raise bad(place, f"it claims {num_bytes} bytes; expected at most {most}: give fewer images")


def check_count(num_images: int, num_labels: int, place: str, label_place: str) -> None:
    """Checks that there are as many images as labels."""
    if num_images != num_labels:
        problem = f"{num_images} images, but {num_labels} labels in {label_place}"
        raise bad(place, f"{problem}; expected as many")


def check_texts(labels: Sequence[str], at: Callable[[int], str]) -> None:
    """Checks that labels are short: in an array, each takes the memory of the longest."""
    for i, label in enumerate(labels):
        if len(label) > MOST_LABEL_LENGTH:
            problem = f"a label of {len(label)} characters"
            raise bad(at(i), f"{problem}; expected at most {MOST_LABEL_LENGTH}")


def guess_of(shape: Sequence[int]) -> str:
    """Says how rows of pixels are taken, which are of images [height, width] or RGB."""
    colour = "RGB, pixel by pixel" if len(shape) > 2 else "grey"
    return f"rows of {math.prod(shape)} numbers taken as {shape[0]}x{shape[1]} {colour}"


def pixel_shape(num_pixels: int, place: str) -> tuple[int, ...]:
    """Returns the shape of images that are stored as rows of pixels: square, grey or RGB.

    The three numbers of an RGB pixel are beside each other.
    """
    size = math.isqrt(num_pixels)
    if 0 < size <= MOST_SIZE and size * size == num_pixels:
        return size, size
    size = math.isqrt(num_pixels // 3)
    if 0 < size <= MOST_SIZE and 3 * size * size == num_pixels:
        return size, size, 3
    raise bad(
        place,
        f"{num_pixels} pixels make no square image; expected a label and s*s pixels (grey) or 3*s*s"
        f" (RGB), s from 1 to {MOST_SIZE}",
    )


_SPLITS = re.compile(r"(?<![a-z])(train|test|t10k|val|valid|validation|dev)(?:ing)?(?![a-z])")


def split_of(name: str) -> str | None:
    """Returns train, test or validation if a name holds such a word first; None if none."""
    if not (match := _SPLITS.search(name.lower())):
        return None
    return {"train": "train", "test": "test", "t10k": "test"}.get(match[1], "validation")


def names_in(folder: Path) -> list[str]:
    """Returns the names of what a folder holds, sorted, without what is hidden.

    Raises:
        UserError: It cannot be read.
    """
    with reading(folder):
        names = sorted(os.listdir(folder))
    return [name for name in names if not name.startswith((".", "__MACOSX"))]


def children(folder: Path) -> list[Path]:
    """Returns the paths of what a folder holds, as `names_in`."""
    return [folder / name for name in names_in(folder)]


def check_regular(path: Path) -> None:
    """Checks that a file of a data set is one, which nothing left out in silence is."""
    if not os.path.isfile(path):
        raise bad(path, "it is not a regular file; replace it, or move it away")


_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\W)")


def find_tables(path: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Finds the tables of a data set: a file, or those in a folder, by their names.

    Beside a file whose name holds `train`, one that has `test` in its place is the test part.

    Returns:
        The files of each split; none if there are none of these suffixes.

    Raises:
        UserError: A folder has several files of a split, or part of its shards.
    """
    found: dict[str, list[Path]] = {}
    if not os.path.isdir(path):
        if not path.name.lower().endswith(suffixes):
            return {}
        if (shard := _SHARD.search(path.name)) and int(shard[2]) > 1:
            raise bad(path, f"it is one of {int(shard[2])} files; give their folder")
        if split_of(path.name) == "train":
            beside = path.with_name(re.sub("(?<![A-Za-z])train", "test", path.name))
            if beside != path and os.path.lexists(beside):
                check_regular(beside)
                found["test"] = [beside]
        return {"train": [path]} | found
    for child in children(path):
        split = split_of(child.name)
        if split and child.name.lower().endswith(suffixes):
            check_regular(child)
            found.setdefault(split, []).append(child)
    for file in found.pop("validation", []):
        caution(file, "it is not used: validation images are cut from train")
    for split, files in found.items():
        numbers = [_SHARD.search(file.name) for file in files]
        total = int(numbers[0][2]) if numbers[0] else 1
        if len(files) > 1 and not all(numbers):
            names = first_of([file.name for file in files], 5)
            raise bad(path, f"several files of {split}: {names}; give the path of one")
        if all(numbers) and [n[1] for n in numbers if n] != [f"{i:05}" for i in range(total)]:
            raise bad(path, f"it holds {len(files)} of {total} files of {split}; add the others")
    if found and "train" not in found:
        names = first_of([file.name for files in found.values() for file in files], 5)
        raise bad(path, f"it holds {names}, but no file with train in its name; add one")
    return found
