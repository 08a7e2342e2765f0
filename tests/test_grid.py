import itertools

import numpy as np
import pytest
from base import AXES, BASE

from mnist_jax import UserError
from mnist_jax.config import grid
from mnist_jax.config.grid import make_points

SCALES = {name: axis.scale for name, axis in AXES.items()}


def points(kind="product", num_points=0, seed=0, **axes):
    given = {name: (value,) for name, value in BASE.items()} | axes
    return make_points(given, SCALES, kind, num_points, seed)


def test_a_product_is_every_combination_and_the_last_axis_varies_fastest():
    made = points(l2=(0.0, 1e-3, 1e-2), learning_rate=(0.1, 0.2), hidden_sizes=((64,), (8, 8)))
    assert [(p["hidden_sizes"], p["learning_rate"], p["l2"]) for p in made] == list(
        itertools.product(((64,), (8, 8)), (0.1, 0.2), (0.0, 1e-3, 1e-2))
    )
    assert points() == [BASE]


def test_a_list_reads_the_axes_side_by_side():
    made = points("list", l2=(0.0, 0.1), schedule=("cosine", "linear"), momentum=(0.5,))
    expected = BASE | {"momentum": 0.5}
    assert made == [
        expected | {"l2": 0.0, "schedule": "cosine"},
        expected | {"l2": 0.1, "schedule": "linear"},
    ]
    assert points("list") == [BASE]


def test_a_list_of_unequal_lengths_is_refused():
    with pytest.raises(UserError, match="learning_rate 3, l2 2"):
        points("list", l2=(0.0, 0.1), learning_rate=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("kind", ["random", "halton"])
def test_a_search_covers_its_ranges_on_their_scales(kind):
    made = points(
        kind,
        num_points=400,
        learning_rate=(0.01, 1.0),
        momentum=(0.0, 0.99),
        label_smoothing=(0.0, 0.2),
        warmup_steps=(0, 100),
        schedule=("constant", "cosine", "linear"),
        batch_size=(64, 256),
        l2_on_output=(False, True),
    )
    assert len(made) == 400
    quarters = [  # a quarter of the points in each, if the scale is the one that is promised
        np.log10([p["learning_rate"] for p in made]) / 2 + 1,
        np.log10([1 - p["momentum"] for p in made]) / -2,
        np.array([p["label_smoothing"] for p in made]) / 0.2,
        np.array([p["warmup_steps"] for p in made]) / 100,
    ]
    for unit in quarters:
        counts, _ = np.histogram(unit, 4, (0, 1))
        assert counts.sum() == 400
        assert (np.abs(counts - 100) < (35 if kind == "random" else 8)).all()
    for axis, n in (("schedule", 3), ("batch_size", 2), ("l2_on_output", 2)):
        _, counts = np.unique([p[axis] for p in made], return_counts=True)
        assert len(counts) == n
        assert (np.abs(counts - 400 / n) < 40).all()
    assert all(isinstance(p["warmup_steps"], int) for p in made)
    assert {p["l2"] for p in made} == {0.0}


def test_a_momentum_near_1_keeps_its_distance():
    made = [p["momentum"] for p in points("random", 100, momentum=(0.9, 0.9999))]
    assert (len(made), max(made) > 0.9995) == (100, True)
    assert all(0.9 <= m <= 0.9999 and len(f"{1 - m:.3g}") <= len("0.000123") for m in made)


@pytest.mark.parametrize("kind", ["random", "halton"])
def test_a_search_depends_on_its_seed_alone(kind):
    ranges = {"learning_rate": (0.01, 1.0), "l2": (1e-6, 1e-3)}
    first, again, other = (points(kind, 5, seed, **ranges) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert points(kind, 9, 0, **ranges)[:5] == first or kind == "random"


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"learning_rate": (0.1, 0.2, 0.3)}, "expected two positive numbers"),
        ({"learning_rate": (None, 0.3)}, "expected two positive numbers"),
        ({"l2": (0.0, 0.1)}, "expected two positive numbers"),
        ({"momentum": (0.0, 0.5, 0.9)}, "expected two numbers"),
        ({}, "nothing to search"),
        (
            {"batch_size": (64, 128)},
            "num_points=4: the ranges hold at most 2 different points",
        ),
        (
            {"warmup_steps": (3, 5)},
            "num_points=4: the ranges hold at most 3 different points",
        ),
    ],
)
def test_ranges_that_make_no_sense_are_refused(axes, said):
    with pytest.raises(UserError, match=said):
        points("halton", 4, **axes)


@pytest.mark.parametrize(
    ("axis", "ends"),
    [
        ("l2", (1e-5, 1.0)),
        ("l2", (1.0, 1.5)),
        ("l2", (5e-3, 9.99e-3)),
        ("learning_rate", (0.7, 0.3)),
        ("learning_rate", (0.12345, 0.12355)),
        ("momentum", (0.0, 0.999)),
        ("momentum", (0.95, 0.99999)),
        ("label_smoothing", (0.0, 0.2)),
        ("warmup_steps", (10, 500)),
    ],
)
def test_more_points_than_a_range_holds_are_refused_before_any_is_drawn(monkeypatch, axis, ends):
    drawn = {grid._between(SCALES[axis], ends, u) for u in np.arange(0, 1, 1e-4)}
    monkeypatch.setattr(grid, "_between", None)
    with pytest.raises(UserError, match="num_points=1000000: the ranges hold at most") as refused:
        points("halton", 10**6, **{axis: ends})
    most = int(str(refused.value).split("at most ")[1].split()[0])
    assert len(drawn) <= most
    assert most <= 1.1 * len(drawn) + 3 or 0.0 in ends  # near which there are ever more
