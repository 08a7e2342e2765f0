"""The provenance of a run: command, commit, versions, machine, settings, earlier processes."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_jax import UserError, __version__, run_files
from mnist_jax.config.user_code import OwnFile
from mnist_jax.disk import to_json, write_text
from mnist_jax.runs.records import Row

_DEVICES = ("platform", "kind", "cores", "threads")
_SETTINGS = re.compile("JAX_.*|XLA_FLAGS|LIBTPU_INIT_ARGS|NVIDIA_TF32_OVERRIDE|NPROC")
# Paths, logging, and the index of a process in its job.
_HARMLESS = re.compile(
    r"JAX_(PLATFORM.*|NUM_.*|PROCESS_.*|COORDINATOR_.*|LOCAL_DEVICE_IDS|.*_(INDEX|VISIBLE_DEVICES)"
    "|.*(CACHE|LOG|DUMP|TRACEBACK|TIMEOUT).*)"
)
_HARMLESS_FLAG = re.compile(
    "--xla_(dump_.*|cpu_multi_thread_eigen|force_host_platform_device_count|gpu_deterministic_ops)"
    "(=.*)?$"
)


def provenance(command: str | None = None) -> Row:
    """Returns the provenance of a result: command, commit, versions, machine, environment.

    The command is by default that of this process.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    commit, missing = _commit()
    return {
        "command": command or shlex.join(_command()),
        "commit": commit,
        **({"commit_missing": missing} if missing else {}),
        "versions": {
            "mnist_jax": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "machine": _machine(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if _SETTINGS.fullmatch(name)
        },
    }


def deciding(made: Row) -> Row:
    """Returns the part of a provenance, or of a process' record, that decides what is computed."""
    part: Row = {key: made[key] for key in ("commit", "versions") if key in made}
    if "environment" in made:
        settings = {k: v for k, v in made["environment"].items() if not _HARMLESS.fullmatch(k)}
        if "XLA_FLAGS" in settings:
            flags = settings.pop("XLA_FLAGS").split()
            settings["XLA_FLAGS"] = " ".join(x for x in flags if not _HARMLESS_FLAG.match(x))
        part["environment"] = {name: value for name, value in settings.items() if value}
    return part


def differing(made: Row, others: Iterable[Row]) -> list[str]:
    """Returns the deciding keys that differ between records that have them."""
    one = deciding(made)
    rest = [deciding(other) for other in others]
    return [key for key in one if any(other.get(key, one[key]) != one[key] for other in rest)]


def cautions(made: Row) -> list[str]:
    """Returns warnings about a run's processes, shards and settings of XLA."""
    warnings = []
    shards, pooled = (list(made.get(key, {}).values()) for key in ("shards", "pooled"))
    earlier = list(made.get("earlier_processes", {}).values())
    for who, differ in (
        ("shards", differing(shards[0], shards) if shards else []),
        ("pooled parts", differing(pooled[0], pooled) if pooled else []),
        ("processes", differing(made, earlier)),
    ):
        if differ:
            warnings.append(
                f"WARNING: the {who} of this run differ in {' and '.join(differ)} (see Provenance"
                " in the report). Its trials may therefore differ by more than grid point and seed."
            )
    devices = made.get("devices", {})
    then = [x.get("devices", {}) for x in earlier]
    others = [k for k in _DEVICES if any(k in x and x[k] != devices.get(k) for x in then)]
    if others:
        warnings.append(
            f"WARNING: the processes of this run had different {' and '.join(others)} (see"
            " Provenance in the report). Sums are then rounded differently, so a run that is not"
            " interrupted cannot repeat the last digits of this one."
        )
    for record in (made, *shards, *pooled):
        if flags := deciding(record).get("environment", {}).get("XLA_FLAGS"):
            warnings.append(
                f"WARNING: XLA_FLAGS={flags} was set: results may differ from those of runs"
                " without it."
            )
    return list(dict.fromkeys(warnings))


def other_data(workdir: Path, was: str, now: str) -> UserError:
    """Returns the error for a run on data with another checksum."""
    return UserError(
        f"--workdir={workdir} holds a run on other data ({was}, not {now}); give the files that it"
        " was trained on, choose another --workdir, or give --overwrite"
    )


def keep_processes(workdir: Path, made: Row) -> None:
    """Records the processes of a finished run, given its provenance, unless that is done already.

    A merged run has no such record, and will lose its `summary.json` when it grows.
    """
    path = _path(workdir)
    if not path.exists():
        several = [
            made | each for each in (made.get("shards") or made.get("pooled") or {"": {}}).values()
        ]
        keys = ("data_checksum", "files", "seconds")
        records = [_maker(x) | {key: x[key] for key in keys if key in x} for x in several]
        path.parent.mkdir(exist_ok=True)
        write_text(path, to_json(records))


class Process:
    """One process of a run: its provenance and its seconds.

    While it runs, `checkpoints/processes.json` records it and those before it.

    Attributes:
        seconds: Wall-clock time of this process by phase, without `total`.
    """

    def __init__(self, command: str | None = None) -> None:
        self._start = time.monotonic()
        self._made = provenance(command)  # now: the checkout may change during the run
        self._path: Path | None = None
        self._earlier: list[Row] = []
        self._data_checksum = ""
        self.seconds = dict.fromkeys(("load", "compile", "train"), 0.0)

    @property
    def deciding(self) -> Row:
        """What decides what it computes, beside the experiment and its data."""
        return deciding(self._made)

    @property
    def total(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self._start

    def begin(
        self,
        workdir: Path,
        data_checksum: str,
        devices: Mapping[str, Any] | None = None,
        files: Sequence[OwnFile] = (),
    ) -> None:
        """Records in a run's directory that this process works on it from now on.

        `devices` are as `describe_devices` returns them. Of the user's `files` the paths at the
        beginning of the run are recorded: later processes may have read its copies.

        Raises:
            UserError: Those before it trained on other data.
        """
        self._path = _path(workdir)
        self._data_checksum = data_checksum
        self._earlier = read_processes(workdir)
        for record in self._earlier:
            if (other := record.get("data_checksum", data_checksum)) != data_checksum:
                raise other_data(workdir, other, data_checksum)
        if devices:
            self._made["devices"] = {name: devices[name] for name in _DEVICES}
            if devices["threads"] is None:  # where cores compute nothing
                del self._made["devices"]["cores"]
        own = {file.name: {"path": file.path, "sha256": file.sha256} for file in files}
        if own := next((r["files"] for r in self._earlier if "files" in r), own):
            self._made["files"] = own
        self._path.parent.mkdir(exist_ok=True)
        self.note()
        for text in cautions(self.record()):
            print(text.replace("WARNING", "warning", 1), file=sys.stderr)

    def note(self) -> None:
        """Records its seconds so far, for a process that resumes the run."""
        if self._path:
            write_text(self._path, to_json([*self._earlier, self._now()]))

    def note_earlier(self, train_seconds: float) -> None:
        """Counts the seconds of processes that recorded them in checkpoints alone."""
        if not self._earlier:
            self._earlier.append(_maker(self._made))
        seconds = dict.fromkeys(("train", "total"), train_seconds)
        self._earlier[-1] = {"seconds": seconds} | self._earlier[-1]

    def record(self) -> Row:
        """Returns the provenance of a finished run; `earlier_processes` are as of `combine`."""
        return self._made | combine([*self._earlier, self._now()])

    def _now(self) -> Row:
        seconds = {**self.seconds, "total": self.total}
        files = {"files": self._made["files"]} if "files" in self._made else {}
        checksum = {"data_checksum": self._data_checksum}
        return _maker(self._made) | files | checksum | {"seconds": seconds}


def _path(workdir: Path) -> Path:
    return workdir / "checkpoints" / "processes.json"


def read_processes(workdir: Path) -> list[Row]:
    """Returns what the processes of a run recorded of themselves, as far as it can be read."""
    with contextlib.suppress(run_files.BadFileError):
        records = run_files.read_json(_path(workdir), [object])
        return [record for record in records if run_files.fits(record, run_files.PROCESS)]
    return []


def combine(processes: Sequence[Row]) -> Row:
    """Returns the provenance of what the processes of a run made, given their records in order.

    It is the last one's. `seconds` are of all, as far as they had time to note them; of several,
    `seconds_by_process` has them one by one. `earlier_processes` has the commit, versions, machine,
    settings and devices of those before the last, where they differ from its own.
    """
    makers = list(map(_maker, processes))
    made = dict(makers[-1])
    others = [x for i, x in enumerate(makers) if not _agree(x, makers[-1]) and x not in makers[:i]]
    if others:
        made["earlier_processes"] = dict(enumerate(others, start=1))
    all_seconds = [record["seconds"] for record in processes if "seconds" in record]
    made["seconds"] = {
        phase: sum(seconds.get(phase, 0.0) for seconds in all_seconds)
        for phase in (all_seconds[-1] if all_seconds else ())
    }
    if len(all_seconds) > 1:
        made["seconds_by_process"] = all_seconds
    return made


def _maker(record: Row) -> Row:
    keys = ("commit", "versions", "machine", "environment", "devices")
    return {key: record[key] for key in keys if key in record}


def _agree(one: Row, other: Row) -> bool:
    """Says whether records are the same in what both have: older ones have less."""
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def _command() -> list[str]:
    """Returns the command that repeats this one, as it was typed.

    It has no `--overwrite`: a repeated command must not delete what is there by then.
    """
    overwrite = re.compile("--?(no)?overwrite(=.*)?")
    words = [word for word in sys.orig_argv[1:] if not overwrite.fullmatch(word)]
    if not (words and os.path.basename(words[0]) == "mnist-jax"):
        return ["python", *words]
    on_path = shutil.which("mnist-jax") == words[0]  # the shell has added the folder
    return ["mnist-jax" if on_path else words[0], *words[1:]]


def _machine() -> str:
    """Names the processor and the system."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
    return f"{model}, {platform.system()} {platform.machine()}"


def _commit() -> tuple[str | None, str]:
    """Returns the commit of the checkout that this package runs from, marked if it is dirty.

    If there is a checkout, but its commit is not available, it also returns why.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None, ""
    git = ["git", "--no-optional-locks"]  # a record changes nothing, not even the index
    command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    except OSError as error:
        return None, f"git cannot be run ({error.strerror})"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"git: status {done.returncode}"])[0]
    return done.stdout.strip(), ""
