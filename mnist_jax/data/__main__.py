"""What a data set holds, as text, and examples of its images as a picture.

    python -m mnist_jax.data NAME_OR_PATH [--data_dir=DIR] [--output=FILE.png]

NAME_OR_PATH is what `config.dataset` may be. Nothing is trained.
"""

import itertools
import re
from pathlib import Path

from absl import flags

from mnist_jax import UserError, cli, disk
from mnist_jax.data import inspection, loading, sheet
from mnist_jax.data.datasets import DATASETS, is_path
from mnist_jax.data.splits import Dataset
from mnist_jax.text import error_line, first_of


def main(argv: list[str]) -> None:
    """Describes the data set that the command line names."""
    cli.refuse_flags_of_runs("the inspection of a data set")
    if len(argv) != 2:
        expected = f"one, the path of your files or a name: {first_of(DATASETS, len(DATASETS))}"
        raise UserError(f"{len(argv) - 1} arguments: expected {expected}; see --help")
    given = None if cli.FLAGS.output is None else _given_file(cli.FLAGS.output)
    dataset = _load(argv[1])
    print(inspection.describe(dataset), flush=True)
    file = given or _free_file(dataset.name)
    try:
        disk.write_bytes(file, sheet.draw(dataset))
    except OSError as error:
        cure = "name a file that can be written by --output=FILE.png"
        raise UserError(f"{file}: cannot be written ({error_line(error)}); {cure}") from error
    print(f"Examples: {file}")


def _load(given: str) -> Dataset:
    if not is_path(given):
        return loading.load_dataset(given, cli.FLAGS.data_dir)
    if cli.FLAGS.data_dir is not None:
        raise UserError(f"--data_dir={cli.FLAGS.data_dir}: only a name needs it; leave it out")
    path = disk.local_path(given)
    if not path.exists():
        names = ", ".join(DATASETS)
        raise UserError(f"{given}: neither a file or folder, nor one of {names}; choose another")
    return loading.load_dataset(str(path.absolute()))


def _given_file(given: str) -> Path:
    file = disk.local_path(given, "--output")
    if file.suffix.lower() != ".png":
        raise UserError(f"--output={given}: expected a file whose name ends with .png")
    if file.exists() or file.is_symlink():
        raise UserError(f"--output={given}: exists; choose another name, or delete it")
    if not file.parent.is_dir():
        raise UserError(f"--output={given}: there is no such folder; choose another")
    return file


def _free_file(name: str) -> Path:
    """Returns the first name in this folder that nothing has yet."""
    start = re.sub(r"\.(npz|parquet|csv(\.gz)?)$", "", Path(name).name)
    for number in itertools.count(1):
        file = Path(f"{start}_examples{f'_{number}' if number > 1 else ''}.png")
        if not (file.exists() or file.is_symlink()):
            return file
    raise AssertionError


def define_flags() -> None:
    """Defines the program's flags, and those of `main`, most of which it refuses by name."""
    cli.define_flags()
    flags.declare_key_flag("data_dir")
    flags.DEFINE_string(
        "output", None, "File for the examples, by default NAME_examples.png in this folder."
    )


if __name__ == "__main__":
    cli.run_command(main, define_flags)
