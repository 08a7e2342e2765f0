"""Runs one experiment: every trial of a config's grid, in one compiled program.

    python -m mnist_jax.main --config=l2_sweep [--config.KEY=VALUE ...]

The same command with the same --workdir resumes an interrupted run.
"""
# JAX and the other heavy packages are imported once the input has been checked, so that `--help`
# and an error answer at once.

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from absl import flags

from mnist_jax import UserError, cli, disk, run_files
from mnist_jax.config import user_code
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.old_records import axes_of
from mnist_jax.data import cache, splits
from mnist_jax.runs import summaries, workdirs
from mnist_jax.runs.provenance import Process
from mnist_jax.training import hosts
from mnist_jax.training.jax_setup import jax_for


def run(
    experiment: Experiment,
    workdir: str | None,
    data_dir: str | None,
    overwrite: bool = False,
    job: str | None = None,
    timeout: int = hosts.TIMEOUT,
) -> None:
    """Runs an experiment from data to report, or resumes it."""
    process = Process()
    if workdir is None:
        path = workdirs.new_workdir(experiment.name)
    else:
        path = disk.output_folder(workdir, "--workdir")
    config = experiment.record()

    def is_finished() -> bool:
        return workdirs.check_workdir(path, config, overwrite) == "finished"

    if job is None and is_finished():  # JAX need not start
        _show(path)
        return
    cache.cache_folder()  # a bad name is refused before anything is written
    if job is None and experiment.shard == "0/1":
        hosts.say_if_alone()
    with jax_for(experiment, job=job, timeout=timeout, common=process.deciding) as devices:
        config = hosts.first(lambda: workdirs.as_recorded(path, config))
        if job is not None and hosts.first(is_finished):
            _show(path)
            return

        from mnist_jax.runs import runner
        from mnist_jax.training import recipes

        recipes.check(experiment)
        dataset = experiment.load_data(data_dir)
        hosts.compare({"data files": dataset.checksum})
        try:
            with ExitStack() as stack:

                def lock_workdir() -> tuple[str, bool]:
                    stack.enter_context(workdirs.lock_workdir(path))
                    # It may have changed since.
                    state = workdirs.check_workdir(path, config, overwrite)
                    return state, overwrite and (path / "config.json").exists()

                def open_workdir() -> None:
                    workdirs.open_workdir(path, config, overwrite)
                    user_code.save(path, experiment.own_files)
                    process.begin(path, dataset.checksum, devices, experiment.own_files)
                    if workdir is None:
                        workdirs.link_latest(path)

                state, holds_another = hosts.first(lock_workdir)
                if state == "finished":
                    _show(path)
                    return
                process.seconds["load"] = process.total
                trials = runner.Runner(path, experiment, dataset, process, config)
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
                    print(f"\n{_report(path)}")
        except OSError as error:
            if cli.is_of_output(error):
                raise
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise UserError(
                f"the run cannot continue ({reason}); mend that, and {workdirs.how_to_resume(path)}"
            ) from None
        except KeyboardInterrupt:
            mark = "\n" * sys.stderr.isatty()  # ^C stands in the line
            print(f"{mark}interrupted; {workdirs.how_to_resume(path)}", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        at_once = {row["diverged_epoch"] for row in trials.rows} == {1}
        cure = "lower the learning rate"
        if at_once and experiment.own_files and not trials.starts_finite():
            cure = "the model's logits are not finite before any training, so mend the model"
        _end(all(row["diverged_epoch"] for row in trials.rows), cure)


def _show(path: Path) -> None:
    if hosts.is_first():
        print(f"{path} holds this run, finished: nothing is trained again\n\n{_report(path)}")
        grid = run_files.read_json(path / "summary.json", run_files.SUMMARY)["grid"]
        _end(all(len(point["diverged_seeds"]) == point["num_trials"] for point in grid))


def _report(path: Path) -> str:
    """Writes the report of a finished run, if that can be done, and returns what to print."""
    from mnist_jax.report import one_run, saving

    try:
        return one_run.write_report(path)
    except saving.UnwritableError as error:
        print(f"warning: {error}", file=sys.stderr)
        return one_run.describe(path)


def _end(all_diverged: bool, cure: str = "lower the learning rate") -> None:
    if all_diverged:
        print(f"every trial diverged; {cure}", file=sys.stderr)
        sys.exit(3)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags name."""
    experiment = cli.read_flags(argv)
    try:
        given = cli.FLAGS
        job = given.distributed, given.distributed_timeout
        run(experiment, given.workdir, given.data_dir, given.overwrite, *job)
    except Exception as error:
        hosts.leave(error)


def define_flags() -> None:
    """Defines the program's flags."""
    cli.define_flags()
    for name in (*cli.SHARED, *cli.OF_A_RUN):
        flags.declare_key_flag(name)


if __name__ == "__main__":
    cli.run_command(main, define_flags)
