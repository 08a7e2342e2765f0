"""Whatever the user's files hold, checked and brought to the form of a `Dataset`."""

from collections.abc import Sequence

import numpy as np

from mnist_jax.data.readers import raw
from mnist_jax.data.readers.raw import Column, bad
from mnist_jax.text import first_of

MOST_CLASSES = 65_536
_FAINT = 32  # pixels below it, of 255, are nearly black
UNSCALED = 2  # floats above it are not from 0 to 1, nor about 0


def normalise(data: raw.RawData) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Returns the arrays of a data set, and the names of its classes.

    Returns:
        Training images and labels, test images and labels: as `Dataset` says. Without a test part
        the last two are of length 0.

    Raises:
        UserError: They cannot be a data set.
    """
    splits = [data.train, data.test] if data.test else [data.train]
    images = [_images(split.images) for split in splits]
    for split in splits:
        count = len(split.labels.array) if split.labels.array.ndim else 0
        raw.check_count(len(split.images.array), count, split.images.place, split.labels.place)
    if data.test:
        kinds = [f"{array.dtype} {list(array.shape[1:])}" for array in images]
        if kinds[0] != kinds[1]:
            problem = f"test images are {kinds[1]}, training images {kinds[0]}"
            why = next((w for split in splits if (w := split.images.why_floats)), "")
            raise bad(data.test.images.place, f"{problem}; expected the same{why}")
    if images[0].dtype == np.uint8 and (most := int(images[0].max())) < _FAINT:
        problem = f"the largest pixel is {most} of 255: images are nearly black"
        cure = "scale them to 0..255, or give floats"
        raw.caution(data.train.images.place, f"{problem}; {cure}")
    labels, class_names = _labels([split.labels for split in splits], data.class_names)
    if not data.test:
        images.append(images[0][:0])
        labels.append(labels[0][:0])
    return [images[0], labels[0], images[1], labels[1]], class_names


def _images(column: Column) -> np.ndarray:
    """Returns images, uint8 or float32, [n, height, width] or [n, height, width, channels > 1]."""
    images, place = column.array, column.place
    raw.check_shape(images.shape, images.dtype, place)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    kind = images.dtype.kind
    if kind not in "biuf":
        raise bad(place, f"images are {images.dtype}; expected whole numbers 0..255, or floats")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if kind == "b":
        raw.caution(place, "images are True and False, which become 255 and 0")
        return images.astype(np.uint8) * np.uint8(255)
    wanted = np.float32 if kind == "f" else np.uint8
    result = np.empty(images.shape, wanted)
    for start in range(0, len(images), 4096):  # checks of all at once would take their memory
        block = images[start : start + 4096]
        with np.errstate(over="ignore"):  # which is infinite, and refused below
            result[start : start + 4096] = part = block.astype(wanted)
        faults = ~np.isfinite(part) if kind == "f" else part != block
        if faults.any():
            first = np.argwhere(faults)[0]
            value = block[tuple(first)]
            expected = "a finite number" if kind == "f" else "0 to 255"
            where = f"the pixel at {first[1:].tolist()} is {value}; expected {expected}"
            raise bad(column.at(start + int(first[0])), where)
    if kind == "f":
        low, high = f"{result.min():.4g}", f"{result.max():.4g}"
        how = "as they are"
        if result.max() > UNSCALED:
            cure = "--config.scaling=standard, or divide them by 255"
            how = f"unscaled: {cure}{column.why_floats}"
        raw.caution(place, f"floats from {low} to {high} are used {how}")
    return result


def _labels(
    columns: Sequence[Column], names: Sequence[str] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Returns the labels of each split as class numbers from 0, and the names of the classes."""
    labels, place = [_plain(column) for column in columns], columns[0].place
    kinds = ["text" if array.dtype.kind == "U" else "numbers" for array in labels]
    if kinds[0] != kinds[-1]:
        problem = f"labels are {kinds[-1]}, those of the training images {kinds[0]}"
        raise bad(columns[-1].place, f"{problem}; expected the same")
    if names is not None:
        _check_number(len(names), place)
        for name in names:
            _check_name(name, place)
        if len({*names}) < len(names):
            raise bad(place, "two classes have the same name; name each class once")
    number = _number_text if kinds[0] == "text" else _number_integers
    numbers, class_names = number(columns, labels, names)
    _check_number(len(class_names), place)
    used = np.bincount(numbers[0], minlength=len(class_names)) > 0
    for column, array, own in zip(columns[1:], labels[1:], numbers[1:], strict=True):
        if (wrong := np.flatnonzero(~used[own])).size:
            problem = f"label {array[wrong[0]]} is in the test part alone"
            raise bad(column.at(int(wrong[0])), f"{problem}; add images of it to train")
    if not used.all():
        unused = first_of([class_names[i] for i in np.flatnonzero(~used)], 10)
        if 2 * used.sum() < len(used):
            problem = f"only {used.sum()} of {len(used)} classes have an image (not {unused})"
            raise bad(place, f"{problem}; number the classes from 0 without gaps, or give text")
        raw.caution(place, f"no image of class {unused}")
    dtype = np.uint8 if len(class_names) <= 256 else np.uint16
    return [array.astype(dtype) for array in numbers], tuple(class_names)


def _number_integers(
    columns: Sequence[Column], labels: list[np.ndarray], names: Sequence[str] | None
) -> tuple[list[np.ndarray], list[str]]:
    lowest, highest = min(map(np.min, labels)), max(map(np.max, labels))
    # Where names are known, a label of 1 alone does not say that the first class is not 0.
    shift = int(lowest == 1 and (names is None or highest == len(names)))
    if names is None and lowest > 1:
        raise bad(columns[0].place, f"the least label is {lowest}; number classes from 0 or 1")
    end = (MOST_CLASSES if names is None else len(names)) + shift
    for column, array in zip(columns, labels, strict=True):
        if (wrong := np.flatnonzero((array < shift) | (array >= end))).size:
            problem = f"label {array[wrong[0]]}; expected {shift} to {end - 1}"
            raise bad(column.at(int(wrong[0])), f"{problem}; correct it, or leave the image out")
    class_names = [str(label) for label in range(shift, int(highest) + 1)]
    numbers = [array.astype(np.int64) - shift for array in labels]
    return numbers, class_names if names is None else list(names)


def _number_text(
    columns: Sequence[Column], labels: list[np.ndarray], names: Sequence[str] | None
) -> tuple[list[np.ndarray], list[str]]:
    classes, first = np.unique(labels[0], return_index=True)
    for name, at in zip(classes.tolist(), first.tolist(), strict=True):
        _check_name(name, columns[0].at(at))
    if names is not None:
        classes = np.array(names)
    order = np.argsort(classes)
    numbers = []
    for column, array in zip(columns, labels, strict=True):
        own = order[np.searchsorted(classes, array, sorter=order).clip(max=len(classes) - 1)]
        if (wrong := np.flatnonzero(classes[own] != array)).size:
            known = first_of(classes.tolist(), 10)
            problem = f"label {str(array[wrong[0]])[:50]!r} is no class of the training images"
            raise bad(column.at(int(wrong[0])), f"{problem}: {known}")
        numbers.append(own)
    return numbers, classes.tolist()


def _plain(column: Column) -> np.ndarray:
    """Returns labels [n] as whole numbers or text."""
    labels = column.array
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        problem = f"labels have the shape {list(labels.shape)}; expected one class number an image"
        raise bad(column.place, f"{problem} (labels.argmax(1), if these are one-hot)")
    if labels.dtype.kind == "f":
        wrong = np.flatnonzero(~(np.abs(labels) < 2**31) | (labels != np.round(labels)))
        if wrong.size:
            first = int(wrong[0])
            raise bad(column.at(first), f"label {labels[first]}; expected a whole number")
        return labels.astype(np.int64)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind not in "biuU":
        raise bad(column.place, f"labels are {labels.dtype}; expected whole numbers or text")
    return labels.astype(np.uint8) if labels.dtype.kind == "b" else labels


def _check_number(num_classes: int, place: str) -> None:
    if not 2 <= num_classes <= MOST_CLASSES:
        raise bad(place, f"number of classes: {num_classes}; expected 2 to {MOST_CLASSES}")


def _check_name(name: str, place: str) -> None:
    if not name or not name.isprintable() or len(name) > raw.MOST_LABEL_LENGTH:
        expected = f"expected 1 to {raw.MOST_LABEL_LENGTH} characters that can be printed"
        raise bad(place, f"the label or class name {name[:50]!r}; {expected}")
