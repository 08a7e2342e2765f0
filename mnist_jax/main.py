"""Runs one experiment: every trial of a config's grid, in one compiled program.

    python -m mnist_jax.main --config=l2_sweep [--config.KEY=VALUE ...]

The same command with the same --workdir resumes an interrupted run.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from mnist_jax import cli
from mnist_jax.config.experiment import Experiment
from mnist_jax.runs.execution import execute, guarded
from mnist_jax.runs.stopped import StoppedError
from mnist_jax.training import hosts


def run(
    experiment: Experiment,
    workdir: str | None,
    data_dir: str | None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Runs an experiment as `execute` does, and prints its report; exits if it was stopped."""
    try:
        path, was_finished, failure = execute(experiment, workdir, data_dir, overwrite, **options)
        if hosts.is_first():
            report = _report(path, overwrite)  # first: a run that cannot be read is one line
            if was_finished:
                print(f"{path} holds this run, finished: nothing is trained again")
            print(f"\n{report}")
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.number)
    if failure:
        print(failure, file=sys.stderr)
        sys.exit(3)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags name."""
    experiment = cli.read_flags(argv)
    given = cli.FLAGS
    job = {"job": given.distributed, "timeout": given.distributed_timeout}
    try:
        run(experiment, given.workdir, given.data_dir, overwrite=given.overwrite, **job)
    except Exception as error:
        hosts.leave(error)


def _report(path: Path, overwrite: bool) -> str:
    """Writes the report of a finished run, if that can be done, and returns what to print."""
    from mnist_jax.report import one_run, saving

    with guarded(path, overwrite):
        try:
            return one_run.write_report(path)
        except saving.UnwritableError as error:
            print(f"warning: {error}", file=sys.stderr)
            return one_run.describe(path)


def define_flags() -> None:
    """Defines the program's flags."""
    cli.define_flags()
    for name in (*cli.SHARED, *cli.OF_A_RUN):
        flags.declare_key_flag(name)


if __name__ == "__main__":
    cli.run_command(main, define_flags)
