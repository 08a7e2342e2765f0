"""The directory of a run: what it holds, who may use it, and how a run starts there."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnist_jax import UserError, disk, run_files
from mnist_jax.config.old_records import comparable, upgrade_record
from mnist_jax.runs import made_files

_MARKS = {"name", "dataset", "design_seed", "num_validation", "num_seeds"}
"""Keys of config.json, of this version and those before, that tell a run from anything else."""
RESUMABLE = {"checkpoint_epochs", "checkpoints_kept", "devices", "keep_weights"}
"""Keys that change no result (beyond rounding, `devices` on a GPU or TPU): a run may be resumed
with other values."""


def how_to_resume(workdir: Path, overwrite: bool = False) -> str:
    """Says what to do after an interruption, even if a file of the user's is lost by then."""
    but = ", but without --overwrite," * overwrite
    record = (
        f"; if your files have changed, --config={workdir}/config.json --workdir={workdir} does"
    )
    has_copies = (workdir / "files").is_dir()
    return f"the same command with --workdir={workdir}{but} resumes it{record * has_copies}"


def new_workdir(name: str, suffix: str = "") -> Path:
    """Returns the default directory of a run or report: a folder in `runs`, whatever the name."""
    folder = re.sub(r"[/\x00-\x1f]|^\.+$", "_", name)[:100] or "_"
    return Path("runs", folder, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{suffix}")


def link_latest(path: Path) -> None:
    """Makes `latest`, beside a run's directory, a link to it, where the file system has links.

    A file or folder of that name stays.
    """
    link, temporary = path.with_name("latest"), path.with_name(f".latest.{os.getpid()}")
    with contextlib.suppress(OSError):
        if link.is_symlink() or not link.exists():
            temporary.symlink_to(path.name)
            temporary.replace(link)  # in one step, whatever the link was to
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def check_workdir(
    path: Path,
    config: Mapping[str, Any],
    overwrite: bool,
    why_not: Callable[[Mapping[str, Any], Collection[str]], str | None] = lambda *_: None,
) -> str:
    """Says whether a run in a directory is `new`, `unfinished` or `finished`; writes nothing.

    With `overwrite`, a run that it holds does not count. It is `smaller` if it can grow, of which
    `why_not` tells, as `growth.why_not`, given its record and the keys that differ.

    Raises:
        UserError: It holds another run, something that no run says it made, or a link in place of
            what is to be deleted; it is not finished, and cannot be written; or its name would
            break lines.
    """
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", str(path)):
        raise UserError(f"--workdir={str(path)!r}: expected no control characters; choose another")
    state = _state(path, config, overwrite, why_not)
    if state != "finished":
        if reason := why_unwritable(path):
            raise _unwritable(path, reason)
        _refuse_links(path)
    return state


def _state(path: Path, config: Mapping[str, Any], overwrite: bool, why_not: Callable) -> str:
    there = [
        name for name in (*made_files.FILES, *made_files.FOLDERS) if os.path.lexists(path / name)
    ]
    if not there:
        _refuse_common_folder(path)
        return "new"
    recorded, problem = {}, "config.json: it is not that of a run"
    try:
        recorded = run_files.read_json(config_file(path), {})
    except run_files.BadFileError as error:
        problem = str(error)
    if not recorded.keys() >= _MARKS:
        raise UserError(
            f"--workdir={path} holds {', '.join(there)}, which may be of something else than a run"
            f" ({problem}); choose another --workdir, or delete it yourself"
        )
    if overwrite:
        kinds = dict.fromkeys(made_files.FILES, stat.S_ISREG) | dict.fromkeys(
            made_files.FOLDERS, stat.S_ISDIR
        )
        if odd := [name for name in there if not kinds[name]((path / name).lstat().st_mode)]:
            raise UserError(
                f"--workdir={path} holds a run, but {', '.join(odd)} in it is a link, or another "
                "thing that no run makes and --overwrite leaves alone; delete it yourself"
            )
        return "new"
    if folder := next((name for name in made_files.FILES[1:] if (path / name).is_dir()), None):
        raise UserError(
            f"--workdir={path} cannot be used: {folder} is a folder, where a run writes a file;"
            " move it away, or choose another --workdir"
        )
    differ = differences(recorded, config)
    if differ and (reason := why_not(recorded, differ)) == "":
        return "smaller"
    if differ:
        # With a file its keys may have changed, too.
        if changed := [k for k in differ if k.endswith(".py") and None not in differ[k]]:
            others = " and another ".join(changed)
            raise UserError(
                f"--workdir={path} holds a run that began with another {others}, of which it has a "
                f"copy in {path / 'files'}; put that back, choose another --workdir, or give "
                "--overwrite"
            )
        pairs = [f"{key} ({was}, not {now})"[:300] for key, (was, now) in differ.items()]
        what, cure = "another run, which differs in", f"{reason}; " if reason else ""
        if all(key.startswith("data.") for key in differ):
            what = f"a run that began with other data than {config['dataset']} holds now:"
            cure = "put the data back as it was, "
        raise UserError(
            f"--workdir={path} holds {what} {', '.join(pairs[:9])}; {cure}"
            "choose another --workdir, or give --overwrite"
        )
    if "summary.json" not in there or config_file(path) != path / "config.json":
        return "unfinished"
    if config.get("keep_weights") == "all" != recorded.get("keep_weights"):
        raise UserError(
            f"--config.keep_weights=all: {path} holds this run, finished, without the weights of"
            " all trials; leave the key out, choose another --workdir, or give --overwrite to train"
            " all again"
        )
    return "finished"


def config_file(path: Path) -> Path:
    """Returns the record of the run that a directory holds, which may be about to grow."""
    grown = path / "growth" / "config.json"
    return grown if grown.exists() else path / "config.json"


def differences(*records: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the keys in which two records ask for different results, and both values."""
    old, new = (comparable(upgrade_record(json.loads(disk.to_json(x)))) for x in records)
    keys = sorted((old.keys() | new.keys()) - RESUMABLE)
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def as_recorded(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a resolved experiment in the keys of its run in a directory, if that is there.

    Another version may have used other keys; the digests of its checkpoints depend on them.
    """
    try:
        recorded = run_files.read_json(config_file(path), run_files.CONFIG)
    except run_files.BadFileError:
        return dict(config)
    if differences(recorded, config):
        return dict(config)
    keys = RESUMABLE & recorded.keys() & config.keys()
    if config.get("keep_weights") == "all":  # what follows from a key that it lacks is recorded
        keys.add("keep_weights")
    return recorded | {key: config[key] for key in sorted(keys)}


def _refuse_common_folder(path: Path) -> None:
    """Refuses the current folder, the home and what they are in, unless it is empty."""
    folder = Path(os.path.realpath(path))
    places = {"the current folder": Path(os.path.realpath("."))}
    places["your home"] = Path(os.path.realpath(os.path.expanduser("~")))
    if place := next((what for what, at in places.items() if at.is_relative_to(folder)), None):
        with contextlib.suppress(OSError):  # said where it is opened
            if any(name != ".lock" for name in os.listdir(folder)):
                contains = "is" if folder == places[place] else "contains"
                raise UserError(
                    f"--workdir={path} {contains} {place}, with files that are no run's: expected a"
                    f" folder of its own; give --workdir={path / 'runs' / 'first'}, say"
                )


def _refuse_links(path: Path) -> None:
    """Refuses links to folders in which a run would write and delete."""
    folder = path / "checkpoints"
    places = [folder, *(path / name for name in ("files", "weights", "growth", "growth/weights"))]
    places += [*folder.glob("*trials_*"), *folder.glob("*trials_*/*")]
    if link := next((place for place in places if place.is_symlink()), None):
        raise UserError(
            f"--workdir={path} cannot be used: {link} is a link, and a run would delete what it "
            "points to; put a folder in its place, or link the whole work directory"
        )


def why_unwritable(path: Path) -> str | None:
    """Says why a folder, which need not exist, or what a run left in it cannot be written.

    Nothing is written. Returns None if all is writable.
    """
    try:
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not existing.is_dir():
            return f"{existing} is a file"
        places = itertools.chain(
            (existing, path / ".lock", *(path / name for name in made_files.FOLDERS)),
            (found for found, _ in made_files.find(path, "{}")),  # when all folders may be entered
        )
        for place in places:
            needed = os.W_OK | os.R_OK * (path in (place, *place.parents))
            needed |= os.X_OK * place.is_dir()
            if os.path.lexists(place) and not os.access(place, needed):
                read_only = os.statvfs(place).f_flag & os.ST_RDONLY
                return f"{place} is {'on a read-only disk' if read_only else 'not yours to write'}"
    except OSError as error:
        return error.strerror
    return None


def digest(config: Mapping[str, Any], data_checksum: str) -> str:
    """Returns a digest of what a run computes: the same for every process that resumes it."""
    plain = json.loads(disk.to_json(config))
    same = {key: plain[key] for key in sorted(plain.keys() - RESUMABLE)}
    return hashlib.sha256(json.dumps([same, data_checksum]).encode()).hexdigest()


@contextlib.contextmanager
def lock_workdir(path: Path) -> Iterator[None]:
    """Makes the directory if it does not exist, and keeps other runs out of it.

    The system ends the lock with the process that holds it, however that ends. Where a file system
    has no locks, a line says so. Meanwhile `disk.writing` checks that the directory is still there.

    Raises:
        UserError: Another run uses it, or it cannot be written.
    """
    import fcntl

    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(os.open(path / ".lock", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK), "wb")  # noqa: SIM115
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # any other: it has no locks
                raise UserError(
                    f"--workdir={path} is in use by a run that has not ended; wait for it, or "
                    "choose another --workdir"
                ) from None
            print(
                f"warning: --workdir={path} cannot be locked ({error.strerror}); see to it that "
                "no other run uses it",
                file=sys.stderr,
                flush=True,
            )
        disk.locked[path] = file
        try:
            yield
        finally:
            del disk.locked[path]


def open_workdir(path: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    """Starts a run in a locked directory, or resumes its run, after another `check_workdir`."""
    state = check_workdir(path, config, overwrite)
    made_files.delete_leftovers(path)
    if state == "new":
        files = config.get("files", {})
        made_files.delete_run(
            path, keep=[path / "config.json", *(path / "files" / name for name in files)]
        )
    text = disk.to_json(config, indent=2) + "\n"
    file = path / "config.json"
    if not file.exists() or file.read_bytes() != text.encode():  # a full disk may not hold it twice
        disk.write_text(file, text)


def tidy_finished(path: Path) -> None:
    """Does what `tidy` does if a run was killed before it did, and its directory can be locked."""
    if made_files.not_needed(path):
        with contextlib.suppress(UserError), lock_workdir(path):
            if (path / "summary.json").exists():
                made_files.tidy(path)


def _unwritable(path: Path, reason: str | None) -> UserError:
    return UserError(f"--workdir={path} cannot be written ({reason}); choose another --workdir")
