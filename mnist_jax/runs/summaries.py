"""The statistics of each grid point, and the file that holds them: `summary.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_jax import stats
from mnist_jax.config.columns import METRICS, split_column
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.disk import to_json, write_text
from mnist_jax.runs.choosing import by_point, choose_trial, sound_values
from mnist_jax.runs.records import Row

FORMAT = 1
"""Of a work directory, as `summary.json` has it (1 where it has none). A higher one is for what an
earlier version of this package would misread."""


def summarise(
    rows: Sequence[Row], axes: Sequence[str], num_images: Mapping[str, int]
) -> list[dict]:
    """Returns, per grid point, the statistics of every measured column of `results.csv`.

    Trials that diverged are named and left out of the statistics; `n` counts the others.
    """
    scales = {column: scale_of(column, num_images) for column in measured(rows[0], axes)}
    return [
        {
            "point": number,
            **{axis: trials[0][axis] for axis in axes},
            "num_trials": len(trials),
            "diverged_seeds": [row["seed"] for row in trials if row["diverged_epoch"]],
            **{key: trials[0][key] for key in ("stopped_epoch",) if key in trials[0]},
            "statistics": {
                column: stats.describe(sound_values(trials, column), scale)
                for column, scale in scales.items()
            },
        }
        for number, trials in by_point(rows).items()
    ]


def measured(row: Row, axes: Sequence[str]) -> list[str]:
    """Returns the columns of `results.csv` that training gives; the others name the trial."""
    named = {"trial", "point", "seed", "dataset", "diverged_epoch", "stopped_epoch", *axes}
    return [column for column in row if column not in named]


def scale_of(column: str, num_images: Mapping[str, int]) -> stats.Scale:
    """Returns the values that a measured column can have: any, for a metric of the user's."""
    split, what = split_column(column)
    if what == "accuracy" or (what in METRICS and METRICS[what].counts):
        return stats.Scale(step=1 / num_images[split], low=0.0, high=1.0)
    if what == "epoch":
        return stats.Scale(step=1.0, low=1.0)
    if what in ("loss", "objective"):  # cross-entropy, and what the penalty adds to it
        return stats.Scale(low=0.0)
    return stats.Scale(low=0.0, high=METRICS[what].high) if what in METRICS else stats.ANY


def write_summary(
    workdir: Path,
    rows: Sequence[Row],
    axes: Sequence[str],
    protocol: str,
    dataset: str,
    num_images: Mapping[str, int],
    provenance: Row,
    **more: Any,
) -> None:
    """Writes `summary.json`: protocol, what was chosen, statistics by grid point, provenance.

    `rows` are those of `results.csv`, `protocol` is a key of `PROTOCOLS`, and `num_images` are by
    split. The file also holds the keys of `more`.
    """
    chosen = choose_trial(rows, protocol)
    summary = {
        "format": FORMAT,
        "dataset": dataset,
        "num_images": dict(num_images),
        "protocol": protocol,
        "chosen_point": chosen["point"] if PROTOCOLS[protocol].criterion else None,
        "chosen_trial": chosen["trial"],
        "grid": summarise(rows, axes, num_images),
        "provenance": provenance,
        **more,
    }
    write_text(workdir / "summary.json", to_json(summary, indent=2) + "\n")
