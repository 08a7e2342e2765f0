"""Programs of one's own: Python files, run from what was read, whose faults are told in a line."""

import difflib
import linecache
import os
import sys
import traceback
import types
from collections.abc import Sequence
from importlib.util import decode_source
from pathlib import Path

from mnist_jax import UserError, run_files
from mnist_jax.run_files import BadFileError, one_line

MAX_BYTES = 2**24


def read_program(paths: Sequence[Path], given: str, expected: str) -> tuple[Path, bytes]:
    """Reads a Python file.

    Args:
        paths: Where it may lie; the first that is there counts.
        given: What named it, for the error: `--config=a.py`, say.
        expected: What to give, for the error.

    Returns:
        Where it lies, and what it holds.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    path = next(filter(os.path.lexists, paths), paths[0])
    if os.path.isdir(path):
        raise UserError(f"{given}: that is a folder; {expected}")
    try:
        with run_files.opened(path) as file:
            content = file.read(MAX_BYTES + 1)
    except BadFileError as error:
        if error.missing:
            raise UserError(f"{given}: no such file; {_nearest(paths)}{expected}") from None
        reason = str(error).removeprefix(f"{path.name}: ")
        raise UserError(f"{given}: cannot be read ({reason}); {expected}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{given}: larger than {MAX_BYTES} bytes; {expected}")
    return path, content


def _nearest(paths: Sequence[Path]) -> str:
    """Suggests a Python file that lies beside one of some that are not there."""
    for path in paths:
        try:
            names = sorted(other.name for other in path.parent.iterdir() if other.suffix == ".py")
        except (OSError, ValueError):
            continue
        if close := difflib.get_close_matches(path.name, names, n=1):
            return f"did you mean {path.with_name(close[0])}? "
    return ""


def run_program(module: types.ModuleType, path: str, content: bytes) -> None:
    """Runs what a Python file holds as a module, which may raise anything."""
    module.__file__ = path
    module.__package__ = ""  # a relative import says that it knows no package
    sys.modules[module.__name__] = module  # where a dataclass of the file looks for itself
    code = compile(content, path, "exec", dont_inherit=True)
    lines = decode_source(content).splitlines(keepends=True)
    linecache.cache[path] = len(content), None, lines, path  # as it ran, whatever lies there later
    exec(code, vars(module))


def why(error: BaseException, path: str) -> str:
    """Says in one line what a program raised, and in which line of its file."""
    if isinstance(error, SystemExit):
        return "it ends the program"
    said: object = error
    if isinstance(error, SyntaxError) and error.filename == path:
        said, lines = error.msg, [error.lineno]
    else:
        if isinstance(error, KeyError) and error.args:
            said = error.args[0]  # else in quotes
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
    where = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}{where}: {one_line(' '.join(str(said).split()))[:300]}"
