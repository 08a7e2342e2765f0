"""Accuracies by epoch, read back from `metrics.jsonl`."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mnist_jax import run_files
from mnist_jax.run_files import BadFileError
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol, unreadable

_TRIAL = re.compile(rb'"trial": ?(\d+)')


def read_curves(run: Run, points: Sequence[Row], trials: Mapping[int, Sequence[Row]]):
    """Reads accuracies by epoch in percent: per point, by split, [its trials, epochs].

    Only the rows of those trials are parsed, since the file may have millions of others.

    Raises:
        UserError: The file does not hold what it should.
    """
    splits = ["train", *filter(None, [protocol(run).held_out])]
    found, places = [], {}
    for point in points:
        mine = trials[point["point"]]
        empty = np.full((len(splits), len(mine), point["num_epochs"]), math.nan)
        arrays = dict(zip(splits, empty, strict=True))
        found.append(arrays)
        places.update({b"%d" % row["trial"]: (arrays, i) for i, row in enumerate(mine)})
    path = run.workdir / "metrics.jsonl"
    shape = {"epoch": int} | {f"{split}_accuracy": float for split in splits}
    try:
        for line in run_files.lines(path):
            trial = _TRIAL.search(line)
            if trial and trial[1] in places:
                row, (arrays, i) = run_files.parse_json(line, shape), places[trial[1]]
                if not 0 < row["epoch"] <= len(arrays["train"][i]):
                    raise ValueError(f"trial {int(trial[1])} has an epoch too many")
                for split in splits:
                    arrays[split][i, row["epoch"] - 1] = 100 * row[f"{split}_accuracy"]
        if any(np.isnan(values).any() for arrays in found for values in arrays.values()):
            raise ValueError("some epochs of some trials are missing")
        for point, arrays in zip(points, found, strict=True):
            _check_curves(run, trials[point["point"]], arrays)
    except (ValueError, RecursionError, BadFileError) as error:
        bad = error if isinstance(error, BadFileError) else BadFileError(path, error)
        raise unreadable(run.workdir, bad) from None
    return found


def _check_curves(run: Run, trials: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError where curves in percent, [trials, epochs], are not those of the trials."""
    p = protocol(run)
    for i, row in enumerate(trials):
        told = {(split, -1): row[f"{split}_accuracy"] for split in arrays}
        if p.choose_epoch:
            best = row[f"best_{p.held_out}_epoch"] - 1
            told[str(p.held_out), best] = row[f"best_{p.held_out}_accuracy"]
        for (split, place), accuracy in told.items():
            if not math.isclose(arrays[split][i, place], 100 * accuracy):
                said = f"{split} accuracy of trial {row['trial']}: not that of results.csv"
                raise ValueError(said)
