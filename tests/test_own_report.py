"""Reports of runs on one's own data: what they say of it, and what may be compared."""

import html
import json
import re

import numpy as np
import pytest
from test_report import cells, make_run, own_data, page

from mnist_jax import UserError, disk
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.report import one_run, pairs, reading, sections, several_runs, tables
from mnist_jax.report.data_words import data_words

CUT = "test images cut from the training set"


def test_the_head_of_a_report_says_what_the_data_set_is(tmp_path):
    run = make_run(tmp_path / "run", own=own_data(14))
    names = ["of a name that goes on and on", *(f"kind {i}" for i in range(1, 12))]
    assert data_words(run) == (
        f"Images of 32 x 32 pixels, of 3 channels, in 14 classes: {', '.join(names)} and 2 more."
        " Images by split: 112 training (8 a class), 56 test (4 a class)."
    )
    assert data_words(run) in page(run).replace("\\", "")
    assert page(run).startswith("# title\n\n## What was run\n\nmade_up on leaves.npz: 3 grid")


def test_numbers_of_a_class_and_moments_are_in_the_head_of_a_report(tmp_path):
    own = own_data(3, (8, 8))._replace(train_labels=np.repeat(np.uint8([0, 1, 2]), [2000, 1, 3]))
    run = make_run(tmp_path / "run", own=own)
    moments = {"mean": [0.13066047], "deviation": [0.3081]}
    run.summary["data"]["moments"] = moments
    said = data_words(run)
    assert "8 x 8 pixels, grey, in 3 classes" in said
    assert "2,004 training (1 to 2,000 a class), 12 test (4 a class)." in said
    assert said.endswith("scaled by mean 0.1307 and deviation 0.3081 of the training images.")
    run.summary["data"]["moments"] = {name: 3 * values for name, values in moments.items()}
    assert "by mean 0.1307, 0.1307, 0.1307 and" in data_words(run)
    assert data_words(run).endswith("of the training images, by channel.")


def test_what_an_older_run_did_not_record_is_known_of_named_data_sets(tmp_path):
    run = make_run(tmp_path / "run", "validation")
    assert data_words(run) == (
        "Images of 28 x 28 pixels, grey, in 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."
        " Images by split: 10,000 training, 10,000 validation, 10,000 test."
    )
    lost = make_run(tmp_path / "lost", own=own_data())
    del lost.summary["data"]
    (lost.workdir / "summary.json").write_text(disk.to_json(lost.summary))
    with pytest.raises(UserError, match="its files are damaged"):
        reading.read_run(lost.workdir)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_whatever_shows_a_cut_test_set_says_so(tmp_path, protocol):
    own = own_data(each=6)
    run = make_run(
        tmp_path / "run", protocol, own=own, num_test=72, schedule=("constant", "linear")
    )
    assert CUT in sections.headline(run)
    assert "leaves.npz has no test images: 72 images of it, a share of each class" in page(run)
    drawings = one_run.figures_of_run(*reading.with_weights(run))
    assert len(drawings) == 9
    for draw in drawings.values():
        figure, caption = draw()
        assert CUT in caption
        assert CUT in " ".join(figure.get_suptitle().split())
    assert CUT in " ".join(one_run.describe(run.workdir).split())
    named = pairs.name_points([run, run])
    assert CUT in cells(tables.runs_table(named))[0]["protocol"]
    for draw in several_runs.figures_of_runs(named).values():
        figure, caption = draw()
        assert CUT in caption
        assert CUT in " ".join(figure.get_suptitle().split())
    whole = make_run(tmp_path / "whole", protocol, own=own)
    assert "cut from" not in page(whole).replace("Validation images, cut from", "")


def change(run, where, key, value):
    """Writes a value into a JSON file of a run, at a path of keys."""
    path = run.workdir / f"{where}.json"
    found = place = json.loads(path.read_text())
    *keys, last = key.split("/")
    for name in keys:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_shape", [32, 32]),
        ("image_shape", [32, 32, 3, 1]),
        ("image_shape", [32, 0, 3]),
        ("image_shape", [32, 32, 5]),
        ("image_shape", [32, 2**40, 3]),
        ("image_shape", []),
        ("image_shape", "32"),
        ("class_names", ["one"]),
        ("class_names", []),
        ("class_names", list(range(12))),
        ("class_names", [f"kind {i}" for i in range(13)]),
        ("class_counts", {}),
        ("class_counts/test", [4] * 11),
        ("class_counts/test", [5] * 12),
        ("class_counts/test", [5, 3, *[4] * 9, -1]),
        ("class_counts/test", [52, -4, *[0] * 10]),
        ("class_counts/more", [4] * 12),
        ("moments", {"mean": [0.5], "deviation": [0.5]}),
        ("moments", {"mean": [0.5] * 3, "deviation": [0.0] * 3}),
        ("moments", {"mean": [0.5] * 3}),
        ("moments", {"mean": [0.5] * 3, "deviation": [None] * 3}),
    ],
)
def test_what_no_data_set_can_be_is_damage(tmp_path, key, value):
    run = make_run(tmp_path / "run", own=own_data(), l2=(0.0,), num_epochs=(1,))
    change(run, "summary", f"data/{key}", value)
    with pytest.raises(UserError, match="cannot be read as a run") as error:
        reading.read_run(run.workdir)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("num_test", "72"), ("num_test", None), ("data", 3), ("data", {})]
)
def test_a_config_of_no_such_data_set_is_damage(tmp_path, key, value):
    run = make_run(tmp_path / "run", own=own_data(), l2=(0.0,), num_epochs=(1,))
    change(run, "config", key, value)
    with pytest.raises(UserError, match="cannot be read as a run"):
        reading.read_run(run.workdir)


def test_predictions_of_other_images_are_not_drawn(tmp_path):
    run = make_run(tmp_path / "run", own=own_data(), l2=(0.0,), num_epochs=(1,))
    path = run.workdir / "chosen_trial.npz"
    arrays = dict(np.load(path))
    assert reading.with_weights(run)[1]["mistake_images"].shape == (3, 32, 32, 3)
    np.savez(path, **arrays | {"mistake_images": np.zeros((3, 28, 28), np.uint8)})
    found, chosen = reading.with_weights(run)
    assert chosen is None
    assert "which was chosen" in found.summary["chosen_trial_missing"]


def test_class_names_are_names_whatever_is_in_them(tmp_path, recwarn, capsys):
    own = own_data(12)
    names = ("\x1b[31mred", "two\nlines", "$x_1$", "<b>&", "漢字", "عربى", *own.class_names[6:])
    run = make_run(tmp_path / "run", own=own._replace(class_names=names), num_epochs=(1,))
    one_run.write_report(run.workdir)
    assert not recwarn.list
    assert capsys.readouterr().err == ""
    page = (run.workdir / "report.html").read_text()
    assert "\ufffd[31mred, two lines, $x_1$, &lt;b&gt;&amp;, 漢字, عربى, kind 6" in page
    svg = (run.workdir / "figures/classes.svg").read_text()
    assert "漢字 (4)" in svg
    assert "\x1b" not in svg


def test_a_data_sets_name_is_a_name_whatever_is_in_it(tmp_path, recwarn):
    name = "a|b <i>&lt $x_1$ *é*, 漢\\n`.npz"
    run = make_run(tmp_path / "run", own=own_data(name=name), num_epochs=(1,), l2=(0.0,))
    one_run.write_report(run.workdir)
    assert not recwarn.list
    assert name in " ".join(one_run.describe(run.workdir).split())
    page = (run.workdir / "report.html").read_text()
    assert html.escape(name, quote=False) in page


# --- several runs ---


def compared(first, second):
    return pairs.compare_pairs(pairs.name_points(pairs.name_runs([first, second])))[0]


def test_only_runs_on_the_same_images_are_compared(tmp_path):
    own = own_data()
    run = make_run(tmp_path / "a", own=own, name="a", l2=(0.0,))
    same = make_run(tmp_path / "b", own=own._replace(name="copy.npz"), name="b", l2=(1.0,))
    assert compared(run, same).incomparable == ""
    other = own._replace(checksum="sha256:of other leaves")
    other = make_run(tmp_path / "c", own=other, name="c", l2=(1.0,))
    assert compared(run, other).incomparable == "data files differ"
    assert several_runs.names_of_data([run, other]) == "leaves.npz (different files)"
    assert several_runs.names_of_data([run, same]) == "leaves.npz and copy.npz"
    [warning] = several_runs.warnings_of([run, other], [compared(run, other)])
    assert warning.startswith("WARNING: the runs were not trained and tested on the same data.")


def test_only_runs_on_the_same_cut_of_test_images_are_compared(tmp_path):
    def cut(name, **keys):
        return make_run(tmp_path / name, own=own_data(each=6), name=name, **keys)

    run = cut("a", num_test=72, l2=(0.0,))
    assert compared(run, cut("b", num_test=72, l2=(1.0,))).incomparable == ""
    for name, keys in (("c", {"test_seed": 1}), ("d", {"num_test": 60}), ("e", {"num_test": 0})):
        other = cut(name, **{"num_test": 72, "l2": (1.0,)} | keys)
        pair = compared(run, other)
        assert pair.incomparable == "test data differ"
        [warning] = several_runs.warnings_of([run, other], [pair])  # and none of protocols
        assert "not trained and tested on the same data" in warning
    assert not pairs.is_same_recipe(*pairs.name_points([run, cut("f", num_test=60, l2=(0.0,))]))
    other = cut("g", num_test=0, test_seed=3, l2=(0.0,))  # which cuts nothing
    assert pairs.is_same_recipe(*pairs.name_points([other, cut("h", num_test=0, l2=(0.0,))]))


def test_runs_on_ones_own_data_are_put_side_by_side(tmp_path):
    own = own_data()
    other = own._replace(checksum="sha256:of other leaves")
    for name, data, keys in (("a", own, {}), ("b", own, {"num_test": 48}), ("c", other, {})):
        make_run(tmp_path / name, own=data, name=name, l2=(0.0,), num_epochs=(1,), **keys)
    runs = reading.read_runs([tmp_path / name for name in "abc"])
    text = " ".join(several_runs.write_comparison(runs, tmp_path / "all").split())
    assert "the runs were not trained and tested on the same data." in text
    assert "different protocols" not in text
    named = cells(tables.runs_table(pairs.name_points(pairs.name_runs(runs))))
    assert [row["data set"] for row in named] == [
        f"leaves.npz ({x})" for x in ("of leave", "of leave", "of other")
    ]
    page = (tmp_path / "all/report.md").read_text().replace("\\", "")
    assert "leaves.npz (different files): test accuracy of the runs" in page
    assert "sha256:of other leaves" in page
    assert "b has no test images" not in page
    assert "leaves.npz has no test images: 48 images of it" in page


# --- the axes of images ---


def test_scaling_and_augmentation_are_axes_as_others(tmp_path):
    axes = {"scaling": ("unit", "standard"), "augmentation": ("none", "shift"), "l2": (0.0,)}
    run = make_run(tmp_path / "run", own=own_data(), **axes)
    table = cells(tables.results_table(run))
    assert {(row["scaling"], row["augmentation"]) for row in table} == {
        (scaling, augmentation) for scaling in axes["scaling"] for augmentation in ("none", "shift")
    }
    drawings = one_run.figures_of_run(run)
    assert {"accuracy_vs_scaling", "accuracy_vs_augmentation", "heat_map"} <= set(drawings)
    for axis in ("scaling", "augmentation"):
        figure, _ = drawings[f"accuracy_vs_{axis}"]()
        figure.draw_without_rendering()
        ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        assert ticks == list(axes[axis])
    assert re.search("scaling=(unit|standard), augmentation=(none|shift)", page(run))
