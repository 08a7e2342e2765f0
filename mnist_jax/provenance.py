"""What makes a run: command, commit, versions, machine; and what else has worked on it."""

import contextlib
import importlib.metadata
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mnist_jax import __version__
from mnist_jax.results import Row
from mnist_jax.workdirs import to_json, write_text


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


def note_process(workdir: Path, made: Row) -> list[Row]:
    """Notes in a run's directory what goes on with it now.

    Args:
        workdir: The directory.
        made: What `provenance` returns.

    Returns:
        The commit, versions and machine of each process that worked on it before, where they are
        others.
    """
    path = workdir / "checkpoints" / "processes.json"
    now = {key: made[key] for key in ("commit", "versions", "machine")}
    earlier: list[Row] = []
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        earlier = [record for record in found if record.keys() == now.keys() and record != now]
    path.parent.mkdir(exist_ok=True)
    write_text(path, to_json([*earlier, now]))
    return earlier


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
