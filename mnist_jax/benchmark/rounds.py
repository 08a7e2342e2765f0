"""How implementations are timed: each trains an epoch, in turn, round by round."""

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Epoch(NamedTuple):
    """What training an epoch takes: wall-clock time, steps of all trials, and their mean loss."""

    seconds: float
    steps: int
    loss: float


class TimingError(Exception):
    """An implementation cannot be timed; the message is one line."""


Trainer = Callable[[], Epoch]


class Timings(NamedTuple):
    """Milliseconds a step and losses of an implementation, by round; the first round warms up."""

    ms: list[float]
    losses: list[float]


def run_rounds(
    trainers: Mapping[str, Trainer], rounds: int, unit: str = ""
) -> tuple[dict[str, Timings], dict[str, str]]:
    """Lets all implementations train in turn, in an order that is reversed from round to round.

    Each trains one epoch as a warm-up, and then `rounds` epochs. A line a round names them, with
    `unit` after their names.

    Returns:
        Timings by name; and, by name, why an implementation is left out: it failed, or its loss
        does not fall.
    """
    timings = {name: Timings([], []) for name in trainers}
    left_out: dict[str, str] = {}
    for i in range(rounds + 1):
        names = [name for name in trainers if name not in left_out]
        for name in names if i % 2 else names[::-1]:
            try:
                epoch = trainers[name]()
            except TimingError as error:
                leave_out(left_out, name, error)
                continue
            timings[name].ms.append(epoch.seconds * 1e3 / epoch.steps)
            timings[name].losses.append(epoch.loss)
        steps = (f"{n}{unit} {timings[n].ms[-1]:.3f}" for n in names if n not in left_out)
        say(f"{f'round {i}/{rounds}' if i else 'warm-up'}: {', '.join(steps)} ms a step")
    for name in trainers.keys() - left_out.keys():
        losses = timings[name].losses
        if not (all(map(math.isfinite, losses)) and losses[-1] < losses[0]):
            left_out[name] = f"it does not train: its loss went from {losses[0]} to {losses[-1]}"
    return {name: t for name, t in timings.items() if name not in left_out}, left_out


def leave_out(left_out: dict[str, str], name: str, error: TimingError) -> None:
    """Adds an implementation to those that are left out, and says so."""
    left_out[name] = str(error)
    say(f"{name} is left out: {error}")


def say(line: str) -> None:
    """Reports progress on the error stream."""
    print(line, file=sys.stderr, flush=True)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def with_extremes(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns the median under a name, and the extremes under that name with an ending."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratio_by_round(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Returns how many times as long theirs took, from the ratio of each round."""
    return spread([t / o for t, o in zip(theirs, ours, strict=True)])
