"""The names of the data sets, and the classes and sizes of each."""

import math
import os
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from mnist_jax.text import bare


class DataFacts(NamedTuple):
    """What a config's check must know of a data set."""

    image_shape: tuple[int, int, int]  # (height, width, channels)
    num_classes: int
    num_train: int  # images, before any are held out
    num_test: int
    checksum: str = ""  # as of `Dataset`, if the data set is the user's own

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "DataFacts":
        """Returns the facts that `_asdict` gave to a run's record.

        Raises:
            ValueError: No data set is like that.
        """
        shape = {"image_shape": tuple(record["image_shape"])}
        facts = cls(**{key: record[key] for key in cls._fields} | shape)
        sizes = (*facts.image_shape, facts.num_classes, facts.num_train)
        if len(sizes) != 5 or min(sizes) < 1 or max(sizes) >= 2**31 or facts.num_test < 0:
            raise ValueError("data: no data set is like that")
        return facts


CLASS_NAMES = {
    "mnist": tuple(string.digits),
    # The data sets' authors' own names, as tensorflow-datasets spells them.
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    # Small letters that look like their capitals share the class of these.
    "emnist_balanced": tuple(string.digits + string.ascii_uppercase + "abdefghnqrt"),
    "emnist_letters": tuple(string.ascii_lowercase),  # small and capital
    "emnist_digits": tuple(string.digits),
    "qmnist": tuple(string.digits),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "digits": tuple(string.digits),
}
DATASETS = tuple(CLASS_NAMES)

FACTS = dict.fromkeys(DATASETS, DataFacts((28, 28, 1), 10, 60_000, 10_000)) | {
    "emnist_balanced": DataFacts((28, 28, 1), 47, 112_800, 18_800),
    "emnist_letters": DataFacts((28, 28, 1), 26, 124_800, 20_800),
    "emnist_digits": DataFacts((28, 28, 1), 10, 240_000, 40_000),
    "qmnist": DataFacts((28, 28, 1), 10, 60_000, 60_000),
    "cifar10": DataFacts((32, 32, 3), 10, 50_000, 10_000),
    "digits": DataFacts((28, 28, 1), 10, 1_437, 360),
}


def is_path(dataset: str) -> bool:
    """Says whether a value of `config.dataset` is the path of the user's own data."""
    return canonical_name(dataset) not in DATASETS


def name_of(dataset: str) -> str:
    """Returns how a data set is called: by its name, or its path's last part."""
    if not is_path(dataset):
        return canonical_name(dataset)
    name = os.path.basename(os.path.normpath(dataset))
    return name if is_path(name) else f"./{name}"


def canonical_name(given: Any) -> Any:
    """Returns the member of DATASETS that differs in case, `-` and `_` alone; else `given`."""
    names = {bare(name): name for name in DATASETS}
    return names.get(bare(given), given) if isinstance(given, str) else given


def num_batches(num_images: int, batch_size: int) -> int:
    """Returns how many batches hold all images; the last one may be partial."""
    return math.ceil(num_images / batch_size)
