"""JAX, set up for an experiment, before anything else in the process uses it."""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator, Mapping
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
    sizes = _sizes(experiment, num_trials)
    configure_jax(
        platform=experiment.platform,
        precision=experiment.precision,
        num_trials=max(sizes),
        job=job,
        timeout=timeout,
    )
    from mnist_jax.training.devices import describe_devices, devices_for

    hosts.compare({**old_records.comparable(experiment.record()), **common})
    devices_for(min(sizes), experiment.devices)
    options = compiler_options(experiment, num_trials)
    return describe_devices(devices_for(max(sizes), experiment.devices), options)


def _sizes(experiment: Experiment, num_trials: int | None) -> list[int]:
    """Returns how many trials each program of an experiment trains, unless the number is given."""
    return [num_trials] if num_trials else list(map(len, experiment.parts.values()))


@contextlib.contextmanager
def jax_for(experiment: Experiment, **options: Any) -> Iterator[dict[str, Any]]:
    """Does what `start_jax` does until the context ends, and leaves JAX's settings as they were.

    Several threads may do so at the same time.
    """
    global _users
    jax = _import_jax()
    from jax.experimental.compilation_cache import compilation_cache

    with _lock:
        if not _users:
            _before.update({name: jax.config.values[name] for name in _changed()})
        _users += 1
    try:
        devices = start_jax(experiment, **options)
        with jax.default_matmul_precision(PRECISIONS[experiment.precision]):  # of this thread
            yield devices
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for name, value in _before.items():
                    jax.config.update(name, value)
                compilation_cache.reset_cache()  # or it would keep the programs of others, too


_lock, _users, _before = threading.Lock(), 0, dict[str, Any]()


def _changed() -> list[str]:
    """Returns the names of the settings that `configure_jax` and `keep_compiled` change."""
    import jax

    cache = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    names = (*DEFAULTS, "jax_default_matmul_precision", "jax_platforms", *cache)
    return [name for name in names if name in jax.config.values]


def configure_jax(
    *,
    platform: str = "",
    precision: str = "float32",
    num_trials: int | None = None,
    job: str | None = None,
    timeout: int = hosts.TIMEOUT,
) -> None:
    """Sets JAX up for a sweep, and looks for devices.

    What decides the numbers is set whatever the environment says: `DEFAULTS`.

    Each CPU core becomes one device. If JAX is in use already, it keeps the devices that it has.

    Args:
        platform: `cpu`, `gpu` or `tpu`; by default the first available of TPU, GPU and CPU.
        precision: Of matrix products, one of `PRECISIONS`.
        num_trials: How many train together at most; by default, more than there are cores.
        job: As `hosts.join` takes it.
        timeout: Seconds for the processes of the job to meet.

    Raises:
        UserError: The platform, its precision or the job is not available.
    """
    jax = _import_jax()
    with _lock, _threads_of_cores():
        ignored = _set_defaults(precision)
        _make_cpu_devices(platform, num_trials)
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


def _import_jax() -> Any:
    try:
        import jax
    except ValueError as error:  # of a JAX_* variable
        raise UserError(f"JAX cannot start: {error}; mend or unset that variable") from None
    return jax


def _set_defaults(precision: str) -> list[str]:
    """Sets what decides the numbers; returns the settings that the environment had otherwise."""
    import jax

    ignored = []
    for name, value in DEFAULTS.items():
        given = jax.config.values.get(name)
        if given is not None and given != value:
            jax.config.update(name, value)
            if jax.config.values[name] != given:
                ignored.append(f"{name.upper()}={given}")
    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    return ignored


def _make_cpu_devices(platform: str, num_trials: int | None) -> None:
    """Makes a device of each CPU core, unless JAX is in use already; a line says if that costs."""
    import jax

    cores = num_cores()
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:  # JAX is in use
        if num_trials is None or len(jax.local_devices()) < num_trials:
            _say_what_it_costs(cores)
        return
    if platform == "cpu":
        jax.config.update("jax_platforms", platform)  # others are found without, or are not there


@contextlib.contextmanager
def _threads_of_cores() -> Iterator[None]:
    """Lets XLA, if it starts in the context, have as many threads as there are cores to use."""
    limited = num_cores() < bound_cores() and "NPROC" not in os.environ
    if limited:
        os.environ["NPROC"] = str(num_cores())
    try:
        yield
    finally:
        if limited:
            del os.environ["NPROC"]


@functools.cache
def _say_what_it_costs(cores: int) -> None:
    import jax

    devices = jax.local_devices()
    count = len(devices)
    if devices[0].platform == "cpu" and count < cores:
        print(
            f"warning: JAX was in use before, with {count} CPU device{'s' * (count > 1)}: no more"
            f" trials train at once, though there are {cores} cores; start mnist_jax before others"
            f" use JAX, or set JAX_NUM_CPU_DEVICES={cores}",
            file=sys.stderr,
        )


def compiler_options(experiment: Experiment, num_trials: int | None = None) -> dict[str, Any]:
    """Returns XLA's options for the programs of a run; `num_trials` are as in `start_jax`.

    On a CPU each device has a core of its own, if there are trials for all. Else the devices share
    the cores through threads, and no core is idle. A GPU that must give the same bits every time
    (`deterministic`) chooses no kernel by its measured time.
    """
    import jax

    if jax.default_backend() == "cpu":
        most = max(_sizes(experiment, num_trials))
        alone = min(most, jax.local_device_count()) >= num_cores()
        return {"xla_cpu_multi_thread_eigen": False} if alone else {}
    if jax.default_backend() == "gpu" and experiment.deterministic:
        return {"xla_gpu_deterministic_ops": True, "xla_gpu_autotune_level": 0}
    return {}


def keep_compiled() -> None:
    """Lets JAX keep compiled programs in the user's cache, unless it was told otherwise.

    This is not part of JAX's set-up, so that a run that is refused leaves no folder.
    """
    import jax

    enabled = jax.config.values["jax_enable_compilation_cache"]
    unset = jax.config.values["jax_compilation_cache_dir"] is None
    if unset and enabled and (folder := compiled_folder()):
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()  # if it found before that there is none
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
