"""Signals that ask a run to stop, noted the moment they come."""

import os
import signal
import sys
import threading
import time

STOPPING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""From people, clusters, terminals that are closed, and limits of processor time."""
SECOND = 1.0
"""Seconds in which further signals count as the first one, which `timeout`, or a shell and its
terminal, may send twice."""


class StopSignals:
    """Notes the first signal of `STOPPING`; the second one ends the process at once.

    Where the process is not the run's own, as in a notebook, a second SIGINT raises
    KeyboardInterrupt instead.

    A program call may keep the main thread for a long time, in which Python's handlers must wait.
    So a thread reads the signals where the interpreter notes them the moment they come. One that
    was ignored stays so: `nohup` asks for that.

    In another thread than the main one it hears nothing: Python tells no other of signals.

    Attributes:
        number: The signal that came first, or 0.
    """

    def __init__(self, own_process: bool = True) -> None:
        self.number = 0
        self._heard = self._is_urgent = False
        self._own_process = own_process

    def __enter__(self) -> "StopSignals":
        self._heard = threading.current_thread() is threading.main_thread()
        if not self._heard:
            return self
        self._terminals = [n for n in (1, 2) if os.isatty(n)]  # after SIGHUP they are none
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        heard = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
        self._old = {n: signal.signal(n, self._handle) for n in heard}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._heard:
            return
        signal.set_wakeup_fd(self._old_writer)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._writer)  # which ends the thread

    def _handle(self, number: int, frame: object) -> None:
        if self._is_urgent:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        first_at = 0.0
        while byte := os.read(self._reader, 1):
            number = byte[0]
            if number not in self._old:
                continue
            if number == signal.SIGHUP:
                self._leave_terminals()
            if not self.number:
                self.number, first_at = number, time.monotonic()
                line = "\n" * sys.stderr.isatty()  # a bar stands there, or ^C
                line += "stopping after this epoch; once more stops now"
                print(line, file=sys.stderr, flush=True)
            # The system sends SIGXCPU every second.
            elif number != signal.SIGXCPU and time.monotonic() >= first_at + SECOND:
                if self._own_process or number != signal.SIGINT:
                    os._exit(128 + number)
                elif not self._is_urgent:
                    self._is_urgent = True
                    # Its handler may have run before, when this was not known.
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
        os.close(self._reader)

    def _leave_terminals(self) -> None:
        """Discards further output: to write to a terminal that is closed is an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)
