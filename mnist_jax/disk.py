"""Files: paths as people give them, opening what may be anything, and atomic writes."""

import contextlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mnist_jax import UserError

locked: dict[Path, BinaryIO] = {}
"""The directories that this process has locked, with their lock files."""


def local_path(given: str, what: str = "") -> Path:
    """Returns the path that a flag or an environment variable names, with `~` expanded.

    `what` is the flag or variable, for the error: `--workdir`, say; empty for an argument.

    Raises:
        UserError: It is an address such as gs://bucket/run, which would create a folder `gs:` here;
            or it begins with an unknown user's home.
    """
    named = f"{what}={given}" if what else given
    if match := re.match("([a-z][a-z0-9+.-]+)://", given, re.IGNORECASE):
        file = match[1].lower() == "file"
        cure = f"leave {match[0]} out" if file else "mount it here, and give the path of that"
        raise UserError(f"{named}: expected a path on this machine, not an address; {cure}")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"{named}: no such home directory; give another path") from None


def output_folder(given: str, flag: str) -> Path:
    """Returns the folder that a flag names for output, as `local_path`; refuses an empty name."""
    if not given:
        raise UserError(f"{flag}=: expected a folder; name one, or leave the flag out")
    return local_path(given, flag)


def open_regular(path: str | Path, most_bytes: int | float) -> io.BufferedReader:
    """Opens a regular file for reading; a FIFO keeps nobody waiting.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is not a regular file, or larger than `most_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= most_bytes:
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise ValueError(f"it has {found.st_size} bytes; expected at most {most_bytes}")
    raise ValueError("it is not a regular file")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Guards a write of a run, which must go to the directory that it has locked.

    Raises:
        UserError: The directory was moved, and another run's may be in its place.
        OSError: The write failed; it names the file.
    """
    _check_place(path)
    try:
        yield
    except OSError as error:
        _check_place(path)  # the move may be the reason of the failure
        if error.errno:  # of the system, which names no file if a disk is full
            error.filename = os.fspath(path)
        raise


def is_of_output(error: OSError) -> bool:
    """Says whether an error is of standard output, and not of a file."""
    if isinstance(error, BrokenPipeError):
        return True
    try:
        if error.filename is None:
            print(flush=True)
    except OSError:
        return True
    return False


def _check_place(written: Path) -> None:
    """Checks that the lock file of the run that a file is of is still in the run's directory."""
    for path, file in [*locked.items()]:  # other threads have locks of their own
        if path != written and path not in written.parents:
            continue
        try:
            if os.path.samestat(os.stat(path / ".lock"), os.fstat(file.fileno())):
                continue
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise UserError(
            f"--workdir={path} is no longer the folder in which this run began: the folder, or "
            "the .lock in it, was moved or deleted; the run's files are where the folder is now, "
            "and the same command with that --workdir resumes it"
        )


def replace(path: Path, content: Iterable[bytes], mode: int = 0o666, mark: str = "") -> None:
    """Replaces a file in one atomic step, so that a reader never sees half of it.

    The name of the temporary file ends with `mark`, by default the process's id. The umask applies
    to `mode`.
    """
    temporary = path.with_name(f".{path.name}.{mark or os.getpid()}")
    with writing(path):
        try:
            with open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())  # otherwise a power cut may leave an empty file
            _check_place(path)  # all that took time
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step, as `replace`."""
    replace(path, [content])


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step, as `replace`."""
    # A folder's name need not be valid text.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def to_json(value: object, indent: int | None = None) -> str:
    """Writes JSON that every reader accepts: numbers that are not finite become null."""

    def plain(x):
        if isinstance(x, Mapping):
            return {k: plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        if isinstance(x, np.generic):
            x = x.item()
        return None if isinstance(x, float) and not math.isfinite(x) else x

    try:  # which takes half the time, but knows neither NumPy's numbers nor any that is not finite
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(plain(value), indent=indent)
