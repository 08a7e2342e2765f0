"""The user's files, named as FILE.py:NAME in a config: found, run, and kept with a run.

A run keeps a copy of each file and resumes from it. So one file must hold all code that is not
installed: modules that it imports from its own folder would be in no record.
"""

import builtins
import contextlib
import difflib
import hashlib
import json
import linecache
import os
import re
import site
import sys
import sysconfig
import traceback
import types
from collections.abc import Iterator, Sequence
from importlib.util import decode_source
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from mnist_jax import UserError, run_files
from mnist_jax.disk import local_path, write_bytes, writing
from mnist_jax.run_files import BadFileError
from mnist_jax.text import first_of, one_line

FOLDER = "files"
"""The folder of a work directory that keeps them."""
MAX_BYTES = 2**24
EXPECTED = "expected FILE.py:NAME, a Python file and a class or function in it"
_NAME = re.compile(r"(?!\.)[^/\\:*?\"<>|,]{1,200}\.py")
_ONE_FILE = "one file must hold all that is not installed"


class OwnFile(NamedTuple):
    """A user's Python file as it was read."""

    name: str  # without its folder
    path: str  # at which it was read
    sha256: str
    content: bytes


def names_file(spec: str) -> bool:
    """Says whether a value of the config is meant to name a file, not something built in."""
    return ":" in spec or spec.endswith(".py")


def record_name(spec: str) -> str:
    """Returns FILE.py:NAME without the folder of the file, which may not exist elsewhere."""
    path, _, name = spec.rpartition(":")
    return f"{os.path.basename(path)}:{name}"


def read(spec: str, key: str, folders: Sequence[Path] = ()) -> OwnFile:
    """Reads a file that a config names.

    Args:
        spec: FILE.py:NAME.
        key: The key of the config, for the error.
        folders: Where to look next, if its path is relative and there is no such file here.

    Raises:
        UserError: There is none, it cannot be read, or it has a name that cannot be kept.
    """
    flag = _flag(spec, key)
    start, _, name = str(local_path(spec, f"--config.{key}")).rpartition(":")
    path = Path(start)
    if not start or not name or path.suffix != ".py":
        raise UserError(f"{flag}: {EXPECTED}")
    if not _can_be_kept(path.name):
        raise UserError(
            f"{flag}: expected a file name of at most 200 letters and other printable characters, "
            "with no dot before them, comma, colon, quotes or the like; rename the file"
        )
    places = [path] if path.is_absolute() else [path, *(folder / path for folder in folders)]
    path, content = read_program(places, flag, EXPECTED)
    return OwnFile(path.name, str(path), hashlib.sha256(content).hexdigest(), content)


def _flag(spec: str, key: str) -> str:
    return f"--config.{key}={one_line(spec)}"


def _can_be_kept(name: str) -> bool:
    """Says whether a file may have this name in a work directory, on any system."""
    return bool(_NAME.fullmatch(name)) and name.isprintable() and len(os.fsencode(name)) <= 200


_modules: dict[tuple[str, bytes], types.ModuleType] = {}  # by name and content of the file


def load(file: OwnFile, spec: str, key: str) -> Any:
    """Returns the class or function that a config names in a file.

    The file is run once in a process. It may import only what is installed.

    Raises:
        UserError: The file fails, imports what no record would hold, computes with JAX before JAX
            is set up, or has no such class or function.
    """
    flag, name = _flag(spec, key), spec.rpartition(":")[2]
    module = _modules.get((file.name, file.content))
    if module is None:
        try:
            module = _run(file)
        except UserError as error:
            raise UserError(f"{flag}: {error}") from None
        except (Exception, SystemExit) as error:  # a program may raise anything
            if isinstance(error, ValueError) and "environment" in str(error):  # JAX's, of JAX_*
                message = f"JAX cannot start: {error}; mend or unset that variable"
                raise UserError(message) from None
            reason = why(error, file.path)
            if isinstance(error, ModuleNotFoundError) or "relative import" in reason:
                reason += f"; {_ONE_FILE}"
            raise UserError(f"{flag}: {reason}; mend the file") from None
        _modules[file.name, file.content] = module
    value = vars(module).get(name)
    if callable(value):
        return value
    defined = [
        name
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", None) == module.__name__
        and not name.startswith("_")
    ]
    close = difflib.get_close_matches(name, defined, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"{flag}: expected the name of a class or function of the file; {meant}it defines "
        f"{first_of(defined, 9) or 'none'}"
    )


def _run(file: OwnFile) -> types.ModuleType:
    """Runs a file as a module under a unique name; refuses imports of what is not installed."""
    own = _beginnings([os.path.dirname(file.path), os.getcwd()])
    library = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    library += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    installed = _beginnings(library)

    def check(module_name: str) -> None:
        if place := _unrecorded(module_name, own, installed):
            raise UserError(f"{file.name} imports {module_name} ({one_line(place)}); {_ONE_FILE}")

    def watched(name, globals=None, locals=None, fromlist=(), level=0):  # also when a function runs
        module = builtins.__import__(name, globals, locals, fromlist, level)
        check(name.partition(".")[0])
        return module

    module = types.ModuleType(f"{Path(file.name).stem}_{file.sha256[:12]}")
    vars(module)["__builtins__"] = vars(builtins) | {"__import__": watched}
    before, computed = {*sys.modules, module.__name__}, _jax_computes()
    try:
        run_program(module, file.path, file.content)
        for name in sorted(sys.modules.keys() - before):  # by importlib, say
            check(name)
        if _jax_computes() and not computed:
            raise UserError(
                "it computes with JAX while it is imported, before JAX is set up; do that in a "
                "function, or with NumPy"
            )
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise
    return module


_WAYS = (os.path.abspath, os.path.realpath)  # links may lead to a place


def _beginnings(folders: Sequence[str]) -> tuple[str, ...]:
    """Returns the prefixes of all paths in some folders."""
    return tuple(os.path.join(way(folder), "") for folder in folders for way in _WAYS)


def _unrecorded(name: str, own: tuple[str, ...], installed: tuple[str, ...]) -> str:
    """Returns the path of a module that is the user's and not installed; empty for any other."""
    try:  # without loading a lazy module
        facts = object.__getattribute__(sys.modules.get(name), "__dict__")
    except AttributeError:
        return ""
    file, folders = facts.get("__file__"), facts.get("__path__", ())
    places = [file] if file else [*folders]  # a package may have no file

    def are_in(beginnings: tuple[str, ...]) -> bool:
        return all(any(way(place).startswith(beginnings) for way in _WAYS) for place in places)

    if not places or not are_in(own) or are_in(installed):
        return ""
    return "" if are_in(installed + _beginnings([*_distributions(name)])) else places[0]


def _distributions(name: str) -> Iterator[str]:
    """Yields the folders of installed packages that have a module, also of editable installs."""
    from importlib import metadata

    top = name.partition(".")[0]
    for found in metadata.packages_distributions().get(top, ()):
        package = metadata.distribution(found)
        yield str(package.locate_file(""))
        origin = json.loads(package.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            yield unquote(urlparse(origin["url"]).path)


def _jax_computes() -> bool:
    """Says whether JAX has begun to compute, so that it cannot be set up any more."""
    if "jax" not in sys.modules:
        return False
    import jax

    devices = jax.config.values["jax_num_cpu_devices"]
    try:
        for value in (devices + 2, devices):  # -1 is its default, and 0 is refused
            jax.config.update("jax_num_cpu_devices", value)
    except RuntimeError:
        return True
    return False


def save(workdir: Path, files: Sequence[OwnFile]) -> None:
    """Writes files to a work directory, unless it has them."""
    for file in files:
        path = workdir / FOLDER / file.name
        with contextlib.suppress(BadFileError):
            read_copy(workdir, file.name, file.sha256)
            continue
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        write_bytes(path, file.content)


def read_copy(workdir: Path, name: str, sha256: str) -> OwnFile:
    """Reads a file that `save` has written; its name and SHA-256 are those of the record.

    Raises:
        BadFileError: It is missing or has another content.
    """
    path = workdir / FOLDER / name
    if not _can_be_kept(name):
        raise BadFileError(path, "a run keeps no file of this name")
    with run_files.opened(path) as file:
        content = file.read()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        digests = f"SHA-256 {found[:12]}, not {sha256[:12]}"
        raise BadFileError(path, f"it has changed since the run began ({digests})")
    return OwnFile(name, str(path), sha256, content)


def read_program(paths: Sequence[Path], flag: str, expected: str) -> tuple[Path, bytes]:
    """Reads a Python file; returns its path and its content.

    Args:
        paths: Where to look; the first that exists counts.
        flag: The flag that names it, for the error: `--config=a.py`, say.
        expected: What to give, for the error.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    path = next(filter(os.path.lexists, paths), paths[0])
    if os.path.isdir(path):
        raise UserError(f"{flag}: that is a folder; {expected}")
    try:
        with run_files.opened(path) as file:
            content = file.read(MAX_BYTES + 1)
    except BadFileError as error:
        if error.missing:
            others = [str(place.parent) for place in paths[1:] if place.parent != path.parent]
            where = f" here or in {first_of(others, 3)}" if others else ""
            raise UserError(f"{flag}: no such file{where}; {_nearest(paths)}{expected}") from None
        reason = str(error).removeprefix(f"{path.name}: ")
        raise UserError(f"{flag}: cannot be read ({reason}); {expected}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{flag}: larger than {MAX_BYTES} bytes; {expected}")
    return path, content


def _nearest(paths: Sequence[Path]) -> str:
    """Suggests a Python file in the folders of some that do not exist."""
    found: dict[str, Path] = {}
    for path in reversed(paths):
        with contextlib.suppress(OSError, ValueError):
            found |= {other.stem: other for other in path.parent.iterdir() if other.suffix == ".py"}
    close = difflib.get_close_matches(paths[0].stem, sorted(found), n=1)
    return f"did you mean {found[close[0]]}? " if close else ""


def run_program(module: types.ModuleType, path: str, content: bytes) -> None:
    """Runs the content of a Python file as a module, which may raise anything."""
    module.__file__ = path
    module.__package__ = ""  # so that a relative import fails
    sys.modules[module.__name__] = module  # a dataclass of the file looks itself up there
    code = compile(content, path, "exec", dont_inherit=True)
    lines = decode_source(content).splitlines(keepends=True)
    linecache.cache[path] = len(content), None, lines, path  # as it ran, even if it changes later
    exec(code, vars(module))


def path_of(thing: Any) -> str:
    """Returns the file of a class or function; empty if it is unknown."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    return getattr(module, "__file__", None) or ""


def why(error: BaseException, path: str) -> str:
    """Returns in one line what a program raised, and in which line of its file."""
    if isinstance(error, SystemExit):
        return "it ends the program"
    message: object = error
    if isinstance(error, SyntaxError) and error.filename == path:
        message, lines = error.msg, [error.lineno]
    else:
        if isinstance(error, KeyError) and error.args:
            message = error.args[0]  # else in quotes
        if type(error).__module__ == "jax.errors":
            message = str(error).partition("\n")[0]  # the rest names our own calls
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
    where = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}{where}: {one_line(' '.join(str(message).split()))[:300]}"
