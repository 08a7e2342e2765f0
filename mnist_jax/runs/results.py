"""What came out of a run: summary statistics, the chosen trial's weights; written and read back.

A work directory holds `config.json` (the resolved experiment), the rows of `records.py`,
`summary.json` (statistics per grid point, and provenance) and `chosen_trial.npz` (weights and test
predictions of one trial).
"""

import contextlib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from mnist_jax import UserError, run_files, stats
from mnist_jax.config.old_records import axes_of, upgrade_record, upgrade_rows
from mnist_jax.config.protocol import PROTOCOLS, Protocol
from mnist_jax.data.datasets import NUM_TEST, NUM_TRAINING_IMAGES
from mnist_jax.data.loading import Dataset
from mnist_jax.disk import to_json, write_bytes, write_text
from mnist_jax.run_files import BadFileError
from mnist_jax.runs.records import Row, columns_of
from mnist_jax.runs.workdirs import damaged, digest
from mnist_jax.text import one_line

NUM_MISTAKES = 24


class Run(NamedTuple):
    """A finished run, as read back from its work directory.

    Attributes:
        workdir: Where it lies.
        config: The resolved experiment, in the keys of this version.
        results: One row per trial.
        summary: Statistics per grid point under `grid`, and `provenance`.
    """

    workdir: Path
    config: Row
    results: list[Row]
    summary: dict

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of its axes."""
        return axes_of(self.config)

    @property
    def metrics(self) -> list[Row]:
        """One row per trial and epoch, in the order in which they were made; read anew."""
        return [json.loads(line) for line in run_files.lines(self.workdir / "metrics.jsonl")]


def summarise(
    rows: Sequence[Row], axes: Sequence[str], num_images: Mapping[str, int]
) -> list[dict]:
    """Returns, per grid point, the statistics of every measured column over its trials.

    Trials that diverged are named and left out of the statistics, whose `n` says how many are in.

    Args:
        rows: Those of `results.csv`.
        axes: Names of the axes.
        num_images: By split, how many it has.
    """
    scales = {column: scale_of(column, num_images) for column in measured(rows[0], axes)}
    return [
        {
            "point": number,
            **{axis: trials[0][axis] for axis in axes},
            "num_trials": len(trials),
            "diverged_seeds": [row["seed"] for row in trials if row["diverged_epoch"]],
            "statistics": {
                column: stats.describe(_sound(trials, column), scale)
                for column, scale in scales.items()
            },
        }
        for number, trials in _by_point(rows).items()
    ]


def _by_point(rows: Sequence[Row]) -> dict[int, list[Row]]:
    points: dict[int, list[Row]] = {}
    for row in rows:
        points.setdefault(row["point"], []).append(row)
    return points


def _sound(trials: Sequence[Row], column: str) -> np.ndarray:
    """Returns a column of the trials that did not diverge."""
    return np.array([row[column] for row in trials if not row["diverged_epoch"]], float)


def measured(row: Row, axes: Sequence[str]) -> list[str]:
    """Returns the columns of `results.csv` that training gives; the others name the trial."""
    named = {"trial", "point", "seed", "dataset", "diverged_epoch", *axes}
    return [column for column in row if column not in named]


class Measure(NamedTuple):
    """What is known of a built-in metric.

    Attributes:
        words: What it is, for readers.
        high: The largest value; the smallest is 0.
        counts: Whether it counts images, and is a share of them.
    """

    words: str
    high: float
    counts: bool = False


MEASURES = {
    "top_2_accuracy": Measure(
        "the share of images whose class is among the two likeliest ones", 1.0, counts=True
    ),
    "brier_score": Measure(
        "the sum over classes of (probability - target) squared, from 0, which is best, to 2", 2.0
    ),
    "confidence": Measure(
        "the probability of the likeliest class, be it right or wrong: where a network is"
        " calibrated, its mean is the accuracy",
        1.0,
    ),
}


def scale_of(column: str, num_images: Mapping[str, int]) -> stats.Scale:
    """Returns which values a measured column can have; of a metric of one's own, any."""
    parts = re.fullmatch(r"(?:best_)?(train|validation|test)_(.+?)(?:_at_best_\w+)?", column)
    split, what = parts.groups() if parts else ("", "")
    if what == "accuracy" or (what in MEASURES and MEASURES[what].counts):
        return stats.Scale(step=1 / num_images[split], low=0.0, high=1.0)
    if what == "epoch":
        return stats.Scale(step=1.0, low=1.0)
    if what in ("loss", "objective"):  # cross-entropy, and what the penalty adds to it
        return stats.Scale(low=0.0)
    return stats.Scale(low=0.0, high=MEASURES[what].high) if what in MEASURES else stats.ANY


def ranked(grid: Sequence[Row], criterion: str | None) -> list[Row]:
    """Returns the grid points from best to worst, by the mean of the criterion.

    Those with trials that diverged come last. Without a criterion they stay in their order.
    """
    if criterion is None:
        return list(grid)

    def rank(point):
        return _rank(len(point["diverged_seeds"]), point["statistics"][criterion]["mean"])

    return sorted(grid, key=rank)


def _rank(num_diverged: int, mean: object) -> tuple[int, float]:
    """Returns what is smaller for better grid points."""
    return num_diverged, -mean if is_finite(mean) else math.inf


def choose_trial(rows: Sequence[Row], protocol: str) -> Row:
    """Returns the best trial of the best grid point; the first sound one where nothing chooses.

    Only the protocol's criterion is looked at. If all diverged, it is the first.
    """
    criterion, trials = PROTOCOLS[protocol].criterion, rows
    if criterion is not None:

        def rank(trials):
            return _rank(count_diverged(trials), stats.mean_of(_sound(trials, criterion)))

        trials = min(_by_point(rows).values(), key=rank)
    sound = [row for row in trials if not row["diverged_epoch"]]
    if not sound:
        return trials[0]
    return sound[0] if criterion is None else max(sound, key=lambda row: row[criterion])


def write_chosen_trial(
    workdir: Path,
    trial: int,
    variables: Mapping,
    probabilities: np.ndarray,
    dataset: Dataset,
    first_kernel: str = "",
) -> None:
    """Writes `chosen_trial.npz`: what a report shows of one trial, readable by `numpy.load`.

    It holds `trial`, the weights as `params/LAYER/NAME`, a module's other collections in the same
    way, `first_kernel`, the name of the one that sees the images, if there is one, `labels` [n] of
    the test images and `probabilities` [n, classes] given to them, and of the most confident
    mistakes the `mistakes` (numbers of the test images) and their `mistake_images`.
    """
    from flax import traverse_util

    labels = dataset.test_labels
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    confident = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    mistakes = wrong[confident][:NUM_MISTAKES]
    flat = traverse_util.flatten_dict(variables, sep="/")
    weights: dict[str, Any] = {name: _in_numpys_types(value) for name, value in flat.items()}
    if first_kernel:
        weights["first_kernel"] = np.asarray(first_kernel)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        trial=trial,
        labels=labels,
        probabilities=probabilities,
        mistakes=mistakes,
        mistake_images=dataset.test_images[mistakes],
        **weights,
    )
    write_bytes(workdir / "chosen_trial.npz", buffer.getvalue())


def _in_numpys_types(value: Any) -> np.ndarray:
    """Returns an array that NumPy's files can hold, which do not know 8 bits and bfloat16."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def read_chosen_trial(workdir: Path) -> dict[str, np.ndarray]:
    """Reads what `write_chosen_trial` wrote, whichever trial it is.

    Raises:
        BadFileError: It is missing or damaged.
    """
    path = workdir / "chosen_trial.npz"
    arrays = run_files.read_arrays(path)
    kinds = {"trial": ("iu", ()), "labels": ("iu", (-1,)), "probabilities": ("f", (-1, -1))}
    images = arrays.get("mistake_images")
    sizes = (-1,) * (4 if images is not None and images.ndim == 4 else 3)  # with channels, or not
    kinds |= {"mistakes": ("iu", (-1,)), "mistake_images": ("u", sizes)}
    run_files.check_arrays(path, arrays, kinds)
    labels, mistakes = arrays["labels"].tolist(), arrays["mistakes"].tolist()
    if not (
        0 < len(labels) == len(arrays["probabilities"])
        and len(mistakes) == len(arrays["mistake_images"])
        and 0 <= min(labels) <= max(labels) < arrays["probabilities"].shape[1]
        and 0 <= min(mistakes, default=0) <= max(mistakes, default=0) < len(labels)
    ):
        raise BadFileError(path, "its arrays do not belong together")
    return arrays


def trial_of_weights(workdir: Path) -> int | None:
    """Returns the trial that `chosen_trial.npz` is of; None if all of it cannot be read."""
    with contextlib.suppress(BadFileError):
        return int(read_chosen_trial(workdir)["trial"])
    return None


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

    Args:
        workdir: The work directory.
        rows: Those of `results.csv`.
        axes: Names of the axes.
        protocol: What chose, a key of `PROTOCOLS`.
        dataset: Name of what was trained on.
        num_images: By split, how many it has.
        provenance: What made them.
        **more: What else a reader must know.
    """
    chosen = choose_trial(rows, protocol)
    summary = {
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


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run back.

    Raises:
        UserError: The directory holds no finished run, or a file in it does not parse.
    """
    path = Path(workdir)
    try:
        config = run_files.read_json(path / "config.json", run_files.CONFIG)
        summary = run_files.read_json(path / "summary.json", run_files.SUMMARY)
        with run_files.opened(path / "metrics.jsonl"):
            pass
        if summary["protocol"] not in PROTOCOLS:
            raise BadFileError(path / "summary.json", "the protocol is unknown")
        columns = columns_of(summary["protocol"], axes_of(config), config.get("metrics", ()))
        results = run_files.read_table(path / "results.csv", columns)
        run = Run(path, config, results, summary)
        _check_origin(run)
        run = _in_keys_of_today(run)
        _restate(run)
    except BadFileError as error:
        raise unreadable(path, error) from None
    return run


def _check_origin(run: Run) -> None:
    """Sees to it that summary.json is of the run that config.json names.

    Raises:
        BadFileError: It is of another, which wrote here after its own folder was moved, say.
    """
    known = digest(run.config, run.summary["provenance"]["data_checksum"])
    if run.summary.get("run", known) != known:  # older versions did not note it
        raise BadFileError(run.workdir / "summary.json", "it is of another run than config.json")


def _in_keys_of_today(run: Run) -> Run:
    """Returns a run as if this version had written it.

    Raises:
        BadFileError: A value of an axis is none.
    """
    for point in run.summary["grid"]:
        if not all(run_files.fits(point.get(axis), _VALUE) for axis in run.axes):
            raise BadFileError(run.workdir / "summary.json", "a point has a value that is none")
    config = upgrade_record(run.config)
    grid = upgrade_rows(run.summary["grid"], run.config, config)
    rows = upgrade_rows(run.results, run.config, config)
    return Run(run.workdir, config, rows, run.summary | {"grid": grid})


_VALUE: run_files.Shape = (bool, int, float, str, None)


def _restate(run: Run) -> None:
    """Computes the statistics of a run's grid points anew, as this version understands them.

    Raises:
        BadFileError: Its rows are not those of its grid.
    """
    summary = run.summary
    num_images = summary.setdefault("num_images", _num_images_of_old(run))
    held_out = filter(None, ("train", "test", protocol(run).held_out))
    if not all(num_images.get(split, 0) > 0 for split in held_out):
        raise BadFileError(run.workdir / "summary.json", "its numbers of images are missing")
    found = summarise(run.results, run.axes, num_images) if run.results else []
    none: Row = {}
    for point, fresh in itertools.zip_longest(summary["grid"], found, fillvalue=none):
        if any(point.get(k) != fresh.get(k) for k in ("point", "num_trials", "diverged_seeds")):
            said = "it does not hold the trials that summary.json counts"
            raise BadFileError(run.workdir / "results.csv", said)
        point["statistics"] = fresh["statistics"]
    if not run.results:
        raise BadFileError(run.workdir / "results.csv", "it has no rows")
    chosen = choose_trial(run.results, summary["protocol"])
    summary["chosen_trial"] = chosen["trial"]
    summary["chosen_point"] = chosen["point"] if protocol(run).criterion else None


def _num_images_of_old(run: Run) -> dict[str, int]:
    """Returns how many images the splits have of a run that is older than the record of it."""
    name, num_validation = run.summary["dataset"], run.config.get("num_validation", 0)
    if name not in NUM_TRAINING_IMAGES:
        return {}
    return {
        "train": NUM_TRAINING_IMAGES[name] - num_validation,
        "validation": num_validation,
        "test": 360 if name == "digits" else NUM_TEST,
    }


def unreadable(workdir: Path, error: BadFileError) -> UserError:
    """Returns what to raise where a finished run is looked for and a file of it is not sound."""
    if error.missing:
        return UserError(
            f"{workdir} holds no finished run: expected {error.path.name} in it; name the work "
            "directory that a run printed"
        )
    if error.denied:
        said = "make it readable, or ask its owner to"
        return UserError(f"{workdir} cannot be read as a run: {error}; {said}")
    return damaged(workdir, error)


# --- what a run says ---


def protocol(run: Run) -> Protocol:
    """Returns how the run was scored and what chose."""
    return PROTOCOLS[run.summary["protocol"]]


class Axis(str):
    """The name of an axis, which knows how many digits tell its values apart."""

    digits: int

    def __new__(cls, name: str, digits: int):
        """Names the axis."""
        axis = super().__new__(cls, name)
        axis.digits = digits
        return axis


_BESIDE_AXES = {"trial", "point", "seed", "dataset", "num_trials", "diverged_seeds", "statistics"}
"""What a grid point, or what names a trial, has beside the axes."""


def varying(grid: Sequence[Row]) -> tuple[Axis, ...]:
    """Returns the axes on which grid points, or trials, have more than one value.

    A point that lacks an axis, or has None there, has no value: its optimizer does not take it.
    """
    axes = [name for name in dict.fromkeys(itertools.chain(*grid)) if name not in _BESIDE_AXES]
    values = {
        axis: {str(point[axis]): point[axis] for point in grid if point.get(axis) is not None}
        for axis in axes
    }
    return tuple(
        Axis(axis, num_digits(found.values())) for axis, found in values.items() if len(found) > 1
    )


def trials_of(run: Run, point: Row) -> list[Row]:
    """Returns the trials of a grid point, as rows of `results.csv`."""
    return [row for row in run.results if row["point"] == point["point"]]


def by_seed(run: Run, point: Row, column: str) -> dict[int, float]:
    """Returns a column of `results.csv` by seed, of a grid point's trials; NaN if one diverged."""
    return {
        row["seed"]: math.nan if row["diverged_epoch"] else row[column]
        for row in trials_of(run, point)
    }


def compare(run: Run, point: Row, other_run: Run, other: Row) -> Row:
    """Compares two grid points, of one run or two, by the test accuracies that count.

    Returns:
        The fields of `stats.Comparison`, of the first less the second, and `identical`: whether
        they are the same, trial by trial, of which nothing is judged.
    """
    sides = [(run, point), (other_run, other)]
    columns = [protocol(side).column for side, _ in sides]
    scales = [
        scale_of(c, side.summary["num_images"]) for c, (side, _) in zip(columns, sides, strict=True)
    ]
    values, others = (by_seed(*side, c) for c, side in zip(columns, sides, strict=True))
    numbers = [
        {row["seed"]: str([row[c] for c in measured(row, side.axes)]) for row in trials_of(side, p)}
        for side, p in sides
    ]
    found = stats.compare(values, others, max(scales, key=lambda scale: scale.step))
    if identical := numbers[0] == numbers[1] and is_finite(found.difference):
        found = found._replace(low=math.nan, high=math.nan, p=math.nan, std=math.nan)
    return found._asdict() | {"identical": identical}


def compare_points(run: Run, point: Row, others: Sequence[Row]) -> list[Row]:
    """Compares a grid point with others, seed by seed, by the test accuracy that counts.

    Returns:
        Per other point, what `compare` returns of it, `point`, its number, and `p_holm`, corrected
        for every pair of points, since the point that is compared has usually been found by
        looking at all of them. Where nothing chooses, a report compares the first, for which the
        pairs with it would do. But its table shows every mean, so the reader, too, finds the best
        by looking: the same family holds whichever point is asked about.
    """
    found = [compare(run, point, run, other) for other in others]
    num_points = len(run.summary["grid"])
    adjusted = stats.holm([test["p"] for test in found], num_points * (num_points - 1) // 2)
    return [
        test | {"point": other["point"], "p_holm": float(p)}
        for test, other, p in zip(found, others, adjusted, strict=True)
    ]


def count_diverged(trials: Sequence[Row]) -> int:
    """Counts the trials whose numbers ceased to be finite."""
    return sum(bool(row["diverged_epoch"]) for row in trials)


def is_finite(value: object) -> TypeGuard[float]:
    """Says whether a value, which may be missing, is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def label(point: Row, axes: Sequence[Axis]) -> str:
    """Names a grid point, or a trial, by its values on some axes, of those that it has."""
    return ", ".join(
        f"{axis.replace('_', ' ')} {shown(point[axis], axis.digits)}"
        for axis in axes
        if point.get(axis) is not None
    )


def shown(value: object, digits: int | None = None) -> str:
    """Writes the value of an axis; by default with the digits that it needs if it is alone."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.{digits or num_digits([value])}g}"
    return one_line(str(value)) or "none"


def num_digits(values: Iterable[object]) -> int:
    """Returns how many digits, 6 or more, tell the numbers among values from each other and 1."""
    numbers = {value for value in values if isinstance(value, float)} | {1.0}
    texts = ({f"{number:.{digits}g}" for number in numbers} for digits in range(6, 18))
    return next((6 + i for i, found in enumerate(texts) if len(found) == len(numbers)), 17)


def count(n: int, noun: str) -> str:
    """Writes a number of things, as in 1 trial, 2 trials."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
