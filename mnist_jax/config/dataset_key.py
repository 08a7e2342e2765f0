"""The key `dataset`: what a config's check must know of the data set, and where it is."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from mnist_jax.config.keys import bad_value
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.config.settings import SETTINGS
from mnist_jax.data import datasets, loading
from mnist_jax.data.datasets import DataFacts
from mnist_jax.data.splits import Dataset
from mnist_jax.disk import local_path
from mnist_jax.text import bare


def find(spec: str, folders: Sequence[Path]) -> tuple[str, DataFacts, list[Dataset]]:
    """Returns a data set's name and facts; of the user's own the absolute path, and the data too.

    Args:
        spec: A name, or a path.
        folders: Where to look next, if the path is relative and there is nothing of its name here.

    Raises:
        UserError: There is no such data set, or it cannot be used.
    """
    if not datasets.is_path(spec):
        name = datasets.canonical_name(spec)
        return name, datasets.FACTS[name], []
    path = local_path(spec, "--config.dataset")
    place = next((p for p in (path, *(folder / path for folder in folders)) if p.exists()), None)
    if place is None:
        close = difflib.get_close_matches(bare(spec), datasets.DATASETS, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        expected = SETTINGS["dataset"].kind.expected
        raise bad_value("dataset", spec, f"{expected}, and nothing has this path{meant}")
    own = str(place.absolute())
    dataset = loading.load_dataset(own)
    return own, dataset.facts, [dataset]


def count_test(number: int, dataset: str, facts: DataFacts) -> int:
    """Returns how many images become the test set of a data set that has none; 0 if it has one."""
    name = datasets.name_of(dataset)
    if facts.num_test:
        if number:
            raise bad_value("num_test", number, f"0, since {name} has its own test images")
    elif not 0 < number < facts.num_train:
        expected = f"1 to {facts.num_train - 1}, since {name} has no test images: they are cut from"
        raise bad_value("num_test", number, f"{expected} its {facts.num_train} images")
    return number


def count_validation(number: int, protocol: str, num_images: int) -> int:
    """Returns how many of the training images the protocol holds out."""
    if number >= num_images:
        raise bad_value("num_validation", number, f"less than the {num_images} training images")
    if PROTOCOLS[protocol].held_out == "validation":
        return number or num_images // 6
    if number:
        expected = f"0 with protocol={protocol}, which holds none out; --config.protocol=validation"
        raise bad_value("num_validation", number, f"{expected} does")
    return 0
