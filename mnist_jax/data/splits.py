"""A data set in memory, and its division into splits."""

import logging
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError
from mnist_jax.data.datasets import DataFacts
from mnist_jax.text import first_of

ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
"""What a data set consists of before images are held out, in the order of its checksum."""

_log = logging.getLogger(__name__)


class Moments(NamedTuple):
    """Mean and standard deviation of the pixels of some images, by channel; of bytes as 0 to 1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Dataset(NamedTuple):
    """One data set: images and class numbers from 0, in the original order.

    Images are uint8 0..255, or float32 that are used as they are, of shape [n, height, width], or
    [n, height, width, channels] with 2 to 4 channels. Labels are uint8 [n], or uint16 where there
    are more than 256 classes.
    """

    name: str  # one of DATASETS, or the base name of the user's file or folder
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray  # none until hold_out_validation
    validation_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    checksum: str  # "sha256:..." over the four arrays as IDX files, before any hold-out
    source: str  # where it came from, for people

    @property
    def facts(self) -> DataFacts:
        """What a config's check must know of it, before images are held out."""
        sizes = len(self.train_labels), len(self.test_labels)
        shape = image_shape(self.train_images)
        return DataFacts(shape, len(self.class_names), *sizes, self.checksum)

    def describe(self) -> dict[str, Any]:
        """Returns what a report needs to know of it, for the record of a run."""
        num_classes = len(self.class_names)
        labels = {"train": self.train_labels, "validation": self.validation_labels}
        labels["test"] = self.test_labels
        return {
            "image_shape": image_shape(self.train_images),
            "pixels": str(self.train_images.dtype),
            "class_names": self.class_names,
            "class_counts": {
                split: np.bincount(each, minlength=num_classes).tolist()
                for split, each in labels.items()
            },
        }

    @property
    def num_images(self) -> dict[str, int]:
        """How many images each split has."""
        splits = ("train", "validation", "test")
        return {split: len(getattr(self, f"{split}_labels")) for split in splits}


def moments(images: np.ndarray) -> Moments:
    """Returns mean and standard deviation of each channel of images, to scale them by.

    Raises:
        UserError: A channel has the same value everywhere.
    """
    found = channel_moments(images)
    if not all(found.deviation):
        channel = found.deviation.index(0)
        raise UserError(
            "--config.scaling=standard: the training images have the same value everywhere in"
            f" channel {channel}; use scaling=unit"
        )
    return found


def channel_moments(images: np.ndarray) -> Moments:
    """Returns mean and standard deviation of each channel of images."""
    channels = images.reshape(-1, image_shape(images)[2]).T
    means, deviations = zip(*map(_moments, channels), strict=True)
    return Moments(means, deviations)


def _moments(pixels: np.ndarray) -> tuple[float, float]:
    parts = np.array_split(pixels, 64)  # the copies below are larger than their input
    if pixels.dtype != np.uint8:
        mean = float(sum(part.sum(dtype=np.float64) for part in parts) / len(pixels))
        squares = sum(np.square(part - np.float64(mean)).sum() for part in parts)
        return mean, float(np.sqrt(squares / len(pixels)))
    counts = np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)
    # In Python's integers, so that every machine has the same bits.
    each = [(value, int(count)) for value, count in enumerate(counts)]
    total = sum(value * count for value, count in each)
    square = sum(value**2 * count for value, count in each)
    variance = (square * len(pixels) - total**2) / len(pixels) ** 2
    return total / len(pixels) / 255, variance**0.5 / 255


def image_shape(images: np.ndarray) -> tuple[int, int, int]:
    """Returns height, width and channels of images [n, height, width] or with their channels."""
    height, width, *channels = images.shape[1:]
    return height, width, *(channels or [1])


def hold_out_validation(dataset: Dataset, num_validation: int, seed: int = 0) -> Dataset:
    """Moves a stratified sample of the training images to validation; both keep their order.

    Each class gives its share of `num_validation`, rounded so that the total is exact: down, or up
    for the classes with the largest remainders. The cut depends on the labels, `num_validation` and
    `seed` alone; with 0 images it is a no-op. A warning names the classes that are left without
    any image in one of the splits, as some are when there are fewer images than classes.

    Raises:
        UserError: `num_validation` is negative or leaves no training image; `seed` is not from 0 to
            2**32 - 1.
    """
    return _hold_out(dataset, "validation", num_validation, seed)


def cut_test(dataset: Dataset, num_test: int, seed: int = 0) -> Dataset:
    """Moves a sample of the training images to the test set, as `hold_out_validation` does."""
    return _hold_out(dataset, "test", num_test, seed)


def _hold_out(dataset: Dataset, split: str, num_images: int, seed: int) -> Dataset:
    labels, request = dataset.train_labels, f"num_{split}={num_images}"
    if not 0 <= num_images < len(labels):
        raise UserError(
            f"{request} of the {len(labels)} training images of {dataset.name}; choose 0 to"
            f" {len(labels) - 1}"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} of the {split} images; choose 0 to {2**32 - 1}")
    if num_images == 0:
        return dataset
    sizes = np.bincount(labels)
    quota, remainder = np.divmod(sizes * num_images, len(labels))
    largest = np.argsort(-remainder, kind="stable")
    quota[largest[: num_images - quota.sum()]] += 1
    for part, counts in ((split, quota), ("training", sizes - quota)):
        if (lacking := np.flatnonzero((sizes > 0) & (counts == 0))).size:
            classes = first_of([str(dataset.class_names[label]) for label in lacking], 10)
            words = f"{request} of {len(labels)} images"
            _log.warning("%s leaves no %s image of class %s", words, part, classes)
    # RandomState: NumPy promises that its stream never changes between versions.
    rank = np.random.RandomState(seed).random_sample(len(labels))
    held_out = np.zeros(len(labels), bool)
    for label in np.flatnonzero(quota):
        members = np.flatnonzero(labels == label)
        held_out[members[np.argsort(rank[members])[: quota[label]]]] = True
    parts: dict[str, Any] = {
        "train_images": dataset.train_images[~held_out],
        "train_labels": labels[~held_out],
        f"{split}_images": dataset.train_images[held_out],
        f"{split}_labels": labels[held_out],
    }
    return dataset._replace(**parts)
