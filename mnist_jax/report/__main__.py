"""Runs become figures, tables, Markdown and one self-contained HTML page.

    python -m mnist_jax.report DIR [DIR ...] [--output=DIR] [--follow] [--tensorboard=LOGDIR]

DIR is the work directory of a run. The report of one run is rebuilt in its directory; of a run that
goes on or was stopped, it is a report so far, which --follow makes anew as epochs end. Several
finished runs are compared in a new directory. The shards of one run (`--shard=i/n`) are merged into
the whole run in a new directory, and runs that differ in seeds alone are pooled into one there.
Everything is read from files; nothing is trained.
"""

import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from absl import flags

from mnist_jax import UserError, cli, disk
from mnist_jax.report import follow, one_run, reading, several_runs, tensorboard
from mnist_jax.runs import pooling, shards
from mnist_jax.runs.results import Run


def main(argv: list[str]) -> int:
    """Makes the report of the runs in the directories that the command line names.

    Returns:
        The exit status: 1 if a run that is followed has gone before its end.
    """
    given = cli.refuse_flags_of_runs("a report")
    if not argv[1:]:
        expected = "one, a run's directory, or several"
        raise UserError(f"0 arguments: expected {expected}; see --help")
    paths = reading.without_latest([disk.local_path(path) for path in argv[1:]])
    logdir = None
    if "tensorboard" in given:
        logdir = tensorboard.check_logdir(cli.FLAGS.tensorboard)
    if cli.FLAGS.follow:
        return _follow(paths, given, logdir)
    runs = reading.read_runs(paths) if len(paths) > 1 else []
    if any(shards.shard_of(run.config)[1] > 1 for run in runs):
        data_dir = cli.FLAGS.data_dir if "data_dir" in given else None
        print(one_run.write_merged(runs, cli.FLAGS.output, data_dir))
    elif runs and pooling.can_pool(runs):
        data_dir = cli.FLAGS.data_dir if "data_dir" in given else None
        print(one_run.write_pooled(runs, cli.FLAGS.output, data_dir))
    elif "data_dir" in given:
        raise UserError("--data_dir: only a merge of shards needs data; leave it out")
    elif runs:
        print(several_runs.write_comparison(runs, cli.FLAGS.output))
    else:
        print(one_run.write_report(paths[0], cli.FLAGS.output))
    if logdir:
        print(tensorboard.write_events(logdir, runs or [reading.read_so_far(paths[0])]))
    return 0


def _follow(paths: Sequence[Path], given: Collection[str], logdir: Path | None) -> int:
    """Makes the report of a run until this ends."""
    if len(paths) > 1:
        raise UserError(f"--follow: {len(paths)} directories; expected one, name a single run")
    if "data_dir" in given:
        raise UserError("--data_dir: only a merge of shards needs data; leave it out")

    def make(run: Run) -> str:
        text = one_run.write_run(run, cli.FLAGS.output)
        return f"{text}\n{tensorboard.write_events(logdir, [run])}" if logdir else text

    try:
        return 0 if follow.follow(paths[0], make) else 1
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def define_flags() -> None:
    """Defines the program's flags, and those of `main`, which it refuses by name."""
    cli.define_flags()
    flags.declare_key_flag("data_dir")
    flags.DEFINE_string(
        "output",
        None,
        "Where the report goes; by default the directory of the run, or runs/report/<UTC time> for "
        "several runs, or runs/<name>/<UTC time>_merged for the shards of one, and "
        "_pooled for runs with other seeds.",
    )
    flags.DEFINE_bool(
        "follow",
        False,
        "Whether the report of a run that goes on is made anew as epochs end, until the run ends; "
        "the page loads itself again. The exit status is 1 if the run was stopped.",
    )
    flags.DEFINE_string(
        "tensorboard",
        None,
        "Folder for event files of TensorBoard, a run there for each trial, with hyper-parameters; "
        "with --follow they grow as epochs end. It needs the package tensorboardX.",
    )


if __name__ == "__main__":
    cli.run_command(main, define_flags)
