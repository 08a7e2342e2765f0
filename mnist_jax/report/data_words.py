"""What a report says of a run's data set: its images, classes and splits."""

from collections.abc import Sequence

from mnist_jax.data.datasets import FACTS
from mnist_jax.runs.results import Run
from mnist_jax.text import first_of

_SPLITS = {"train": "training", "validation": "validation", "test": "test"}
_COLORS = {1: "grey", 2: "of 2 channels", 3: "of 3 channels", 4: "of 4 channels"}
MAX_NAMES = 12  # of classes that are listed


def data_words(run: Run) -> str:
    """Describes the data set in sentences, as far as the run recorded it."""
    data, names = run.summary.get("data") or run.config.get("data"), run.class_names
    known = FACTS.get(run.summary["dataset"])
    shape: Sequence[int] = data["image_shape"] if data else known.image_shape if known else ()
    size = f" of {shape[0]} x {shape[1]} pixels, {_COLORS[shape[2]]}," if shape else ""
    listed = f": {first_of(names, MAX_NAMES)}" if names else ""
    sentences = [f"Images{size} in {run.num_classes} classes{listed}."]
    counts = data.get("class_counts", {}) if data else {}
    sizes = [
        f"{number:,} {_SPLITS[split]}{_by_class(counts.get(split, ()))}"
        for split, number in run.summary["num_images"].items()
        if number and split in _SPLITS
    ]
    sentences.append(f"Images by split: {', '.join(sizes)}.")
    if data and "moments" in data:
        mean, deviation = (
            ", ".join(f"{x:.4g}" for x in data["moments"][key]) for key in ("mean", "deviation")
        )
        sentences.append(
            f"With scaling=standard, pixels are scaled by mean {mean} and deviation {deviation} of"
            " the training images" + ", by channel" * (", " in mean) + "."
        )
    return " ".join(sentences)


def _by_class(counts: Sequence[int]) -> str:
    """Says how many images the classes have: all the same, or from fewest to most."""
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f" ({low:,} a class)" if low == high else f" ({low:,} to {high:,} a class)"
