"""What a run shows while it trains: a bar in a terminal, a line an epoch elsewhere."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.runs.records import is_sound

Epochs = Iterator[tuple[Any, dict[str, np.ndarray]]]
"""What `sweep.run` yields: the state, where it is wanted, and metrics of shape [trials]."""

TICK = 1.0  # seconds after which the clock in a terminal moves, during an epoch too
PATIENCE = 60.0  # seconds of the first epoch after which a log gets a line about it
_BAR = "{n_fmt}/{total_fmt} epochs |{bar:8}| {elapsed}<{remaining}{postfix}"


def show_progress(epochs: Epochs, num_epochs: int, start: int = 0) -> Epochs:
    """Passes the epochs on and shows their mean metrics.

    The words are Keras': `val_` is the validation split or, in the notebook's protocol, the test
    set. Means are over the trials that have not diverged; the others are counted.
    """
    off = os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false", "no", "off")
    show = _in_log if off or not sys.stderr.isatty() else _in_terminal
    return show(epochs, num_epochs, start)


class Display(NamedTuple):
    """How a run tells what it does; warnings go to stderr however that is."""

    say: Callable[[str], object]  # takes a line or several
    show_epochs: Callable[[Epochs, int, int], Epochs]  # as `show_progress`
    own_process: bool  # whether the process is there for the run alone


def _print(text: str) -> None:
    print(text, flush=True)


COMMAND_LINE = Display(_print, show_progress, own_process=True)
"""Lines on stdout, and a bar in a terminal."""


def quiet(bar: bool) -> Display:
    """Returns how a run is displayed that a program or a notebook calls: at most by a bar."""
    show = _in_notebook if bar else lambda epochs, *_: epochs
    return Display(lambda text: None, show, own_process=False)


def _in_notebook(epochs: Epochs, num_epochs: int, start: int) -> Epochs:
    """Shows a bar as a notebook has it, or in a terminal one of text."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no widgets: the bar is then one of text
        from tqdm.auto import tqdm

    with tqdm(total=num_epochs, initial=start, unit="epoch") as bar:
        yield from _on_bar(bar, epochs)


def _in_terminal(epochs: Epochs, num_epochs: int, start: int) -> Epochs:
    from tqdm import tqdm

    # Some terminals, as in containers, claim to have no columns and no rows.
    columns = shutil.get_terminal_size().columns - 1
    size = {"total": num_epochs, "initial": start, "ncols": columns, "nrows": 2}
    with tqdm(**size, bar_format=_BAR, disable=False) as bar, _repeated(bar.refresh, TICK):
        yield from _on_bar(bar, epochs)


def _on_bar(bar: Any, epochs: Epochs) -> Epochs:
    for state, metrics in epochs:
        bar.set_postfix_str(_brief(metrics), refresh=False)
        bar.update()
        yield state, metrics


def _in_log(epochs: Epochs, num_epochs: int, start: int) -> Epochs:
    began, width = time.monotonic(), len(str(num_epochs))

    def report_first_epoch() -> None:
        seconds = time.monotonic() - began
        print(f"Epoch {start + 1:{width}d}/{num_epochs} - {seconds:.0f} s so far", flush=True)

    with contextlib.ExitStack() as until_first:
        until_first.enter_context(_repeated(report_first_epoch, PATIENCE))
        for epoch, (state, metrics) in enumerate(epochs, start=start + 1):
            until_first.close()
            words = " - ".join(_means(metrics).values())
            print(f"Epoch {epoch:{width}d}/{num_epochs} - {words}", flush=True)
            yield state, metrics


@contextlib.contextmanager
def _repeated(action: Callable[[], object], seconds: float) -> Iterator[None]:
    """Calls a function from another thread, again and again, until the context ends."""
    ended = threading.Event()

    def repeat() -> None:
        with contextlib.suppress(OSError):  # of a terminal that is closed, or a reader that left
            while not ended.wait(seconds):
                action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _brief(metrics: Mapping[str, np.ndarray]) -> str:
    """Returns as much as 80 columns hold: what an epoch is judged by comes first."""
    means = _means(metrics)
    scored = "val_accuracy" if "val_accuracy" in means else "accuracy"
    return " - ".join(means[word] for word in (scored, "diverged", "loss") if word in means)


def _means(metrics: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns words on the means over the sound trials, by metric, and on the diverged ones."""
    columns = {"loss": "train_loss", "accuracy": "train_accuracy"}
    for held_out in ("validation", "test"):
        if f"{held_out}_loss" in metrics:
            columns["val_loss"] = f"{held_out}_loss"
            columns["val_accuracy"] = f"{held_out}_accuracy"
    sound = is_sound(metrics)
    words = {}
    if sound.any():
        words = {w: f"{w}: {metrics[column][sound].mean():.4f}" for w, column in columns.items()}
    if not sound.all():
        words["diverged"] = f"{(~sound).sum()} of {len(sound)} diverged"
    return words
