"""The columns of a run that hold measurements: their names, and what stands in them."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mnist_jax import UserError


class Metric(NamedTuple):
    """What is known of a built-in metric."""

    words: str  # what it is, for readers
    high: float  # the largest value; the smallest is 0
    counts: bool = False  # whether it counts images, and is a share of them


METRICS = {
    "top_2_accuracy": Metric(
        "the share of images whose class is among the two likeliest ones", 1.0, counts=True
    ),
    "brier_score": Metric(
        "the sum over classes of (probability - target) squared, from 0, which is best, to 2", 2.0
    ),
    "confidence": Metric(
        "the probability of the likeliest class, be it right or wrong: where a network is"
        " calibrated, its mean is the accuracy",
        1.0,
    ),
}
"""What can be measured beside loss and accuracy, by functions of `training.metrics`."""
ALWAYS = ("loss", "accuracy", "objective", "epoch")
"""What has columns in every run."""
_COLUMN = re.compile(r"(?:best_)?(train|validation|test)_(.+?)(?:_at_best_\w+)?")


def metric_name(spec: str) -> str:
    """Returns the name of a metric in columns, after that of the split."""
    return spec.rpartition(":")[2]


def at_best(held_out: str | None, metric: str) -> str:
    """Returns the column of a metric of the test set, at the epoch that a split chose."""
    return f"test_{metric}_at_best_{held_out}"


def split_column(column: str) -> tuple[str, str]:
    """Returns the split and the measure that a column holds; empty ones for another column."""
    match = _COLUMN.fullmatch(column)
    return (match[1], match[2]) if match else ("", "")


def check_metrics(specs: Sequence[str], axes: Iterable[str] = ()) -> None:
    """Refuses metrics that would share a column with each other or with an axis."""
    names = [metric_name(spec) for spec in specs]
    clashes = {split_column(axis)[1]: axis for axis in axes}
    for spec, name in zip(specs, names, strict=True):
        built_in = name in ALWAYS or "_at_best_" in name or (name in METRICS and name != spec)
        if names.count(name) > 1 or built_in:
            raise UserError(
                f"--config.metrics={spec}: expected a name of its own, since it makes the columns"
                f" train_{name}, test_{name} and so on; leave it out, or rename it in your file"
            )
        if name in clashes:
            raise UserError(
                f"--config.metrics={spec}: it has a column {clashes[name]}, and so has the axis of"
                " this name; rename one of them in your file"
            )
