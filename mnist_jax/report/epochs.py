"""Accuracies and losses by epoch, read back from `metrics.jsonl`."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mnist_jax import run_files
from mnist_jax.config.protocol import Protocol
from mnist_jax.run_files import BadFileError
from mnist_jax.runs.choosing import epochs_done
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol, unreadable

_TRIAL = re.compile(rb'"trial": ?(\d+)')


def read_curves(
    run: Run, points: Sequence[Row], trials: Mapping[int, Sequence[Row]], what: str = "accuracy"
) -> list[dict[str, np.ndarray]]:
    """Reads accuracies, shares of 1, or losses, in nats: per point, by split, [trials, epochs].

    Only the rows of the given trials (by number of the point) are parsed, since the file may have
    millions of others.

    Raises:
        UserError: The file does not hold what it should.
    """
    splits = ["train", *filter(None, [protocol(run).held_out])]
    curves, places = [], {}
    for point in points:
        mine = trials[point["point"]]
        empty = np.full((len(splits), len(mine), epochs_done(point)), math.nan)
        arrays = dict(zip(splits, empty, strict=True))
        curves.append(arrays)
        places.update({b"%d" % row["trial"]: (row, arrays, i) for i, row in enumerate(mine)})
    path = run.workdir / "metrics.jsonl"
    shape = {"epoch": int} | {f"{split}_{what}": float for split in splits}
    try:
        for line in run.lines():
            trial = _TRIAL.search(line)
            if trial and trial[1] in places:
                row, (_, arrays, i) = run_files.parse_json(line, shape), places[trial[1]]
                if run.progress and row["epoch"] > len(arrays["train"][i]):
                    continue  # a resumed run would not keep it
                if not 0 < row["epoch"] <= len(arrays["train"][i]):
                    raise ValueError(f"trial {int(trial[1])} has an epoch too many")
                for split in splits:
                    arrays[split][i, row["epoch"] - 1] = row[f"{split}_{what}"]
        if any(np.isnan(values).any() for arrays in curves for values in arrays.values()):
            raise ValueError("some epochs of some trials are missing")
        for row, arrays, i in places.values():
            _check(protocol(run), row, {split: arrays[split][i] for split in splits}, what)
    except BadFileError as error:
        raise unreadable(run.workdir, error) from None
    except (ValueError, RecursionError) as error:
        raise unreadable(run.workdir, BadFileError(path, error)) from None
    return curves


def read_criterion(
    run: Run, points: Sequence[Row], trials: Mapping[int, Sequence[Row]]
) -> list[np.ndarray]:
    """Reads what chooses points as it is after each epoch: per point, shares of 1 [trials, epochs].

    Where the best epoch counts, it is the highest accuracy until then. Errors are those of
    `read_curves`.
    """
    p = protocol(run)
    held_out = [curves[str(p.held_out)] for curves in read_curves(run, points, trials)]
    return [np.maximum.accumulate(x, axis=1) for x in held_out] if p.choose_epoch else held_out


def _check(p: Protocol, row: Row, curves: Mapping[str, np.ndarray], what: str) -> None:
    """Raises ValueError where the curves [epochs] of a trial are not those of results.csv."""
    recorded = {(split, -1): row[f"{split}_{what}"] for split in curves}
    if p.choose_epoch and what == "accuracy":
        best = row[f"best_{p.held_out}_epoch"] - 1
        recorded[str(p.held_out), best] = row[f"best_{p.held_out}_accuracy"]
    for (split, epoch), value in recorded.items():
        if not math.isclose(curves[split][epoch], value):
            raise ValueError(f"{split} {what} of trial {row['trial']}: not that of results.csv")
