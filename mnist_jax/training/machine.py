"""The machine: JAX set up for it, devices that trials are spread over, free cores and memory."""

import contextlib
import functools
import itertools
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mnist_jax import UserError
from mnist_jax.config.settings import COMPUTED, PRECISIONS
from mnist_jax.data.cache import compiled_folder
from mnist_jax.training import hosts

GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
DEFAULTS = {
    # What decides the numbers that a seed gives.
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_custom_prng": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_softmax_custom_jvp": False,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    # What ends a run that has nothing wrong with it; a trial that diverges is recorded.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_disable_jit": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_compilation_cache_check_contents": False,
}
"""Settings of JAX's that a run has whatever the environment says, so that a seed is the same run
everywhere. They are JAX's defaults; what a version of JAX does not know does not count."""


def configure_jax(
    num_trials: int,
    *,
    platform: str = "",
    devices: int = 0,
    precision: str = "float32",
    deterministic: bool = False,
    job: str | None = None,
    timeout: float = hosts.TIMEOUT,
) -> None:
    """Sets JAX up for a sweep, and looks for devices; must come before anything else does.

    What decides the numbers is set whatever the environment says: `DEFAULTS`.

    Each CPU core becomes one device, as far as there are trials for them. Where fewer trials than
    cores train together at most, the devices share all cores through threads, so that none is idle.

    Args:
        num_trials: The most that train together; where fewer do, their devices are no faster.
        platform: `cpu`, `gpu` or `tpu`; none takes the first of TPU, GPU and CPU that there is.
        devices: How many devices of a process are used, at most; 0 for all. A CPU has one for each
            core: with more, XLA would cut its sums otherwise, which changes their last bits.
        precision: Of matrix products, one of `PRECISIONS`.
        deterministic: Whether a GPU must use kernels that give the same bits every time, and the
            same ones every time: none is chosen by how long it took.
        job: The job of several processes that this one joins, as `hosts.join` takes it.
        timeout: Seconds for that job to come together.

    Raises:
        UserError: The platform, its precision or the job cannot be had.
    """
    set_aside = []
    for name, value in DEFAULTS.items():
        given = jax.config.values.get(name)
        if given is not None and given != value:
            jax.config.update(name, value)
            if jax.config.values[name] != given:
                set_aside.append(f"{name.upper()}={given}")
    cores = num_cores()
    jax.config.update("jax_num_cpu_devices", min(devices or cores, cores, num_trials))
    if platform == "cpu":
        jax.config.update("jax_platforms", platform)  # others are found without, or are not there
    given, flags = os.environ.get("XLA_FLAGS", "").split(), []
    if cores < _bound_cores():
        os.environ.setdefault("NPROC", str(cores))  # as many threads has XLA
    if num_trials >= cores:
        flags.append("--xla_cpu_multi_thread_eigen=false")
    if deterministic:
        flags += ["--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
    if missing := [flag for flag in flags if flag not in given]:
        os.environ["XLA_FLAGS"] = " ".join([*given, *missing])
    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    if job is not None:
        hosts.join(job, timeout)
    found = _find_backend()
    if set_aside and hosts.is_first():
        print(
            f"warning: {', '.join(set_aside)} {'is' if len(set_aside) == 1 else 'are'} ignored, so "
            "that a seed gives the same run everywhere",
            file=sys.stderr,
        )
    if platform not in ("", found):
        raise UserError(
            f"--config.platform={platform}: JAX finds none, but {jax.devices()[0].device_kind}; "
            "install JAX for it (pip install -e '.[cuda]' or '.[tpu]'), see that JAX_PLATFORMS "
            "does not keep it out, or choose another"
        )
    if found == "cpu" and sys.platform == "linux" and not CPU_INFO.exists():
        raise UserError(
            f"{CPU_INFO}: missing, where JAX looks for what the CPU can do; mount /proc, as in any "
            "container"
        )
    device = jax.devices()[0]
    computed = ("float32",) if _is_before_ampere(device) else COMPUTED.get(found, ("float32",))
    if precision not in computed:
        raise UserError(
            f"--config.precision={precision}: expected {' or '.join(computed)}, as a "
            f"{device.device_kind} computes; choose that, or another --config.platform"
        )


@functools.cache
def keep_compiled() -> None:
    """Lets JAX keep compiled programs in the user's cache, unless it was told otherwise.

    That is made here and not when JAX is set up: a run that is refused leaves nothing.
    """
    enabled = jax.config.values["jax_enable_compilation_cache"]
    unset = jax.config.values["jax_compilation_cache_dir"] is None
    if unset and enabled and (folder := compiled_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _find_backend() -> str:
    """Returns the platform that JAX takes, or says why it finds none."""
    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # as JAX's reason, if it gives one
        given, reason = os.environ.get("JAX_PLATFORMS", ""), str(error).split("\n")[0]
        raise UserError(
            f"JAX_PLATFORMS={given}: JAX cannot start it ({reason or 'there is none'}); install "
            "JAX for it (pip install -e '.[cuda]' or '.[tpu]'), or unset the variable"
        ) from None


def _is_before_ampere(device: jax.Device) -> bool:
    """Says whether a device is an NVIDIA GPU that rounds no factors in matrix products."""
    try:
        return float(getattr(device, "compute_capability", "")) < 8
    except ValueError:  # another device has none, or a name for it
        return False


def devices_for(num_trials: int, num_devices: int = 0) -> list[jax.Device]:
    """Returns the devices that so many trials are spread over: no more than there are trials.

    Processes take turns, so that each has its share.

    Args:
        num_trials: Trials of all processes.
        num_devices: How many devices of each process are used at most; 0 for all.

    Raises:
        UserError: There are fewer devices, fewer trials than processes, or processes with fewer
            devices than others.
    """
    local = jax.local_devices()
    if num_devices > len(local) and len(local) < num_trials:
        raise UserError(
            f"--config.devices={num_devices}: expected at most {len(local)}, since JAX finds "
            f"{len(local)} of {local[0].device_kind}; give 0 for all"
        )
    if num_trials < jax.process_count():
        raise UserError(
            f"--distributed: {jax.process_count()} processes for {num_trials} trials that train "
            "together; give at most as many processes as trials"
        )
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    sizes = sorted(map(len, by_process.values()))
    if sizes[0] < sizes[-1]:  # which what the processes tell each other does not allow for
        raise UserError(
            f"--distributed: the processes have {sizes[0]} to {sizes[-1]} devices; expected as "
            f"many each, which on CPUs --config.devices={sizes[0]} gives"
        )
    turns = zip(*(found[: num_devices or None] for found in by_process.values()), strict=True)
    return list(itertools.chain(*turns))[:num_trials]


def describe_devices(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Returns what runs the trials and how, for the record."""
    on_cpu = devices[0].platform == "cpu"
    alone = "xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", "")
    threads = "one a device" if alone else "shared by the devices"
    precisions = {name: key for key, name in PRECISIONS.items()}
    precision = jax.config.values["jax_default_matmul_precision"]
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
        "cores": num_cores(),
        "threads": threads if on_cpu else None,
        "trials_in_a_device": "lax.map" if on_cpu else "vmap",
        "matmul_precision": precisions.get(precision, precision),
    }


def what_runs(devices: dict[str, Any], platform: str) -> str:
    """Says what a sweep runs on and why, for the terminal.

    Args:
        devices: As `describe_devices` gives them.
        platform: That the config asks for.
    """
    given = os.environ.get("JAX_PLATFORMS")
    if platform:
        why = f"as --config.platform={platform} says"
    elif given:
        why = f"as JAX_PLATFORMS={given} says"
    elif devices["platform"] == "cpu":
        why = "since JAX finds no GPU or TPU"
    else:
        why = "the first of TPU, GPU and CPU that JAX finds"
    how = {"lax.map": "one after the other", "vmap": "together"}[devices["trials_in_a_device"]]
    text = f"Runs on {devices['count']} {devices['kind']} device{'s' * (devices['count'] > 1)}"
    if devices["processes"] > 1:
        text += f" of {devices['processes']} processes"
    text += f", {why}; trials in a device are trained {how}"
    if devices["threads"] == "shared by the devices":
        text += f", by the threads of {devices['cores']} cores"
    return f"{text}, matrix products in {devices['matmul_precision']}"


def num_cores(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """Returns the CPU cores that this process may use.

    Those of a container or a cluster's job are fewer than the machine's by the quota of its control
    group or one above, or by what Slurm gives to a task, even where it is bound to none of them.

    Args:
        groups: Where the control groups are mounted (version 2).
        own: File that names the group of this process.
    """
    cores = _bound_cores()
    for folder in _control_groups(groups, own):
        with contextlib.suppress(OSError, ValueError):  # "max 100000" is no quota
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            cores = min(cores, math.ceil(quota / period))
    of_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(cores, int(of_task)) if of_task.isdecimal() else cores)


def _bound_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """Returns the bytes that this process may still take on the host.

    A container or a cluster's job has less than the machine, by its control group or one above.

    Args:
        groups: Where the control groups are mounted (version 2).
        own: File that names the group of this process.
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
