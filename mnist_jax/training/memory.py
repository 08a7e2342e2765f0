"""The memory that a compiled sweep takes, and how many of its trials fit into what is available."""

import math
from typing import Any

import jax
from jaxtyping import PyTree

from mnist_jax.training import hosts, machine
from mnist_jax.training.sweep import Sweep


def memory_of(sweep: Sweep) -> dict[str, int | float]:
    """Returns the bytes that an epoch takes, as the compiler plans them."""
    plan: Any = sweep.run_epoch.memory_analysis()
    needed = plan.argument_size_in_bytes + plan.output_size_in_bytes
    needed += plan.temp_size_in_bytes - plan.alias_size_in_bytes
    data = _num_bytes(sweep.inputs[2:])
    count = sweep.devices["count"]
    in_a_device = math.ceil(len(sweep.trials.seed) / count)
    return {
        "device_bytes": needed,  # arguments, results and temporary arrays
        "data_bytes": data,  # of those, images and labels, for any number of trials
        "trial_bytes": (needed - data) / in_a_device,
        "parameter_bytes": _num_bytes(sweep.state.params) // (in_a_device * count),  # of a trial
        # With the optimizer's state and, where an epoch is chosen, its weights.
        "state_bytes": _num_bytes(sweep.state) // (in_a_device * count),
    }


def trials_that_fit(sweep: Sweep) -> int:
    """Returns how many of the trials fit into the devices' memory beside the data, possibly 0.

    On a CPU the devices share the memory, and a checkpoint copies the state.
    """
    memory, count = memory_of(sweep), sweep.devices["count"]
    each, device = memory["trial_bytes"], jax.local_devices()[0]
    if device.platform == "cpu":
        free, memories = machine.free_memory(), jax.process_count()
        each += 2 * memory["state_bytes"]
    else:
        stats = device.memory_stats() or {}  # some allocators keep none: then it is tried
        free = stats.get("bytes_limit", 2**60) - stats.get("bytes_in_use", 0)
        memories = count
    if jax.process_count() > 1:  # a checkpoint gathers one array of all trials at a time
        each += count * max(map(_num_bytes, jax.tree.leaves(sweep.state))) / len(sweep.trials.seed)
    fit = int(0.9 * free / max(each, 1)) or int(each <= free)
    most = -hosts.agree([-fit])[0] * memories
    num_trials = len(sweep.trials.seed)
    if math.ceil(num_trials / count) * count <= most:  # as many as with the padding
        return num_trials
    return min(num_trials, most - most % count or most)


def _num_bytes(tree: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
