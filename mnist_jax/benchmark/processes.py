"""Processes that live through a benchmark and train one epoch on request.

They talk in lines. First a process describes itself (a JSON object). Then it answers each line
`epoch` with an `Epoch` (a JSON object). It ends when its input does.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mnist_jax.benchmark.rounds import Epoch, TimingError, Trainer


class TrainingProcess:
    """The benchmark's end of a process that trains on request.

    Attributes:
        description: What the process says about itself.

    Raises:
        TimingError: Here and in `train_epoch`: the process died.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]):
        """Starts `python` with a command, and waits until its data and model are ready.

        Its messages go to the file `log`.
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
        self.description = self._read_answer()

    def train_epoch(self) -> Epoch:
        """Has the process train one epoch."""
        try:
            self._requests.write("epoch\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # it died, as the missing answer will show
        return Epoch(**self._read_answer())

    def close(self) -> None:
        """Ends the process, in whatever state it is."""
        self._process.kill()
        self._process.communicate()

    def _read_answer(self) -> dict:
        line = self._answers.readline()
        if not line:
            status = self._process.wait()
            messages = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text for text in reversed(messages) if text.strip()), "no message")
            raise TimingError(f"its process ended with status {status}: {last}")
        return json.loads(line)


def serve(
    train: Trainer, description: dict, requests: Iterable[str], answers: io.TextIOBase
) -> None:
    """Is the process' end: describes itself, then trains one epoch for each request."""
    print(json.dumps(description), file=answers, flush=True)
    for request in requests:
        if request != "epoch\n":
            raise ValueError(f"request {request!r}; expected 'epoch'")
        print(json.dumps(train()._asdict()), file=answers, flush=True)


def take_output() -> io.TextIOWrapper:
    """Returns the output for the answers; whatever libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers
