"""Snapshots of a sweep on disk, from which an interrupted run resumes with the same bits.

A checkpoint is a folder named by its step. Orbax writes the arrays into it, and last comes
`manifest.json`: a first line with the SHA-256 of the rest; then the digest of the run, the caller's
record and the SHA-256 of every other file. A folder that differs from its manifest is not used. So
an incomplete save and later damage are noticed, and an older checkpoint is the fallback.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from mnist_jax import UserError, disk
from mnist_jax.runs import made_files
from mnist_jax.training import hosts

MANIFEST = "manifest.json"
WRITING_S = 1.0  # seconds for which Orbax's threads may still be at work after a failed save


class Restored(NamedTuple):
    """A checkpoint that was read back and verified."""

    step: int
    state: PyTree
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of one sweep, written by a thread beside it.

    Every array of a state has the trial axis first. Only the rows of real trials are kept, since
    the padding behind them depends on the number of devices, which may be another when the run
    resumes. As a context manager, it waits at the end for what is being written.
    """

    def __init__(
        self, folder: Path, *, run: str, num_trials: int, keep: int, max_share: float = 0.05
    ):
        """Lists existing checkpoints, and writes nothing; the first save creates the folder.

        A checkpoint with another digest of the `run` is not used; old ones have none. The newest
        ones stay, as many as `keep`. `max_share` is the share of time that saving may take after
        the first one, which is `ready` at once: so a process that lives for an epoch gets on.
        """
        self.folder = folder.absolute()
        self._run = run
        self._num_trials = num_trials
        self._keep = keep
        self._pause = 1 / max_share
        self._steps = [s for s in self._all_steps() if (self._path(s) / MANIFEST).exists()]
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._pending: Future[None] | None = None
        self._next_at = 0.0  # when the next may begin
        self._failing = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._writer.shutdown()

    def ready(self, after: float) -> bool:
        """Says whether a save in `after` seconds would keep saving to its share of the time.

        Always false while the last one is being written, and where another process writes.
        """
        if self._pending and not self._pending.done():
            return False
        return hosts.is_first() and time.monotonic() + after >= self._next_at

    def save(self, step: int, state: PyTree, record: dict[str, Any]) -> None:
        """Takes a snapshot and starts to write it; the state may be donated right after.

        It waits until the last one is written. One that cannot be written, as on a full disk, costs
        a line on stderr and nothing else; failures in a row cost one line. The step is higher than
        the last one; the record holds what else is needed to resume, as JSON can hold it.
        """
        self.finish()
        start = time.monotonic()  # copying counts, too: the devices wait for it
        names, leaves = leaf_names(state), _leaves(hosts.gather(state))
        if hosts.is_first():
            own = [x[: self._num_trials] for x in leaves]
            arrays = dict(zip(names, own, strict=True))
            content = json.dumps(record)
            self._pending = self._writer.submit(self._write, step, arrays, content, start)

    def restore(self, like: PyTree, newest: int | float = math.inf) -> Restored | None:
        """Returns the newest good checkpoint, or None; each damaged one costs a line on stderr.

        The state is as `like`: arrays, or `jax.ShapeDtypeStruct` with shardings. NumPy arrays come
        back as such, all others on the devices. Padding repeats the last trial. Steps after
        `newest` do not count.
        """
        import jax

        self.finish()
        names, leaves = leaf_names(like), _leaves(like)
        kinds = {
            name: ((self._num_trials, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in zip(names, leaves, strict=True)
        }
        arrays: dict[str, np.ndarray] = {}

        def find() -> list[Any] | None:
            """Returns step and record of the newest good checkpoint, and fills in its arrays."""
            self._steps = [s for s in self._steps if s <= newest]
            for step in reversed([s for s in self._all_steps() if s <= newest]):
                try:
                    content, record = self.read(step)
                    if {name: (x.shape, x.dtype) for name, x in content.items()} != kinds:
                        raise ValueError("its arrays are not those of this run")
                except Exception as error:  # damage can make the reader fail in any way
                    _warn(f"checkpoint {self._path(step)} cannot be used ({_one_line(error)})")
                else:
                    arrays.update(content)
                    self._steps = [s for s in self._steps if s <= step]
                    return [step, record]
            self._steps = []
            return None

        if (newest_good := hosts.first(find)) is None:
            return None
        step, record = newest_good
        arrays = hosts.arrays_of_first(arrays, kinds)
        placed = [place_rows(arrays[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
        return Restored(step, jax.tree.unflatten(jax.tree.structure(like), placed), record)

    def finish(self) -> None:
        """Waits until what has been given to `save` is written, and says where that failed."""
        if self._pending is None:
            return
        error, self._pending = self._pending.exception(), None
        if isinstance(error, UserError):  # the folder is another run's by now
            raise error
        if error and not self._failing:
            back = f"from checkpoint {self._steps[-1]}" if self._steps else "from the start"
            _warn(
                f"a checkpoint cannot be written to {self.folder} ({_one_line(error)}); "
                f"the run continues and tries again; if interrupted, it would resume {back}"
            )
        self._failing = error is not None

    def _write(self, step: int, arrays: dict[str, np.ndarray], record: str, start: float) -> None:
        path = self._path(step)
        try:
            with disk.writing(path):
                _check_space(self.folder, sum(array.nbytes for array in arrays.values()))
                with _orbax() as orbax:
                    orbax.save(path, arrays, force=True)
            manifest = {"run": self._run, "record": record, "files": _digests(path)}
            body = json.dumps(manifest).encode()
            with (
                disk.writing(path / MANIFEST),
                open(path / MANIFEST, "wb", buffering=0) as file,
            ):
                file.write(_digest(body) + b"\n" + body)
                os.fsync(file.fileno())
            self._steps = [*(s for s in self._steps if s < step), step][-self._keep :]
        finally:
            self._delete_others()
            self._next_at = start + self._pause * (time.monotonic() - start)

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays of a checkpoint by `leaf_names`, and the record.

        What is wrong with one that is not good may raise anything.
        """
        path = self._path(step)
        try:
            digest, _, body = (path / MANIFEST).read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise ValueError("it was not finished") from None
        if digest != _digest(body):
            raise ValueError(f"{MANIFEST} is damaged")
        manifest = json.loads(body)
        if manifest.get("run", self._run) != self._run:
            raise ValueError("it is of another config, or of other data")
        digests = _digests(path)
        for name in sorted(digests.keys() | manifest["files"].keys()):
            if digests.get(name) != manifest["files"].get(name):
                raise ValueError(f"{name} is {'damaged' if name in digests else 'missing'}")
        with _orbax() as orbax:
            arrays = orbax.restore(path)
        return arrays, json.loads(manifest["record"])

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _all_steps(self) -> list[int]:
        return sorted(int(p.name) for p in self._entries() if p.name.isdecimal())

    def _entries(self) -> list[Path]:
        """Lists checkpoints, good and bad, and what Orbax leaves of unfinished ones."""
        if not self.folder.is_dir():
            return []
        return [p for p in self.folder.iterdir() if made_files.STEP.fullmatch(p.name)]

    def _delete_others(self) -> None:
        with disk.writing(self.folder):
            for path in self._entries():
                if path.name not in map(str, self._steps):
                    try:
                        _delete(path)
                    except OSError as error:
                        _warn(f"checkpoint {path} cannot be deleted ({_one_line(error)})")


def _delete(folder: Path) -> None:
    """Deletes a folder, in which Orbax's threads may still write and delete."""
    until = time.monotonic() + WRITING_S
    while os.path.lexists(folder):
        try:
            shutil.rmtree(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _check_space(folder: Path, num_bytes: int) -> None:
    """Raises OSError where the disk is full, before a snapshot takes the space that rows need."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = num_bytes + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"no space: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")


def leaf_names(tree: PyTree) -> list[str]:
    """Returns names for the leaves of a tree, such as `.params['output']['bias']`."""
    import jax

    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _leaves(tree: PyTree) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def place_rows(array: np.ndarray, like: Any) -> Any:
    """Fills an array up to the rows of another one, and puts it where that one is."""
    padding = [(0, like.shape[0] - len(array))] + [(0, 0)] * (array.ndim - 1)
    array = np.pad(array, padding, mode="edge")
    return array if isinstance(like, np.ndarray) else hosts.place(array, like.sharding)


def _orbax() -> Any:
    """Imports Orbax and returns a checkpointer of its own for this process.

    Otherwise all processes of a job take part in whatever one of them reads or writes. Orbax is
    silenced: it logs tracebacks of what it also raises, and each of its threads that outlive a
    failure, as on a full disk, prints one.
    """
    import orbax.checkpoint as ocp

    sys.unraisablehook = _except_from_orbax
    logging.getLogger("absl").addFilter(_not_from_orbax)
    alone = ocp.options.MultiprocessingOptions(
        active_processes={0}, barrier_sync_key_prefix="checkpoints"
    )
    # Compression gains 10 %, and takes 3 times longer.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


_unraisable = sys.unraisablehook


def _except_from_orbax(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _unraisable(unraisable)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file under a folder but the manifest, by its relative path."""
    digests = {}
    for path in folder.rglob("*"):
        if path.is_file() and path != folder / MANIFEST:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _one_line(error: BaseException) -> str:
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # at the end of many words
        return os.strerror(int(code[1]))
    return " ".join(str(error).split())[:200] or type(error).__name__


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
