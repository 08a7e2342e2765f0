"""IDX files of any names that hold train or test (t10k) and images or labels."""

import functools
import itertools
import math
import os
import re
from pathlib import Path

import numpy as np

from mnist_jax.data import formats
from mnist_jax.data.readers import raw
from mnist_jax.data.readers.raw import bad

_NAME = re.compile(
    r"(?P<set>.*?)(?P<split>(?<![a-z])(?:train|test|t10k))[^a-z]*(?P<what>images|labels)"
    r"(?:[-_.]idx\d?)?(?:[-_.](?:ubyte|byte|short|int|float|double))?(?:\.gz)?",
    re.IGNORECASE,
)
_Kind = tuple[str, str]  # (train or test, images or labels)


def find(path: Path) -> raw.Found | None:
    """Returns the files in a folder, or those of the data set that a file belongs to."""
    is_folder = os.path.isdir(path)
    if not is_folder and not _NAME.fullmatch(path.name):
        return None
    folder = path if is_folder else path.parent
    groups: dict[str, dict[_Kind, Path]] = {}
    for child in raw.children(folder):  # sorted: what is unpacked goes before its .gz
        if (match := _NAME.fullmatch(child.name)) and not os.path.isdir(child):
            raw.check_regular(child)
            kind = raw.split_of(match["split"]) or "", match["what"].lower()
            groups.setdefault(match["set"], {}).setdefault(kind, child)
    if not is_folder and (match := _NAME.fullmatch(path.name)):
        groups = {match["set"]: groups[match["set"]]}
    if len(groups) > 1:
        names = ", ".join(sorted(next(iter(group.values())).name for group in groups.values()))
        raise bad(path, f"it holds several data sets: {names}; give the path of a file of one")
    for files in groups.values():
        splits = ["train", "test"] if any(split == "test" for split, _ in files) else ["train"]
        for split, what in itertools.product(splits, ("images", "labels")):
            if (split, what) not in files:
                names = ", ".join(file.name for file in files.values())
                raise bad(folder, f"beside {names} it lacks the {what} of {split}; add them")
        pairs = [(files[split, "images"], files[split, "labels"]) for split in splits]
        return raw.Found("IDX files", [*files.values()], functools.partial(_read, pairs))
    return None


def _read(pairs: list[tuple[Path, Path]]) -> raw.RawData:
    splits = [_read_split(*pair) for pair in pairs]
    return raw.RawData(splits[0], splits[1] if len(splits) > 1 else None)


def _read_split(image_file: Path, label_file: Path) -> raw.Split:
    def check_labels(shape: tuple[int, ...], dtype: np.dtype) -> None:
        raw.check_size(math.prod(shape) * dtype.itemsize, label_file, raw.MOST_LABEL_BYTES)

    labels = _read_file(label_file, check_labels)
    if labels.ndim == 2 and labels.shape[1] == 8:
        labels = labels[:, 0]  # QMNIST: the digit, then who wrote it, and where it came from

    def check_images(shape: tuple[int, ...], dtype: np.dtype) -> None:
        raw.check_shape(shape, dtype, str(image_file))
        raw.check_count(shape[0], len(labels), str(image_file), str(label_file))

    images = _read_file(image_file, check_images)
    if re.search(r"(?<![a-z])emnist", image_file.name.lower()):
        images = images.swapaxes(1, 2)  # EMNIST is published with rows and columns exchanged
    return raw.Split(  # both counted from 0
        raw.Column(images, str(image_file), lambda i: f"{image_file} (image {i})"),
        raw.Column(labels, str(label_file), lambda i: f"{label_file} (label {i})"),
    )


def _read_file(path: Path, check) -> np.ndarray:
    with raw.reading(path), formats.open_file(path, raw.MOST_BYTES) as file:
        return formats.parse_any_idx(file, check)
