"""Successive halving: after which epochs the best points of a grid go on, and where it is refused.

K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization"
(AISTATS 2016).
"""

import math
from collections.abc import Sequence

from mnist_jax.config.keys import bad_value
from mnist_jax.config.protocol import PROTOCOLS


def rungs(num_epochs: int, halving: int, min_epochs: int, num_points: int) -> list[int]:
    """Returns the epochs after which the best of the points that are left go on, in order.

    They are `num_epochs / halving**k`, rounded down, from the last one back to `min_epochs`, and no
    more than the points can be divided by `halving`.
    """
    found: list[int] = []
    while halving and num_points >= halving:
        num_epochs, num_points = num_epochs // halving, num_points // halving
        if num_epochs < min_epochs:
            break
        found.insert(0, num_epochs)
    return found


def num_kept(num_points: int, halving: int) -> int:
    """Returns how many of some points go on at a rung."""
    return math.ceil(num_points / halving)


def check(
    halving: int,
    min_epochs: int,
    *,
    protocol: str,
    shard: str,
    num_epochs: Sequence[int],
    num_points: int,
) -> None:
    """Refuses halving where it cannot be honest, or would do nothing.

    Raises:
        UserError: It is refused.
    """
    if not halving:
        if min_epochs != 1:
            expected = "1 without halving, since then nothing is stopped; or halving=3 as well, say"
            raise bad_value("min_epochs", min_epochs, expected)
        return
    held_out, criterion = PROTOCOLS[protocol].held_out, PROTOCOLS[protocol].criterion
    if held_out == "test" or not criterion:
        why = "the test set would choose what goes on" if criterion else "nothing chooses"
        expected = f"0 with protocol={protocol}, where {why}; or give protocol=validation"
        raise bad_value("halving", halving, expected)
    if len({*num_epochs}) > 1:
        expected = "one number of epochs with halving, which compares points after the same ones"
        raise bad_value("num_epochs", ",".join(map(str, num_epochs)), expected)
    if shard != "0/1":
        expected = (
            "0 with a shard, since shards would choose their best points apart; leave --shard out,"
            " or train the whole grid"
        )
        raise bad_value("halving", halving, expected)
    if num_points < halving:
        expected = f"0, or at most {num_points}, the number of points"
        if num_points == 1:
            expected = "0 with one point, which nothing competes with"
        raise bad_value("halving", halving, expected)
    if not rungs(num_epochs[0], halving, min_epochs, num_points):
        key, value, what = "num_epochs", num_epochs[0], f"{halving} epochs or more"
        if most := num_epochs[0] // halving:
            key, value, what = "min_epochs", min_epochs, f"at most {most}, num_epochs / halving"
        raise bad_value(key, value, f"{what}, or nothing would be stopped")
