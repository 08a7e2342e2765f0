"""Processes that live through a benchmark and train one epoch on request.

They talk in lines: first a process says what it is (a JSON object), then it answers every line
`epoch` with an `Epoch` (a JSON object), and it leaves when its input ends.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mnist_jax.benchmark.rounds import Epoch, PeerError, Trainer


class Side:
    """The benchmark's end of a process that trains on request.

    Attributes:
        about: What the process said of itself.

    Raises:
        PeerError: Here and in `train_epoch`: the process died.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]):
        """Starts the process and waits until its data and model are ready.

        Args:
            command: What `python` is to run.
            log: File for the process' messages.
            environment: The environment variables of the process.
        """
        self._log = log
        with open(log, "w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment,
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.about = self._answer()

    def train_epoch(self) -> Epoch:
        """Has the process train one epoch."""
        try:
            self._requests.write("epoch\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # it died; its answer will say so
        return Epoch(**self._answer())

    def close(self) -> None:
        """Ends the process, in whatever state it is."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict:
        line = self._answers.readline()
        if not line:
            status = self._process.wait()
            said = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text for text in reversed(said) if text.strip()), "no message")
            raise PeerError(f"its process ended with status {status}: {last}")
        return json.loads(line)


def serve(train: Trainer, about: dict, requests: Iterable[str], answers: io.TextIOBase) -> None:
    """The process' end: says what it is, then trains one epoch for each request."""
    print(json.dumps(about), file=answers, flush=True)
    for request in requests:
        if request != "epoch\n":
            raise ValueError(f"request {request!r}; expected 'epoch'")
        print(json.dumps(train()._asdict()), file=answers, flush=True)


def take_output() -> io.TextIOWrapper:
    """Returns the output for the answers; whatever libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers
