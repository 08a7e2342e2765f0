"""JAX, set up for an experiment, before anything else in the process uses it."""

import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mnist_jax import UserError
from mnist_jax.config import old_records
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.settings import COMPUTED, PRECISIONS
from mnist_jax.data.cache import compiled_folder
from mnist_jax.training import hosts
from mnist_jax.training.machine import bound_cores, num_cores

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


def start_jax(
    experiment: Experiment,
    num_trials: int | None = None,
    job: str | None = None,
    timeout: int = hosts.TIMEOUT,
    common: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Sets JAX up for an experiment, by `configure_jax`, and returns `describe_devices`.

    Args:
        experiment: What to train.
        num_trials: How many train together at most; by default, as many as in the experiment.
        job: As `hosts.join` takes it.
        timeout: Seconds for the processes of the job to meet.
        common: What they must have in common beside the experiment.
    """
    sizes = [num_trials] if num_trials else list(map(len, experiment.parts.values()))
    configure_jax(
        max(sizes),
        platform=experiment.platform,
        devices=experiment.devices,
        precision=experiment.precision,
        deterministic=experiment.deterministic,
        job=job,
        timeout=timeout,
    )
    from mnist_jax.training.devices import describe_devices, devices_for

    hosts.compare({**old_records.comparable(experiment.record()), **common})
    devices_for(min(sizes), experiment.devices)
    return describe_devices(devices_for(max(sizes), experiment.devices))


def configure_jax(
    num_trials: int,
    *,
    platform: str = "",
    devices: int = 0,
    precision: str = "float32",
    deterministic: bool = False,
    job: str | None = None,
    timeout: int = hosts.TIMEOUT,
) -> None:
    """Sets JAX up for a sweep, and looks for devices; must come before anything else does.

    What decides the numbers is set whatever the environment says: `DEFAULTS`.

    Each CPU core becomes one device, as far as there are trials for them. Where fewer trials than
    cores train together at most, the devices share all cores through threads, and no core is idle.

    Args:
        num_trials: How many train together at most.
        platform: `cpu`, `gpu` or `tpu`; by default the first available of TPU, GPU and CPU.
        devices: How many devices of a process are used, at most; 0 for all. A CPU has one for each
            core: with more, XLA would cut its sums otherwise, which changes their last bits.
        precision: Of matrix products, one of `PRECISIONS`.
        deterministic: Whether a GPU must use kernels that give the same bits every time. It then
            chooses no kernel by its measured time.
        job: As `hosts.join` takes it.
        timeout: Seconds for the processes of the job to meet.

    Raises:
        UserError: The platform, its precision or the job is not available.
    """
    try:
        import jax
    except ValueError as error:  # of a JAX_* variable
        raise UserError(f"JAX cannot start: {error}; mend or unset that variable") from None

    ignored = []
    for name, value in DEFAULTS.items():
        given = jax.config.values.get(name)
        if given is not None and given != value:
            jax.config.update(name, value)
            if jax.config.values[name] != given:
                ignored.append(f"{name.upper()}={given}")
    cores = num_cores()
    jax.config.update("jax_num_cpu_devices", min(devices or cores, cores, num_trials))
    if platform == "cpu":
        jax.config.update("jax_platforms", platform)  # others are found without, or are not there
    given, flags = os.environ.get("XLA_FLAGS", "").split(), []
    if cores < bound_cores():
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
    if ignored and hosts.is_first():
        print(
            f"warning: {', '.join(ignored)} {'is' if len(ignored) == 1 else 'are'} ignored, so "
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

    This is not part of JAX's set-up, so that a run that is refused leaves no folder.
    """
    import jax

    enabled = jax.config.values["jax_enable_compilation_cache"]
    unset = jax.config.values["jax_compilation_cache_dir"] is None
    if unset and enabled and (folder := compiled_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _find_backend() -> str:
    """Returns the platform that JAX chooses; raises `UserError` if it has none."""
    import jax

    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # as JAX's reason, if it gives one
        given, reason = os.environ.get("JAX_PLATFORMS", ""), str(error).split("\n")[0]
        raise UserError(
            f"JAX_PLATFORMS={given}: JAX cannot start it ({reason or 'there is none'}); install "
            "JAX for it (pip install -e '.[cuda]' or '.[tpu]'), or unset the variable"
        ) from None


def _is_before_ampere(device: Any) -> bool:
    """Says whether a device is an NVIDIA GPU that rounds no factors in matrix products."""
    try:
        return float(getattr(device, "compute_capability", "")) < 8
    except ValueError:  # another device has none, or a name for it
        return False
