"""Folders of PNG and JPEG files, one folder a class."""

import contextlib
import functools
import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnist_jax import disk
from mnist_jax.data import formats
from mnist_jax.data.readers import raw
from mnist_jax.data.readers.raw import bad
from mnist_jax.text import first_of, one_line

_SUFFIXES = (".png", ".jpg", ".jpeg")
_MOST_FILE_BYTES = 2**24  # of a picture; the pixels of the largest are 2**20
_FORMATS = ("PNG", "JPEG")
_MOST_ANY_BYTES, _MOST_ANY_SIZE = 2**28, 2**14  # of a picture that is reduced
_MODES = ("L", "LA", "RGB", "RGBA")
_CONVERTED = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB"}
_PARTS = {"train": r"train(ing)?", "test": r"test(ing)?", "validation": r"(val(id(ation)?)?|dev)"}


def find(path: Path) -> raw.Found | None:
    """Returns the pictures in the folders train and test, or in the folders of classes."""
    folders = [child for child in raw.children(path) if os.path.isdir(child)]
    parts: dict[str, list[Path]] = {}
    for folder in folders:
        for part, name in _PARTS.items():
            if re.fullmatch(name, folder.name, re.IGNORECASE):
                parts.setdefault(part, []).append(folder)
    if not parts:
        files = _class_files(path)
        if not files:
            return None
        return raw.Found("pictures in", files, functools.partial(_read, files, []))
    for part, each in parts.items():
        if len(each) > 1:
            names = " and ".join(folder.name for folder in each)
            raise bad(path, f"it holds {names}; leave one of them for {part}")
    if "train" not in parts:
        raise bad(path, f"it holds {first_of([f.name for f in folders], 5)}, but no train; add it")
    if "validation" in parts:
        name = parts["validation"][0].name
        raw.caution(path, f"{name} is not used: validation images are cut from train")
    train, test = (
        _class_files(parts[part][0]) if part in parts else [] for part in ("train", "test")
    )
    for part, files in (("train", train), ("test", test)):
        if part in parts and not files:
            expected = "expected a folder of PNG or JPEG files for each class"
            raise bad(parts[part][0], f"it holds no folder with pictures; {expected}")
    return raw.Found("pictures in", train + test, functools.partial(_read, train, test))


def _class_files(folder: Path) -> list[str]:
    """Returns the pictures of all classes, sorted by file name, then class.

    They are text: of 60,000, `Path` would take a second.
    """
    found, others = list[tuple[str, str]](), list[str]()
    empty = []
    children = raw.children(folder)
    beside = [path.name for path in children if _is_picture(path.name) and path.is_file()]
    for each in filter(os.path.isdir, children):
        names = raw.names_in(each)
        pictures = [(name, each.name) for name in names if _is_picture(name)]
        found += pictures
        others += [name for name in names if not _is_picture(name)]
        empty += [] if pictures else [each]
    if found and empty:
        raise bad(empty[0], "it holds no PNG or JPEG file; add some, or remove the folder")
    if found and others:
        shown = first_of(list(map(one_line, others)), 3)
        many = f"{len(others)} files that are no PNG or JPEG are not used"
        raw.caution(folder, f"{many}: {shown}")
    if found and beside:
        shown = first_of(beside, 3)
        raw.caution(folder, f"{len(beside)} pictures in no folder of a class are not used: {shown}")
    return [f"{folder}/{label}/{name}" for name, label in sorted(found)]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def holds_classes(path: Path) -> bool:
    """Says whether a folder holds several folders with pictures, or such a folder for training."""
    for folder in (path, *raw.children(path)):
        if folder == path or re.fullmatch(_PARTS["train"], folder.name, re.IGNORECASE):
            classes = filter(os.path.isdir, raw.children(folder) if folder.is_dir() else [])
            if sum(any(map(_is_picture, raw.names_in(each))) for each in classes) > 1:
                return True
    return False


def _read(train: list[str], test: list[str]) -> raw.RawData:
    return raw.RawData(_read_split(train), _read_split(test) if test else None)


def _read_split(files: list[str]) -> raw.Split:
    def read(file: str) -> bytes:
        with disk.open_regular(file, _MOST_FILE_BYTES) as content:
            return content.read()

    folder = os.path.dirname(os.path.dirname(files[0]))
    images = decode_all(map(read, files), len(files), files.__getitem__)
    labels = np.array([file.split(os.sep)[-2] for file in files])
    columns = [raw.Column(array, folder, files.__getitem__) for array in (images, labels)]
    return raw.Split(*columns)


def decode_all(contents: Iterator[bytes], count: int, place) -> np.ndarray:
    """Decodes PNG and JPEG files of one size and kind.

    Grey pictures give [n, height, width]; others have channels: RGB, and a last one for alpha.
    Palettes and CMYK become RGB. A picture is turned as its EXIF orientation says.

    Args:
        contents: Of the files.
        count: How many there are.
        place: Takes a number, and returns the place of that file for an error.
    """
    images = np.empty(0, np.uint8)
    for i in range(count):
        with raw.reading(place(i)):
            content = next(contents)
            found = _decode(content)
        if i == 0:
            raw.check_size(count * found.size, place(i))
            images = np.empty((count, *found.shape), np.uint8)
        elif found.shape != images.shape[1:]:
            this, first = map(_described, (found.shape, images.shape[1:]))
            raise bad(place(i), f"it is {this}, but {place(0)} is {first}; expected the same")
        images[i] = found
    return images


def _described(shape: tuple[int, ...]) -> str:
    kinds = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}
    return f"{shape[0]} by {shape[1]} {kinds[(*shape, 1)[2]]}"


def read_any(path: Path) -> np.ndarray:
    """Reads one picture of any size, in any format that Pillow opens, as `decode_all` has it.

    Raises:
        UserError: It cannot be read.
    """
    with raw.reading(path):
        if not path.exists():
            raise bad(path, "there is no such file; name a picture")
        if path.is_dir():
            raise bad(path, f"it is a folder; give its files, as in {path}/*.png")
        with disk.open_regular(path, _MOST_ANY_BYTES) as content:
            return _decode(content.read(), None, _MOST_ANY_SIZE)


def _decode(
    content: bytes, formats_read: tuple[str, ...] | None = _FORMATS, most_size: int = raw.MOST_SIZE
) -> np.ndarray:
    """Decodes a picture, of the formats that are named or any, at most so high and wide."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise ValueError("it is empty")
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # of what is odd in a file, or large, which is refused
        expected = "PNG or JPEG file" if formats_read else "picture that Pillow opens"
        try:
            image = stack.enter_context(Image.open(io.BytesIO(content), formats=formats_read))
        except Image.DecompressionBombError:
            raise ValueError(f"it is larger than {most_size} by {most_size} pixels") from None
        except UnidentifiedImageError:
            kind = formats.kind_of(content)
            if kind in (None, "a picture"):
                raise ValueError(f"it is damaged, or no {expected}") from None
            raise ValueError(f"it is {kind}, not a {expected}") from None
        if image.format == "PNG" and getattr(image, "is_animated", False):
            raise ValueError("it is animated; expected one picture")
        width, height = image.size
        if not (1 <= width <= most_size and 1 <= height <= most_size):
            raise ValueError(f"it has {height} by {width} pixels; expected 1 to {most_size}")
        mode = _CONVERTED.get(image.mode, image.mode)
        if mode == "P":
            mode = "RGBA" if "transparency" in image.info else "RGB"
        upright = ImageOps.exif_transpose(image)
        if mode not in _MODES and not formats_read:
            if mode.startswith("I"):  # 16 bits, which conversion would cut at 255
                return (np.asarray(upright).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8)
            mode = "RGB"
        if mode not in _MODES:
            raise ValueError(f"its pixels are of the kind {mode}; expected 8 bits a channel")
        return np.asarray(upright.convert(mode))
