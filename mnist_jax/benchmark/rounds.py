"""How implementations are timed: each trains an epoch, in turn, round by round."""

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Epoch(NamedTuple):
    """What training once takes: wall-clock time, steps of all trials, and mean loss over them."""

    seconds: float
    steps: int
    loss: float


class PeerError(Exception):
    """A side that cannot be measured; the message is one line."""


Trainer = Callable[[], Epoch]


class Timings(NamedTuple):
    """One side's milliseconds a step and losses, a number for each round; the first warmed up."""

    ms: list[float]
    losses: list[float]


def run_rounds(
    sides: Mapping[str, Trainer], rounds: int
) -> tuple[dict[str, Timings], dict[str, str]]:
    """Has all sides train in turn, in an order that is reversed from round to round.

    Args:
        sides: By name, a function that trains once.
        rounds: How often each is called after its warm-up.

    Returns:
        Timings by side, and why a side was left out, by name: it failed, or it does not train.
    """
    timings = {name: Timings([], []) for name in sides}
    left_out = {}
    for number in range(rounds + 1):
        names = [name for name in sides if name not in left_out]
        for name in names if number % 2 else names[::-1]:
            try:
                epoch = sides[name]()
            except PeerError as error:
                left_out[name] = str(error)
                say(f"{name} is left out: {error}")
                continue
            timings[name].ms.append(epoch.seconds * 1e3 / epoch.steps)
            timings[name].losses.append(epoch.loss)
        steps = (f"{n} {timings[n].ms[-1]:.3f}" for n in names if n not in left_out)
        say(f"{f'round {number}/{rounds}' if number else 'warm-up'}: {', '.join(steps)} ms a step")
    for name in sides.keys() - left_out.keys():
        losses = timings[name].losses
        if not (all(map(math.isfinite, losses)) and losses[-1] < losses[0]):
            left_out[name] = f"it does not train: its loss went from {losses[0]} to {losses[-1]}"
    return {name: t for name, t in timings.items() if name not in left_out}, left_out


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def with_extremes(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns the median under a name, and the extremes under names made of it."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Returns how many times as long theirs took, pair by pair."""
    return spread([t / o for t, o in zip(theirs, ours, strict=True)])


def say(line: str) -> None:
    """Tells of progress on the error stream."""
    print(line, file=sys.stderr, flush=True)
