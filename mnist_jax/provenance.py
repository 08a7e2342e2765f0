"""What makes a run: command, commit, versions, machine; and what else has worked on it."""

import contextlib
import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mnist_jax import UserError, __version__, run_files
from mnist_jax.results import Row
from mnist_jax.workdirs import to_json, write_text

_MAKERS = ("commit", "versions", "machine")


def provenance() -> Row:
    """Returns what made a result: command, commit, versions and machine."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": shlex.join(["python", *_repeatable(sys.orig_argv[1:])]),
        "commit": _commit(),
        "versions": {
            "mnist_jax": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "machine": _machine(),
    }


class Process:
    """One process of a run: what makes it, and what it takes.

    `checkpoints/processes.json` tells of it while it goes on, and of those before it.

    Attributes:
        seconds: Wall-clock time of this process by phase, without `total`.
    """

    def __init__(self) -> None:
        """Starts the clock."""
        self._start = time.monotonic()
        self._made = provenance()  # now: the checkout may change while the run goes on
        self._path: Path | None = None
        self._earlier: list[Row] = []
        self._data_checksum = ""
        self.seconds = dict.fromkeys(("load", "compile", "train"), 0.0)

    @property
    def total(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self._start

    def begin(self, workdir: Path, data_checksum: str) -> None:
        """Notes in a run's directory that this process goes on with it now.

        Raises:
            UserError: Those before it trained on other data.
        """
        self._path = workdir / "checkpoints" / "processes.json"
        self._data_checksum = data_checksum
        self._earlier = []
        with contextlib.suppress(run_files.BadFileError):
            found = run_files.read_json(self._path, [object])
            self._earlier = [r for r in found if run_files.fits(r, run_files.PROCESS)]
        for record in self._earlier:
            if (other := record.get("data_checksum", data_checksum)) != data_checksum:
                raise UserError(
                    f"--workdir={workdir} holds a run on other data ({other}, not {data_checksum});"
                    " give it the files of then, or choose another --workdir, or give --overwrite"
                )
        self._path.parent.mkdir(exist_ok=True)
        self.note()

    def note(self) -> None:
        """Notes what it has taken so far, for a process that goes on after it."""
        if self._path:
            write_text(self._path, to_json([*self._earlier, self._now()]))

    def note_earlier(self, train_seconds: float) -> None:
        """Counts what processes took that noted it in their checkpoints alone."""
        if not self._earlier:
            self._earlier.append({key: self._made[key] for key in _MAKERS})
        seconds = dict.fromkeys(("train", "total"), train_seconds)
        self._earlier[-1] = {"seconds": seconds} | self._earlier[-1]

    def record(self) -> Row:
        """Returns what made a finished run.

        `seconds` are of all its processes, as far as they had time to note them. Where there were
        several, `seconds_by_process` has them one by one; `earlier_processes` has the commit,
        versions and machine of those before this one, where they are others.
        """
        now, made = self._now(), dict(self._made)
        makers = [{key: record[key] for key in _MAKERS} for record in (*self._earlier, now)]
        others = [x for i, x in enumerate(makers) if x != makers[-1] and x not in makers[:i]]
        if others:
            made["earlier_processes"] = dict(enumerate(others, start=1))
        all_seconds = [r["seconds"] for r in (*self._earlier, now) if "seconds" in r]
        made["seconds"] = {
            phase: sum(seconds.get(phase, 0.0) for seconds in all_seconds)
            for phase in now["seconds"]
        }
        if len(all_seconds) > 1:
            made["seconds_by_process"] = all_seconds
        return made

    def _now(self) -> Row:
        makers = {key: self._made[key] for key in _MAKERS}
        seconds = {**self.seconds, "total": self.total}
        return makers | {"data_checksum": self._data_checksum, "seconds": seconds}


def _repeatable(arguments: Sequence[str]) -> list[str]:
    """Drops `--overwrite`: who repeats a command is not asking to lose what lies there by then."""
    return [given for given in arguments if not re.fullmatch("--?(no)?overwrite(=.*)?", given)]


def _machine() -> str:
    """Names the processor and the system."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
    return f"{model}, {platform.system()} {platform.machine()}"


def _commit() -> str | None:
    """Returns the commit of the checkout that this package runs from, marked if it is dirty."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
