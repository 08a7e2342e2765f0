"""Runs from Python: `run` trains one, `load` opens one, and `RunView` shows what it holds.

The command line and this module execute the same runs in the same directories.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_jax import UserError
from mnist_jax.config.config_files import plain, read_value
from mnist_jax.config.experiment import read_experiment
from mnist_jax.report import one_run, reading
from mnist_jax.report.points import compare_best
from mnist_jax.report.verdict import write_verdict
from mnist_jax.runs.execution import execute, guarded
from mnist_jax.runs.labels import varying
from mnist_jax.runs.progress import quiet
from mnist_jax.runs.stopped import StoppedError
from mnist_jax.runs.trained_trial import TrainedTrial, read_trained_trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class RunView:
    """A run in its directory; what is asked for is read from its files.

    In a notebook it is shown as its verdict, its table and the figures of all its trials; elsewhere
    it prints the first two.

    Attributes:
        path: The directory of the run.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Opens the run in a directory, as `load` does."""
        with _in_python():
            self.path = Path(_path("workdir", workdir)).absolute()  # whatever is current later
            self._run = reading.read_so_far(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Every key with its value, as in `config.json`."""
        return self._run.config

    @property
    def trials(self) -> "DataFrame":
        """A row per trial: what names it, and how it scored, as in `results.csv`."""
        return _frame(self._run.results)

    @property
    def epochs(self) -> "DataFrame":
        """A row per trial and epoch, as in `metrics.jsonl`."""
        return _frame(self._run.metrics)

    @property
    def points(self) -> "DataFrame":
        """A row per grid point: its values on the axes that vary, and the statistics of its trials.

        Of a measured column `x` there are `x_mean`, `x_std` (of the sample), `x_low` and `x_high`
        (ends of the 95 % interval of the mean), `x_min` and `x_max`; trials that diverged are left
        out. Where the run halves its points, `stopped_epoch` is 0 of those that it trained to
        their end.
        """
        grid = self._run.summary["grid"]
        return _frame([_flat(point, varying(grid)) for point in grid])

    @property
    def provenance(self) -> dict[str, Any]:
        """Command, commit, versions, machine, devices, data checksum and seconds of the run."""
        return self._run.summary["provenance"]

    @property
    def verdict(self) -> str:
        """What the result is, in sentences, as in the report."""
        return write_verdict(self._run, compare_best(self._run))

    @property
    def figures(self) -> "dict[str, Callable[[], Figure]]":
        """What draws the figures of the report, by name: functions that return a figure."""
        run, chosen = reading.with_weights(self._run)
        drawn = one_run.figures_of_run(run, chosen)
        return {name: functools.partial(_draw, draw) for name, draw in drawn.items()}

    @functools.cached_property
    def best(self) -> TrainedTrial:
        """The chosen trial: `params`, and `predict` from images to probabilities."""
        with _in_python():
            return read_trained_trial(self.path)

    def trial(self, number: int) -> TrainedTrial:
        """Returns a trial whose weights were kept, as `best`.

        Raises:
            UserError: There is no such trial, or its weights were not kept.
        """
        with _in_python():
            return read_trained_trial(self.path, number)

    def __repr__(self) -> str:
        return one_run.describe(self.path)

    def _repr_html_(self) -> str:
        return one_run.in_notebook(self._run)


def run(
    config: Any = None,
    /,
    *,
    seed: int | Sequence[int] | None = None,
    workdir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    overwrite: bool = False,
    report: bool = True,
    progress: bool | None = None,
    **keys: Any,
) -> RunView:
    """Trains what a config asks for, or resumes it, and returns the run.

        run = mnist_jax.run("l2_sweep", dataset="digits", num_epochs=5, num_seeds=3)

    The run uses the devices that JAX has. Any number of runs may follow each other in a process, or
    be in threads; programs that were compiled are used again where learning rates, seeds and other
    traced values alone have changed. Ctrl-C, or the stop button of a notebook, ends it after the
    epoch, and what is there is returned: the same call with the same `workdir` goes on.

    Args:
        config: What `--config` names, or a config as `default_config` returns it, or a mapping
            with some keys; by default none, so that all other keys have their defaults.
        seed: Of the first repeated trial, which the others follow, or all seeds.
        workdir: Where the results go; by default a new directory in `runs`. What the same run
            left there is not trained again.
        data_dir: The folder with the data set's files.
        overwrite: Whether another run in `workdir` is deleted first.
        report: Whether a report with its figures is written.
        progress: Whether a bar is shown; by default in terminals and notebooks.
        **keys: Values in place of the config's; several values of an axis span a grid.

    Raises:
        UserError: Something of the input is bad; the message says what was expected.
    """
    with _in_python():
        workdir = None if workdir is None else _path("workdir", workdir)
        data_dir = None if data_dir is None else _path("data_dir", data_dir)
        if overwrite not in (True, False):  # any other may be meant as no, and delete a run
            raise UserError(f"overwrite={overwrite!r}: expected True or False")
    given: Any = {} if config is None else config
    if isinstance(config, os.PathLike):
        given = os.fspath(config)

    def command(path: Path) -> str:
        words = [f"--config={path / 'config.json'}"]  # where no other file has the config
        if isinstance(given, str):
            words = [f"--config={Path(given)}"]
            words += [f"--config.{key}={_typed(value)}" for key, value in keys.items()]
            words += [f"--seed={_typed(seed)}"] * (seed is not None)
        words += [f"--data_dir={data_dir}"] * (data_dir is not None)
        return shlex.join(["python", "-m", "mnist_jax.main", *words])

    with _in_python():
        _refuse_objects(keys)
        experiment = read_experiment(given, keys, seed)
        try:
            done = execute(
                experiment,
                workdir,
                data_dir,
                overwrite,
                command=command,
                display=quiet(bar=_is_watched() if progress is None else progress),
            )
            if report:
                with guarded(done.path, overwrite):
                    one_run.write_report(done.path)
        except StoppedError as stopped:
            print(_words(str(stopped)), file=sys.stderr)
            if stopped.number != signal.SIGINT:
                sys.exit(128 + stopped.number)
            try:
                return load(stopped.path)
            except UserError:
                raise KeyboardInterrupt from None
    if done.failure:
        print(f"warning: {done.failure}", file=sys.stderr)
    return RunView(done.path)


def _refuse_objects(keys: Mapping[str, Any]) -> None:
    """Refuses arrays and code in place of the files that a run can note, and says what to do."""
    data = keys.get("dataset", "")
    if not isinstance(data, str | os.PathLike):
        raise UserError(
            f"dataset={type(data).__name__}: expected a name or a path, so that the run notes which"
            " data it has; numpy.savez('mine.npz', x_train=..., y_train=...) makes such a file"
        )
    for key in ("model", "optimizer", "metrics"):
        if callable(code := keys.get(key)):
            name = getattr(code, "__name__", "NAME")
            raise UserError(
                f"{key}={code}: expected a name, so that the run has a copy of the code; put it"
                f" into a file, and give {key}='FILE.py:{name}'"
            )


def load(workdir: str | os.PathLike) -> RunView:
    """Opens the run in a directory.

    Raises:
        UserError: There is none, or its files are damaged.
    """
    return RunView(workdir)


def _path(name: str, value: Any) -> str:
    """Returns a path as text."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UserError(f"{name}={value!r}: expected a path, as text or a pathlib.Path")
    return text


def _frame(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    import pandas as pd

    return pd.DataFrame(rows)


def _flat(point: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """Returns a grid point with its statistics as columns of their own."""
    flat = {str(name): point.get(name) for name in ("point", *axes, "num_trials")}
    flat["num_diverged"] = len(point["diverged_seeds"])
    if "stopped_epoch" in point:
        flat["stopped_epoch"] = point["stopped_epoch"]
    for column, found in point["statistics"].items():
        low, high = found["interval_95"]
        ends = {"mean": found["mean"], "std": found["std_ddof1"], "low": low, "high": high}
        ends |= {"min": found["min"], "max": found["max"]}
        flat |= {f"{column}_{name}": value for name, value in ends.items()}
    return flat


def _draw(draw: Callable[[], Any]) -> "Figure":
    from mnist_jax.report.figures import canvas

    with canvas.drawing():
        figure, _caption = draw()
    # A notebook knows how to show the figures of pyplot alone.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _is_watched() -> bool:
    """Says whether somebody may look at a bar: in a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _typed(value: Any) -> str:
    """Returns a value as it is typed on the command line."""
    value = plain(value)
    if isinstance(value, str):
        return value
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if read_value(text) == value else repr(value)


@contextlib.contextmanager
def _in_python() -> Iterator[None]:
    """Words an error as of a call, and not of a command."""
    try:
        yield
    except UserError as error:
        raise UserError(_words(str(error))) from None


def _words(text: str) -> str:
    """Returns a message that names flags in words for those who call `run`."""
    text = text.replace("the same command", "the same call").replace("--config.", "")
    text = text.replace("leave the flag out", "leave it out")
    text = text.replace("give --shard=", "python -m mnist_jax.main has shards, by its --shard=")
    text = re.sub(r"(give|without) --overwrite\b", r"\1 overwrite=True", text)
    return re.sub(r"--(config|seed|workdir|data_dir|overwrite)\b", r"\1", text)
