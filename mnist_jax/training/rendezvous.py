"""The processes of a job find each other, before JAX joins them.

JAX aborts a process, with a core dump, if others of its job are missing or two have the same index.
It ignores Ctrl-C meanwhile. So the processes first meet without JAX, at the address where the
coordinator of process 0 will listen.
"""

import contextlib
import os
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from mnist_jax import UserError

_GO = b"mnist_jax: go\n"
_NO = b"mnist_jax: no\n"
_PROXIES = ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy")


class Job(NamedTuple):
    """A job as one of its processes sees it: process `process_id` of `num_processes`."""

    name: str
    process_id: int
    num_processes: int
    host: str
    port: int

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `jax.distributed.initialize`."""
        return {
            "process_id": self.process_id,
            "num_processes": self.num_processes,
            "coordinator_address": f"{self.host}:{self.port}",
            "cluster_detection_method": "deactivate",
        }


def read_job(name: str) -> Job:
    """Reads `i/n@host:port`.

    Raises:
        UserError: It has another form, or an unknown address.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})@(\S+):(\d{1,5})", name)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(
            f"--distributed={name}: expected auto, or i/n@host:port with i from 0 to n - 1, as in "
            "0/2@10.0.0.1:1234"
        )
    index, size, host, port = match.groups()
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
        if not 0 < int(port) < 2**16:
            raise OSError("no such port")
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"--distributed={name}: {host}:{port} is no address that is known here ({error}); give "
            "host and port of the first process"
        ) from None
    return Job(name, int(index), int(size), host, int(port))


def meet(job: Job, timeout: int) -> None:
    """Waits until all processes of a job have started; prints a line if that takes a second.

    Raises:
        UserError: Some are missing, or two have the same index.
    """
    if job.num_processes > 1:
        (_wait_for_others if job.process_id == 0 else _wait_for_first)(job, timeout)


def _wait_for_others(job: Job, timeout: int) -> None:
    ipv6 = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    try:  # gRPC would share the port with another first process
        server = socket.create_server(("", job.port), family=family, dualstack_ipv6=ipv6)
    except OSError as error:
        raise UserError(
            f"--distributed={job.name}: the first process cannot listen at port {job.port} "
            f"({error.strerror}); give all of them another, and the number 0 to one alone"
        ) from None
    came: dict[int, socket.socket] = {}
    start, said = time.monotonic(), False
    with server, selectors.DefaultSelector() as callers, contextlib.ExitStack() as stack:
        callers.register(server, selectors.EVENT_READ)
        while missing := [index for index in range(1, job.num_processes) if index not in came]:
            waited = time.monotonic() - start
            who = "process " if len(missing) == 1 else "processes "
            who += ", ".join(map(str, missing[:8])) + ", ..." * (len(missing) > 8)
            who += f" (of 0 to {job.num_processes - 1})"
            if waited >= timeout:
                raise UserError(
                    f"--distributed={job.name}: {who} did not come within {timeout:g} s; see"
                    f" that each was started and reaches {job.host}:{job.port}, or give more"
                    " --distributed_timeout"
                )
            if waited >= 1 and not said:
                said = say(job.name, who, timeout)
            for key, _ in callers.select(min(timeout - waited, 0.2)):
                if key.fileobj is server:
                    caller, _ = server.accept()
                    caller.setblocking(False)
                    callers.register(stack.enter_context(caller), selectors.EVENT_READ)
                    continue
                caller = key.fileobj  # type: ignore[assignment]
                greeting = b""
                with contextlib.suppress(OSError):
                    greeting = caller.recv(100)
                found = re.fullmatch(rb"mnist_jax: (\d+)/(\d+)\n", greeting)
                if found and int(found[1]) in missing and int(found[2]) == job.num_processes:
                    came[int(found[1])] = caller
                    missing.remove(int(found[1]))
                    continue
                if found:
                    with contextlib.suppress(OSError):
                        caller.send(_NO)
                came = {index: other for index, other in came.items() if other is not caller}
                callers.unregister(caller)
                caller.close()
        for caller in came.values():
            with contextlib.suppress(OSError):
                caller.send(_GO)


def _wait_for_first(job: Job, timeout: int) -> None:
    start, said = time.monotonic(), False
    while (waited := time.monotonic() - start) < timeout:
        if waited >= 1 and not said:
            said = say(job.name, f"process 0 at {job.host}:{job.port}, or the others", timeout)
        answer = _call(job, timeout - waited if said else 1 - waited)
        if answer == _GO:
            return
        if answer == _NO:
            raise UserError(
                f"--distributed={job.name}: another process of the job has the number"
                f" {job.process_id}, or the first one was told of another number than"
                f" {job.num_processes}; give each its own"
            )
        if answer:
            raise UserError(
                f"--distributed={job.name}: at {job.host}:{job.port} something else listens, or a "
                "job that is complete; give the address of a job that is starting"
            )
        time.sleep(0.1)
    raise UserError(
        f"--distributed={job.name}: the processes of the job did not come together within "
        f"{timeout:g} s; see that each was started and reaches {job.host}:{job.port}, or give more "
        "--distributed_timeout"
    )


def _call(job: Job, patience: float) -> bytes:
    """Returns the answer of process 0, or nothing."""
    with contextlib.suppress(OSError):
        address = (job.host.strip("[]"), job.port)
        with socket.create_connection(address, max(patience, 0.1)) as line:
            line.sendall(f"mnist_jax: {job.process_id}/{job.num_processes}\n".encode())
            return line.recv(len(_GO))
    return b""


def say(name: str, whom: str, timeout: int) -> bool:
    """Prints which processes this one waits for; returns True."""
    print(
        f"--distributed={name}: waiting for {whom} for up to {timeout:g} s (--distributed_timeout)",
        file=sys.stderr,
        flush=True,
    )
    return True


@contextlib.contextmanager
def without_proxies() -> Iterator[None]:
    """Keeps the processes of a job from looking for each other through a proxy."""
    names = [name for name in os.environ if name.lower() in _PROXIES]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
