"""Runs, read for a report and checked."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_jax import UserError
from mnist_jax.config.columns import split_column
from mnist_jax.config.experiment import MAX_TRIALS
from mnist_jax.data.datasets import name_of
from mnist_jax.data.splits import image_shape
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import chosen_trial, results, shards
from mnist_jax.runs.choosing import is_finite, trained_epochs
from mnist_jax.runs.labels import varying
from mnist_jax.runs.records import Row, columns_of
from mnist_jax.runs.results import Run


def without_latest(workdirs: Sequence[Path]) -> list[Path]:
    """Puts the run in place of the link `latest`, or leaves it out if the run is named, too."""
    links = {path for path in workdirs if os.path.islink(path)}  # any name, also one too long
    folders = {os.path.realpath(path) for path in workdirs if path not in links}
    latest = {path for path in links if path.name == "latest" and os.path.realpath(path) in folders}
    # The link will lead elsewhere tomorrow.
    return [
        path.parent / os.readlink(path) if path in links and path.name == "latest" else path
        for path in workdirs
        if path not in latest
    ]


def read_runs(workdirs: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads finished runs; raises what `read_run` does, and UserError for one named twice."""
    paths = [Path(workdir).resolve() for workdir in workdirs]
    for path, workdir in zip(paths, workdirs, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{workdir}: named twice; expected different runs, name each once")
    return [read_run(workdir) for workdir in workdirs]


def read_so_far(workdir: str | os.PathLike) -> Run:
    """Reads a run as far as it is; a finished one as `read_run`.

    Raises:
        UserError: It has not begun, or is damaged.
    """
    return read_run(workdir) if results.is_finished(workdir) else results.read_so_far(workdir)


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run, and checks that it has what a report needs.

    Raises:
        UserError: It is not finished, damaged, or not of this version.
    """
    try:
        run = results.read_run(workdir)
        whole = _is_whole(run)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise results.unreadable(workdir, "its files are damaged, or another version wrote them")
    path, num_rows = run.workdir / "metrics.jsonl", sum(map(trained_epochs, run.results))
    if path.stat().st_size < 20 * num_rows:  # bytes; a row has more
        error = BadFileError(path, "some epochs of some trials are missing")
        raise results.unreadable(run.workdir, error)
    return run


def _is_whole(run: Run) -> bool:
    """Says whether a run has all that a report reads of it, or raises what a gap in it raises."""
    summary, rows = run.summary, run.results
    varying(summary["grid"])
    shards.cautions(run)
    number, num_shards = shards.shard_of(run.config)

    if not _knows_its_data(run):
        return False
    axes = {point["point"]: [str(point[axis]) for axis in run.axes] for point in summary["grid"]}
    kinds = columns_of(summary["protocol"], ())  # without metrics: a user's may have any value
    columns = [column for column, kind in kinds.items() if kind is float]
    return (
        0 <= number < num_shards <= MAX_TRIALS
        and name_of(run.config.get("dataset", summary["dataset"])) == summary["dataset"]
        and all([str(row[axis]) for axis in run.axes] == axes[row["point"]] for row in rows)
        and all(0 < trained_epochs(row) <= row["num_epochs"] for row in rows)
        and len({row["trial"] for row in rows}) == len(rows)
        and len({(row["point"], row["seed"]) for row in rows}) == len(rows)
        and all(_is_sound(row, columns) for row in rows if not row["diverged_epoch"])
        and {row["dataset"] for row in rows} == {summary["dataset"]}
    )


def _is_sound(row: Row, columns: Sequence[str]) -> bool:
    """Says whether a trial has the numbers that it must; the test images of one that was stopped
    are not scored."""
    if row.get("stopped_epoch"):
        columns = [column for column in columns if split_column(column)[0] != "test"]
    shares = [column for column in columns if "accuracy" in column]
    return all(is_finite(row[x]) for x in columns) and all(0 <= row[x] <= 1 for x in shares)


def _knows_its_data(run: Run) -> bool:
    """Says whether what a run says of its data set can be, and agrees with itself."""
    data, sizes, num_classes = run.summary.get("data"), run.summary["num_images"], 0
    if data is None:  # older versions did not record it
        return len(run.class_names) > 1
    shape, num_classes = data["image_shape"], len(data["class_names"])
    moments = data.get("moments", {"mean": [0.0] * shape[2], "deviation": [1.0] * shape[2]})
    own = run.config.get("data", {"image_shape": shape, "num_classes": num_classes})
    return (
        len(shape) == 3
        and 0 < min(shape) <= max(shape) < 2**16
        and shape[2] <= 4
        and 1 < num_classes <= 2**16
        and {split: sum(counts) for split, counts in data["class_counts"].items()} == sizes
        and all(len(c) == num_classes and min(c) >= 0 for c in data["class_counts"].values())
        and all(len(values) == shape[2] for values in moments.values())
        and min(moments["deviation"]) > 0
        and (own["image_shape"], own["num_classes"]) == (shape, num_classes)
    )


def with_weights(run: Run) -> tuple[Run, dict[str, np.ndarray] | None]:
    """Returns a run and the arrays of its chosen trial; without them, the run says why."""
    if run.progress or "chosen_trial_missing" in run.summary:
        return run, None
    trial = run.summary["chosen_trial"]
    try:
        chosen = chosen_trial.read_chosen_trial(run.workdir)
        shape = image_shape(chosen["mistake_images"])
        seen = tuple(run.summary["data"]["image_shape"]) if "data" in run.summary else shape
        is_of_data = (len(run.class_names), seen) == (chosen["probabilities"].shape[1], shape)
        if not is_of_data or chosen["trial"] != trial:
            problem = f"it is not of trial {trial}, which was chosen"
            raise BadFileError(run.workdir / "chosen_trial.npz", problem)
    except BadFileError as error:  # the results are in other files
        missing = {"chosen_trial_missing": str(error)}
        return run._replace(summary=run.summary | missing), None
    return run, chosen
