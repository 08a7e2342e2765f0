"""The training of one group of trials, epoch by epoch: rows, checkpoints, time, and its end."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mnist_jax.runs.checkpoints import Checkpoints, Restored
from mnist_jax.runs.progress import COMMAND_LINE, Display
from mnist_jax.runs.provenance import Process
from mnist_jax.runs.records import Recorder
from mnist_jax.runs.signals import StopSignals
from mnist_jax.training import hosts, sweep

LONG_EPOCH = 1.0
"""Seconds of an epoch that a signal stops the run after. During a shorter one, the next has mostly
been given to the devices already, and the run stops after that."""


class GroupTraining:
    """Trains a group of trials from its newest checkpoint on.

    Attributes:
        epoch: How many epochs are done.
        state: The state of all trials after them, where it is available.
        signal_number: The signal that stopped the training, or 0.
    """

    def __init__(
        self,
        program: sweep.Sweep,
        num_epochs: int,
        checkpoint_epochs: int,
        recorder: Recorder,
        checkpoints: Checkpoints,
        process: Process,
        stop: StopSignals,
        display: Display = COMMAND_LINE,
    ):
        """Computes nothing yet; `checkpoint_epochs` is the number of epochs between checkpoints."""
        self._program, self._num_epochs = program, num_epochs
        self._checkpoint_epochs = checkpoint_epochs
        self._recorder, self._checkpoints = recorder, checkpoints
        self._process, self._stop, self._display = process, stop, display
        self.epoch = self.signal_number = 0
        self.state: Any = None
        self._epoch_seconds, self._counted_at = math.inf, time.monotonic()
        self._due = 0  # whether the epoch that runs is to be saved

    def resume(self, newest: int, kept: Callable[[], Restored | None] = lambda: None) -> None:
        """Reads the newest good checkpoint up to an epoch, or else what else is `kept`, if any."""
        saved = self._checkpoints.restore(self._program.state, newest) or kept()
        if saved is None:
            return
        self.epoch, self.state = saved.step, saved.state
        columns = saved.record["columns"]
        self._recorder.columns = {name: np.array(column) for name, column in columns.items()}
        if "seconds" in saved.record:  # of a run that is older than the record of its processes
            self._process.note_earlier(saved.record["seconds"])

    def train(self) -> None:
        """Trains to the last epoch, or to the end of one in which a signal came."""
        self._counted_at = time.monotonic()
        start, num_epochs = self.epoch, self._num_epochs
        epochs = sweep.run(self._program, num_epochs, start, self.state, self._wants_state)
        shown = self._display.show_epochs(epochs, num_epochs, start)
        for self.state, metrics in shown:
            self.epoch += 1
            self._recorder.add(self.epoch, metrics)
            self._epoch_seconds = self.count_time()
            if self.state is None:
                continue
            (self.signal_number,) = hosts.agree([self._stop.number])
            if self._due or self.signal_number or self.epoch == num_epochs:
                self._save()
            if self.signal_number:
                return

    def count_time(self) -> float:
        """Counts the seconds since the last call as training, and returns them."""
        before, self._counted_at = self._counted_at, time.monotonic()
        self._process.seconds["train"] += self._counted_at - before
        return self._counted_at - before

    def _wants_state(self, epoch: int, wait: Callable[[], object]) -> bool:
        """Decides whether the state of the running epoch is saved; of a long one at its end."""
        left = self._epoch_seconds
        if left > LONG_EPOCH:
            wait()
            left = 0.0
        due = epoch % self._checkpoint_epochs == 0 and self._checkpoints.ready(left)
        self._due, stops = hosts.agree([due, self._stop.number])
        return bool(self._due or stops)

    def _save(self) -> None:
        columns = {name: values.tolist() for name, values in self._recorder.columns.items()}
        self._recorder.sync()
        self._process.note()
        self._checkpoints.save(self.epoch, self.state, {"columns": columns})
