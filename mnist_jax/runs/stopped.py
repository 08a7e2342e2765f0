"""What a run raises that a signal has stopped."""

from pathlib import Path


class StoppedError(Exception):
    """A signal stopped a run. The message says what is saved, and how to resume the run.

    Attributes:
        number: The signal.
        path: The directory of the run.
    """

    def __init__(self, number: int, message: str, path: Path):
        super().__init__(message)
        self.number, self.path = number, path
