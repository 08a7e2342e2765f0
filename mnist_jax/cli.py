"""The command line: its flags, and how bad input, a full disk and a closed pipe end a program."""

import errno
import io
import itertools
import logging
import os
import re
import runpy
import signal
import stat
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from mnist_jax import UserError, disk
from mnist_jax.config.config_files import EXPECTED, advice
from mnist_jax.config.experiment import Experiment, read_experiment
from mnist_jax.config.keys import built_in_axes
from mnist_jax.config.settings import SETTINGS
from mnist_jax.training import hosts

FLAGS = flags.FLAGS
SHARED = ("config", "seed", "data_dir")
"""Flags of every program that runs an experiment."""
OF_A_RUN = ("workdir", "overwrite", "shard", "distributed", "distributed_timeout")
"""Flags of `main` alone, which other programs refuse."""


def define_flags() -> None:
    """Defines the flags of `main`; other programs have some of them and refuse the others."""
    flags.DEFINE_string(
        "config",
        None,
        "The experiment, such as configs/l2_sweep.py, whose keys --config.KEY=VALUE overrides; or "
        "the config.json of a run, which is then run again.",
    )
    flags.DEFINE_string(
        "seed",
        None,
        "Seed of the first repeated trial, which the others follow, or all seeds, as in "
        "42,123,456; by default 0.",
    )
    flags.DEFINE_string(
        "workdir", None, "Where results go; by default runs/<config name>/<UTC time>."
    )
    flags.DEFINE_bool("overwrite", False, "Whether a run that --workdir holds is deleted first.")
    flags.DEFINE_string(
        "data_dir", None, "Folder with the data set's files; by default $MNIST_JAX_DATA_DIR."
    )
    flags.DEFINE_string(
        "shard",
        None,
        "i/n: only every n-th trial, from index i on; mnist_jax.report merges the n runs.",
    )
    flags.DEFINE_string(
        "distributed",
        None,
        "Trains with the other processes of a job: auto in a cluster, else i/n@host:port for "
        "process i of n, the first of which listens there.",
    )
    flags.DEFINE_integer(
        "distributed_timeout",
        hosts.TIMEOUT,
        "Seconds that the processes of a job may take to come together.",
        lower_bound=1,
    )


def define_trial() -> None:
    """Defines `--trial`, of the programs that use the weights of a trial."""
    flags.DEFINE_integer(
        "trial",
        None,
        "The trial, by its number in results.csv; by default the chosen one. Others have their"
        " weights in a run with --config.keep_weights=all.",
        lower_bound=0,
    )


def read_flags(argv: list[str]) -> Experiment:
    """Returns the checked experiment that the command line names."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]}: unexpected; every option is a flag, as in --config=FILE")
    if FLAGS.config is None:
        raise UserError(f"--config: missing; {EXPECTED}")
    typed = {
        name.removeprefix("config."): str(FLAGS[name].value)
        for name in FLAGS
        if name.startswith("config.") and FLAGS[name].present
    }
    try:
        return read_experiment(FLAGS.config, typed, FLAGS.seed, FLAGS.shard)
    except UserError as error:  # a key without a value is True
        said = re.match(r"--(config\.\w+)=True: (expected .*)", str(error))
        if said and said[1] in FLAGS and FLAGS[said[1]].boolean:
            raise UserError(f"--{said[1]}: no value is given; {said[2]}") from None
        raise


def refuse_flags_of_runs(what: str) -> set[str]:
    """Refuses a flag that only programs that run an experiment know; `what` does not.

    Returns:
        The names of the flags that are given.

    Raises:
        UserError: Such a flag is given.
    """
    given = {name.split(".")[0] for name in FLAGS if FLAGS[name].present}
    for name in ("config", "seed", *OF_A_RUN):
        if name in given:
            raise UserError(f"--{name}: {what} does not know it; see --help")
    return given


def _define_keys(argv: list[str]) -> None:
    """Defines a flag for each key that a command line sets, whatever its name.

    The config decides which keys exist, and checks them. A key without a value is True, as a flag.
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
    """Parses the flags; raises UserError if one is unknown or has an invalid value."""
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and int(columns) >= 40):  # absl's help fails on fewer
        os.environ.pop("COLUMNS", None)
    try:
        _define_keys(argv)
        quiet = f"--verbosity={absl_logging.WARNING}"  # in absl's own, JAX talks
        return FLAGS([argv[0], quiet, *argv[1:]])
    except SystemExit:  # absl has printed the help, and exits with status 1
        keys = {flag.name for flag in FLAGS.get_key_flags_for_module(sys.argv[0])}
        if "config" in keys and not any("helpxml" in word for word in argv):
            print(_describe_keys(flags.get_help_width()))
        sys.stdout.flush()
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        known = {*SETTINGS, *(axis.name for _, _, axes in built_in_axes() for axis in axes)}
        hint = f"did you mean {name}?" if name in known else advice(name, ())
        if hint:
            hint = f"keys of a config are set by --config.KEY=VALUE: {hint}"
        close = re.search(r"Did you mean: (\w+)", str(error))
        hint = hint or f"{f'did you mean --{close[1]}? ' if close else ''}see --help"
        raise UserError(f"--{name}: no such flag; {hint}") from None
    except flags.Error as error:
        raise UserError(f"{_in_our_words(error)}; see --help") from None


def _in_our_words(error: flags.Error) -> str:
    """Returns what absl says of a flag's value as this package says it."""
    said = " ".join(str(error).split())
    if bad := re.fullmatch(r"flag (--(\w+)=.*?): .*", said):
        flag = FLAGS[bad[2]]
        number = f"a whole number of at least {getattr(flag.parser, 'lower_bound', 0)}"
        return f"{bad[1]}: expected {'True or False' if flag.boolean else number}"
    if missing := re.fullmatch(r"Missing value for flag (--\S+)", said):
        return f"{missing[1]}: no value is given; expected {missing[1]}=VALUE"
    if unread := re.fullmatch(r"ERROR:: Unable to open flagfile: \[.*\] (.*): '(.*)'", said):
        return f"--flagfile={unread[2]}: cannot be read ({unread[1]}); expected a file of flags"
    return said


def _describe_keys(width: int) -> str:
    """Returns what `--help` says of the keys of a config, in lines of at most `width` columns."""

    def typed(name: str, default: Any) -> str:
        return f"{name}={','.join(map(str, default)) if isinstance(default, tuple) else default}"

    (_, _, common), *others = built_in_axes()
    axes = [f"{typed(axis.name, axis.default)}: {axis.text}" for axis in common]
    for key, name, parameters in others:
        keys = " ".join(typed(axis.name, axis.default) for axis in parameters)
        axes.append(f"with {key}={name}: {keys}")
    settings = [f"{typed(name, x.default)}: {x.text}" for name, x in SETTINGS.items()]
    lines = ["\nKeys of a config with their defaults, each set by --config.KEY=VALUE:"]
    lines += [textwrap.fill(f"  {key}", width, subsequent_indent=" " * 4) for key in settings]
    lines += ["Those that take several values, as in 0,1e-4,1e-3, which span a grid:"]
    lines += [textwrap.fill(f"  {key}", width, subsequent_indent=" " * 4) for key in axes]
    return "\n".join(lines)


class _LogFormatter(logging.Formatter):
    """Lines of a log as those that are printed: `warning: ...`, and no place in the code."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record as a line, with its traceback if there is one."""
        mark = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return mark + super().format(record)


class _Terminal(io.FileIO):
    """A terminal that may be closed, as that of a shell which has disowned the program."""

    def write(self, data: Any) -> int:
        """Writes bytes, or discards them and what follows once it is closed; returns how many."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def _set_up_streams() -> None:
    """Makes the standard streams such that no state of a terminal ends a program."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: a file that a run opens would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for one without UTF-8
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # a terminal, which may be closed now
            raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            safe = io.TextIOWrapper(raw, stream.encoding, "replace", line_buffering=True)
            setattr(sys, name, safe)


def run_command(main: Callable, define: Callable[[], None], argv: list[str] | None = None) -> None:
    """Runs a program on its command line, by default the process's; bad input exits with status 2.

    `main` takes the words that are no flags; `define` defines the flags.
    """
    define()
    absl_logging.get_absl_handler().setFormatter(_LogFormatter())
    _set_up_streams()
    try:
        if sys.platform == "win32":  # without locks of files and signals as a run needs them
            raise UserError("Windows: expected Linux or macOS; start it in WSL")
        try:
            app.run(main, argv, flags_parser=_parse_flags)
        except SystemExit:
            sys.stdout.flush()  # at exit it would be too late to report a failure
            raise
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not disk.is_of_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of its buffer
        if isinstance(error, BrokenPipeError):
            if not FLAGS.is_parsed():  # of `--help | head`
                sys.exit(128 + signal.SIGPIPE)
            print("error: nobody reads the output any more; repeat the command", file=sys.stderr)
            sys.exit(128 + signal.SIGPIPE)
        cure = "mend that, and repeat the command"
        print(f"error: the output cannot be written ({error.strerror}); {cure}", file=sys.stderr)
        sys.exit(os.EX_IOERR)
    except KeyboardInterrupt:
        print("\n" * sys.stderr.isatty() + "interrupted", file=sys.stderr)  # after ^C
        sys.exit(128 + signal.SIGINT)


def main() -> None:
    """The command `mnist-jax`: what `python -m mnist_jax.main` does, and the same help."""
    runpy.run_module("mnist_jax.main", run_name="__main__", alter_sys=True)
