"""The files in which each data set is published, and what is known of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mnist_jax.data.datasets import FACTS
from mnist_jax.data.formats import Stored

FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
EMNIST = "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"


class Published(NamedTuple):
    """A data set as its authors publish it. Checksums as tensorflow-datasets has them.

    The MD5s are of the decompressed files, since gzip wrappers of the same bytes differ from mirror
    to mirror. The SHA-256s are of the gzip files, or of the archive.
    """

    tfds: str  # its name in tensorflow-datasets, with its variant; empty if that lacks it
    files: tuple[str, ...] = FILES  # IDX, or .bin: those for training, then those for tests
    npz: tuple[str, ...] = ()  # other files with the same arrays
    archive: str = ""  # with the files in it, if that is what is published
    folder: str = "raw"  # in which people have the files
    transposed: bool = False  # the images
    first_label: int = 0
    md5: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    checksum: str | None = None  # `Dataset.checksum`, known beforehand
    moments: tuple[float, ...] = ()  # mean and deviation of the training pixels, from 0 to 1
    counts: tuple[tuple[int, ...], ...] = ()  # of each label, for training and tests, if unequal


def _emnist(variant: str, first_label: int = 0) -> Published:
    parts = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return Published(
        f"emnist/{variant}",
        tuple(f"emnist-{variant}-{split}-{part}" for split in ("train", "test") for part in parts),
        archive="gzip.zip",
        folder="gzip",
        transposed=True,
        first_label=first_label,
        sha256=(EMNIST,),
    )


PUBLISHED = {
    "mnist": Published(
        "mnist",
        md5=(
            *("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
            *("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
        ),
        checksum="sha256:b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a",
    ),
    "fashion_mnist": Published(
        "fashion_mnist",
        md5=(
            *("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
            *("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
        ),
    ),
    "kmnist": Published(
        "kmnist",
        npz=(
            *("kmnist-train-imgs.npz", "kmnist-train-labels.npz"),
            *("kmnist-test-imgs.npz", "kmnist-test-labels.npz"),
        ),
        sha256=(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        moments=(0.1918, 0.3483),
    ),
    "emnist_balanced": _emnist("balanced"),
    "emnist_letters": _emnist("letters", first_label=1),
    "emnist_digits": _emnist("digits"),
    "qmnist": Published(
        "",
        (
            *("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
            *("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
        ),
        # Its training images are MNIST's, reconstructed to within 3 of 255 grey levels.
        moments=(0.1307, 0.3081),
        # Of its authors' label files; those for training are MNIST's.
        counts=(
            (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            (5952, 6791, 6026, 6084, 5780, 5454, 5957, 6231, 5890, 5835),
        ),
    ),
    "cifar10": Published(
        "cifar10",
        (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        sha256=("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",),
    ),
}
"""By name of the data set; `digits` has no files."""


def shapes(name: str) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes of images and labels for training, of images and labels for tests."""
    (height, width, channels), _, num_train, num_test, _ = FACTS[name]
    image = (height, width) if channels == 1 else (height, width, channels)
    return (num_train, *image), (num_train,), (num_test, *image), (num_test,)


def stored_files(name: str) -> dict[str, Stored]:
    """Returns how each file of a data set stores its array."""
    files, facts = PUBLISHED[name].files, FACTS[name]
    if files[0].endswith(".bin"):  # each image after its label, channel by channel
        *train, test = files
        height, width, channels = facts.image_shape
        record = 1 + channels * height * width
        sizes = dict.fromkeys(train, facts.num_train // len(train)) | {test: facts.num_test}
        return {file: Stored((size, record), is_idx=False) for file, size in sizes.items()}
    return {
        # QMNIST has seven more columns beside the labels.
        file: Stored((*shape, 8), "int32") if file.endswith("-idx2-int") else Stored(shape)
        for file, shape in zip(files, shapes(name), strict=True)
    }


def to_arrays(name: str, stored: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns images and labels for training and tests from the arrays of the files."""
    if PUBLISHED[name].files[0].endswith(".bin"):
        height, width, channels = FACTS[name].image_shape
        arrays = []
        for records in (np.concatenate(stored[:-1]), stored[-1]):
            planes = records[:, 1:].reshape(-1, channels, height, width)
            arrays += [planes.transpose(0, 2, 3, 1), records[:, 0]]
        return arrays
    return [array[:, 0] if array.dtype.itemsize == 4 else array for array in stored]


def normalised(name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns upright images, and labels from 0 as uint8: 255 stands for any other.

    Args:
        name: Of the data set.
        arrays: As `to_arrays` returns them, or as tensorflow-datasets has them.
    """
    known = PUBLISHED[name]

    def normal(array: np.ndarray) -> np.ndarray:
        if array.ndim > 1:
            return array.swapaxes(1, 2) if known.transposed else array
        labels = array.astype(np.int64) - known.first_label
        return np.where((labels >= 0) & (labels < 255), labels, 255).astype(np.uint8)

    return [np.ascontiguousarray(normal(array)) for array in arrays]
