"""Faults of files: damage of any kind, and what must come of it."""

import contextlib
import os
import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies as st

from mnist_jax import UserError

PROPERTY = hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    # The fixtures only name folders and patch sizes: nothing in them changes between examples.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def idx_bytes(array):
    # Written out by hand: the test must not share the reader's own header code.
    mark = b"\x00\x00\x08" + bytes([array.ndim])
    return mark + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def one_line(call, *arguments):
    """Calls, expects a UserError of one line, and returns that line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@contextlib.contextmanager
def little_memory(most=3e6):
    """Fails if what runs inside takes more bytes at once, far fewer than any bomb here holds."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most


@st.composite
def mutations(draw):
    """A function of bytes that cuts, flips, replaces, inserts or repeats some of them."""
    kind = draw(st.sampled_from(["cut", "flip", "replace", "insert", "repeat"]))
    # The ends are where the headers are.
    near_an_end = st.one_of(st.integers(0, 150), st.integers(-600, -1))
    place = draw(st.one_of(near_an_end, st.integers(0, 10**9)))
    some = draw(st.binary(min_size=1, max_size=8))

    def mutate(content):
        at = place % len(content)
        return {
            "cut": content[:at],
            "flip": content[:at] + bytes([content[at] ^ some[0]]) + content[at + 1 :],
            "replace": content[:at] + some + content[at + len(some) :],
            "insert": content[:at] + some + content[at:],
            "repeat": content[:at] + content[max(0, at - 40) :],
        }[kind]

    return mutate


def some_bytes(*sound):
    """Strategy: arbitrary bytes, or one of these with up to three mutations."""
    mutated = st.tuples(st.sampled_from(sound), st.lists(mutations(), max_size=3))

    def apply(pair):
        content, changes = pair
        for change in changes:
            content = change(content) if content else content
        return content

    return st.one_of(st.binary(max_size=60), mutated.map(apply))


class MakesFolder:
    """Unpickling one makes its folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.makedirs, (self.path, 0o777, True)
