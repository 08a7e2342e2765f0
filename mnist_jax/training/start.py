"""JAX, started for an experiment: the first that is told of it in a process."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mnist_jax import UserError
from mnist_jax.config import old_records
from mnist_jax.config.experiment import Experiment
from mnist_jax.training import hosts


def configure_jax(
    experiment: Experiment,
    num_trials: int | None = None,
    job: str | None = None,
    timeout: float = hosts.TIMEOUT,
    common: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Sets JAX up for an experiment, as `machine.configure_jax`.

    Args:
        experiment: What to train.
        num_trials: The most that train together; none takes what the experiment asks for.
        job: The job of several processes that this one joins.
        timeout: Seconds for that job to come together.
        common: What its processes must have in common beside the experiment.

    Returns:
        What runs the trials and how, for the record.
    """
    try:
        from mnist_jax.training import machine
    except ValueError as error:  # of a JAX_* variable
        raise UserError(f"JAX cannot start: {error}; mend or unset that variable") from None

    sizes = [num_trials] if num_trials else list(map(len, experiment.parts.values()))
    machine.configure_jax(
        max(sizes),
        platform=experiment.platform,
        devices=experiment.devices,
        precision=experiment.precision,
        deterministic=experiment.deterministic,
        job=job,
        timeout=timeout,
    )
    hosts.compare({**old_records.with_files(experiment.record()), **common})
    machine.devices_for(min(sizes), experiment.devices)
    return machine.describe_devices(machine.devices_for(max(sizes), experiment.devices))
