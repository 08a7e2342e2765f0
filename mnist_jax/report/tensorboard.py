"""Event files for TensorBoard: a run there is a trial here, with its hyper-parameters and scalars.

    LOGDIR/RUN/TRIAL/events.out.tfevents.mnist_jax

A file grows while its trial trains. Whatever is there already is compared with what should be, and
not written again; if it is of something else, as of a run that was overwritten, it is replaced.
"""

import math
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_jax import UserError, disk, run_files
from mnist_jax.config.columns import split_column
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.report.points import spanned_axes
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.records import Row, columns_of
from mnist_jax.runs.results import Run, unreadable
from mnist_jax.text import one_line

FILE = "events.out.tfevents.mnist_jax"
FINAL = "final/test_accuracy"
"""The tag of what the HParams page shows: the test accuracy that counts, at a trial's end."""


def check_logdir(given: str) -> Path:
    """Returns the folder of the event files.

    Raises:
        UserError: It is a file, or holds a run; or tensorboardX is not installed.
    """
    path = disk.output_folder(given, "--tensorboard")
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        problem = "expected the package tensorboardX, which is not installed"
        raise UserError(f"--tensorboard: {problem}; pip install tensorboardX") from None
    problem = "is a file" if os.path.lexists(path) and not path.is_dir() else ""
    if any(os.path.lexists(path / name) for name in ("config.json", "metrics.jsonl")):
        problem = "holds a run"
    if problem:
        raise UserError(f"--tensorboard={path}: {problem}; expected a folder of its own")
    return path


def write_events(logdir: Path, runs: Sequence[Run]) -> str:
    """Writes what the event files of runs lack, and returns what to print.

    Raises:
        UserError: They cannot be written, or the epochs of a run cannot be read.
    """
    try:
        hyper: dict[str, Any] = {}
        for run, name in zip(runs, _names(runs), strict=True):
            for folder, named, events in _trials(run):
                hyper |= named
                _write(logdir / name / folder / FILE, events)
        _write(logdir / FILE, [_experiment(hyper | _hyper_in(logdir / FILE))])
    except OSError as error:
        problem = f"{error.filename or logdir} cannot be written ({error.strerror})"
        raise UserError(f"--tensorboard={logdir}: {problem}; choose another folder") from None
    return f"TensorBoard: tensorboard --logdir {one_line(str(logdir))}"


def _names(runs: Sequence[Run]) -> list[str]:
    """Names the folders of runs: by config and directory, or by paths where that is not enough."""
    paths = [run.workdir.resolve() for run in runs]
    pairs = [(run.config["name"], path.name) for run, path in zip(runs, paths, strict=True)]
    names = [_file_name("_".join(dict.fromkeys(pair))) for pair in pairs]
    return names if len(set(names)) == len(names) else [_file_name(str(path)) for path in paths]


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=,+-]+", "_", text).strip("._")[-120:] or "_"


def _trials(run: Run) -> Iterator[tuple[str, Row, list[Any]]]:
    """Yields the folder, the hyper-parameters and the events of each trial that has begun."""
    kinds = columns_of(run.summary["protocol"], (), run.config["metrics"])
    columns = {name: "/".join(split_column(name)) for name, kind in kinds.items() if kind is float}
    results = {row["trial"]: row for row in run.results}
    points = {point["point"]: point for point in run.summary["grid"]}
    epochs: dict[int, list[Row]] = {}
    try:
        for line in run.lines():
            row = run_files.parse_json(line, {"trial": int, "epoch": int, "seed": int})
            if row["epoch"] == len(epochs.setdefault(row["trial"], [])) + 1:
                epochs[row["trial"]].append(row)
    except (run_files.BadFileError, ValueError, RecursionError) as error:
        problem = run_files.BadFileError(run.workdir / "metrics.jsonl", error)
        raise unreadable(run.workdir, problem) from None
    width = len(str(max(run.progress.epochs if run.progress else results)))
    for trial, rows in sorted(epochs.items()):
        point = points[trial // run.config["num_seeds"]]
        values = {axis: point[axis] for axis in spanned_axes(run)} | {"seed": rows[0]["seed"]}
        values = {name: value for name, value in values.items() if value is not None}
        label = "_".join(f"{name}={value}" for name, value in values.items())
        scalars = [{tag: row[name] for name, tag in columns.items() if name in row} for row in rows]
        is_done = not run.progress or run.progress.done[trial] == run.progress.epochs[trial]
        final = results[trial][PROTOCOLS[run.summary["protocol"]].column] if is_done else None
        is_stopped = is_done and bool(results[trial].get("stopped_epoch"))
        yield (
            _file_name(f"trial_{trial:0{width}d}_{label}"),
            values,
            _events(values, scalars, final, is_stopped),
        )


def _events(
    hyper: Row, scalars: Sequence[Mapping[str, float | None]], final: object, is_stopped: bool
) -> list[Any]:
    """Returns the events of a trial: its hyper-parameters, what each epoch measured, its end.

    One that halving stopped has an end, but no accuracy there.
    """
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import hparams

    _, start, end = hparams(hyper, {})
    events = [Event(summary=start)]
    for epoch, measured in enumerate(scalars, start=1):
        events.append(Event(step=epoch, summary=_summary(measured)))
    if is_finite(final):
        events.append(Event(step=len(scalars), summary=_summary({FINAL: final})))
    if is_finite(final) or is_stopped:
        events.append(Event(step=len(scalars), summary=end))
    return events


def _summary(measured: Mapping[str, float | None]) -> Any:
    from tensorboardX.proto.summary_pb2 import Summary

    numbers = {tag: math.nan if value is None else value for tag, value in measured.items()}
    return Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in numbers.items()])


def _experiment(hyper: Row) -> Any:
    """Returns the event that tells the HParams page which columns it has."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import hparams

    return Event(summary=hparams(dict(sorted(hyper.items())), {FINAL: 0.0})[0])


def _hyper_in(path: Path) -> Row:
    """Returns the hyper-parameters of which an earlier call told that page, with some value."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    found: Row = {}
    examples = {1: "", 2: False, 3: 0.0}  # by the numbers of TensorBoard's types
    for event in _read(path)[0]:
        for value in event.summary.value:
            content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            for info in content.experiment.hparam_infos:
                found[info.name] = examples.get(info.type, "")
    return found


# --- files ---


def _read(path: Path) -> tuple[list[Any], int]:
    """Returns the events in a file after the first, which tells its version, and their bytes."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = path.read_bytes() if path.exists() else b""
    events, place = [], 0
    while len(content) >= place + 16:
        (size,) = struct.unpack_from("<Q", content, place)
        end = place + 12 + size
        event, check = content[place + 12 : end], content[end : end + 4]
        if check != struct.pack("<I", masked_crc32c(event)):  # the end is lost, or it is damaged
            break
        events.append(Event.FromString(event))
        place = end + 4
    return events[1:], place


def _write(path: Path, events: Sequence[Any]) -> None:
    """Makes a file hold some events; those that it has stay as they are."""
    from tensorboardX.proto.event_pb2 import Event

    there, size = _read(path)
    for event in there:
        event.ClearField("wall_time")
    if size and [e.SerializeToString() for e in there] == [
        e.SerializeToString() for e in events[: len(there)]
    ]:
        if new := events[len(there) :]:
            with open(path, "r+b") as file:
                file.truncate(size)
                file.seek(size)
                file.write(b"".join(_records(new)))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_bytes(path, b"".join(_records([Event(file_version="brain.Event:2"), *events])))


def _records(events: Iterable[Any]) -> Iterator[bytes]:
    """Yields events as they stand in a file, with the time of now."""
    from tensorboardX.record_writer import masked_crc32c

    for event in events:
        event.wall_time = time.time()
        content = event.SerializeToString()
        header = struct.pack("<Q", len(content))
        check, its_check = (struct.pack("<I", masked_crc32c(x)) for x in (header, content))
        yield header + check + content + its_check
