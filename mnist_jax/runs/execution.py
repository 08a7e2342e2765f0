"""A run from start to end: its directory, its data, the training, its summary."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax import UserError, disk, run_files
from mnist_jax.config import user_code
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.old_records import axes_of
from mnist_jax.data import cache, splits
from mnist_jax.runs import made_files, summaries, workdirs
from mnist_jax.runs.progress import COMMAND_LINE, Display
from mnist_jax.runs.provenance import Process
from mnist_jax.runs.stopped import StoppedError
from mnist_jax.training import hosts
from mnist_jax.training.jax_setup import jax_for


class Execution(NamedTuple):
    """How the execution of a run ended."""

    path: Path  # of its directory
    was_finished: bool  # before, so that nothing was trained
    failure: str  # that no trial came to a sound end, and what to do; else empty


def execute(
    experiment: Experiment,
    workdir: str | None = None,
    data_dir: str | None = None,
    overwrite: bool = False,
    *,
    job: str | None = None,
    timeout: int = hosts.TIMEOUT,
    display: Display = COMMAND_LINE,
    command: Callable[[Path], str] | None = None,
) -> Execution:
    """Runs an experiment from its data to its summary, or resumes it; writes no report.

    Args:
        experiment: What to train.
        workdir: The directory of the run; by default a new one in `runs`.
        data_dir: As `load_dataset` takes it.
        overwrite: Whether a run that the directory holds is deleted first.
        job: As `hosts.join` takes it.
        timeout: Seconds for the processes of the job to meet.
        display: How to tell what the run does.
        command: Returns what repeats the run in a directory; by default that is the command of this
            process.

    Raises:
        UserError: Something of the input is bad, or the run cannot continue.
        StoppedError: A signal stopped the run, and all is saved; or it was interrupted.
        OSError: The output cannot be written.
    """
    if workdir is None:
        path = workdirs.new_workdir(experiment.name)
    else:
        path = disk.output_folder(workdir, "--workdir")
    process = Process(command and command(path))
    config = experiment.record()

    def check_workdir() -> str:
        return workdirs.check_workdir(path, config, overwrite, why_not)

    def why_not(recorded: Mapping[str, Any], differ: Collection[str]) -> str | None:
        from mnist_jax.runs import growth  # whose imports take time

        if (reason := growth.why_not(path, experiment, recorded, differ)) == "" and job is not None:
            return "it can grow to this, but by one process: leave --distributed out"
        return reason

    def is_finished() -> bool:
        return check_workdir() == "finished"

    if job is None and is_finished():  # JAX need not start
        return _finished_before(path)
    cache.cache_folder()  # a bad name is refused before anything is written
    if job is None and experiment.shard == "0/1":
        hosts.say_if_alone()
    with jax_for(experiment, job=job, timeout=timeout, common=process.deciding) as devices:
        config = hosts.first(lambda: workdirs.as_recorded(path, config))
        if job is not None and hosts.first(is_finished):
            return _finished_before(path)

        from mnist_jax.runs import growth, runner
        from mnist_jax.training import recipes

        recipes.check(experiment)
        dataset = experiment.load_data(data_dir)
        hosts.compare({"data files": dataset.checksum})
        with guarded(path, overwrite), ExitStack() as stack:

            def lock_workdir() -> tuple[str, bool]:
                stack.enter_context(workdirs.lock_workdir(path))
                # It may have changed since.
                state = check_workdir()
                if state in ("unfinished", "smaller"):
                    growth.finish(path)
                return state, overwrite and (path / "config.json").exists()

            def open_workdir() -> None:
                workdirs.open_workdir(path, config, overwrite)
                user_code.save(path, experiment.own_files)
                process.begin(path, dataset.checksum, devices, experiment.own_files)
                if workdir is None:
                    workdirs.link_latest(path)

            state, holds_another = hosts.first(lock_workdir)
            if state == "finished":
                return _finished_before(path)
            process.seconds["load"] = process.total
            if state == "smaller" and growth.grow(
                path, experiment, config, dataset, process, display
            ):
                process = Process(command and command(path))
            trials = runner.Runner(path, experiment, dataset, process, config, display)
            if holds_another:
                trials.rehearse()
            hosts.first(open_workdir)
            trials.train()
            if hosts.is_first():
                provenance = {"devices": trials.devices, "data_checksum": dataset.checksum}
                data = dataset.describe()
                if "standard" in experiment.values["scaling"]:
                    data["moments"] = splits.moments(dataset.train_images)._asdict()
                summaries.write_summary(
                    path,
                    trials.rows,
                    axes_of(config),
                    experiment.protocol,
                    dataset.name,
                    dataset.num_images,
                    process.record() | provenance,
                    data=data,
                    run=workdirs.digest(config, dataset.checksum),
                )
                made_files.tidy(path)
        return Execution(path, False, _failure(trials))


@contextlib.contextmanager
def guarded(path: Path, overwrite: bool = False) -> Iterator[None]:
    """Says of whatever ends the execution or the report of a run how the run is resumed.

    Raises:
        UserError: In place of OSError, unless that is of the output.
        StoppedError: In place of KeyboardInterrupt, too.
    """
    resume = functools.partial(workdirs.how_to_resume, path, overwrite)
    try:
        yield
    except StoppedError as stopped:
        raise StoppedError(stopped.number, f"{stopped}: {resume()}", path) from None
    except OSError as error:
        if disk.is_of_output(error):
            raise
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise UserError(f"the run cannot continue ({reason}); mend that, and {resume()}") from None
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # ^C stands in the line
        what = f"interrupted; {resume()}"
        raise StoppedError(signal.SIGINT, what, path) from None


def _finished_before(path: Path) -> Execution:
    """Returns how the execution of a run that was finished ends, in a job for the first process."""
    failure = ""
    if hosts.is_first():
        workdirs.tidy_finished(path)
        try:
            grid = run_files.read_json(path / "summary.json", run_files.SUMMARY)["grid"]
        except run_files.BadFileError as error:
            from mnist_jax.runs import results

            raise results.unreadable(path, error) from None
        ended = [point for point in grid if not point.get("stopped_epoch")]
        if all(len(point["diverged_seeds"]) == point["num_trials"] for point in ended):
            failure = _all_diverged(len(ended) < len(grid))
    return Execution(path, True, failure)


def _all_diverged(halved: bool, cure: str = "lower the learning rate") -> str:
    """Says that every trial diverged that halving did not stop, and what to do."""
    return f"every trial{' that was trained to the end' * halved} diverged; {cure}"


def _failure(trials: Any) -> str:
    """Says that no trial of a runner came to a sound end, and what to do; else an empty string."""
    ended = [row for row in trials.rows if not row.get("stopped_epoch")]
    epochs = {row["diverged_epoch"] for row in ended}
    if 0 in epochs:
        return ""
    if epochs == {1} and trials.has_own_files and not trials.starts_finite():
        cure = "the model's logits are not finite before any training, so mend the model"
        return _all_diverged(False, cure)
    return _all_diverged(len(ended) < len(trials.rows))
