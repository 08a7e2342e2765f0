"""What a loaded data set holds: sizes, classes, pixels, and images that occur twice."""

import hashlib
from typing import NamedTuple

import numpy as np

from mnist_jax.data.splits import Dataset, channel_moments, image_shape
from mnist_jax.text import one_line, text_table

MOST_CLASSES = 20  # lines of the table
COLOURS = {1: "grey", 3: "in colour (RGB)", 4: "in colour (RGBA)"}


class Twins(NamedTuple):
    """How often images occur that are equal in every pixel, and where one of them does."""

    in_train: int  # training images that equal an earlier one
    in_both: int  # test images that equal a training image
    other_labels: int  # different images that have several labels
    examples: tuple[str, str, str]  # of each of the three; empty if there is none


def describe(dataset: Dataset) -> str:
    """Returns what a terminal shows of a data set."""
    sizes = dataset.num_images
    height, width, channels = image_shape(dataset.train_images)
    colour = COLOURS.get(channels, f"of {channels} channels")
    number = f"{sizes['train']:,} training and {sizes['test']:,} test images"
    kind = f"{height}x{width}, {colour}, {dataset.train_images.dtype}"
    lines = [
        f"{one_line(dataset.name)}: {number}, {kind}, {len(dataset.class_names):,} classes",
        f"from {one_line(dataset.source)}",
        dataset.checksum,
        _pixels(dataset.train_images),
        "",
        _classes(dataset),
        "",
        *_twins(find_twins(dataset)),
    ]
    if not sizes["test"]:
        lines.append("There are no test images: --config.num_test=N cuts N from the others.")
    return "\n".join(lines)


def _pixels(images: np.ndarray) -> str:
    unit = ", from 0 to 1"
    if images.dtype != np.uint8:
        unit = f", as they are: from {images.min():.4g} to {images.max():.4g}"
    means, deviations = (" ".join(f"{x:.4f}" for x in each) for each in channel_moments(images))
    return f"training pixels{unit}: mean {means}, standard deviation {deviations}"


def _classes(dataset: Dataset) -> str:
    names = [one_line(name) for name in dataset.class_names]
    counts = [
        np.bincount(labels, minlength=len(names))
        for labels in (dataset.train_labels, dataset.test_labels)
    ]
    rows = [
        [f"{name[:37]}..." if len(name) > 40 else name, f"{train:,}", f"{test:,}"]
        for name, train, test in zip(names, *counts, strict=True)
    ]
    table = text_table(["class", "train", "test"], rows[:MOST_CLASSES])
    if (more := len(rows) - MOST_CLASSES) > 0:
        fewest, most = counts[0].argmin(), counts[0].argmax()
        table += f"\nand {more:,} more. Training images of a class: {counts[0][fewest]:,} "
        table += f"({rows[fewest][0]}) to {counts[0][most]:,} ({rows[most][0]})"
    return table


def find_twins(dataset: Dataset) -> Twins:
    """Finds images that are equal in every pixel, in the training and the test set together."""
    digest = b"".join(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for images in (dataset.train_images, dataset.test_images)
        for image in images
    )
    _, first, group = np.unique(
        np.frombuffer(digest, "V16"), return_index=True, return_inverse=True
    )
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    size, earlier = len(dataset.train_labels), first[group]  # training images come first
    twins = np.flatnonzero(earlier < np.arange(len(group)))
    in_train, in_both = twins[twins < size], twins[(twins >= size) & (earlier[twins] < size)]
    other = twins[labels[twins] != labels[earlier[twins]]]

    def named(image: int) -> str:
        return f"test image {image - size}" if image >= size else f"training image {image}"

    def example(images: np.ndarray, with_labels: bool = False) -> str:
        if not images.size:
            return ""
        words = [
            named(x) + f" ({one_line(dataset.class_names[labels[x]])})" * with_labels
            for x in (images[0], earlier[images[0]])
        ]
        return f"{words[0]} is {words[1]}"

    examples = (example(in_train), example(in_both), example(other, with_labels=True))
    return Twins(len(in_train), len(in_both), len(np.unique(group[other])), examples)


def _twins(twins: Twins) -> list[str]:
    kinds = (
        ("training images that equal an earlier one", "they bias the validation accuracy"),
        ("test images that equal a training image", "they bias the test accuracy"),
        ("images that occur with several labels", "some of these are wrong"),
    )
    lines = [
        f"warning: {kind}: {number:,} ({example}); {effect}"
        for (kind, effect), number, example in zip(kinds, twins[:3], twins.examples, strict=True)
        if number
    ]
    return lines or ["No training image occurs twice, or in the test set."]
