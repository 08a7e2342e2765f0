"""The names of the data sets, and the classes and sizes of each."""

import math
import re
from typing import Any

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    # The data sets' authors' own names, as tensorflow-datasets spells them.
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "digits": tuple("0123456789"),
}
DATASETS = tuple(CLASS_NAMES)

NUM_TRAIN, NUM_TEST = 60_000, 10_000  # of mnist, fashion_mnist and kmnist alike
NUM_TRAINING_IMAGES = {name: 1_437 if name == "digits" else NUM_TRAIN for name in DATASETS}


def canonical_name(given: Any) -> Any:
    """Returns the member of DATASETS that differs in case, `-` and `_` alone; else `given`."""
    names = {plain(name): name for name in DATASETS}
    return names.get(plain(given), given) if isinstance(given, str) else given


def plain(name: str) -> str:
    """Returns a name in lower case without `-` and `_`."""
    return re.sub("[-_]", "", name.lower())


def num_batches(num_images: int, batch_size: int) -> int:
    """Returns how many batches hold all images; the last one may be partial."""
    return math.ceil(num_images / batch_size)
