"""Numbers, names and lists as a report prints them."""

from collections.abc import Callable, Sequence
from typing import Any

from mnist_jax.runs.choosing import is_finite

MAX_NAMES = 8  # that are listed


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
    """Shows the value of a metric, in four digits."""
    return f"{value:#.4g}".rstrip(".") if is_finite(value) else "—"


def p_value(value: object) -> str:
    """Shows a p-value."""
    if not is_finite(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(ends: Any, show: Callable[[object], str] = percent) -> str:
    """Shows the two ends of an interval."""
    return " to ".join(map(show, ends)) if is_finite(ends[0]) else "—"


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Writes names in a row, the first ones if they are many."""
    if len(names) == 2:
        return " and ".join(names)
    more = len(names) - most
    if len(names) > 2 and more <= 0 and not any("," in name for name in names):
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return "; ".join([*names[:most], *[f"and {more} more"] * (more > 0)])


def sentence(text: str) -> str:
    """Begins with a capital letter."""
    return text[0].upper() + text[1:]
