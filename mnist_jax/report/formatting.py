"""Numbers, names and lists as a report prints them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mnist_jax.config.protocol import Protocol
from mnist_jax.runs.choosing import count_diverged, is_finite, ranked
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol

MAX_POINTS = 20  # of many, that are listed


class Line(NamedTuple):
    """A grid point of a run, and the name by which it is shown beside others."""

    name: str
    run: Run
    point: Row


def criterion_words(p: Protocol) -> str:
    """Names the accuracy that chooses grid point and trial."""
    return f"{'best' if p.choose_epoch else 'last'}-epoch {p.held_out} accuracy"


LEVEL = 0.05  # corrected p-values below it tell grid points apart
MAX_NAMES = 8  # in a sentence


def percent(value: object) -> str:
    """Shows a share of 1 in percent, without the sign."""
    return f"{100 * value:.2f}" if is_finite(value) else "—"


def signed(value: object) -> str:
    """Shows a difference of shares in percentage points, never as -0."""
    return f"{round(100 * value, 2) + 0.0:+.2f}" if is_finite(value) else "—"


def number(value: object) -> str:
    """Shows a loss."""
    return f"{value:.4f}" if is_finite(value) else "—"


def measure(value: object) -> str:
    """Shows what a metric of one's own may be."""
    return f"{value:#.4g}".rstrip(".") if is_finite(value) else "—"


def p_value(value: object) -> str:
    """Shows a p-value."""
    if not is_finite(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(ends: Any, show: Callable[[object], str] = percent) -> str:
    """Shows the two ends of an interval."""
    return " to ".join(map(show, ends)) if is_finite(ends[0]) else "—"


def listed(names: Sequence[str]) -> str:
    """Writes names in a row, the first ones if they are many."""
    more = len(names) - MAX_NAMES
    return "; ".join([*names[:MAX_NAMES], *[f"and {more} more"] * (more > 0)])


def sentence(text: str) -> str:
    """Begins with a capital letter."""
    return text[0].upper() + text[1:]


def diverged(run: Run) -> list[str]:
    """Says which trials diverged, in a paragraph if any did."""
    lost, axes = count_diverged(run.results), varying(run.summary["grid"])
    names = [
        f"{label(point, axes)} {_seed_words(seeds)}".strip()
        for point in run.summary["grid"]
        if (seeds := point["diverged_seeds"])
    ]
    are = "is" if lost == 1 else "are"
    said = (
        f"Of {count(len(run.results), 'trial')}, {lost} diverged and {are} left out of every mean"
    )
    return [f"{said}{': ' if axes else ' '}{listed(names)}."] * bool(lost)


def _seed_words(seeds: Sequence[int]) -> str:
    return f"(seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def level_words(family: int, what: str) -> str:
    """Says what a difference was judged by."""
    corrected = f", corrected by Holm for all {family} {what}" if family > 1 else ""
    return f"Judged at the {100 * LEVEL:g} % level by t-tests over the seeds{corrected}"


def shown_points(run: Run) -> list[Row]:
    """Returns the points that tables show: from best to worst, or in order if nothing chooses."""
    return ranked(run.summary["grid"], protocol(run).criterion)[:MAX_POINTS]
