"""Runs one experiment: every trial of a config's grid, in one compiled program.

    python -m mnist_jax.main --config=configs/l2_sweep.py [--config.KEY=VALUE ...]

The same command with the same --workdir goes on where an interrupted run stopped. Jax and the other
heavy packages are imported after the input has been checked, so that `--help` and a mistake answer
at once.
"""

import io
import itertools
import os
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from absl import app, flags, logging

from mnist_jax import UserError, cache, disk, hosts, own_files, results, workdirs
from mnist_jax.config_files import EXPECTED, advice
from mnist_jax.data import load_data
from mnist_jax.experiment import Experiment, read_experiment
from mnist_jax.keys import find_axes
from mnist_jax.provenance import Process
from mnist_jax.recorded import axes_of
from mnist_jax.settings import SETTINGS
from mnist_jax.start import configure_jax

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "config",
    None,
    "The experiment, such as configs/l2_sweep.py, whose keys --config.KEY=VALUE overrides; or the "
    "config.json of a run, which is then run again.",
)
flags.DEFINE_string(
    "seed",
    None,
    "Seed of the first repeated trial, which the others follow, or all seeds, as in 42,123,456; "
    "by default 0.",
)
flags.DEFINE_string("workdir", None, "Where results go; by default runs/<config name>/<UTC time>.")
flags.DEFINE_bool("overwrite", False, "Whether a run that --workdir holds is deleted first.")
flags.DEFINE_string(
    "data_dir", None, "Folder with the data set's files; by default $MNIST_JAX_DATA_DIR."
)
flags.DEFINE_string(
    "shard",
    None,
    "i/n: only every n-th trial, from number i on; mnist_jax.report puts the n runs together.",
)
flags.DEFINE_string(
    "distributed",
    None,
    "Trains with the other processes of a job: auto in a cluster, else i/n@host:port for process "
    "i of n, the first of which listens there.",
)
flags.DEFINE_integer(
    "distributed_timeout",
    hosts.TIMEOUT,
    "Seconds that the processes of a job may take to come together.",
    lower_bound=1,
)


def run(
    experiment: Experiment,
    workdir: str | None,
    data_dir: str | None,
    overwrite: bool = False,
    job: str | None = None,
    timeout: float = hosts.TIMEOUT,
) -> None:
    """Runs an experiment from data to report, or goes on with it."""
    process = Process()
    path = workdirs.new_workdir(experiment.name) if workdir is None else _workdir(workdir)
    config = experiment.record()
    if job is None:
        config = workdirs.as_recorded(path, config)

    def is_finished() -> bool:
        return workdirs.check_workdir(path, config, overwrite) == "finished"

    if job is None and is_finished():  # for which JAX need not start
        _show(path)
        return
    cache.cache_folder()  # its name is refused before anything is written
    if job is None and experiment.shard == "0/1":
        hosts.say_if_alone()
    devices = configure_jax(experiment, job=job, timeout=timeout, common=process.deciding)
    config = hosts.first(lambda: workdirs.as_recorded(path, config))
    if job is not None and hosts.first(is_finished):
        if hosts.is_first():
            _show(path)
        return

    from mnist_jax import recipes, runner

    recipes.check(experiment)
    dataset = load_data(experiment, data_dir)
    hosts.compare({"data files": dataset.checksum})
    try:
        with ExitStack() as stack:

            def lock_workdir() -> tuple[str, bool]:
                stack.enter_context(workdirs.lock_workdir(path))
                state = workdirs.check_workdir(path, config, overwrite)  # it may have changed since
                return state, overwrite and (path / "config.json").exists()

            def open_workdir() -> None:
                workdirs.open_workdir(path, config, overwrite)
                own_files.save(path, experiment.own_files)
                process.begin(path, dataset.checksum, devices, experiment.own_files)

            state, holds_another = hosts.first(lock_workdir)
            if state == "finished":
                if hosts.is_first():
                    _show(path)
                return
            process.seconds["load"] = process.total
            trials = runner.Runner(path, experiment, dataset, process, config)
            if holds_another:
                trials.rehearse()
            hosts.first(open_workdir)
            trials.train()
            if hosts.is_first():
                made = process.record() | {"devices": trials.devices}
                made["data_checksum"] = dataset.checksum
                run = workdirs.digest(config, dataset.checksum)
                results.write_summary(
                    path,
                    trials.rows,
                    axes_of(config),
                    experiment.protocol,
                    dataset.name,
                    dataset.num_images,
                    made,
                    run=run,
                )
                print(_report(path))
    except OSError as error:
        if _is_of_output(error):
            raise
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise UserError(
            f"the run cannot go on ({reason}); mend that, and {workdirs.how_to_go_on(path)}"
        ) from None
    except KeyboardInterrupt:
        print(f"interrupted; {workdirs.how_to_go_on(path)}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    _end(trials.rows)


def _show(path: Path) -> None:
    print(f"{path} holds this run, finished: nothing is trained again\n\n{_report(path)}")
    _end(results.read_run(path).results)


def _report(path: Path) -> str:
    """Writes the report of a finished run, if that can be done, and returns what to print."""
    from mnist_jax import pages, report

    try:
        return report.write_report(path)
    except pages.UnwritableError as error:
        print(f"warning: {error}", file=sys.stderr)
        return report.describe(path)


def _end(rows: list[results.Row]) -> None:
    if results.count_diverged(rows) == len(rows):
        print("every trial diverged; lower the learning rate", file=sys.stderr)
        sys.exit(3)


def _workdir(given: str) -> Path:
    if not given:
        raise UserError("--workdir=: expected a folder; name one, or leave the flag out")
    return disk.local_path(given, "--workdir")


def read_flags(argv: list[str]) -> Experiment:
    """Returns the experiment that the command line names, checked."""
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"{argv[1]}: unexpected; every option is a flag, as in --config=FILE")
    if FLAGS.config is None:
        raise UserError(f"--config: missing; {EXPECTED}")
    typed = {
        name.removeprefix("config."): str(FLAGS[name].value)
        for name in FLAGS
        if name.startswith("config.") and FLAGS[name].present
    }
    return read_experiment(FLAGS.config, typed, FLAGS.seed, FLAGS.shard)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags name."""
    experiment = read_flags(argv)
    try:
        run(
            experiment,
            FLAGS.workdir,
            FLAGS.data_dir,
            FLAGS.overwrite,
            FLAGS.distributed,
            FLAGS.distributed_timeout,
        )
    except Exception as error:
        hosts.leave(error)


def _define_keys(argv: list[str]) -> None:
    """Makes flags of the keys that a command line sets, whatever their names.

    Which there are depends on the config, where they are checked. A key without a value is True,
    as flags are.
    """
    words = FLAGS.read_flags_from_files(argv[1:])
    for word, following in itertools.pairwise([*words, "--"]):
        found = re.match(r"--?(no)?(config\.[^=]*)(=|$)", word)
        if found and found[2] not in FLAGS:
            flag: flags.Flag = flags.Flag(
                flags.ArgumentParser(),
                flags.ArgumentSerializer(),
                name=found[2],
                default=None,
                help_string="In place of the config file's.",
                boolean=bool(found[1] or (not found[3] and re.match("--|-[a-z]", following))),
            )
            flags.DEFINE_flag(flag)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; whatever is wrong with them is one line."""
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and int(columns) >= 40):  # absl's help fails on fewer
        os.environ.pop("COLUMNS", None)
    try:
        _define_keys(argv)
        return FLAGS(argv)
    except SystemExit:
        sys.stdout.flush()
        sys.exit(0)  # absl exits with status 1 after printing the help
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        known = [*SETTINGS, *find_axes("mlp", ("sgd",))]
        said = f"did you mean {name}?" if name in known else advice(name, ())
        if said:
            said = f"keys of a config are set by --config.KEY=VALUE: {said}"
        raise UserError(f"{error}; {said or 'see --help'}") from None
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from None


def _is_of_output(error: OSError) -> bool:
    """Says whether an error is that of what is printed, which names no file."""
    if isinstance(error, BrokenPipeError):
        return True
    try:
        if error.filename is None:
            print(flush=True)
    except OSError:
        return True
    return False


def run_command(main, argv: list[str] | None = None) -> None:
    """Runs a program's `main` on its command line; bad input ends it with status 2."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: no file that a run opens may take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a run
    try:
        if sys.platform == "win32":  # without locks of files and signals as a run needs them
            raise UserError("Windows: expected Linux or macOS; start it in WSL")
        try:
            app.run(main, argv, flags_parser=_parse_flags)
        except SystemExit:
            sys.stdout.flush()  # at exit, it would be too late to say that this fails
            raise
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not _is_of_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to be said
        if isinstance(error, BrokenPipeError):
            print("error: nobody reads the output any more; repeat the command", file=sys.stderr)
            sys.exit(128 + signal.SIGPIPE)
        said = f"the output cannot be written ({error.strerror}); mend that"
        print(f"error: {said}, and repeat the command", file=sys.stderr)
        sys.exit(os.EX_IOERR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    run_command(main)
