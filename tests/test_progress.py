"""What a run shows while it trains."""

import sys
import time

import numpy as np
import pytest

from mnist_jax.runs import progress
from mnist_jax.runs.progress import show_progress


def make_epochs(num_epochs, num_trials=2, held_out="validation", diverged=0):
    columns = {f"{split}_{what}" for split in ("train", held_out) for what in ("loss", "accuracy")}
    values = np.linspace(0.1, 0.2, num_trials)
    values[:diverged] = np.nan
    return [(None, dict.fromkeys(columns - {"None_loss", "None_accuracy"}, values))] * num_epochs


def use_terminal(monkeypatch):
    """Makes stderr, which `capsys` must have replaced, a terminal of 80 columns."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(("value", "lines"), [("1", 2), ("0", 0), ("", 0)])
def test_the_bar_can_be_turned_off(monkeypatch, capsys, value, lines):
    use_terminal(monkeypatch)
    monkeypatch.setenv("TQDM_DISABLE", value)
    list(show_progress(iter(make_epochs(2)), num_epochs=2))
    out, err = capsys.readouterr()
    assert out.count("\n") == lines
    assert bool(err) == (not lines)


def test_it_is_one_line_an_epoch_where_there_is_no_terminal(capsys):
    epochs = make_epochs(2, num_trials=3, diverged=1)
    assert list(show_progress(iter(epochs), num_epochs=12, start=10)) == epochs
    means = "loss: 0.1750 - accuracy: 0.1750 - val_loss: 0.1750 - val_accuracy: 0.1750"
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch {epoch}/12 - {means} - 1 of 3 diverged" for epoch in (11, 12)
    ]


@pytest.mark.parametrize(
    ("held_out", "diverged", "words"),
    [
        ("validation", 0, "val_accuracy: 0.1500 - loss: 0.1500"),
        ("test", 1, "val_accuracy: 0.2000 - 1 of 2 diverged"),
        (None, 0, "accuracy: 0.1500 - loss: 0.1500"),
        ("validation", 2, "2 of 2 diverged"),
    ],
)
def test_80_columns_hold_what_is_scored_and_the_time_left(
    monkeypatch, capsys, held_out, diverged, words
):
    use_terminal(monkeypatch)
    epochs = make_epochs(40, held_out=held_out, diverged=diverged)
    list(show_progress(iter(epochs), num_epochs=40))
    shown = capsys.readouterr().err.replace("\n", "").split("\r")
    assert shown[-1].startswith("40/40 epochs |████████| 00:00<00:00, ")
    assert words in shown[-1]
    assert max(map(len, shown)) <= 80


def slow_epochs(has_shown):
    """Yields the first of two epochs once something is shown."""
    deadline = time.monotonic() + 60
    while not has_shown():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    yield from make_epochs(2)


def test_an_epoch_that_takes_long_moves_the_clock(monkeypatch, capsys):
    use_terminal(monkeypatch)
    monkeypatch.setattr(progress, "TICK", 0.001)
    capsys.readouterr()
    shown = []

    def has_shown():
        shown.append(capsys.readouterr().err)
        return "".join(shown).count("0/2 epochs") > 2

    list(show_progress(slow_epochs(has_shown), num_epochs=2))


def test_a_first_epoch_that_takes_long_has_lines_in_a_log(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.001)
    epochs = slow_epochs(lambda: "Epoch 4/9 - 0 s so far\n" in capsys.readouterr().out)
    shown = show_progress(epochs, num_epochs=9, start=3)
    next(shown)
    capsys.readouterr()
    time.sleep(0.02)
    assert capsys.readouterr().out == ""
