"""Reports of searches: lines across all axes, and which axes matter."""

import re

import numpy as np
from test_figures import drawn
from test_report import OPTIMIZERS, make_run, own_run

from mnist_jax.report import one_run
from mnist_jax.report.figures import parallel_coordinates
from mnist_jax.runs.made_files import NAMES

SEARCH = {
    "grid": "halton",
    "learning_rate": (0.01, 1.0),
    "l2": (1e-6, 1e-3),
    "schedule": ("constant", "cosine"),
    "momentum": (0.0, 0.9),
}


def rows_of(figure):
    """Returns the ticks of each axis, by its name: their places and texts."""
    [ax] = figure.axes
    rows, found = {}, [(*text.get_position(), text) for text in ax.texts]
    for _, y, name in [x for x in found if x[2].get_weight() == "bold"]:
        ticks = {text.get_text(): x for x, z, text in found if 0 < z - y < 0.3}
        rows[name.get_text()] = ticks
    return rows


def test_each_point_is_a_line_across_its_axes(tmp_path):
    run = make_run(tmp_path / "run", "validation", diverging=[5], seeds=2, num_points=9, **SEARCH)
    assert "parallel_coordinates" in one_run.figures_of_run(run)
    assert re.fullmatch(NAMES["figures"], "parallel_coordinates.svg")
    figure, caption = parallel_coordinates.draw_lines(run)
    rows = rows_of(drawn(figure))
    assert list(rows) == [
        "learning_rate (log scale)",
        "schedule",
        "momentum (log scale of 1 - momentum)",
        "l2 (log scale)",
        "mean best-epoch validation accuracy (%)",
    ]
    lines = np.array(figure.axes[0].collections[0].get_segments())
    assert lines.shape == (9, 5, 2)
    [black] = [line for line in figure.axes[0].lines if line.get_color() == "black"]
    grid = run.summary["grid"]
    [best] = [point for point in grid if point["point"] == run.summary["chosen_point"]]
    means = [x["statistics"]["best_validation_accuracy"]["mean"] for x in grid if x["point"] != 2]
    assert best["statistics"]["best_validation_accuracy"]["mean"] == max(means)
    np.testing.assert_array_equal(black.get_xydata(), lines[-1])

    def expected(row, value, scale):
        a, b = list(rows[row].items())[::3][:2]
        share = (scale(value) - scale(float(a[0]))) / (scale(float(b[0])) - scale(float(a[0])))
        return a[1] + share * (b[1] - a[1])

    place = expected("learning_rate (log scale)", best["learning_rate"], np.log)
    assert abs(place - lines[-1, 0, 0]) < 1e-6
    place = expected("mean best-epoch validation accuracy (%)", 100 * max(means), float)
    assert abs(place - lines[-1, 4, 0]) < 1e-6
    assert abs(lines[-1, 1, 0] - rows["schedule"][best["schedule"]]) < 0.1
    lost = lines[np.isclose(lines[:, :, 0].min(1), 0)]  # at the end of the last axis
    assert len(lost) == 1
    assert "Triangles at the left end: points below the axis, or with diverged" in caption
    assert "Black: the chosen point" in caption
    assert "Over names, lines are scattered sideways" in caption


def test_lines_pass_an_axis_that_their_points_do_not_have(tmp_path):
    rates = {"learning_rate": (1e-3, 2e-3, 0.1, 0.2, 0.3)}
    run = own_run(tmp_path / "run", grid="halton", **OPTIMIZERS | rates)
    figure, caption = one_run.figures_of_run(run)["parallel_coordinates"]()
    rows = rows_of(drawn(figure))
    names = [name.split(" (")[0] for name in rows]
    lacked = [name for name, row in zip(names, rows.values(), strict=True) if "—" in row]
    assert lacked == ["momentum", "b2"]
    momentum = names.index("momentum")
    segments = figure.axes[0].collections[0].get_segments()
    passing = [line for line in segments if line[momentum, 0] == parallel_coordinates.NONE]
    assert len(passing) == 3
    assert "At —, lines pass an axis that their points do not have." in caption


def test_lines_are_drawn_where_points_or_axes_are_many(tmp_path):
    for i, (options, is_drawn) in enumerate([
        ({"schedule": ("constant", "cosine"), "momentum": (0.0, 0.5)}, False),
        ({"schedule": ("constant", "cosine"), "momentum": (0.0, 0.3, 0.5, 0.9)}, True),
        ({"momentum": tuple(x / 30 for x in range(15))}, False),
        ({"grid": "random", "num_points": 5, "l2": (0.1, 1.0), "momentum": (0.0, 0.9)}, False),
    ]):  # fmt: skip
        run = make_run(tmp_path / str(i), seeds=1, **options)
        assert ("parallel_coordinates" in one_run.figures_of_run(run)) is is_drawn


def test_values_without_room_are_not_marked(tmp_path):
    run = make_run(tmp_path / "run", seeds=1, num_points=9, **SEARCH)
    ticks = rows_of(drawn(one_run.figures_of_run(run)["parallel_coordinates"]()[0]))
    assert list(ticks["learning_rate (log scale)"]) == ["0.03", "0.1", "0.3", "1"]
    assert list(ticks["momentum (log scale of 1 - momentum)"]) == ["0.5", "0.8"]
