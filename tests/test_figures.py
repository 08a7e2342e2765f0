"""Figures of synthetic runs: what is drawn, where, and what is said of it."""

import itertools
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from server import ROOT
from test_report import IMAGES, OPTIMIZERS, RECIPE, gaps, make_run, own_data, own_run

from mnist_jax import UserError
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.data import datasets
from mnist_jax.report import one_run, pairs, points, reading, render, saving, several_runs
from mnist_jax.report.figures import (
    accuracy_by_point,
    accuracy_vs_axis,
    canvas,
    confusion_matrix,
    curves,
    first_layer,
    heat_map,
    mistakes,
    search,
)
from mnist_jax.runs import choosing, labels
from mnist_jax.runs.made_files import NAMES


def shown_texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def drawn(figure):
    """Lays a figure out, as saving it would."""
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_figure_names_data_set_and_protocol(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol, schedule=("constant", "cosine"), seeds=2)
    drawings = one_run.figures_of_run(*reading.with_weights(run))
    assert len(drawings) == 9
    assert all(re.fullmatch(NAMES["figures"], f"{name}.png") for name in drawings)
    for draw in drawings.values():
        figure, caption = draw()
        for place in (" ".join(figure.get_suptitle().split()), caption):
            assert "digits" in place
            assert PROTOCOLS[protocol].words in place


# --- accuracy by epoch ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_curves_are_those_of_the_rows(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol)
    p = PROTOCOLS[protocol]
    figure, caption = curves.draw_curves(run)
    assert [ax.get_title() for ax in figure.axes] == ["l2=0.001", "l2=0.00075", "l2=1e-06"]
    for i, ax in enumerate(figure.axes):
        lines = {line.get_label(): line for line in ax.lines}
        dots = "chosen epochs" if p.choose_epoch else "test accuracy at the end"
        splits = ["training accuracy", *[f"{p.held_out} accuracy"] * bool(p.held_out)]
        assert list(lines) == [*splits, dots]
        rows = [x for x in run_rows(run) if x["trial"] // 3 == i]
        values = np.array([row["train_accuracy"] for row in rows]).reshape(6, 3)
        np.testing.assert_allclose(lines["training accuracy"].get_ydata(), 100 * values.mean(1))
        [band, *_] = ax.collections
        heights = band.get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose(
            [heights.min(), heights.max()], [100 * values.min(), 100 * values.max()]
        )
        trials = run.results[3 * i : 3 * i + 3]
        column = p.criterion if p.choose_epoch else p.column
        expected = [100 * trial[column] for trial in trials]
        np.testing.assert_allclose(lines[dots].get_ydata(), expected)
        if p.choose_epoch:
            epochs = [trial[f"best_{p.held_out}_epoch"] for trial in trials]
            assert list(lines[dots].get_xdata()) == epochs
    assert "means over 3 seeds, bands reach from the lowest to the highest" in caption
    assert "The axis leaves out lower values." in caption  # the steep first epoch


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_loss_curves_are_those_of_the_rows(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol)
    p, rows = PROTOCOLS[protocol], run_rows(run)
    figure, caption = curves.draw_curves(run, "loss")
    ax = figure.axes[0]
    assert ax.get_yscale() == "log"
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    for split in filter(None, ("train", p.held_out)):
        values = [row[f"{split}_loss"] for row in rows if row["trial"] < 3]
        name = "training loss" if split == "train" else f"{split} loss"
        np.testing.assert_allclose(lines[name], np.reshape(values, (6, 3)).mean(1))
    trials = run.results[:3]
    dots = [trial["test_loss"] for trial in trials]
    if p.choose_epoch:
        at = {(row["trial"], row["epoch"]): row for row in rows}
        best = [(trial["trial"], trial[f"best_{p.held_out}_epoch"]) for trial in trials]
        dots = [at[place][f"{p.held_out}_loss"] for place in best]
    np.testing.assert_allclose(lines[list(lines)[-1]], dots)
    assert caption.startswith("Loss (cross-entropy in nats an image, log scale) on digits")
    assert "leaves out" not in caption
    assert re.fullmatch(NAMES["figures"], "loss_curves.svg")


def run_rows(run):
    import json

    text = (run.workdir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_curves_have_the_lengths_of_their_points(tmp_path):
    run = make_run(tmp_path / "run", num_epochs=(2, 6), l2=(0.0,))
    figure, _ = curves.draw_curves(run)
    lengths = [len(ax.lines[0].get_xdata()) for ax in figure.axes]
    assert lengths == [2, 6]
    assert figure.axes[0].get_xlim() == (0.5, 6.5)


def test_of_many_points_best_median_and_worst_are_drawn(tmp_path):
    rates = (0.1, 0.2, 0.3, 0.4)
    run = make_run(tmp_path / "run", "validation", learning_rate=rates)
    figure, caption = curves.draw_curves(run)
    order = choosing.ranked(run.summary["grid"], "best_validation_accuracy")
    axes = labels.varying(order)
    wanted = [labels.label(order[i], axes) for i in (0, 6, 11)]
    assert [ax.get_title() for ax in figure.axes] == wanted
    assert "of 12 grid points the best, the median and the worst" in caption
    same = make_run(tmp_path / "same", "last_epoch", learning_rate=rates, seeds=1)
    figure, caption = curves.draw_curves(same)
    assert figure.axes[0].get_title() == "learning_rate=0.1, l2=0.001"
    assert "the first, the middle one and the last" in caption
    assert "best" not in caption


def test_diverged_trials_are_left_out_of_curves_and_counted(tmp_path):
    run = make_run(tmp_path / "run", diverging=[1, 3, 4, 5])
    figure, caption = curves.draw_curves(run)
    titles = [" ".join(ax.get_title().split()) for ax in figure.axes]
    assert titles[:2] == ["l2=0.001 (1 of 3 diverged)", "l2=0.00075 (3 of 3 diverged)"]
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).all()
    assert len(figure.axes[0].lines[-1].get_xdata()) == 2
    assert shown_texts(figure) == ["every trial diverged"]
    assert "Trials that diverged are left out." in caption


def test_overlay_has_a_line_for_each_run(tmp_path):
    runs = [
        make_run(tmp_path / "a", name="one"),
        make_run(tmp_path / "b", "last_epoch", l2=(0.0,), name="two"),
    ]
    lines = pairs.name_points(pairs.name_runs(runs))
    figure, caption = curves.draw_overlay(lines, "digits (protocols differ)")
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == [line.name for line in lines]
    assert right.lines[0].get_label() == lines[0].name
    mean = np.mean([row["test_accuracy"] for row in runs[1].results])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [100 * mean])
    assert "of a run that scores none, a marker" in caption
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [line.name for line in lines]


# --- accuracy by recipe ---


def test_axis_shows_means_intervals_and_trials(tmp_path):
    run = make_run(tmp_path / "run")
    figure, caption = accuracy_vs_axis.draw_axis(run, "l2")
    [ax] = drawn(figure).axes
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1e-06", "0.00075", "0.001"]
    assert ax.get_xlabel() == "l2 (log scale)"
    assert ax.get_ylabel() == "best-epoch test accuracy (%)"
    values = 100 * np.array([row["best_test_accuracy"] for row in run.results])
    values = values.reshape(3, 3)[::-1]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values.mean(1))
    half = 4.302653 * values.std(1, ddof=1) / math.sqrt(3)
    spans = [segment[:, 1] for segment in ax.collections[0].get_segments()]
    expected = np.stack([values.mean(1) - half, values.mean(1) + half], 1)
    np.testing.assert_allclose(spans, expected, rtol=1e-6)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), values.ravel())
    assert "95 % intervals of the mean (Student)" in caption


def test_zero_has_a_place_on_a_log_axis(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0, 1e-4, 1e-3), seeds=1)
    figure, caption = accuracy_vs_axis.draw_axis(run, "l2")
    [ax] = drawn(figure).axes
    assert ax.get_xscale() == "symlog"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.0001", "0.001"]
    points = [(x, 97) for x in (0, 1e-4, 1e-3)]
    places = ax.transAxes.inverted().transform(ax.transData.transform(points))[:, 0]
    assert places[0] > 0
    assert places[-1] < 1
    assert np.diff(places).min() > 0.15
    assert "nothing is known of the scatter" in caption


@pytest.mark.parametrize(
    ("axis", "values", "names"),
    [
        ("schedule", ("cosine", "constant"), ["cosine", "constant"]),
        ("nesterov", (False, True), ["False", "True"]),
        ("hidden_sizes", ((64,), (500, 300), (8,)), ["64", "500-300", "8"]),
        ("momentum", (0.0, 0.9, 0.99), ["0", "0.9", "0.99"]),
        ("num_epochs", (2, 4), ["2", "4"]),
    ],
)
def test_every_kind_of_axis_has_its_values_as_ticks(tmp_path, axis, values, names):
    run = make_run(tmp_path / "run", **{"l2": (0.0,), axis: values})
    figure, _ = accuracy_vs_axis.draw_axis(run, axis)
    [ax] = drawn(figure).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == names
    places = ax.transAxes.inverted().transform(ax.transData.transform(ax.lines[0].get_xydata()))
    assert (np.diff(places[:, 0]) > 0.2).all()
    assert 0 < places[0, 0] < places[-1, 0] < 1


def test_only_the_best_lines_of_many_are_drawn(tmp_path):
    l2 = tuple(i * 1e-3 for i in range(8))
    run = make_run(tmp_path / "run", l2=l2, learning_rate=(0.1, 0.2), seeds=1)
    figure, caption = accuracy_vs_axis.draw_axis(run, "learning_rate")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == 6
    assert "Of 8 combinations, 6 are drawn, those with the best points." in caption
    best = choosing.ranked(run.summary["grid"], "best_test_accuracy")[0]
    assert f"l2={best['l2']:g}" in names


def test_what_lies_far_below_or_diverged_is_written_at_the_edge(tmp_path):
    run = make_run(
        tmp_path / "run",
        accuracy=gaps(0.0, 0.001, 0.8, 0.0),
        l2=(0, 1, 2, 3),
        diverging=[9, 10, 11],
    )
    figure, caption = accuracy_vs_axis.draw_axis(run, "l2")
    assert figure.axes[0].get_ylim()[0] > 50
    assert shown_texts(figure) == ["◂ 14.27", "diverged"]
    assert "leaves out lower values" in caption
    assert "Trials that diverged are left out." in caption
    lines = [points.NamedPoint(str(x["point"]), run, x) for x in run.summary["grid"]]
    figure, _ = accuracy_by_point.draw_points(lines, "digits")
    assert shown_texts(figure) == ["◂ 14.27", "diverged"]


def test_search_shows_the_criterion_and_marks_the_best(tmp_path):
    options = {"grid": "halton", "num_points": 9, "learning_rate": (0.01, 1.0), "l2": (1e-6, 1e-3)}
    options |= {"schedule": ("constant", "cosine"), "momentum": (0.0, 0.9)}
    run = make_run(tmp_path / "run", "validation", diverging=[2], seeds=1, **options)
    assert {"search", "accuracy_by_point"} < set(one_run.figures_of_run(*reading.with_weights(run)))
    assert re.fullmatch(NAMES["figures"], "search.svg")
    figure, caption = search.draw_search(run)
    scales = {ax.get_xlabel().split(" (")[0]: ax for ax in drawn(figure).axes if ax.get_visible()}
    assert list(scales) == ["learning_rate", "schedule", "momentum", "l2"]
    ax = scales["learning_rate"]
    assert (ax.get_xscale(), scales["momentum"].get_xscale()) == ("log", "function")
    assert ax.get_ylabel() == "best-epoch validation accuracy (%)"
    dots, triangles, ring = ax.lines
    chosen = next(x for x in run.summary["grid"] if x["point"] == run.summary["chosen_point"])
    mean = 100 * chosen["statistics"]["best_validation_accuracy"]["mean"]
    np.testing.assert_allclose(ring.get_xydata(), [[chosen["learning_rate"], mean]])
    assert ring.get_ydata()[0] == max(dots.get_ydata())
    assert run.summary["grid"][2]["learning_rate"] in triangles.get_xdata()
    assert len(dots.get_xdata()) + len(triangles.get_xdata()) == 9
    assert "Ring: the chosen point." in caption
    assert "with diverged trials" in caption
    assert "scattered sideways" in caption


@pytest.mark.parametrize("highest", [0.03, 0.1, 1.0, 10.0])
def test_labels_of_a_log_axis_stand_apart(tmp_path, highest):
    options = {"grid": "halton", "num_points": 12, "learning_rate": (0.01, highest)}
    options |= {"l2": (1e-6, 1e-3), "label_smoothing": (0.0, 0.2)}
    figure, _ = search.draw_search(make_run(tmp_path / "run", "validation", seeds=1, **options))
    ax = drawn(figure).axes[0]
    texts = [*ax.get_xticklabels(), *ax.get_xticklabels(minor=True)]
    boxes = [t.get_window_extent(figure._get_renderer()) for t in texts if t.get_text()]
    boxes = sorted((box.x0, box.x1) for box in boxes if ax.bbox.x0 < box.x1 and box.x0 < ax.bbox.x1)
    assert len(boxes) > 1
    assert all(a[1] < b[0] for a, b in itertools.pairwise(boxes))


def test_heat_map_has_a_cell_for_each_pair(tmp_path):
    run = make_run(tmp_path / "run", "validation", schedule=("cosine", "constant"), diverging=[0])
    figure, caption = heat_map.draw_heat_map(run)
    ax = figure.axes[0]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("schedule", "l2")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1e-06", "0.00075", "0.001"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cosine", "constant"]
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert len(texts) == 6
    for point in run.summary["grid"]:
        place = (sorted(RECIPE["l2"]).index(point["l2"]), int(point["schedule"] == "constant"))
        found = point["statistics"]["test_accuracy_at_best_validation"]
        assert texts[place].startswith(f"{100 * found['mean']:.2f}\n± ")
        assert ("1 diverged" in texts[place]) is (point["point"] == 0)
        if point["point"] == run.summary["chosen_point"]:
            frame = ax.patches[0].get_xy().mean(0)
            assert np.abs(ax.patches[0].get_xy() - place).max() == 0.5
            assert np.abs(frame - place).max() < 0.5
    assert len(ax.patches) == 1
    assert "Framed: the chosen point" in caption
    three = make_run(tmp_path / "three", schedule=("cosine", "constant"), momentum=(0.0, 0.5))
    assert "heat_map" not in one_run.figures_of_run(three)


@pytest.mark.parametrize(
    ("axis", "values", "scale", "names"),
    [
        ("dropout", (0.5, 0.0, 0.1), "linear", ["0", "0.1", "0.5"]),
        ("features", (8, 64, 16, 128), "log", ["8", "16", "64", "128"]),
        ("scale", (0.0, 1e-3, 0.1), "symlog", ["0", "0.001", "0.1"]),
        ("shift", (-1.0, 0.5, 20.0), "linear", ["-1", "0.5", "20"]),
        ("normed", (True, False), "linear", ["True", "False"]),
        ("filters", ("64-32", "none", "8"), "linear", ["64-32", "none", "8"]),
        ("momentum", (0.0, 0.9, 0.99), "function", ["0", "0.9", "0.99"]),
        ("b2", (0.9, 0.99, 0.999), "function", ["0.9", "0.99", "0.999"]),
        ("momentum", (0.0, 1.5), "linear", ["0", "1.5"]),  # of an optimizer of one's own
        ("ωμέγα", (2, 3), "linear", ["2", "3"]),
    ],
)
def test_an_axis_of_ones_own_has_the_scale_of_its_values(tmp_path, axis, values, scale, names):
    run = own_run(tmp_path / "run", seeds=1, **{axis: values})
    assert re.fullmatch(NAMES["figures"], f"accuracy_vs_{axis}.png")
    figure, _ = one_run.figures_of_run(run)[f"accuracy_vs_{axis}"]()
    [ax] = drawn(figure).axes
    assert ax.get_xscale() == scale
    assert [tick.get_text() for tick in ax.get_xticklabels()] == names
    places = ax.transAxes.inverted().transform(ax.transData.transform(ax.lines[-1].get_xydata()))
    assert (np.diff(places[:, 0]) > 0.02).all()
    assert 0 < places[0, 0] < places[-1, 0] < 1


def test_points_without_an_axis_are_left_out_of_its_figure(tmp_path):
    rates = (0.1, 0.01)
    axes = {name: [x for x in v for _ in rates] for name, v in OPTIMIZERS.items()}
    run = own_run(tmp_path / "run", learning_rate=5 * rates, **axes)
    drawings = one_run.figures_of_run(run)
    assert {x for x in drawings if x.startswith("accuracy_vs_")} == {
        "accuracy_vs_momentum",
        "accuracy_vs_b2",
        "accuracy_vs_learning_rate",  # which alone is crossed with all the others
    }
    assert "heat_map" not in drawings
    figure, caption = drawings["accuracy_vs_momentum"]()
    [ax] = drawn(figure).axes
    assert [line.get_xdata().tolist() for line in ax.lines[::2]] == [[0.0, 0.9], [0.0, 0.9]]
    assert "Left out: 6 grid points without momentum." in caption
    figure, caption = drawings["accuracy_vs_learning_rate"]()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "optimizer=lion" in names
    assert "optimizer=sgd, momentum=0" in names
    assert len(names) == 5
    assert "Left out" not in caption
    paired = own_run(tmp_path / "list", learning_rate=rates, momentum=(0.0, 0.9))
    assert not [x for x in one_run.figures_of_run(paired) if x.startswith("accuracy_vs_")]


def test_search_leaves_points_without_an_axis_out_of_its_panel(tmp_path):
    rates = {"learning_rate": (1e-3, 2e-3, 0.1, 0.2, 0.3)}
    run = own_run(tmp_path / "run", grid="halton", **OPTIMIZERS | rates)
    figure, caption = one_run.figures_of_run(run)["search"]()
    panels = {ax.get_xlabel().split(" (")[0]: ax for ax in drawn(figure).axes if ax.get_visible()}
    found = {name: np.isfinite(ax.lines[0].get_xdata()).sum() for name, ax in panels.items()}
    assert found == {"learning_rate": 5, "momentum": 2, "optimizer": 5, "b2": 2}
    assert "A panel leaves out the points that do not have its axis." in caption
    whole = own_run(tmp_path / "whole", grid="halton", **rates)
    assert "leaves out the points" not in one_run.figures_of_run(whole)["search"]()[1]


def test_long_names_leave_room_for_what_is_drawn(tmp_path, recwarn):
    names = ("relu", "gelu", "my_files.py:an_activation_whose_name_is_as_long_as_a_line_is_wide")
    long = "rate_of_what_is_dropped_behind_the_convolutions_of_the_network"
    axes = {long: [x for x in (0.0, 0.1, 0.2, 0.5) for _ in names], "activation": 4 * names}
    run = own_run(tmp_path / "run", seeds=2, **axes)
    drawings = one_run.figures_of_run(run)
    for name in (f"accuracy_vs_{long}", "accuracy_vs_activation", "heat_map"):
        figure, _ = drawings[name]()
        ax = drawn(figure).axes[0]
        assert ax.get_position().height > 0.3, name
        assert ax.get_position().width > 0.3, name
        renderer = figure._get_renderer()
        texts = [*ax.get_xticklabels(), ax.xaxis.label]
        boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
        assert all(0 <= box.x0 <= box.x1 <= figure.bbox.width for box in boxes), name
        ticks = sorted((box.x0, box.x1) for box in boxes[:-1])
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ticks)), name
    assert not [x for x in recwarn if "constrained_layout" in str(x.message)]


def test_points_stand_below_each_other(tmp_path):
    runs = [
        make_run(tmp_path / x, y, l2=(0.0,), name=x)
        for x, y in zip("ab", ("test", "last_epoch"), strict=True)
    ]
    lines = pairs.name_points(runs)
    figure, _ = accuracy_by_point.draw_points(lines, "digits: two")
    [ax] = figure.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim() == (1.5, -0.5)
    means = [line.get_xydata()[0] for line in ax.lines if line.get_label().startswith(("b", "l"))]
    expected = [
        100 * np.mean([row[c] for row in run.results])
        for run, c in zip(runs, ("best_test_accuracy", "test_accuracy"), strict=True)
    ]
    np.testing.assert_allclose(means, [[expected[0], 0], [expected[1], 1]])
    assert len(figure.legends[0].get_texts()) == 2  # the protocols


# --- one trial ---


def test_classes_are_those_of_the_predictions(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,))
    figure, caption = confusion_matrix.draw_classes(*reading.with_weights(run))
    left, ax = figure.axes
    expected = [75, 75, 75, *[100] * 7]  # the first three of forty images are mistaken
    np.testing.assert_allclose(left.lines[0].get_xdata(), expected)
    low, high = left.collections[0].get_segments()[0][:, 0]
    assert (round(low, 1), round(high, 1)) == (30.1, 95.4)  # Wilson, 3 of 4
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts[1, 0] == "1"  # class 0, taken for 1
    assert texts[0, 0] == "3"
    assert len(texts) == 13
    assert f"trial {run.summary['chosen_trial']} (seed " in caption
    assert "all 40 test images, 92.50 %" in caption


def test_mistakes_are_named(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), dataset="fashion_mnist")
    figure, caption = mistakes.draw_mistakes(*reading.with_weights(run))
    names = datasets.CLASS_NAMES["fashion_mnist"]
    assert shown_texts(figure) == [
        f"true: {names[i]}\npredicted: {names[i + 1]}\n55.0 %" for i in range(3)
    ]
    assert len(figure.axes[0].images) == 3
    assert ": all 3." in caption


@pytest.mark.parametrize("size", [(28, 28), (8, 30, 1), (30, 8, 3)])
def test_mistakes_have_the_proportions_of_the_images(tmp_path, size):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    _, chosen = reading.with_weights(run)
    images = np.random.default_rng(0).integers(0, 255, (3, *size)).astype(np.uint8)
    np.savez(run.workdir / "chosen_trial.npz", **chosen | {"mistake_images": images})
    figure, _ = mistakes.draw_mistakes(*reading.with_weights(run))
    for i, image in enumerate(figure.axes[0].images):
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(size[0] / size[1])
        assert 34 * i <= left < right <= 34 * i + 28
        assert 0 <= top < bottom == 28
        np.testing.assert_array_equal(np.squeeze(image.get_array()), np.squeeze(images[i]))


def test_mistakes_of_ones_own_images_are_as_other_programs_show_them(tmp_path):
    for name, dtype, channels in (("a", np.uint8, 3), ("b", np.float32, 1)):
        own = own_data(shape=(9, 7, channels)[: 2 + (channels > 1)], dtype=dtype)
        figure, _ = mistakes.draw_mistakes(
            *reading.with_weights(make_run(tmp_path / name, own=own, l2=(0.0,)))
        )
        images, low, high = own.test_images[:3], own.test_images.min(), own.test_images.max()
        if dtype is np.float32:
            images = np.round(255 * (images - low) / (high - low))
        for image, expected in zip(figure.axes[0].images, images, strict=True):
            np.testing.assert_array_equal(np.squeeze(image.get_array()), expected)
            assert image.get_cmap().name == "gray"  # 0 is black
        assert shown_texts(figure)[0] == "true: of a …and on\npredicted: kind 1\n55.0 %"


def test_many_classes_have_numbers_in_cells_that_hold_them(tmp_path):
    own = own_data(47, (4, 4), each=3)
    run = make_run(tmp_path / "run", own=own, l2=(0.0,))
    figure, caption = confusion_matrix.draw_classes(*reading.with_weights(run))
    left, ax = drawn(figure).axes
    names = [tick.get_text() for tick in left.get_yticklabels()]
    assert names[:2] == ["of a nam…on and on (3)", "kind 1 (3)"]
    assert len(names) == len(ax.get_yticklabels()) == 47
    texts = {text.get_position(): text for text in ax.texts}
    assert (texts[1, 0].get_text(), texts[1, 1].get_text()) == ("3", "3")
    assert (0, 0) not in texts
    cell = ax.bbox.width / 47
    renderer = figure._get_renderer()
    assert all(text.get_window_extent(renderer).width < cell for text in ax.texts)
    ticks = [tick.get_window_extent(renderer) for tick in ax.get_yticklabels()]
    assert all(a.y0 >= b.y1 - 2 for a, b in itertools.pairwise(ticks))
    assert f"all {47 * 3} test images, {100 * 46 / 47:.2f} %" in caption


def test_of_very_many_classes_the_worst_are_named(tmp_path):
    """1,000 classes of four images; three of the first class are taken for the second."""
    own = own_data(1000, (2, 2))
    labels = own.test_labels.copy()
    labels[labels == 7] = 8  # class 7 has no test image
    run = make_run(tmp_path / "run", own=own._replace(test_labels=labels), l2=(0.0,))
    run, chosen = reading.with_weights(run)
    assert chosen["labels"].dtype == np.uint16
    figure, caption = confusion_matrix.draw_classes(run, chosen)
    left, ax, worst, pairs_of = drawn(figure).axes[:4]
    np.testing.assert_allclose(left.lines[0].get_ydata(), [25, *[100] * 998])
    assert left.get_title() == "all 999 classes"
    [spots] = ax.collections
    np.testing.assert_array_equal(spots.get_offsets(), [[1, 0]])
    assert spots.get_array().tolist() == [3]
    assert spots.get_sizes()[0] >= 1
    assert len(ax.get_yticklabels()) <= 12
    names = [tick.get_text() for tick in worst.get_yticklabels()]
    assert names[:2] == ["of a name t…es on and on (4)", "kind 1 (4)"]
    assert len(names) == 15
    assert [tick.get_text() for tick in pairs_of.get_yticklabels()] == [
        "of a nam…on and on → kind 1"
    ]
    assert [bar.get_width() for bar in pairs_of.patches] == [3]
    assert "Below: the 15 classes of the lowest accuracy" in caption


def test_without_mistakes_many_classes_are_drawn_all_the_same(tmp_path):
    run, chosen = reading.with_weights(make_run(tmp_path / "run", own=own_data(61, (2, 2))))
    probabilities = np.eye(61)[chosen["labels"]]
    figure, _ = confusion_matrix.draw_classes(run, chosen | {"probabilities": probabilities})
    drawn(figure)
    assert not figure.axes[3].patches


SEEN = {"mistake_images": IMAGES[:0]}


@pytest.mark.parametrize(
    ("layer", "shape", "said"),
    [
        ("hidden_1", (784, 60), "48 of 60 units by falling norm, each as 28 x 28 pixels"),
        ("conv_1", (3, 3, 1, 5), "all 5 units by falling norm, each as 3 x 3 pixels"),
        ("output", (784, 10), "all 10 units in the order of the classes"),
        ("stem/block/Conv_0", (5, 2, 1, 7), "all 7 units by falling norm, each as 5 x 2 pixels"),
    ],
)
def test_weights_of_the_first_layer_are_images(tmp_path, layer, shape, said):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    kernel = np.random.default_rng(0).normal(size=shape)
    kernel[..., 3] *= 9  # the largest
    name = f"params/{layer}/kernel"
    chosen = {"params/Dense_0/kernel": np.ones((3, 3)), name: kernel} if "/" in layer else {}
    chosen |= {name: kernel, "params/output/kernel": kernel} | SEEN
    if "/" in layer:  # first by name is not first
        chosen |= {"first_kernel": np.asarray(name)}
    figure, caption = first_layer.draw_weights(run, chosen)
    image = figure.axes[0].images[0]
    assert said in caption
    assert f"the first layer ({layer}) of trial" in caption
    low, high = image.get_clim()
    assert -low == high == np.abs(kernel).max()
    down, across = (28, 28) if len(shape) == 2 else shape[:2]
    first = 0 if layer == "output" else 3
    tile = np.asarray(image.get_array())[:down, :across]
    np.testing.assert_allclose(tile, kernel[..., first].reshape(down, across))


@pytest.mark.parametrize(
    ("channels", "shown", "said"),
    [(2, 1, "Of 2 channels the first is drawn."), (4, 3, "Of 4 channels the first three are")],
)
def test_of_channels_that_are_no_colours_some_are_drawn(tmp_path, channels, shown, said):
    run = make_run(tmp_path / "run", own=own_data(shape=(6, 5, channels)))
    chosen = reading.with_weights(run)[1]
    kernel = chosen["params/hidden_1/kernel"].reshape(6, 5, channels, 8)[..., :shown, :]
    figure, caption = first_layer.draw_weights(run, chosen)
    tile = np.asarray(figure.axes[0].images[0].get_array())[:6, :5].reshape(6, 5, shown)
    expected = kernel[..., 0]
    if shown == 3:
        expected = 0.5 + expected / np.abs(kernel).max() / 2
    np.testing.assert_allclose(tile, expected)
    assert "each as 6 x 5 pixels" in caption
    assert said in caption
    figure, caption = mistakes.draw_mistakes(run, chosen)
    [first, *_] = figure.axes[0].images
    assert (
        np.squeeze(first.get_array()) == np.squeeze(chosen["mistake_images"][0, ..., :shown])
    ).all()
    assert said in caption


def test_many_weights_and_pixels_are_thinned(tmp_path):
    own = own_data(200, (300, 2))
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    kernel = np.random.default_rng(0).normal(size=(600, 200)).astype(np.float32)
    chosen = {"params/output/kernel": kernel, "mistake_images": own.test_images[:0]}
    figure, caption = first_layer.draw_weights(run, chosen)
    assert "48 of 200 units in the order of the classes, each as 300 x 2 pixels." in caption
    assert "Of 2 pixels one is drawn, across and down." in caption
    tile = np.asarray(figure.axes[0].images[0].get_array())[:150, :1]
    np.testing.assert_allclose(tile[:, 0], kernel[::4, 0])


@pytest.mark.parametrize("shape", [(16 * 8 * 3, 6), (5, 5, 3, 6)])
def test_weights_of_colours_are_colours(tmp_path, shape):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    kernel = np.random.default_rng(0).normal(size=shape)
    images = np.zeros((2, 16, 8, 3), np.uint8)
    chosen = {"params/hidden_1/kernel": kernel, "mistake_images": images}
    figure, caption = first_layer.draw_weights(run, chosen)
    [ax] = figure.axes  # no scale of one colour stands beside it
    shades, limit = np.asarray(ax.images[0].get_array()), np.abs(kernel).max()
    height, width = (16, 8) if len(shape) == 2 else (5, 5)
    expected = 0.5 + kernel[..., 0].reshape(height, width, 3) / limit / 2
    np.testing.assert_allclose(shades[:height, :width], expected)
    assert (shades[:, width] == 1).all()  # the gap
    assert f"each as {height} x {width} pixels. Red, green and blue are the weights" in caption


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1, 1, 6), (28, 28)),  # 1 x 1
        ((49, 6), (28, 28)),  # after a pool
        ((3, 3, 8, 6), (28, 28)),  # after another layer
        ((28, 4, 6), (28, 28)),  # heads of attention
        ((6,), (28, 28)),
    ],
)
def test_weights_that_are_no_images_are_a_line_and_no_failure(tmp_path, capsys, shape, size):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    (run.workdir / "figures").mkdir()
    (run.workdir / "figures" / "first_layer.png").write_text("an older one")
    images = np.zeros((3, *size), np.uint8)
    arrays = dict(np.load(run.workdir / "chosen_trial.npz")) | {"mistake_images": images}
    kernel = {"params/hidden_1/kernel": np.ones(shape), "params/output/kernel": np.ones((2, 3))}
    np.savez(run.workdir / "chosen_trial.npz", **arrays | kernel)
    drawn = one_run.figures_of_run(*reading.with_weights(run))
    [said] = saving.save_figures(run.workdir, {"first_layer": drawn["first_layer"]})
    assert re.fullmatch(
        r"There is no figure first_layer: the kernel of the first layer \(hidden_1\) has the shape"
        rf" {re.escape(str(shape))}, and is neither pictures of {size[0]} x {size[1]} pixels nor"
        r" filters of them\.",
        said,
    )
    assert not isinstance(said, render.Warn)
    assert capsys.readouterr().err == ""
    assert not list((run.workdir / "figures").glob("first_layer*"))  # no older one
    del arrays["params/hidden_1/kernel"]
    np.savez(run.workdir / "chosen_trial.npz", **arrays)
    with pytest.raises(canvas.NothingToDrawError, match="no layer of the network has a kernel"):
        one_run.figures_of_run(*reading.with_weights(run))["first_layer"]()


def test_trial_without_mistakes_or_numbers_has_no_such_figures(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    path = run.workdir / "chosen_trial.npz"
    arrays = dict(np.load(path)) | {"mistakes": np.zeros(0, int), "mistake_images": IMAGES[:0]}
    np.savez(path, **arrays)
    assert list(one_run.figures_of_run(*reading.with_weights(run))) == [
        "accuracy_curves",
        "loss_curves",
        "classes",
        "first_layer",
    ]
    np.savez(path, **arrays | {"probabilities": np.full((40, 10), math.nan)})
    names = list(one_run.figures_of_run(*reading.with_weights(run)))
    assert names == ["accuracy_curves", "loss_curves"]


def test_nothing_is_cut_or_collapses(tmp_path, recwarn):
    options = {"grid": "random", "num_points": 40, "learning_rate": (0.01, 1.0)}
    options |= {"momentum": (0.0, 0.9), "schedule": ("constant", "cosine"), "batch_size": (32, 64)}
    run = make_run(tmp_path / "run", "validation_last_epoch", l2=(0.0,), seeds=1, **options)
    for draw in one_run.figures_of_run(*reading.with_weights(run)).values():
        figure, _ = draw()
        drawn(figure)
        renderer = figure._get_renderer()
        width, height = figure.canvas.get_width_height()
        box = figure._suptitle.get_window_extent(renderer)
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    assert not [x for x in recwarn if "constrained_layout" in str(x.message)]


def failing(error):
    def fails(*_):
        raise error

    return fails


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no font\nhere"), "RuntimeError: no font here"),
        (StopIteration(), "StopIteration:"),
        (MemoryError("\x1b[31m"), "MemoryError: \ufffd[31m"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_figure_that_fails_is_a_line(tmp_path, capsys, error, said):
    [line] = saving.save_figures(tmp_path, {"mine": failing(error)})
    assert line == f"The figure mine is missing, since it cannot be drawn ({said})."
    assert isinstance(line, render.Warn)


def test_beside_a_figure_that_fails_the_others_are_drawn(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", num_epochs=(1,))
    (run.workdir / "figures").mkdir()
    (run.workdir / "figures" / "accuracy_vs_l2.png").write_text("an older one")
    monkeypatch.setattr(accuracy_vs_axis, "draw_axis", failing(RuntimeError("no font\nhere")))
    text = one_run.write_report(run.workdir)
    said = "he figure accuracy_vs_l2 is missing, since it cannot be drawn"
    assert capsys.readouterr().err.startswith(f"warning: t{said}")
    assert said not in text
    for name in ("report.html", "report.md"):
        page = (run.workdir / name).read_text().replace("\\", "")
        assert page.count(f"T{said}") == 1
        assert "accuracy_vs_l2.png" not in page
    names = {path.stem for path in (run.workdir / "figures").iterdir()}
    assert names == {"accuracy_curves", "loss_curves", "classes", "mistakes", "first_layer"}


def test_a_figure_of_several_runs_that_fails_is_a_line(tmp_path, monkeypatch, capsys):
    runs = [make_run(tmp_path / name, num_epochs=(1,), name=name) for name in "ab"]
    monkeypatch.setattr(curves, "draw_overlay", failing(ValueError("odd")))
    assert "No difference can be judged" in several_runs.write_comparison(runs, tmp_path / "both")
    said = "he figure accuracy_curves is missing, since it cannot be drawn (ValueError: odd)."
    assert capsys.readouterr().err == f"warning: t{said}\n"
    assert f"T{said}" in (tmp_path / "both/report.html").read_text()
    assert [path.name for path in sorted((tmp_path / "both/figures").iterdir())] == [
        "accuracy_by_run.png",
        "accuracy_by_run.svg",
    ]


def test_without_matplotlib_the_pages_are_made(tmp_path, monkeypatch):
    runs = [make_run(tmp_path / name, num_epochs=(1,), name=name) for name in "ab"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import raises
    assert "Best of 3 grid points" in one_run.write_report(runs[0].workdir)
    several_runs.write_comparison(runs, tmp_path / "both")
    for folder, num_figures in ((runs[0].workdir, 6), (tmp_path / "both", 2)):
        page = (folder / "report.html").read_text()
        assert (
            page.count("is missing, since it cannot be drawn (ModuleNotFoundError: ") == num_figures
        )
        assert not (folder / "figures").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["missing", "cut", "of another trial", "of other classes"])
def test_without_the_weights_of_the_chosen_trial_the_report_says_so(tmp_path, change):
    run = make_run(tmp_path / "run", num_epochs=(1,))
    path = run.workdir / "chosen_trial.npz"
    arrays = dict(np.load(path))
    path.unlink()
    if change == "of another trial":
        np.savez(path, **arrays | {"trial": 1 - min(1, arrays["trial"])})
    elif change == "of other classes":
        np.savez(path, **arrays | {"probabilities": np.ones((40, 11))})
    elif change == "cut":
        path.write_bytes(b"PK")
    text = " ".join(one_run.write_report(run.workdir).split())
    assert "Pictures of the chosen trial are left out: chosen_trial.npz: " in text
    assert {path.stem for path in (run.workdir / "figures").iterdir()} == {
        "accuracy_curves",
        "loss_curves",
        "accuracy_vs_l2",
    }


def test_ticks_of_close_values_differ(tmp_path):
    close = (0.1234567, 0.1234568)
    run = make_run(tmp_path / "map", l2=close, momentum=(0.0, 0.5, 0.9999999), seeds=1)
    figure, _ = heat_map.draw_heat_map(run)
    ax = figure.axes[0]
    down, across = (
        [x.get_text() for x in ticks()] for ticks in (ax.get_yticklabels, ax.get_xticklabels)
    )
    assert (down, across) == (["0", "0.5", "0.9999999"], ["0.1234567", "0.1234568"])
    axes = {"l2": (0.0,), "hidden_sizes": ((8,), (9,)), "label_smoothing": close}
    run = make_run(tmp_path / "axis", seeds=1, **axes)
    figure, _ = accuracy_vs_axis.draw_axis(run, "hidden_sizes")
    texts = set(figure.axes[0].get_legend_handles_labels()[1])
    assert texts == {"label_smoothing=0.1234567", "label_smoothing=0.1234568"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_curves_that_are_not_those_of_the_table_are_not_drawn(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol)
    p, row = PROTOCOLS[protocol], run.results[4]
    changed = {"train_accuracy": 0.5}
    if p.choose_epoch:
        changed |= {f"best_{p.held_out}_epoch": 1, f"best_{p.held_out}_accuracy": 0.99}
    for column, value in changed.items():
        other = [r | {column: value} if r is row else r for r in run.results]
        with pytest.raises(UserError, match=r"accuracy of trial 4: not that of results\.csv"):
            curves.draw_curves(run._replace(results=other))


def test_names_of_classes_that_begin_and_end_alike_become_numbers():
    names = ["short", *(f"a long name, the {kind}, of a class" for kind in ("first", "other"))]
    assert canvas.cut_names(names, 12) == ["short", "class 1", "class 2"]
    assert canvas.cut_names(names[:2], 12) == ["short", "a lon… class"]


@pytest.mark.parametrize("backend", ["module://nothere", "nonsense"])
def test_they_are_drawn_whatever_backend_a_notebook_has_and_it_stays(backend):
    code = (
        "import os\n"
        "from mnist_jax.report.figures import canvas\n"
        "with canvas.drawing(): figure, _ = canvas.subplots('title', (3, 2))\n"
        "import matplotlib\n"
        "print(os.environ['MPLBACKEND'], matplotlib.rcParams._get('backend'))\n"
    )
    environment = os.environ | {"MPLBACKEND": backend}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [backend, backend if "://" in backend else "agg"], done.stderr
