"""The cores and the memory of the machine that this process may use."""

import contextlib
import math
import os
import re
from pathlib import Path

GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where control groups (version 2) are mounted, and the file that names that of this process."""


def num_cores(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """Returns the CPU cores that this process may use.

    A container or a cluster's job has fewer than the machine, by the quota of its control group or
    one above, or by what Slurm gives to a task, even if that is not bound to certain cores.
    """
    cores = bound_cores()
    for folder in _control_groups(groups, own):
        with contextlib.suppress(OSError, ValueError):  # "max 100000" is no quota
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            cores = min(cores, math.ceil(quota / period))
    of_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(of_task)) if of_task.isdecimal() else cores)


def bound_cores() -> int:
    """Returns the cores that the system lets this process run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """Returns the bytes that this process may still take on the host.

    A container or a cluster's job has less than the machine, by its control group or one above.
    """
    import psutil

    free = 2**60  # where it cannot be known, as without /proc, it is tried
    with contextlib.suppress(OSError, psutil.Error):
        free = psutil.virtual_memory().available
    for folder in _control_groups(groups, own):
        with contextlib.suppress(OSError, ValueError):  # the root has no limit, others may not
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            stat = (folder / "memory.stat").read_text()
            on_demand = re.findall(r"^(?:(?:in)?active_file|slab_reclaimable) (\d+)", stat, re.M)
            free = min(free, limit - used + sum(map(int, on_demand)))
    return max(0, free)


def _control_groups(groups: Path, own: Path) -> list[Path]:
    """Returns the folders of this process' control group and of those above it, if it has one."""
    try:
        group = groups / own.read_text().rpartition("0::/")[2].strip()
    except OSError:
        return []
    return [group, *group.parents]
