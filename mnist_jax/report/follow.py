"""A report that is made anew as the epochs of a run end, until the run does."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mnist_jax.report.formatting import percent
from mnist_jax.report.halving import num_stopped
from mnist_jax.report.points import shown_points
from mnist_jax.report.reading import read_so_far
from mnist_jax.report.standing import epochs_words
from mnist_jax.runs.results import NothingYetError, Run, is_finished, protocol
from mnist_jax.runs.unfinished import Progress, is_locked

MIN_PAUSE = 5.0  # seconds from a report to the next
SHARE = 0.05  # of the time of a core that reports may take
TICK = 1.0  # seconds after which it is noticed that a run has ended


def follow(workdir: str | os.PathLike, make: Callable[[Run], str]) -> bool:
    """Makes the report of a run again and again, with pauses, and prints a line each time.

    The pauses are so long that the run hardly notices. When it has ended, all of the report's text
    is printed.

    Args:
        workdir: Of the run.
        make: Makes the report of a run and returns its text.

    Returns:
        Whether the run has finished; otherwise its process has gone.

    Raises:
        UserError: The directory holds no run, or what `make` raises.
    """
    path = Path(workdir)
    print(f"following {path}: a report as epochs end; Ctrl-C ends this, not the run", flush=True)
    while True:
        began, size = time.process_time(), _size(path)
        try:
            run = read_so_far(path)
        except NothingYetError as error:
            if error.is_running is False:
                raise
        else:
            text = make(run)
            if run.progress is None:
                print(f"\n{text}")
                return True
            if not is_finished(path):  # else it was read too early
                if run.progress.is_running is False:
                    print(f"\n{text}")
                    return False
                print(_line(run, run.progress), flush=True)
        _wait(path, size, max(MIN_PAUSE, (time.process_time() - began) / SHARE))


def _line(run: Run, progress: Progress) -> str:
    """Says in a line how far a run is, and the accuracy of its best grid point."""
    p, now = protocol(run), f"{datetime.now(UTC):%H:%M:%S}"
    mean = percent(shown_points(run)[0]["statistics"][p.column]["mean"])
    which = "best" if p.criterion else "first point"
    return f"{now} UTC, {epochs_words(progress, num_stopped(run), brief=True)}; {which} {mean} %"


def _wait(path: Path, size: int, seconds: float) -> None:
    """Waits some seconds, and until an epoch has ended; or until the run has."""
    until = time.monotonic() + seconds
    while not is_finished(path) and is_locked(path) is not False:
        if time.monotonic() >= until and _size(path) != size:
            return
        time.sleep(TICK)


def _size(path: Path) -> int:
    """Returns how many bytes the epochs of a run have written."""
    try:
        return (path / "metrics.jsonl").stat().st_size
    except OSError:
        return 0
