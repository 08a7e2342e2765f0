"""What the value of a key must be, and the scales on which a search draws values."""

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_SIZE = 2**16  # units or features of a layer; the weights of two such layers take 16 GiB


class ValueKind(NamedTuple):
    """What a value must be."""

    expected: str  # the same in words, for errors
    valid: Callable[[Any], bool]
    convert: type  # that it is converted to


class SearchScale(NamedTuple):
    """A scale on which a search draws values evenly between two ends, and a figure shows them."""

    forward: Callable[[float], float]  # from a value to its position
    inverse: Callable[[float], float]  # from a position to the value


LINEAR = SearchScale(float, float)
WHOLE_LINEAR = SearchScale(float, round)
LOG = SearchScale(math.log, math.exp)
LOG_OF_REST = SearchScale(lambda x: math.log(1 - x), lambda x: 1 - math.exp(x))
"""For a number whose distance from 1 matters, such as a momentum."""


def choice(names: tuple[str, ...]) -> ValueKind:
    """Returns the kind of a value that is one of some words."""
    words = ", ".join(name or "''" for name in names)
    return ValueKind(
        f"one of {words}", lambda value: isinstance(value, str) and value in names, str
    )


def integer(expected: str, low: int, high: int | float = math.inf) -> ValueKind:
    """Returns the kind of a whole number from `low` to below `high`."""
    return ValueKind(
        f"a whole number {expected}", lambda value: type(value) is int and low <= value < high, int
    )


def number(expected: str, valid: Callable[[float], bool]) -> ValueKind:
    """Returns the kind of a number that is finite and valid in 32 bits, and not rounded to 0."""

    def check(value):
        if type(value) not in (int, float):
            return False
        try:
            rounded = struct.unpack("f", struct.pack("f", float(value)))[0]
        except OverflowError:
            return False
        return math.isfinite(rounded) and valid(rounded) and bool(rounded) == bool(value)

    return ValueKind(f"a finite number{expected} (float32)", check, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def is_sizes(value: Any) -> bool:
    """Says whether a value is a tuple of sizes of layers."""
    return isinstance(value, tuple) and all(type(v) is int and 0 < v <= MAX_SIZE for v in value)


FLAG = ValueKind("True or False", lambda value: isinstance(value, bool), bool)
WHOLE = integer("of at least 1", 1)
COUNT = integer("of at least 0", 0)
SEED = integer(f"from 0 to {2**32 - 1}", 0, 2**32)
INTEGER = integer("(int32)", -(2**31), 2**31)
TEXT = ValueKind("text that can be printed", _is_text, str)
WORD = ValueKind("a word", lambda value: _is_text(value) and value != "", str)
WORDS = ValueKind(
    "names between commas",
    lambda value: isinstance(value, tuple) and all(map(WORD.valid, value)),
    tuple,
)
SIZES = ValueKind(
    f"a tuple of whole numbers from 1 to {MAX_SIZE}, as in 64,32, or several as in ((64,64),(32,))",
    is_sizes,
    tuple,
)
NUMBER = number("", lambda x: True)
POSITIVE = number(", positive", lambda x: x > 0)
NOT_NEGATIVE = number(", 0 or positive", lambda x: x >= 0)
SHARE = number(", from 0 to below 1", lambda x: 0 <= x < 1)
