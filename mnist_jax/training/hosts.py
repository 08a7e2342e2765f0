"""The processes of one job that train a sweep together, each with its own devices.

Without `join` there is one process, and everything here is a no-op. In a job every process runs the
whole program, and calls these functions at the same places. The first process alone reads and
writes the work directory, and prints.
"""

import hashlib
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from mnist_jax import UserError
from mnist_jax.text import first_of
from mnist_jax.training import rendezvous

TIMEOUT = 60
"""Seconds for the processes of a job to meet, by default."""
_NO_MEMORY = "RESOURCE_EXHAUSTED|Out of memory"  # on GPU, CPU
_TASKS = {
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE",),
    "MPI": ("PMI_SIZE",),
}
_joining = _joined = False


class OutOfMemoryError(Exception):
    """A process of a job has too little memory for what all processes do."""


def join(job: str, timeout: int = TIMEOUT) -> None:
    """Joins the processes of a job, and silences all but the first; Ctrl-C ends the wait.

    Args:
        job: `auto` where JAX recognises a cluster's job (Slurm, Open MPI, Kubernetes, Cloud TPU);
            `i/n@host:port` makes this process i of n; process 0 listens at that address.
        timeout: Seconds that the processes may take to meet.

    Raises:
        UserError: There is no such job, or its processes do not meet.
    """
    import jax

    global _joining, _joined
    options: dict[str, Any] = {}
    if job != "auto":
        named = rendezvous.read_job(job)
        rendezvous.meet(named, timeout)
        options = named.options
    jax.config.update("jax_enable_preemption_service", False)  # it would take our SIGTERM
    jax.config.update("jax_check_proxy_envs", False)  # none is used
    # JAX would abort at its own deadline, and dump core.
    options |= {"initialization_timeout": int(timeout) + 600}
    failed: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(**options)
        except Exception as error:
            failed.append(error)

    start = time.monotonic()
    with rendezvous.without_proxies():  # nothing but the coordinator is asked for here
        thread = threading.Thread(target=initialize, daemon=True)  # it listens to no signal
        thread.start()
        _joining = True
        try:
            thread.join(1)
            if thread.is_alive() and job == "auto":
                rendezvous.say(job, "the other processes of the job", timeout)
            thread.join(max(0, start + timeout - time.monotonic()))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGINT)
    if thread.is_alive():
        raise UserError(
            f"--distributed={job}: the processes of the job did not come together within "
            f"{timeout:g} s; see that each was started, or give more --distributed_timeout"
        )
    _joining = False
    if failed:
        reason = (str(failed[0]).splitlines() or [type(failed[0]).__name__])[0]
        problem = f"the processes of the job did not come together ({reason})"
        if "be defined" in reason:  # coordinator_address should be, and the like
            problem = "no job of Slurm, Open MPI, Kubernetes or Cloud TPU was recognised"
        raise UserError(
            f"--distributed={job}: {problem}; give i/n@host:port, or leave the flag out"
        )
    _joined = True
    if not is_first():
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def say_if_alone() -> None:
    """Warns where a cluster has started several processes that each run on their own."""
    for system, names in _TASKS.items():
        size = next((os.environ[name] for name in names if name in os.environ), "1")
        if size.isdecimal() and int(size) > 1:
            print(
                f"warning: this is a job of {system} with {size} processes: each that runs this "
                "command trains the whole sweep; --distributed=auto lets them share it, --shard "
                "makes them parts",
                file=sys.stderr,
            )
            return


def leave(error: Exception) -> NoReturn:
    """Ends a process of a job after an error, without waiting for the others as JAX would at exit.

    They end by themselves, when they lose this one. Without a job, the error is raised.
    """
    if not (_joined or _joining):
        raise error
    bad_input = isinstance(error, UserError)
    if bad_input and _joined and is_first():
        time.sleep(1)  # all processes print it: JAX aborts those that outlive the first
    reason = " ".join(str(error).split())
    if not bad_input:
        if not re.search(f"Gloo|NCCL|UNAVAILABLE|heartbeat|{_NO_MEMORY}", reason):
            traceback.print_exception(error)
        reason = (
            f"this process of the job failed, or lost another one ({reason[:300]}); the same "
            "command resumes from the last checkpoint"
        )
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(2 if bad_input else 1)


def compare(record: Mapping[str, Any]) -> None:
    """Refuses a job if its processes differ in a record: values that JSON holds or can be printed.

    Raises:
        UserError: They differ. Every process raises it; it names the keys and the processes.
    """
    if not _joined:
        return
    own = json.dumps(record, sort_keys=True, default=str).encode()
    # First a message of fixed size, since records that differ may have different lengths.
    digest = len(own).to_bytes(8) + hashlib.sha256(own).digest()
    digests = [row.tobytes() for row in _all(np.frombuffer(digest, np.uint8))]
    if len(set(digests)) == 1:
        return
    longest = max(int.from_bytes(digest[:8]) for digest in digests)
    texts = _all(np.frombuffer(own.ljust(longest), np.uint8))
    records = [json.loads(text.tobytes()) for text in texts]
    differ = []
    for key in dict.fromkeys(itertools.chain(*records)):
        values = [each.get(key) for each in records]
        other = next((i for i, value in enumerate(values) if value != values[0]), 0)
        if other:
            differ.append(f"{key} ({values[0]} in process 0, {values[other]} in {other})")
    raise UserError(
        f"--distributed: the processes of the job differ in {first_of(differ, 4)}; start all of"
        " them by the same command, with the same program and data"
    )


def together(function: Callable[[], Any]) -> Any:
    """Calls a function that takes memory, and does not communicate, in every process of a job.

    Returns:
        Its result; in a job, once the arrays in it are computed.

    Raises:
        OutOfMemoryError: A process has too little memory; in a job, all raise it.
    """
    import jax

    result, short = None, False
    try:
        result = function()
        if _joined:
            jax.block_until_ready(result)
    except jax.errors.JaxRuntimeError as error:
        if not re.search(_NO_MEMORY, str(error)):
            raise
        short, reason = True, str(error)
    if agree([short])[0]:
        raise OutOfMemoryError(reason if short else "in another process")
    return result


def is_out_of_memory(error: Exception) -> bool:
    """Says whether memory ran out, in a way that every process of a job knows of."""
    if isinstance(error, OutOfMemoryError):
        return True
    return not _joined and bool(re.search(_NO_MEMORY, str(error)))


def is_first() -> bool:
    """Says whether this process is the one that reads, writes and prints."""
    if not _joined:
        return True
    import jax

    return jax.process_index() == 0


def first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process; all return its result, which JSON can hold.

    Raises:
        UserError: As the function in the first process.
    """
    if not _joined:
        return function()
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome["result"] = function()
        except UserError as error:
            outcome["error"] = str(error)
    text = np.frombuffer(json.dumps(outcome).encode(), np.uint8)
    length = int(_from_first(np.array([len(text)]))[0])
    text = _from_first(text if is_first() else np.zeros(length, np.uint8))
    outcome = json.loads(text.tobytes())
    if "error" in outcome:
        if not is_first():
            os._exit(2)  # the first one says why
        raise UserError(outcome["error"])
    return outcome["result"]


def arrays_of_first(
    arrays: Mapping[str, np.ndarray], kinds: Mapping[str, tuple]
) -> dict[str, np.ndarray]:
    """Returns in all processes the arrays of the first; `kinds` are their shapes and types."""
    if not _joined:
        return dict(arrays)

    def of_first(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = arrays[name] if is_first() else np.zeros(shape, dtype)
        # As bytes: the sum that transfers them would turn a negative zero into zero.
        content = _from_first(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return content.view(dtype).reshape(shape)

    return {name: of_first(name, *kind) for name, kind in kinds.items()}


def agree(numbers: Sequence[int]) -> list[int]:
    """Returns, at each index, the largest of the processes' numbers (64 bits)."""
    if not _joined:
        return list(numbers)
    # As bytes, because JAX would cut them to 32 bits.
    rows = _all(np.array(numbers, np.int64).view(np.uint8))
    return np.ascontiguousarray(rows).view(np.int64).max(axis=0).tolist()


def _all(content: np.ndarray) -> np.ndarray:
    """Returns the bytes of all processes, equally many each: [processes, bytes].

    It uses one device of each process, since some may have more than others.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    first = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([first[i] for i in range(jax.process_count())]), ("process",))
    spread = NamedSharding(mesh, PartitionSpec("process"))
    whole = jax.make_array_from_process_local_data(spread, content[None])
    everywhere = NamedSharding(mesh, PartitionSpec())
    return np.asarray(jax.jit(_itself, out_shardings=everywhere)(whole).addressable_data(0))


def _itself(x: Any) -> Any:
    return x


def gather(tree: Any) -> Any:
    """Copies arrays from all devices that they are spread over into arrays of NumPy."""
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

    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda part: x[part]), tree
    )


def _from_first(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))
