"""The devices that trials are spread over, for the program, the record and the terminal."""

import itertools
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from mnist_jax import UserError
from mnist_jax.config.settings import PRECISIONS
from mnist_jax.training.machine import num_cores

PRECISION = "jax_default_matmul_precision"  # by its name, it is read as of this thread


def devices_for(num_trials: int, num_devices: int = 0) -> list[jax.Device]:
    """Returns the devices that trials are spread over, at most one for each trial.

    Processes take turns, so that each has its share: at most `num_devices` each; 0 stands for all.

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
    if sizes[0] < sizes[-1]:  # what the processes exchange has one size for all of them
        raise UserError(
            f"--distributed: the processes have {sizes[0]} to {sizes[-1]} devices; expected as "
            f"many each, which on CPUs --config.devices={sizes[0]} gives"
        )
    turns = zip(*(devices[: num_devices or None] for devices in by_process.values()), strict=True)
    return list(itertools.chain(*turns))[:num_trials]


def describe_devices(
    devices: Sequence[jax.Device], options: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Returns what runs the trials and how, for the record; `options` are XLA's."""
    on_cpu = devices[0].platform == "cpu"
    single = options.get("xla_cpu_multi_thread_eigen") is False
    single |= "xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", "")
    threads = "one a device" if single else "shared by the devices"
    precisions = {name: key for key, name in PRECISIONS.items()}
    precision = getattr(jax.config, PRECISION)
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
    """Says what a sweep runs on (`describe_devices`) and why, for the terminal."""
    given = os.environ.get("JAX_PLATFORMS")
    if platform:
        why = f"as --config.platform={platform} says"
    elif given:
        why = f"as JAX_PLATFORMS={given} says"
    elif devices["platform"] == "cpu":
        why = "since JAX finds no GPU or TPU"
    else:
        why = "the first of TPU, GPU and CPU that JAX finds"
    how = "together" if devices["trials_in_a_device"] == "vmap" else "one after the other"
    text = f"Runs on {devices['count']} {devices['kind']} device{'s' * (devices['count'] > 1)}"
    if devices["processes"] > 1:
        text += f" of {devices['processes']} processes"
    text += f", {why}.\nA device trains its trials {how}"
    if devices["threads"] == "shared by the devices":
        text += f", by the threads of {devices['cores']} cores"
    return f"{text}; matrix products in {devices['matmul_precision']}."
