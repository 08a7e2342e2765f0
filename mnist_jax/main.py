"""Runs one experiment: every trial of a config's grid, in one compiled program.

    python -m mnist_jax.main --config=configs/l2_sweep.py [--config.KEY=VALUE ...]

Jax and the other heavy packages are imported after the input has been checked, so that `--help`
and a mistake answer at once.
"""

import difflib
import io
import math
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from mnist_jax import UserError, data, results

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment, such as configs/l2_sweep.py, whose keys --config.KEY=VALUE overrides.",
)
flags.DEFINE_integer("seed", 0, "Seed of the first repeated trial; the others follow it.")
flags.DEFINE_string("workdir", None, "Where results go; by default runs/<config name>/<UTC time>.")
flags.DEFINE_string(
    "data_dir", None, "Folder with the data set's files; by default $MNIST_JAX_DATA_DIR."
)


class Experiment(NamedTuple):
    """A config after checking: every key, resolved and of one type."""

    name: str
    dataset: str
    num_validation: int
    conv_features: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    num_epochs: int
    batch_size: int
    learning_rate: tuple[float, ...]
    momentum: tuple[float, ...]
    l2: tuple[float, ...]
    l2_on_output: bool
    num_seeds: int
    seed: int


def read_config(config: ml_collections.ConfigDict, name: str, seed: int) -> Experiment:
    """Checks every key of a config, once.

    Raises:
        UserError: A key is unknown, missing or has a value that makes no sense.
    """
    expected = set(Experiment._fields) - {"name", "seed"}
    for key in config:
        if key not in expected:
            close = difflib.get_close_matches(key, expected, n=1)
            known = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(expected))}"
            )
            raise UserError(f"config key {key}: unknown; {known}")
    if missing := sorted(expected - set(config)):
        raise UserError(f"config key {missing[0]}: missing; add it, as in configs/l2_sweep.py")
    if config.dataset not in data.DATASETS:
        raise _bad("dataset", config.dataset, f"one of {', '.join(data.DATASETS)}")
    if not isinstance(config.l2_on_output, bool):
        raise _bad("l2_on_output", config.l2_on_output, "True or False")
    num_seeds = _whole(config, "num_seeds", at_least=1)
    if not 0 <= seed <= 2**32 - num_seeds:
        raise UserError(f"--seed={seed}: expected a whole number from 0 to {2**32 - num_seeds}")
    num_images = data.NUM_TRAINING_IMAGES[config.dataset]
    num_validation = _whole(config, "num_validation", at_least=0)
    if num_validation >= num_images:
        raise _bad("num_validation", num_validation, f"less than the {num_images} training images")
    num_train = num_images - num_validation
    batch_size = _whole(config, "batch_size", at_least=1)
    if batch_size > num_train:
        raise _bad("batch_size", batch_size, f"at most {num_train}, the training images")
    conv_features = _sizes(config, "conv_features")
    if len(conv_features) > 3:
        raise _bad("conv_features", conv_features, "at most 3 blocks, which leave 1 pixel of 28")
    hidden_sizes = _sizes(config, "hidden_sizes")
    l2 = _axis(config, "l2", "0 or positive", lambda x: x >= 0)
    if any(l2) and not (conv_features or hidden_sizes or config.l2_on_output):
        raise _bad(
            "l2", l2, "0, or a hidden layer, or l2_on_output=True: there is no kernel for it"
        )
    return Experiment(
        name=name,
        dataset=config.dataset,
        num_validation=num_validation,
        conv_features=conv_features,
        hidden_sizes=hidden_sizes,
        num_epochs=_whole(config, "num_epochs", at_least=1),
        batch_size=batch_size,
        learning_rate=_axis(config, "learning_rate", "positive", lambda x: x > 0),
        momentum=_axis(config, "momentum", "from 0 to below 1", lambda x: 0 <= x < 1),
        l2=l2,
        l2_on_output=config.l2_on_output,
        num_seeds=num_seeds,
        seed=seed,
    )


def _bad(key: str, value: object, expected: str) -> UserError:
    return UserError(f"--config.{key}={value}: expected {expected}")


def _whole(config, key: str, at_least: int) -> int:
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise _bad(key, value, f"a whole number of at least {at_least}")
    return value


def _sizes(config, key: str) -> tuple[int, ...]:
    values = config[key]
    if not isinstance(values, tuple) or not all(type(v) is int and v > 0 for v in values):
        raise _bad(key, values, "a tuple of positive whole numbers")
    return values


def _axis(config, key: str, expected: str, valid) -> tuple[float, ...]:
    """Reads an axis of the grid: a number, or a tuple of distinct ones."""
    value = config[key]
    values = value if isinstance(value, tuple | list) else (value,)
    if not values:
        raise _bad(key, value, "at least one number, since the grid has no point without")
    for v in values:
        if type(v) not in (int, float) or not math.isfinite(v) or not valid(v):
            raise _bad(key, v, f"a finite number, {expected}")
    if len(set(values)) < len(values):
        raise _bad(key, value, "distinct numbers, since each makes a point of the grid")
    return tuple(map(float, values))


def load_data(experiment: Experiment, data_dir: str | None) -> data.Dataset:
    """Loads an experiment's data set, cut into its splits."""
    dataset = data.load_dataset(experiment.dataset, data_dir)
    return data.hold_out_validation(dataset, experiment.num_validation)


def create_model_and_trials(experiment: Experiment, num_classes: int):
    """Returns an experiment's Flax module, and its trials as arrays of shape [trials]."""
    from mnist_jax import models, sweep

    model = models.create_model(
        conv_features=experiment.conv_features,
        hidden_sizes=experiment.hidden_sizes,
        num_classes=num_classes,
    )
    trials = sweep.create_trials(
        learning_rate=experiment.learning_rate,
        momentum=experiment.momentum,
        l2=experiment.l2,
        seeds=range(experiment.seed, experiment.seed + experiment.num_seeds),
    )
    return model, trials


def run(experiment: Experiment, workdir: str | None, data_dir: str | None) -> None:
    """Runs an experiment from data to report."""
    start = time.monotonic()
    provenance = results.provenance()  # now: the checkout may change while the run goes on
    path = results.check_workdir(workdir or _default_workdir(experiment.name))
    dataset = load_data(experiment, data_dir)
    results.create_workdir(path)
    loaded = time.monotonic()

    from mnist_jax import models, report, sweep

    model, trials = create_model_and_trials(experiment, len(dataset.class_names))
    sweep.configure_jax(len(trials.seed))
    print(models.layer_table(model), flush=True)
    program = sweep.compile_sweep(
        model,
        trials,
        dataset,
        batch_size=experiment.batch_size,
        l2_on_output=experiment.l2_on_output,
    )
    num_trials, num_epochs = len(trials.seed), experiment.num_epochs
    held_out = "validation images" if experiment.num_validation else "the test set"
    count, kind = program.devices["count"], program.devices["kind"]
    num_train = len(dataset.train_labels)
    print(f"{dataset.name} ({dataset.source}): {num_train} training images; val_ is {held_out}")
    size = f"{results.count(num_trials, 'trial')} of {results.count(num_epochs, 'epoch')}"
    print(f"{size} on {results.count(count, f'{kind} device')}", flush=True)
    results.write_config(path, experiment._asdict())
    compiled = time.monotonic()
    epochs = sweep.show_progress(sweep.run(program, num_epochs), num_epochs, num_trials)
    rows = results.record(path, results.trial_rows(trials._asdict(), dataset.name), epochs)
    seconds = {
        "load": loaded - start,
        "compile": program.lower_seconds + program.compile_seconds,
        "train": time.monotonic() - compiled,
        "total": time.monotonic() - start,
    }
    provenance |= {"devices": program.devices, "seconds": seconds}
    results.write_summary(path, rows, dataset, provenance)
    print(report.write_report(path))


def _default_workdir(name: str) -> Path:
    return Path("runs", name, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))


def read_flags(argv: list[str]) -> Experiment:
    """Returns the experiment that the command line names, checked."""
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        raise UserError(f"{argv[1]}: unexpected; every option is a flag, as in --config=FILE")
    if FLAGS.config is None:
        raise UserError("--config: missing; expected a file, as in --config=configs/l2_sweep.py")
    name = Path(config_flags.get_config_filename(FLAGS["config"])).stem
    return read_config(FLAGS.config, name, FLAGS.seed)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags name."""
    run(read_flags(argv), FLAGS.workdir, FLAGS.data_dir)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; whatever is wrong with them or with the config file is one line."""
    try:
        arguments = FLAGS(argv)
        list(FLAGS.config or ())  # ml_collections tells of a file it cannot read at the first use
        return arguments
    except SystemExit:  # absl exits with status 1 after printing the help
        sys.exit(0)
    except flags.Error as error:
        raise UserError(f"{_one_line(error)}; see --help") from None
    except Exception as error:  # a config file is a program, which may raise anything
        given = next((arg for arg in argv if arg.startswith("--config=")), "--config")
        expected = "expected a config file and keys that it has, as in configs/l2_sweep.py"
        raise UserError(f"{given}: {_one_line(error)}; {expected}") from None


def _one_line(error: Exception) -> str:
    text = str(error.args[0] if error.args else error)
    if "Traceback (most recent call last)" in text:
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())


def run_command(main, argv: list[str] | None = None) -> None:
    """Runs a program's `main` on its command line; bad input ends it with status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a run
    try:
        app.run(main, argv, flags_parser=_parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    run_command(main)
