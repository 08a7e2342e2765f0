"""Signals that ask a run to stop, noted the moment they come."""

import os
import signal
import sys
import threading
from collections.abc import Callable


class StopSignals:
    """Makes the first SIGTERM or Ctrl-C a wish to stop; the second waits for no long epoch.

    A program call may keep the main thread for a long time, in which Python's handlers must wait.
    So a thread reads the signals where the interpreter notes them the moment they come.

    Attributes:
        number: The signal that came first, or 0.
        before_exit: What the second one does wait for, and the third does not.
    """

    def __init__(self) -> None:
        """Waits for nothing yet."""
        self.number = 0
        self.before_exit: Callable[[], None] = lambda: None

    def __enter__(self) -> "StopSignals":
        """Starts to listen."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGINT, signal.SIGTERM)}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restores what was before."""
        signal.set_wakeup_fd(self._old_writer)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._writer)  # which ends the thread

    def _listen(self) -> None:
        num_signals = 0
        while byte := os.read(self._reader, 1):
            if (number := byte[0]) not in self._old:
                continue
            num_signals += 1
            if num_signals == 1:
                self.number = number
                said = "stopping after this epoch; once more stops now"
                print(said, file=sys.stderr, flush=True)
            elif num_signals == 2:
                threading.Thread(target=self._exit, args=(number,), daemon=True).start()
            else:
                os._exit(128 + number)
        os.close(self._reader)

    def _exit(self, number: int) -> None:
        self.before_exit()
        os._exit(128 + number)
