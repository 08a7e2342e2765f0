"""The processes of one job that train a sweep together, each with its own devices.

Without `join` there is one process, for which everything here is as good as nothing. In a job every
process runs the whole program, and calls what is here at the same places; the first alone reads and
writes the work directory, and speaks.
"""

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from mnist_jax import UserError

_joined = False


def join(job: str) -> None:
    """Joins the processes of a job, and silences all but the first.

    Args:
        job: `auto` where JAX recognises a cluster's job (Slurm, Open MPI, Kubernetes, Cloud TPU);
            `i/n@host:port` makes this the process i of n, whose first one listens at that address.

    Raises:
        UserError: There is no such job, or it does not come together.
    """
    import jax

    global _joined
    options: dict[str, Any] = {}
    if job != "auto":
        match = re.fullmatch(r"(\d+)/(\d+)@(\S+:\d+)", job)
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(
                f"--distributed={job}: expected auto, or i/n@host:port with i from 0 to n - 1, as "
                "in 0/2@10.0.0.1:1234"
            )
        process, number, address = match.groups()
        options = {"process_id": int(process), "num_processes": int(number)}
        options |= {"coordinator_address": address, "cluster_detection_method": "deactivate"}
    jax.config.update("jax_enable_preemption_service", False)  # it would take our SIGTERM
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--distributed={job}: no job of several processes was found or came together "
            f"({reason}); give i/n@host:port, or leave the flag out"
        ) from None
    _joined = True
    if not is_first():
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def leave(error: Exception) -> NoReturn:
    """Ends a process of a job after an error, without waiting for the others as JAX would at exit.

    They end by themselves: what they wait for does not come. Without a job, the error is raised.
    """
    if not _joined:
        raise error
    bad_input = isinstance(error, UserError)
    if bad_input and is_first():
        time.sleep(1)  # what all found, all say: JAX aborts whoever outlives the first
    reason = " ".join(str(error).split())
    if not bad_input:
        if not re.search(r"Gloo|NCCL|UNAVAILABLE|heartbeat", reason):
            traceback.print_exception(error)
        reason = (
            f"this process of the job failed, or lost another one ({reason[:300]}); the same "
            "command goes on from the last checkpoint"
        )
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(2 if bad_input else 1)


def is_first() -> bool:
    """Says whether this process is the one that reads, writes and speaks."""
    if not _joined:
        return True
    import jax

    return jax.process_index() == 0


def first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process; all return its result, or raise its `UserError`.

    Args:
        function: Its result is something that JSON can hold.
    """
    if not _joined:
        return function()
    told: dict[str, Any] = {}
    if is_first():
        try:
            told["result"] = function()
        except UserError as error:
            told["error"] = str(error)
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    length = int(_from_first(np.array([len(text)]))[0])
    text = _from_first(text if is_first() else np.zeros(length, np.uint8))
    told = json.loads(text.tobytes())
    if "error" in told:
        if not is_first():
            os._exit(2)  # the first one says why
        raise UserError(told["error"])
    return told["result"]


def arrays_of_first(
    arrays: Mapping[str, np.ndarray], kinds: Mapping[str, tuple]
) -> dict[str, np.ndarray]:
    """Returns the first process' arrays, which no other needs to have.

    Args:
        arrays: By name.
        kinds: By name, shape and type.
    """
    if not _joined:
        return dict(arrays)

    def of_first(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = arrays[name] if is_first() else np.zeros(shape, dtype)
        # As bytes, because the sum that carries them over would make a zero of a negative zero.
        content = _from_first(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return content.view(dtype).reshape(shape)

    return {name: of_first(name, *kind) for name, kind in kinds.items()}


def agree(numbers: Sequence[int]) -> list[int]:
    """Returns, place by place, the largest of the numbers that the processes give."""
    if not _joined:
        return list(numbers)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(numbers, int)).max(axis=0).tolist()


def gather(tree: Any) -> Any:
    """Returns copies of arrays, whatever devices they are spread over, as arrays of NumPy."""
    import jax

    if not _joined:
        return jax.tree.map(_copy, tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def _copy(array: Any) -> np.ndarray:
    """Copies an array once: `jax.device_get` would also keep a copy beside one that is spread."""
    if isinstance(array, np.ndarray):
        return array.copy()
    whole = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        whole[shard.index] = shard.data
    return whole


def place(tree: Any, sharding: Any) -> Any:
    """Spreads arrays, which every process has whole, over the devices."""
    import jax

    def place_one(x):
        return jax.make_array_from_callback(np.shape(x), sharding, lambda part: x[part])

    return jax.tree.map(place_one, tree)


def _from_first(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))
