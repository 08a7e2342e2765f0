"""What came out of a run: per-epoch rows, per-trial rows, summary statistics, provenance.

A work directory holds `config.json` (the resolved experiment), `metrics.jsonl` (one row per trial
and epoch), `results.csv` (one row per trial) and `summary.json` (statistics per grid point, and
provenance). This file writes them and reads them back; `report.py` draws what it reads.
"""

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from mnist_jax import UserError, __version__
from mnist_jax.data import Dataset

GRID_AXES = ("l2", "learning_rate", "momentum")
"""The hyper-parameters that may be axes of a grid; with the seed they name a trial."""

Row = dict[str, Any]


class Run(NamedTuple):
    """A finished run, as read back from its work directory.

    Attributes:
        workdir: Where it lies.
        config: The resolved experiment.
        metrics: One row per trial and epoch, in the order in which they were made.
        results: One row per trial.
        summary: Statistics per grid point under `grid`, and `provenance`.
    """

    workdir: Path
    config: Row
    metrics: list[Row]
    results: list[Row]
    summary: dict


def create_workdir(workdir: str | os.PathLike) -> Path:
    """Makes the directory of a new run.

    Raises:
        UserError: It already holds a run, or cannot be written.
    """
    path = check_workdir(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    return path


def check_workdir(workdir: str | os.PathLike) -> Path:
    """Refuses what cannot be the directory of a new run, without touching the disk.

    Raises:
        UserError: It already holds a run, or lies where nothing can be written.
    """
    path = Path(workdir).expanduser()
    if (path / "config.json").exists():
        raise UserError(f"--workdir={path} already holds a run; choose another --workdir")
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise _unwritable(path, f"{existing} is a file")
    if not os.access(existing, os.W_OK):
        raise _unwritable(path, f"{existing} is read-only")
    return path


def _unwritable(path: Path, reason: str | None) -> UserError:
    return UserError(f"--workdir={path} cannot be written ({reason}); choose another --workdir")


def write_config(workdir: Path, config: Row) -> None:
    """Writes the resolved experiment; from then on the directory holds a run."""
    write_text(workdir / "config.json", to_json(config, indent=2) + "\n")


def trial_rows(trials: Mapping[str, np.ndarray], dataset: str) -> list[Row]:
    """Returns what names each trial, from its number, seed and hyper-parameters [trials]."""
    return [
        {
            "trial": i,
            "seed": int(trials["seed"][i]),
            "dataset": dataset,
            **{axis: float(trials[axis][i]) for axis in GRID_AXES},
        }
        for i in range(len(trials["seed"]))
    ]


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step, as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def to_json(value: object, indent: int | None = None) -> str:
    """Writes JSON that every reader accepts: numbers that are not finite become null."""

    def plain(x):
        if isinstance(x, Mapping):
            return {k: plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        if isinstance(x, np.generic):
            x = x.item()
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(plain(value), indent=indent)


def record(
    workdir: Path, trials: Sequence[Row], epochs: Iterable[Mapping[str, np.ndarray]]
) -> list[Row]:
    """Writes each epoch's rows to `metrics.jsonl` as it ends, then `results.csv`.

    Args:
        workdir: The work directory.
        trials: One row per trial: its number, seed and hyper-parameters.
        epochs: Per epoch, metrics by name as arrays of shape [trials].

    Returns:
        The rows of `results.csv`: each trial's metrics after the last epoch, then its best epoch
        on the test set (the notebook's protocol) and, where there is a validation split, its best
        epoch on that with the test accuracy there. The earliest of equally good epochs is best.
    """
    best: dict[str, np.ndarray] = {}
    with open(workdir / "metrics.jsonl", "w", encoding="utf-8") as file:
        for epoch, metrics in enumerate(epochs, start=1):
            for row in _rows(trials, {"epoch": epoch}, metrics):
                file.write(to_json(row) + "\n")
            file.flush()
            best = _update_best(best, epoch, metrics)
    rows = _rows(trials, {"num_epochs": epoch}, {**metrics, **best})
    write_text(workdir / "results.csv", _to_csv(rows))
    return rows


def _rows(trials: Sequence[Row], same: Row, columns: Mapping[str, np.ndarray]) -> list[Row]:
    lists = {name: column.tolist() for name, column in columns.items()}
    return [
        {**trial, **same, **{name: values[i] for name, values in lists.items()}}
        for i, trial in enumerate(trials)
    ]


def _update_best(
    best: dict[str, np.ndarray], epoch: int, metrics: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the best epoch so far by trial, under the names of the columns of results.csv."""
    now = {"best_test_accuracy": metrics["test_accuracy"]}
    if "validation_accuracy" in metrics:
        now["best_validation_accuracy"] = metrics["validation_accuracy"]
    updated = {}
    for name, accuracy in now.items():
        columns = {name: accuracy, name.replace("accuracy", "epoch"): np.full(len(accuracy), epoch)}
        if name == "best_validation_accuracy":
            columns["test_accuracy_at_best_validation"] = metrics["test_accuracy"]
        # Written so that a number replaces NaN, and NaN never a number.
        better = ~(best[name] >= accuracy) & ~np.isnan(accuracy) if best else True
        for column, values in columns.items():
            updated[column] = np.where(better, values, best[column]) if best else values
    return updated


def _to_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def summarise(rows: Sequence[Row]) -> list[dict]:
    """Returns, per grid point, the statistics of every measured column over its trials.

    Standard deviations name their divisor: `std_ddof0` is of the population (n), as the notebook's
    error bars, `std_ddof1` of the sample (n - 1), undefined for one trial.
    """
    points: dict[tuple, list[Row]] = {}
    for row in rows:
        points.setdefault(tuple(row[axis] for axis in GRID_AXES), []).append(row)
    named = {"trial", "seed", "dataset", "num_epochs", *GRID_AXES}
    return [
        {
            **dict(zip(GRID_AXES, point, strict=True)),
            "num_trials": len(trials),
            "statistics": {
                column: _statistics(np.array([row[column] for row in trials], float))
                for column in trials[0]
                if column not in named
            },
        }
        for point, trials in points.items()
    ]


def _statistics(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": math.fsum(values) / len(values),  # exact: equal trials tie in any order
        "std_ddof0": values.std(),
        "std_ddof1": values.std(ddof=1) if len(values) > 1 else math.nan,
        "min": values.min(),
        "max": values.max(),
    }


def write_summary(
    workdir: Path,
    rows: Sequence[Row],
    dataset: Dataset,
    provenance: Row,
) -> None:
    """Writes `summary.json`: statistics by grid point, the best trial, and provenance.

    Args:
        workdir: The work directory.
        rows: Those of `results.csv`.
        dataset: What was trained on.
        provenance: What made them, to which that of the data is added.
    """
    chosen_on = "validation" if len(dataset.validation_labels) else "test"
    best = max(rows, key=lambda row: np.nan_to_num(row[f"best_{chosen_on}_accuracy"], nan=-1))
    summary = {
        "dataset": dataset.name,
        "epoch_chosen_on": chosen_on,
        "best_trial": best["trial"],
        "grid": summarise(rows),
        "provenance": {
            **provenance,
            "data_checksum": dataset.checksum,
        },
    }
    write_text(workdir / "summary.json", to_json(summary, indent=2) + "\n")


def provenance() -> Row:
    """Returns what made a result: command, commit, versions and machine."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": _commit(),
        "versions": {
            "mnist_jax": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "machine": _machine(),
    }


def _machine() -> str:
    """Names the processor and the system."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
    return f"{model}, {platform.system()} {platform.machine()}"


def _commit() -> str | None:
    """Returns the commit of the checkout that this package runs from, marked if it is dirty."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run back.

    Raises:
        UserError: The directory holds no finished run, or a file in it does not parse.
    """
    path = Path(workdir)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        with open(path / "metrics.jsonl", encoding="utf-8") as file:
            metrics = [json.loads(line) for line in file]
        with open(path / "results.csv", encoding="utf-8", newline="") as file:
            results = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise UserError(
            f"{path} holds no finished run: expected {Path(error.filename).name} in it; name the "
            "work directory that a run printed"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a run: {error}; repeat the run") from None
    return Run(path, config, metrics, results, summary)


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


# --- what a run says ---


class Protocol(NamedTuple):
    """How a run chose its epochs, in columns of `results.csv` and in words."""

    criterion: str  # the accuracy that chose epochs, grid point and trial
    column: str  # the test accuracy that this choice gave
    highest: str
    words: str
    measure: str
    title: str
    note: str


PROTOCOLS = {
    "test": Protocol(
        criterion="best_test_accuracy",
        column="best_test_accuracy",
        highest="best",
        words="epoch chosen on the test set",
        measure="best-epoch test accuracy",
        title="best-epoch test accuracy (epoch chosen on the test set)",
        note="The images that score an epoch also chose it, the best grid point and the best trial"
        " (the notebook's protocol), so best-epoch accuracies are biased upwards.",
    ),
    "validation": Protocol(
        criterion="best_validation_accuracy",
        column="test_accuracy_at_best_validation",
        highest="max",
        words="epoch chosen on validation images",
        measure="chosen-epoch test accuracy",
        title="test accuracy at the epoch chosen on validation images",
        note="Validation images, cut from the training set, chose the epoch, the best grid point"
        " and the best trial; test images chose none of these. The max is the highest test accuracy"
        " over the trials: it shows their spread and is no result.",
    ),
}


def protocol(run: Run) -> Protocol:
    """Returns how the run chose its epochs."""
    return PROTOCOLS[run.summary["epoch_chosen_on"]]


def varying(run: Run) -> tuple[str, ...]:
    """Returns the grid's axes that have more than one value."""
    return tuple(a for a in GRID_AXES if len({point[a] for point in run.summary["grid"]}) > 1)


def ranked(run: Run) -> list[Row]:
    """Returns the grid points from best to worst, by the mean of what chose the epochs."""

    def key(point):
        mean = point["statistics"][protocol(run).criterion]["mean"]
        return -mean if is_finite(mean) else math.inf

    return sorted(run.summary["grid"], key=key)


def score(run: Run, point: Row) -> tuple[float, float]:
    """Returns mean and population standard deviation of a grid point's test accuracy."""
    statistics = point["statistics"][protocol(run).column]
    mean, std = (statistics[name] for name in ("mean", "std_ddof0"))
    return (mean, std) if is_finite(mean) else (math.nan, math.nan)


def trials_of(run: Run, point: Row) -> list[Row]:
    """Returns the trials of a grid point, as rows of `results.csv`."""
    return [row for row in run.results if all(row[axis] == point[axis] for axis in GRID_AXES)]


def paired_difference(run: Run, point: Row, other: Row, column: str) -> tuple[float, float]:
    """Compares two grid points seed by seed.

    Returns:
        Mean difference of a column of `results.csv`, `point` less `other`, and half the width of
        its 95 % interval (Student).
    """
    from scipy.special import stdtrit

    values, others = (
        {row["seed"]: row[column] for row in trials_of(run, p)} for p in (point, other)
    )
    differences = np.array([values[seed] - others[seed] for seed in values], float)
    n = len(differences)
    half_width = stdtrit(n - 1, 0.975) * differences.std(ddof=1) / math.sqrt(n)
    return math.fsum(differences) / n, half_width


def count_diverged(trials: Sequence[Row]) -> int:
    """Counts the trials with a number that is not finite."""
    return sum(not all(is_finite(v) for k, v in row.items() if k != "dataset") for row in trials)


def is_finite(value: object) -> TypeGuard[float]:
    """Says whether a value, which may be missing, is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def label(point: Row, axes: Sequence[str]) -> str:
    """Names a grid point, or a trial, by its values on some axes."""
    return ", ".join(f"{axis.replace('_', ' ')} {point[axis]:g}" for axis in axes)


def count(n: int, noun: str) -> str:
    """Writes a number of things, as in 1 trial, 2 trials."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
