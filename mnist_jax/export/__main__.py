"""A trained trial of a finished run becomes one file that other programs read.

    python -m mnist_jax.export DIR --format=safetensors|stablehlo|onnx [--trial=N] [--output=FILE]

DIR is the work directory of a finished run. The file holds the weights (safetensors) or the
function from images to probabilities, scaling included (stablehlo, onnx), and says what it is. It
replaces an earlier export, and no other file. No data set is needed.
"""

from pathlib import Path

from absl import flags

from mnist_jax import UserError, cli, disk
from mnist_jax.export import formats
from mnist_jax.runs.trained_trial import read_trained_trial
from mnist_jax.text import error_line, one_line


def main(argv: list[str]) -> None:
    """Exports the trial that the command line names."""
    if "data_dir" in cli.refuse_flags_of_runs("an export"):
        raise UserError("--data_dir: an export needs no data; leave it out")
    if len(argv) != 2:
        expected = "one, the directory of a finished run"
        raise UserError(f"{len(argv) - 1} arguments: expected {expected}; see --help")
    if (form := cli.FLAGS.format) is None:
        raise UserError(f"--format: missing; expected {formats.EXPECTED}")
    formats.check(form)
    folder = disk.local_path(argv[1])
    trained = read_trained_trial(folder, cli.FLAGS.trial)
    name = "model" if cli.FLAGS.trial is None else f"trial_{trained.number}"
    file = _writable(cli.FLAGS.output, folder / f"{name}.{form}")
    from mnist_jax.export import writing

    content, said = writing.write(trained, form)
    try:
        disk.write_bytes(file, content)
    except OSError as error:
        cure = "name a file that can be written by --output=FILE"
        raise UserError(f"{file}: cannot be written ({error_line(error)}); {cure}") from error
    print(f"{file}: {formats.FORMATS[form].holds}")
    for name in ("model", "trial", "input", "scaling", "output", "class_names"):
        print(f"  {name}: {one_line(said[name])[:200]}")
    print(f"  test accuracy: {said['test_accuracy']} ({said['test_accuracy_is']})")


def _writable(given: str | None, default: Path) -> Path:
    """Returns the file to write; raises `UserError` if it may hold something else than an export"""
    if given == "":
        raise UserError("--output=: expected a file; name one, or leave the flag out")
    file = default if given is None else disk.local_path(given, "--output")
    named = default if given is None else f"--output={given}"
    if not file.parent.is_dir():
        raise UserError(f"{named}: there is no such folder; choose another")
    try:
        is_free = not file.exists() or formats.PRODUCER.encode() in file.read_bytes()
    except OSError:  # a folder, say
        is_free = False
    if not is_free:
        cure = "delete it, or choose another name by --output=FILE"
        raise UserError(f"{named}: exists, and is no export; {cure}")
    return file


def define_flags() -> None:
    """Defines the program's flags, and those of `main`, which it refuses by name."""
    cli.define_flags()
    flags.DEFINE_string("format", None, f"Of the file: {formats.EXPECTED}.")
    cli.define_trial()
    flags.declare_key_flag("trial")
    flags.DEFINE_string(
        "output",
        None,
        "The file, by default model.FORMAT in DIR, or trial_N.FORMAT with --trial=N. An earlier"
        " export of that name is replaced; any other file is left alone.",
    )


if __name__ == "__main__":
    cli.run_command(main, define_flags)
