"""Reports of synthetic runs: numbers, words and files. Figures are in test_figures.py."""

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from base import AXES
from server import ROOT

from mnist_jax import UserError, disk
from mnist_jax.config.columns import at_best, metric_name
from mnist_jax.config.grid import make_points
from mnist_jax.config.old_records import upgrade_record
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.data import datasets
from mnist_jax.data.splits import Dataset, hold_out_validation
from mnist_jax.report import (
    formatting,
    one_run,
    pairs,
    points,
    reading,
    render,
    saving,
    sections,
    several_runs,
    tables,
    terminal,
    verdict,
)
from mnist_jax.runs import choosing, chosen_trial, labels, records, summaries, workdirs
from mnist_jax.runs.provenance import provenance

L2S = (1e-3, 7.5e-4, 1e-6)
RECIPE = {
    "optimizer": ("sgd",),
    "hidden_sizes": ((8,),),
    "num_epochs": (6,),
    "batch_size": (32,),
    "scaling": ("unit",),
    "augmentation": ("none",),
    "nesterov": (False,),
    "learning_rate": (0.1,),
    "schedule": ("constant",),
    "warmup_steps": (0,),
    "momentum": (0.0,),
    "l2": L2S,
    "l2_on_output": (False,),
    "weight_decay": (0.0,),
    "label_smoothing": (0.0,),
    "ema_decay": (0.0,),
}
IMAGES, LABELS = np.arange(40 * 784).reshape(40, 28, 28).astype(np.uint8), np.arange(40) % 10


def own_data(num_classes=12, shape=(32, 32, 3), name="leaves.npz", dtype=np.uint8, each=4):
    """Returns images of one's own: `each` of every class for the test set, twice as many to train.

    A class is called after its number, the first one by many letters.
    """
    generator = np.random.default_rng(num_classes)
    names = ("of a name that goes on and on", *(f"kind {i}" for i in range(1, num_classes)))
    labels = np.arange(num_classes).astype(np.uint8 if num_classes <= 256 else np.uint16)
    splits = []
    for n in (2 * each, 0, each):
        images = generator.integers(0, 256, (n * num_classes, *shape)).astype(dtype)
        splits += [images if dtype is np.uint8 else images / 100 - 1, np.repeat(labels, n)]
    return Dataset(name, *splits, names, "sha256:of leaves", "made up")


def make_run(
    path, protocol="test", seeds=3, diverging=(), accuracy=None, metrics=(), own=None, **options
):
    """Writes a run with made-up numbers, on digits or on data of one's `own`.

    `diverging` are numbers of trials that end in NaN; `accuracy(point, seed)` is the test accuracy
    that counts; `metrics` are what else is measured, as a config names it; `options` are values of
    axes, in tuples, one's own among them, and other keys of the config.
    """
    config = {"name": "made_up", "dataset": "digits", "grid": "product", "num_points": 0}
    if own:
        number = len(own.class_names) * (PROTOCOLS[protocol].held_out == "validation")
        config |= {"dataset": f"/data/{own.name}", "data": own.facts._asdict()}
    config |= {"num_seeds": seeds, "seed": 0, "shard": "0/1", "protocol": protocol}
    config |= {key: options.pop(key) for key in list(options) if type(options[key]) is not tuple}
    config |= {"model": "cnn" if "conv_features" in options else "mlp", "metrics": list(metrics)}
    axes = RECIPE | options
    scales = {axis: AXES[axis].scale if axis in AXES else None for axis in axes}
    points = make_points(axes, scales, config["grid"], config["num_points"], 0)
    p, dataset = PROTOCOLS[protocol], datasets.name_of(config["dataset"])
    trials = records.trial_rows(points, range(config["seed"], config["seed"] + seeds), dataset)
    path.mkdir(parents=True)
    config = upgrade_record(config | axes)
    disk.write_text(path / "config.json", disk.to_json(config, indent=2) + "\n")
    generator, rows = np.random.default_rng(0), []
    for num_epochs in dict.fromkeys(point["num_epochs"] for point in points):
        mine = [trial for trial in trials if trial["num_epochs"] == num_epochs]
        lost = [i for i, trial in enumerate(mine) if trial["trial"] in diverging]
        recorder = records.Recorder(path, mine, labels.varying(trials), protocol, metrics)
        for epoch in range(num_epochs):
            found = {}
            for split in filter(None, ("train", p.held_out)):
                noise = generator.random(len(mine))
                found[f"{split}_loss"] = 0.1 + 0.1 * noise / (epoch + 1)
                found[f"{split}_accuracy"] = 0.98 - 0.4 * 0.4**epoch - 0.01 * noise
                if accuracy and p.column == f"best_{split}_accuracy":  # reached in the last epoch
                    counts = [accuracy(trial["point"], trial["seed"]) for trial in mine]
                    found[f"{split}_accuracy"] = np.array(counts) - 0.1 * (epoch < num_epochs - 1)
                if split != "train":
                    found[f"{split}_objective"] = found[f"{split}_loss"] + 1
                for i, metric in enumerate(map(metric_name, metrics)):
                    found[f"{split}_{metric}"] = 0.5 + i + noise / (epoch + 2)
            if epoch == num_epochs - 1:
                for values in found.values():
                    values[lost] = math.nan
            recorder.add(epoch + 1, found)
        scores = {}
        if p.held_out != "test":
            noise = generator.random(len(mine))
            names = ("test_loss", "test_accuracy", "test_objective")
            scores = {name: 0.9 + 0.05 * noise for name in names}
            for metric in map(metric_name, metrics):
                scores[f"test_{metric}"] = 0.3 + 0.1 * noise
                if p.choose_epoch:
                    scores[at_best("validation", metric)] = 0.4 + 0.1 * noise
            if p.choose_epoch:
                scores["test_accuracy_at_best_validation"] = 0.91 + 0.05 * noise
        rows += recorder.rows(scores)
    rows.sort(key=lambda row: row["trial"])
    if accuracy:
        for row in rows:
            row[p.column] = accuracy(row["point"], row["seed"])
    records.write_results(path, rows)
    n = 4 * (p.held_out == "validation")
    splits = (IMAGES, LABELS, IMAGES[:n], LABELS[:n], IMAGES, LABELS)
    data = own or Dataset(dataset, *splits, tuple("0123456789"), f"sha256:<{dataset}>", "made up")
    scored = data.test_labels
    probabilities = np.full((len(scored), len(data.class_names)), 0.05)
    probabilities[np.arange(len(scored)), scored] = 0.55
    probabilities[:3] = np.roll(probabilities[:3], 1, axis=1)  # three mistakes
    kernel = generator.normal(size=(math.prod(data.facts.image_shape), 8))
    params = {"hidden_1": {"kernel": kernel, "bias": np.zeros(8)}}
    chosen = choosing.choose_trial(rows, protocol)["trial"]
    if chosen in diverging:
        probabilities = np.full(probabilities.shape, math.nan)
    chosen_trial.write_chosen_trial(path, chosen, {"params": params}, probabilities, data)
    seconds = {"load": 1.0, "compile": 2.0, "train": 3.0, "total": 6.0}
    made = provenance() | {"devices": {"platform": "cpu"}, "seconds": seconds}
    made["command"] = "python -m mnist_jax.main --config=made_up.py"
    made["data_checksum"] = data.checksum
    num_images = {"train": 10_000, "validation": 2500 * n, "test": 10_000}
    more = {"run": workdirs.digest(config, made["data_checksum"])}
    if own:
        own = hold_out_validation(own, number)
        num_images, more["data"] = own.num_images, own.describe()
    summaries.write_summary(path, rows, tuple(axes), protocol, dataset, num_images, made, **more)
    return reading.read_run(path)


def page_sections(run):
    """Returns what a report says, without drawing."""
    return sections.make_sections(run, points.compare_best(run), [])


def page(run):
    return render.to_markdown("title", page_sections(run))


def verdict_of(run):
    return verdict.write_verdict(run, points.compare_best(run))


def cells(table):
    names = [f"{group} {name}".strip() for group, name in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


class Balanced(HTMLParser):
    """Fails on tags that do not nest; collects attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(path):
    parser = Balanced()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def words_of(text):
    """Returns the words of a page, whatever marks them up."""
    return re.findall(r"[\w.%+]+", re.sub(r"!\[.*?\]\(.*?\)|^\| ?---.*$", " ", text, flags=re.M))


# --- the numbers of a run ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_table_equals_what_the_rows_give(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol)
    p = PROTOCOLS[protocol]
    table = cells(tables.results_table(run))
    assert len(table) == 3
    for row in table:
        trials = [trial for trial in run.results if f"{trial['l2']:g}" == row["l2"]]
        values = 100 * np.array([trial[p.column] for trial in trials])
        half = 4.302653 * values.std(ddof=1) / math.sqrt(3)  # Student's t, 2 degrees of freedom
        assert row["n"] == "3"
        assert row[f"{p.measure} % mean"] == f"{values.mean():.2f}"
        assert row[f"{p.measure} % sd"] == f"{values.std(ddof=1):.2f}"
        assert row[f"{p.measure} % min"] == f"{values.min():.2f}"
        assert row[f"{p.measure} % max"] == f"{values.max():.2f}"
        low, high = values.mean() - half, values.mean() + half
        assert row[f"{p.measure} % 95 % interval"] == f"{low:.2f} to {high:.2f}"
        validation = [name for name in row if "validation" in name]
        assert bool(validation) == (p.held_out == "validation")
        if validation:
            mean = np.mean([trial[p.criterion] for trial in trials])
            assert row[validation[0]] == f"{100 * mean:.2f}"
    order = [row["l2"] for row in table]
    if p.criterion is None:
        assert order == ["0.001", "0.00075", "1e-06"]
    else:
        means = {f"{x['l2']:g}": x["statistics"][p.criterion]["mean"] for x in run.summary["grid"]}
        assert order == sorted(means, key=lambda l2: -means[l2])


def test_last_epoch_is_told_beside_the_chosen_one(tmp_path):
    run = make_run(tmp_path / "run")
    for row in cells(tables.last_epoch_table(run)):
        trials = [trial for trial in run.results if f"{trial['l2']:g}" == row["l2"]]
        for name, column, scale, digits in (
            ("accuracy % test", "test_accuracy", 100, 2),
            ("loss training", "train_loss", 1, 4),
            ("objective test", "test_objective", 1, 4),
        ):
            mean = scale * np.mean([trial[column] for trial in trials])
            assert row[name] == f"{mean:.{digits}f}"


@pytest.mark.parametrize(
    ("protocol", "right", "wrong"),
    [
        ("test", "chosen on the test set", "validation"),
        ("validation", "epoch chosen on validation images", "chosen on the test set"),
        ("validation_last_epoch", "grid point chosen on validation images", "best-epoch"),
        ("last_epoch", "nothing chosen", "validation"),
    ],
)
def test_page_says_the_protocol(tmp_path, protocol, right, wrong):
    run = make_run(tmp_path / "run", protocol)
    for place in (sections.headline(run), page(run)):
        assert right in place
        assert wrong not in place
    assert ("biased upwards" in page(run)) is (protocol == "test")


def test_where_nothing_was_chosen_no_point_is_named_the_best(tmp_path):
    run = make_run(tmp_path / "run", "last_epoch", accuracy=lambda point, seed: 0.9 + point / 100)
    said = verdict_of(run)
    assert said.startswith("Nothing was chosen")
    assert "the first of 3 grid points, l2=0.001, is compared" in said
    assert "Best" not in said
    assert "Trial that is shown (the first; nothing chose it): trial 0" in page(run)
    found = cells(tables.comparison_table(run, points.compare_best(run).others))
    assert [row["l2"] for row in found] == ["0.00075", "1e-06"]
    assert [row["difference in percentage points mean"] for row in found] == ["-1.00", "-2.00"]


def test_validation_chooses_the_grid_point_and_the_test_set_does_not(tmp_path):
    run = make_run(tmp_path / "run", "validation")
    for i, point in enumerate(run.summary["grid"]):
        point["statistics"]["best_validation_accuracy"]["mean"] = 0.9 - i / 10
        point["statistics"]["test_accuracy_at_best_validation"]["mean"] = 0.5 + i / 10
    said = verdict_of(run)
    assert "Best of 3 grid points by validation accuracy: l2=0.001; mean chosen-epoch" in said
    assert "test accuracy 50.00 %" in said


# --- metrics ---

METRICS = ("top_2_accuracy", "brier_score", "confidence", "my_metrics.py:my_accuracy_ratio")


def column_of(protocol, name):
    p = PROTOCOLS[protocol]
    return f"test_{name}" + f"_at_best_{p.held_out}" * p.choose_epoch


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_are_those_of_the_test_images_at_the_epoch_that_counts(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol, metrics=METRICS, diverging=[4])
    table = {row["l2"]: row for row in cells(tables.metrics_table(run))}
    assert len(table) == 3
    for l2, row in table.items():
        trials = [x for x in run.results if f"{x['l2']:g}" == l2 and not x["diverged_epoch"]]
        for name, shown, unit, least, most in (
            ("top_2_accuracy %", lambda x: f"{100 * x:.2f}", 100, 0, 1),
            ("brier_score", lambda x: f"{x:.4f}", 1, 0, 2),
            ("my_accuracy_ratio", lambda x: f"{x:#.4g}", 1, -math.inf, math.inf),
        ):
            column = column_of(protocol, name.removesuffix(" %"))
            values = np.array([trial[column] for trial in trials])
            assert row[f"{name} mean"] == shown(values.mean())
            t = {3: 4.302653, 2: 12.706205}[len(values)]  # Student's
            half = t * values.std(ddof=1) / math.sqrt(len(values))
            low, high = (float(x) / unit for x in row[f"{name} 95 % interval"].split(" to "))
            assert low == pytest.approx(max(values.mean() - half, least), rel=1e-3, abs=1e-4)
            assert high == pytest.approx(min(values.mean() + half, most), rel=1e-3, abs=1e-4)
    text = page(run).replace("\\", "")
    assert "## Metrics\n\n| l2 | n | top_2_accuracy %: mean | " in text
    when = PROTOCOLS[protocol].measure.partition(" ")[0].capitalize()
    assert f"{when} values of the test images; means over the n trials. top_2_accuracy: the" in text
    assert "my_accuracy_ratio: as my_metrics.py:my_accuracy_ratio computes it." in text
    assert "Trials without a finite number" not in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_without_metrics_there_is_no_such_section(tmp_path):
    assert "Metrics" not in page(make_run(tmp_path / "run"))


def change_csv(run, column, values):
    """Writes values into a column of results.csv, by number of the trial."""
    rows = [row | {column: values.get(row["trial"], row[column])} for row in run.results]
    records.write_results(run.workdir, rows)


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "free space, then python -m mnist_jax.report DIR"), (errno.EACCES, "make the")],
)
def test_a_report_that_cannot_be_written_says_what_helps(number, cure):
    said = f"{os.strerror(number)}\\); {cure}"
    with pytest.raises(saving.UnwritableError, match=said), saving.writing("run"):
        raise OSError(number, os.strerror(number))


def test_a_metric_of_ones_own_may_be_any_number_and_none(tmp_path):
    run = make_run(tmp_path / "run", "last_epoch", metrics=METRICS)
    column = "test_my_accuracy_ratio"
    change_csv(run, column, {0: -1e9, 1: math.nan, 3: math.nan, 4: math.inf, 5: -math.inf})
    run = reading.read_run(run.workdir)
    table = cells(tables.metrics_table(run))
    assert [row["my_accuracy_ratio mean"] for row in table][:2] == ["-5.000e+08", "—"]
    assert {row["n"] for row in table} == {"3"}
    said = tables.metrics_words(run)
    assert said.endswith("Trials without a finite number are left out of: my_accuracy_ratio.")
    assert "no trial has" not in one_run.describe(run.workdir)
    change_csv(run, column, dict.fromkeys(range(9), math.nan))
    assert "warning: no trial has a finite my_accuracy_ratio." in one_run.describe(run.workdir)
    assert not re.search(r"\b(nan|None|inf)\b", page(run))


@pytest.mark.parametrize(
    ("column", "value"), [("test_accuracy", 1.1), ("train_accuracy", -0.1), ("test_loss", math.nan)]
)
def test_accuracies_of_more_than_all_images_are_damage(tmp_path, column, value):
    run = make_run(tmp_path / "run", metrics=METRICS)
    change_csv(run, column, {2: value})
    with pytest.raises(UserError, match="damaged"):
        reading.read_run(run.workdir)


@pytest.mark.parametrize(
    ("column", "scale"),
    [
        ("test_top_2_accuracy", (1 / 30, 0, 1)),
        ("test_top_2_accuracy_at_best_validation", (1 / 30, 0, 1)),
        ("train_top_2_accuracy", (1 / 10, 0, 1)),
        ("validation_brier_score", (0, 0, 2)),
        ("test_confidence_at_best_test", (0, 0, 1)),
        ("test_my_accuracy_ratio", (0, -math.inf, math.inf)),
        ("test_accuracy_ratio", (0, -math.inf, math.inf)),
        ("test_the_test_accuracy", (0, -math.inf, math.inf)),
        ("train_last_epoch", (0, -math.inf, math.inf)),
        ("test_f", (0, -math.inf, math.inf)),
    ],
)
def test_the_scale_of_a_metric_is_known_if_it_is_built_in(column, scale):
    assert summaries.scale_of(column, {"train": 10, "validation": 20, "test": 30}) == scale


# --- what can be told apart ---


def gaps(*less):
    """Returns accuracies by point and seed that scatter by 0.01, and their differences by 0.003."""
    return lambda point, seed: (
        0.93 + 0.01 * seed - less[point] + 0.001 * ((3 * seed + 2 * point * (seed + 1)) % 5)
    )


@pytest.mark.parametrize(
    ("less", "said"),
    [
        ((0.0, 0.001, 0.0015), "It does not differ significantly from the 2 others (t-tests, 5 %"),
        ((0.0, 0.001, 0.2), "from 1 of the 2 others, l2=1e-06 (by +19.87 points) (t-tests"),
        ((0.0, 0.1, 0.2), "from 2 of the 2 others, l2=0.00075 (by +9.93 points) and l2=1e-06"),
    ],
)
def test_verdict_compares_points_seed_by_seed(tmp_path, less, said):
    run = make_run(tmp_path / "run", accuracy=gaps(*less))
    assert said in verdict_of(run)
    assert "5 % level, Holm's correction for 3 pairs)" in verdict_of(run)


def test_comparisons_are_those_of_the_seeds_and_corrected(tmp_path):
    run = make_run(tmp_path / "run", accuracy=gaps(0.0, 0.01, 0.02), seeds=4)
    row = cells(tables.comparison_table(run, points.compare_best(run).others))[0]
    assert row["l2"] == "0.00075"
    from scipy import stats

    a, b = (np.array([gaps(0.0, 0.01)(point, seed) for seed in range(4)]) for point in (0, 1))
    p = stats.ttest_rel(a, b).pvalue
    assert row["difference in percentage points mean"] == f"{100 * (a - b).mean():+.2f}"
    assert row["p"] == (f"{p:.3f}" if p >= 0.001 else "< 0.001")
    assert float(row["p (Holm)"].strip("< ")) > p
    assert row["test"] == "paired, n = 4"


def power_of(text):
    """Returns what a verdict says of power: seeds, what shows, what does not, seeds for that."""
    number = r"(\d+(?:\.\d+)?)"
    [numbers] = re.findall(
        rf"With {number} seeds only differences above about {number} points would show \(power"
        rf" 80 %\); {number} points? needs? about {number} seeds\.",
        text,
    )
    return [float(x) for x in numbers]


def test_smallest_difference_that_the_seeds_can_show(tmp_path):
    from mnist_jax import stats

    run = make_run(tmp_path / "run", l2=(0.0, 1e-3), accuracy=gaps(0.0, 0.001), seeds=5)
    a, b = (np.array([gaps(0.0, 0.001)(point, seed) for seed in range(5)]) for point in (0, 1))
    std = (a - b).std(ddof=1)
    seeds, shows, smaller, needed = power_of(verdict_of(run))
    assert seeds == 5
    assert shows == pytest.approx(100 * stats.minimum_difference(std, 5), rel=0.05)
    assert 0.2 * shows <= smaller <= 0.5 * shows
    assert needed == stats.seeds_needed(smaller / 100, std)
    assert "correction" not in verdict_of(run)  # of one pair there is none


def test_verdict_goes_by_the_corrected_p(tmp_path):
    from mnist_jax import stats

    run = make_run(tmp_path / "run", accuracy=gaps(0.0, 0.007, 0.0095))
    found = points.compare_best(run)
    assert all(test["p"] < 0.05 < test["p_holm"] for _, test in found.others)
    assert "It does not differ significantly from the 2 others" in verdict_of(run)
    std = math.sqrt(np.mean([test["std"] ** 2 for _, test in found.others]))
    _, shows, smaller, needed = power_of(verdict_of(run))
    expected = 100 * stats.minimum_difference(std, 3, level=0.05 / 3)
    assert shows == pytest.approx(expected, rel=0.05)
    assert needed == stats.seeds_needed(smaller / 100, std, level=0.05 / 3)


def test_what_differs_from_every_point_needs_no_more_seeds(tmp_path):
    run = make_run(tmp_path / "run", accuracy=gaps(0.0, 0.1, 0.2))
    assert "would show" not in verdict_of(run)


@pytest.mark.parametrize(
    ("x", "below"), [(0.65, 0.5), (1.7, 1), (0.5, 0.5), (0.021, 0.02), (5.0, 5), (0.0999, 0.05)]
)
def test_round_numbers_are_below(x, below):
    assert verdict.round_number_below(x) == below


def test_ties_are_named_as_ties(tmp_path):
    tied = make_run(tmp_path / "a", accuracy=lambda point, _: (0.9, 0.95001, 0.95004)[point])
    assert verdict_of(tied).startswith(
        "l2=1e-06 and l2=0.00075 tie for the best of 3 grid points: "
    )
    assert "The first differs significantly from 1 of the 2 others" in verdict_of(tied)
    run = make_run(tmp_path / "b", accuracy=lambda point, _: (0.9, 0.9501, 0.9504)[point])
    assert verdict_of(run).startswith("Best of 3 grid points: l2=1e-06; mean")
    chosen = make_run(tmp_path / "c", "validation")
    for point in chosen.summary["grid"]:
        point["statistics"]["best_validation_accuracy"]["mean"] = 0.97
    assert "tie for the best of 3 grid points by validation accuracy. The first was chosen:" in (
        verdict_of(chosen)
    )


def test_one_seed_has_no_uncertainty_and_no_nan(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), seeds=1)
    [row] = cells(tables.results_table(run))
    assert row["best-epoch test accuracy % sd"] == "—"
    assert row["best-epoch test accuracy % 95 % interval"] == "—"
    accuracy = f"{100 * run.results[0]['best_test_accuracy']:.2f} %"
    assert verdict_of(run).startswith(f"Best-epoch test accuracy {accuracy}, of one trial, so")
    assert not re.search(r"\b(nan|None|inf)\b", page(run))


def test_one_seed_a_point_cannot_tell_points_apart(tmp_path):
    run = make_run(tmp_path / "run", seeds=1)
    assert "not judged with fewer than 3 sound trials at a point." in verdict_of(run)
    assert "Comparisons" not in page(run)


def test_two_seeds_that_agree_prove_nothing(tmp_path):
    run = make_run(tmp_path / "run", seeds=2, accuracy=lambda point, seed: 0.7 + point / 10)
    assert "are not judged" in verdict_of(run)
    assert "significantly" not in verdict_of(run)
    assert "Comparisons" not in page(run)


def test_three_seeds_that_agree_scatter_by_the_rounding_of_a_count(tmp_path):
    l2s = (0.0, 1e-3)
    run = make_run(tmp_path / "run", l2=l2s, accuracy=lambda point, seed: 0.9 + point / 10_000)
    assert "does not differ significantly from the other (t" in verdict_of(run)
    assert "0.00 points" not in verdict_of(run)
    [best, *_] = cells(tables.results_table(run))
    assert best["best-epoch test accuracy % 95 % interval"] == "90.00 to 90.02"


def test_intervals_end_at_0_and_100_percent(tmp_path):
    run = make_run(tmp_path / "run", seeds=2, accuracy=lambda point, seed: 0.1 + 0.8 * seed)
    for row in cells(tables.results_table(run)):
        assert row["best-epoch test accuracy % 95 % interval"] == "0.00 to 100.00"
    assert "It ends at 0 and 100 %" in page(run)


def changed_summary(run, change):
    path = run.workdir / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def test_statistics_are_those_of_the_trials_whatever_an_older_version_wrote(tmp_path):
    run = make_run(tmp_path / "run", seeds=2, accuracy=lambda point, seed: 0.1 + 0.8 * seed)

    def age(summary):
        del summary["num_images"]
        for point in summary["grid"]:
            point["statistics"] = {"best_test_accuracy": {"interval_95": [-6.58, 7.58]}}

    changed_summary(run, age)
    again = reading.read_run(run.workdir)
    assert again.summary["num_images"] == {"train": 1437, "validation": 0, "test": 360}
    found = [point["statistics"]["best_test_accuracy"] for point in again.summary["grid"]]
    assert [x["interval_95"] for x in found] == 3 * [[0, 1]]


def test_a_summary_of_other_trials_is_refused(tmp_path):
    run = make_run(tmp_path / "run", diverging=[1])
    for key, value in (("num_trials", 4), ("point", 7), ("diverged_seeds", [])):
        shutil.copytree(run.workdir, tmp_path / key)
        other = run._replace(workdir=tmp_path / key)
        changed_summary(other, lambda s, k=key, v=value: s["grid"][0].update({k: v}))
        with pytest.raises(UserError, match=r"results\.csv: it does not hold the trials"):
            reading.read_run(other.workdir)


def test_identical_trials_are_called_identical(tmp_path):
    run = make_run(tmp_path / "run", accuracy=gaps(0.0, 0.1, 0.2))
    for rows in (run.results[3:6], run.results[6:]):  # both as the best
        for row, same in zip(rows, run.results, strict=False):
            row.update({c: same[c] for c in summaries.measured(same, run.axes)})
    assert "It has identical results, trial by trial, to l2=0.00075 and l2=1e-06." in (
        verdict_of(run)
    )
    assert "significantly" not in verdict_of(run)
    [row, _] = cells(tables.comparison_table(run, points.compare_best(run).others))
    assert row["test"] == "none: identical trials"
    assert row["p"] == "—"


# --- divergence ---


def test_diverged_trials_are_named_counted_and_left_out(tmp_path):
    run = make_run(tmp_path / "run", diverging=[1])
    assert "Of 9 trials, 1 diverged and is left out of means: l2=0.001 (seed 1)." in (
        verdict_of(run)
    )
    last = cells(tables.results_table(run))[-1]  # it comes last, however good the others are
    assert (last["l2"], last["n"]) == ("0.001", "2 of 3")
    values = [run.results[i]["best_test_accuracy"] for i in (0, 2)]
    assert last["best-epoch test accuracy % mean"] == f"{100 * np.mean(values):.2f}"
    tests = cells(tables.comparison_table(run, points.compare_best(run).others))
    assert [row["test"] for row in tests] == ["paired, n = 3", "none"]
    assert "1 point cannot be judged, with fewer than 3 sound trials." in verdict_of(run)
    assert not re.search(r"\b(nan|None|inf)\b", page(run))


def test_where_everything_diverged_there_is_no_result(tmp_path):
    run = make_run(tmp_path / "run", diverging=range(9), num_epochs=(1,))
    one_run.write_report(run.workdir)
    assert verdict_of(run).startswith("Every trial diverged, so there is no result. Of 9 trials, 9")
    run = make_run(tmp_path / "one", diverging=range(2), l2=(0.0,), seeds=2, num_epochs=(1,))
    assert verdict_of(run).endswith("2 diverged and are left out of means (seeds 0, 1).")
    assert "which diverged" in verdict.chosen_trial(run)
    assert not list((run.workdir / "figures").glob("classes*"))


def test_points_near_chance_are_no_finding(tmp_path):
    def near(*accuracies):
        return lambda point, seed: accuracies[point] + seed / 1000

    run = make_run(tmp_path / "run", accuracy=near(0.9, 0.14, 0.15))  # guessing has 10 %
    said = "l2=0.00075 did not learn: accuracies are near that of guessing (10.00 %). A difference"
    assert f"{said} from that is no finding. Try another --config.learning_rate." in verdict_of(run)
    run.summary["data"] = {"class_counts": {"test": [3, 9, 0]}}  # 75 %
    assert "l2=0.00075 and l2=1e-06 did not learn" in verdict_of(run)
    run = make_run(tmp_path / "all", accuracy=near(0.1, 0.1, 0.1), diverging=[8])
    assert "The network did not learn: accuracies are near" in verdict_of(run)
    one = make_run(tmp_path / "one", accuracy=near(0.1), l2=(0.0,), name="one")
    assert "no finding" not in verdict_of(one)
    assert any(x.startswith("one: The network did not") for x in comparison_verdict(run, one))
    sound = make_run(tmp_path / "sound", accuracy=lambda point, seed: 0.1 + seed / 10)
    assert "did not learn" not in verdict_of(sound)


@pytest.mark.parametrize(
    ("chance", "num_images", "above", "highest"),
    [
        (1 / 2, 10_000, 0.53, 0.525),
        (1 / 2, 30, 0.65, 0.625),  # few images: guessing scatters
        (1 / 10, 10_000, 0.15, 0.145),
        (1 / 10, 50, 0.2, 0.18),
        (1 / 200, 10_000, 0.01, 0.006),
        (1 / 200, 400, 0.04, 0.01),
    ],
)
def test_what_is_near_guessing_depends_on_the_numbers_of_classes_and_images(
    chance, num_images, above, highest
):
    assert highest <= verdict.near_chance(chance, num_images) < above


# --- many points ---


def test_of_many_points_the_best_are_shown_and_the_reader_is_told(tmp_path):
    run = make_run(
        tmp_path / "run",
        "validation",
        **{
            "grid": "halton",
            "num_points": 30,
            "learning_rate": (0.01, 1.0),
            "seeds": 3,
            "l2": (0.0,),
        },
    )
    table = cells(tables.results_table(run))
    assert len(table) == 20
    means = [float(row["best-epoch validation accuracy % mean"]) for row in table]
    assert means == sorted(means, reverse=True)
    assert "Of 30 the first 20 are here; all are in summary.json" in page(run)
    assert "the 19 next best points" in verdict_of(run)
    assert len(points.compare_best(run).others) == 19


def test_names_in_a_sentence_are_cut():
    assert formatting.listed(list("abcdefghij")) == "a; b; c; d; e; f; g; h; and 2 more"
    assert formatting.listed(["a"]) == "a"


# --- the files ---


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report with all that HTML and Markdown must escape, and what was printed."""
    path = tmp_path_factory.mktemp("written") / "run"
    run = make_run(path, name="<b>&'x'|", schedule=("constant", "cosine"), l2=(0.0, 1e-3))
    return run, one_run.write_report(path)


def test_printed_text_has_table_verdict_and_place(written):
    run, text = written
    assert text.startswith("<b>&'x'| on digits: 4 grid points, 12 trials, 6 epochs")
    assert re.search(r"^schedule +l2 +n +mean", text, flags=re.M)
    assert "Best of 4 grid points: " in text
    assert text.endswith(f"\n\nReport: {run.workdir / 'report.html'}")
    assert max(len(line) for line in text.split("Report:")[0].splitlines()) <= 80


def in_terminal(run):
    return one_run.describe(run.workdir)


@pytest.mark.parametrize("protocol", ["test", "validation_last_epoch"])
def test_a_terminal_of_80_columns_is_wide_enough(tmp_path, protocol):
    wide = {"learning_rate": (0.1, 0.01), "label_smoothing": (0.0, 0.1)}
    one = make_run(tmp_path / "one", protocol, l2=(0.0, 1e-4, 1e-3))
    brief = make_run(tmp_path / "brief", protocol, l2=(0.0, 1e-3), **wide)
    long = {"rate_of_what_is_dropped": (0.1, 0.2), "schedule": ("constant", "cosine")}
    long |= {"momentum": (0.0, 0.9)}
    named = make_run(tmp_path / "named", protocol, l2=(0.0, 1e-3), **wide, **long)
    for run in (one, brief, named):
        text = in_terminal(run)
        assert max(map(len, text.splitlines())) <= 80
        _, table, *_, said = text.split("\n\n")
        assert len(said.splitlines()) <= 5
        is_cut = run is not one or (protocol != "test" and "max" not in table)
        assert ("The report has more columns." in table) is is_cut
    header = in_terminal(brief).split("\n\n")[1].splitlines()
    assert "  _smoothing" in header[2]
    assert "rate_of_what_is_dropped=0." in in_terminal(named)
    assert "These are the best 8 of 64 grid points; the report has 20, summary.json all." in (
        in_terminal(named)
    )
    assert "rate_of_what_is_dropped" not in in_terminal(named).split("\n\n")[-1]  # the verdict


def test_a_terminal_leaves_out_an_axis_that_no_point_shown_has(tmp_path):
    points = {name * 8: tuple(i / 100 for i in range(25)) for name in ("ab", "cd", "ef")}
    points |= {
        "momentum": (0.0, 0.9) * 12 + (0.0,),
        "schedule": ("constant", "cosine") * 12 + ("linear",),
    }
    points |= {
        "label_smoothing": tuple(i / 1000 for i in range(25)),
        "l2": (None,) * 23 + (0.1, 0.2),
    }
    run = make_run(
        tmp_path / "run", grid="list", accuracy=lambda point, _: 0.9 - point / 100, **points
    )
    _, table, *_ = in_terminal(run).split("\n\n")
    _, header, first, *_ = table.splitlines()
    assert header.split() == ["n", "test", "95", "%", "interval", "sd", "grid", "point"]
    assert first.split()[:2] == ["3", "90.00"]


def test_a_verdict_that_is_cut_says_so(tmp_path):
    text = terminal.to_terminal("t", "", "word " * 200, cautions=["all " * 200], folder=tmp_path)
    *_, caution, said, _ = text.split("\n\n")
    assert caution.split().count("all") == 200
    assert len(said.splitlines()) == 5
    assert said.endswith(" word ... (the report has the rest)")


@pytest.mark.parametrize(
    "flag",
    [
        "--overwrite",
        "--nooverwrite",
        "-overwrite=True",
        "--workdir=runs/a",
        "--workdir runs/a",
        "'--workdir=a b'",
        "--workdir='a b'",
    ],
)
def test_what_repeats_a_run_overwrites_nothing(flag):
    command = f"python -m mnist_jax.main --config=a.py {flag} --config.l2=0,1"
    assert sections.repeatable(command) == "python -m mnist_jax.main --config=a.py --config.l2=0,1"
    assert sections.repeatable(f"python x.py {flag}") == "python x.py"


def test_a_folder_of_any_name_is_told_in_one_line(tmp_path):
    table = terminal.runs(pairs.name_points([make_run(tmp_path / "run")]))
    assert terminal.to_terminal("", table, "", folder=Path("a\nb")).endswith(
        "\n\nReport: a b/report.html"
    )


def test_page_is_balanced_escaped_and_self_contained(written):
    run, _ = written
    html = (run.workdir / "report.html").read_text(encoding="utf-8")
    parser = parsed(run.workdir / "report.html")
    assert "http" not in html
    assert "<script" not in html
    assert "url(" not in html
    assert "@import" not in html
    sources = [value for _, name, value in parser.attributes if name in ("src", "href", "srcset")]
    assert (
        len(sources) == 9
    )  # two of curves, two axes, heat map, points, classes, mistakes, weights
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    text = " ".join(parser.text)
    assert "<b>&'x'| on digits" in text
    assert "sha256:<digits>" in text


def test_figures_are_saved_as_png_and_svg(written):
    run, _ = written
    names = sorted(path.name for path in (run.workdir / "figures").iterdir())
    stems = ["accuracy_by_point", "accuracy_curves", "accuracy_vs_l2", "accuracy_vs_schedule"]
    stems += ["classes", "first_layer", "heat_map", "loss_curves", "mistakes"]
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    for path in (run.workdir / "figures").iterdir():
        start = path.read_bytes()[:5]
        assert start == (b"<?xml" if path.suffix == ".svg" else b"\x89PNG\r")
    assert "<text" in (run.workdir / "figures/accuracy_curves.svg").read_text()
    assert not list(run.workdir.rglob(".*.[0-9]*"))  # no temporary file is left


def test_markdown_says_what_html_says(written):
    run, _ = written
    markdown = (run.workdir / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith(r"# \<b\>\&'x'\| on digits")
    for link in re.findall(r"\]\((.*?)\)", markdown):
        assert (run.workdir / link).exists()
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    html = " ".join(parsed(run.workdir / "report.html").text).split("</style>")[-1]
    body = html[html.index("What was run") :]
    source = markdown[markdown.index("What was run") :].replace("\\", "")
    # Groups of columns stand above their columns in the one, and before each name in the other.
    assert set(words_of(body)) == set(words_of(source.replace(":", "")))


def test_same_run_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    import matplotlib

    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(2,))

    def files():
        one_run.write_report(run.workdir)
        paths = [*run.workdir.glob("report.*"), *run.workdir.glob("figures/*")]
        return {path.name: path.read_bytes() for path in paths}

    first = files()
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):
        assert files() == first
        assert matplotlib.rcParams["font.size"] == 20
    assert len(first) == 12


# --- several runs ---


def compare(*runs):
    lines = pairs.name_points(pairs.name_runs(runs))
    return lines, pairs.compare_pairs(lines)


def comparison_verdict(*runs):
    named = pairs.name_runs(runs)
    lines = pairs.name_points(named)
    return several_runs.write_verdict(named, lines, pairs.compare_pairs(lines))


def warnings(*runs):
    return several_runs.warnings_of(runs, compare(*runs)[1])


def test_several_runs_are_compared_by_their_chosen_points(tmp_path):
    a = make_run(tmp_path / "a", "validation", accuracy=gaps(0.0, 0.1, 0.2), name="one")
    b = make_run(tmp_path / "b", "validation", l2=(0.0,), accuracy=gaps(0.05), name="two")
    lines, [pair] = compare(a, b)
    assert [line.name for line in lines][1] == "two: l2=0"
    assert lines[0].point["point"] == a.summary["chosen_point"]
    start = 3 * a.summary["chosen_point"]
    less = [
        np.mean([row["test_accuracy_at_best_validation"] for row in rows])
        for rows in (a.results[start : start + 3], b.results)
    ]
    assert pair.test["difference"] == pytest.approx(less[0] - less[1])
    assert pair.test["paired"]
    assert pair.incomparable == ""
    [row, _] = cells(tables.runs_table(lines))
    assert row["network"] == "MLP 8"
    assert row["chosen of"] == "3 points"
    assert row["protocol"] == "epoch chosen on validation images"
    text = terminal.runs(lines)
    assert max(map(len, text.splitlines())) <= 80
    same = "All have the same protocol (epoch chosen on validation images), data set (digits)"
    assert same in " ".join(text.split())


def test_lines_say_in_what_they_differ_if_that_is_little(tmp_path):
    a = make_run(tmp_path / "a", "last_epoch", l2=(0.0,), name="same")
    b = make_run(tmp_path / "b", "last_epoch", l2=(0.1,), name="same", conv_features=((4,),))
    c = make_run(tmp_path / "c", "last_epoch", l2=(0.1,), name="same", num_epochs=(3,))
    assert [line.name for line in compare(a, b)[0]] == [
        "same (a): model=mlp, l2=0",
        "same (b): model=cnn, l2=0.1",
    ]
    assert [line.name for line in compare(a, b, c)[0]] == ["same (a)", "same (b)", "same (c)"]


def test_difference_of_two_runs_is_told_and_tested(tmp_path):
    a = make_run(tmp_path / "a", l2=(0.0,), accuracy=gaps(0.0), name="one")
    b = make_run(tmp_path / "b", l2=(1e-3,), accuracy=gaps(0.1), name="two", seeds=4)
    [said] = comparison_verdict(a, b)
    assert (
        "1 of 1 comparable pair differs significantly (t-tests, 5 % level): one: l2=0 minus two:"
        " l2=0.001 is +9.43 points" in said
    )
    [row] = cells(tables.pairs_table(compare(a, b)[1]))
    assert row["test"] == "Welch, n = 3 or more"  # other seeds: no pairs


def test_a_recipe_is_not_told_apart_from_itself(tmp_path):
    a = make_run(tmp_path / "a", l2=(0.0,), accuracy=gaps(0.0), name="one")
    b = make_run(tmp_path / "b", l2=(0.0,), accuracy=gaps(0.1), name="two", seeds=4)
    [judged, same] = comparison_verdict(a, b)
    assert "No difference can be judged" in judged
    assert same.startswith("one and two are the same recipe with other seeds.")
    assert same.endswith("To learn more, give more seeds to one of them, which cannot be pooled.")
    c = make_run(tmp_path / "c", l2=(0.0,), accuracy=gaps(0.1), name="three", seed=3)
    [_, same] = comparison_verdict(a, c)
    assert "To learn more, pool them: the command makes one run of them" in same
    [row] = cells(tables.pairs_table(compare(a, b)[1]))
    assert row["no finding, because"] == "same recipe"
    assert (row["p"], row["difference in percentage points 95 % interval"]) == ("—", "—")


@pytest.mark.parametrize("key", ["commit", "versions", "machine", "data_checksum"])
def test_another_program_or_machine_may_be_told_apart(tmp_path, key):
    a = make_run(tmp_path / "a", l2=(0.0,), accuracy=gaps(0.0), name="one")
    b = make_run(tmp_path / "b", l2=(0.0,), accuracy=gaps(0.1), name="two")
    b.summary["provenance"][key] = "another"
    _, [pair] = compare(a, b)
    assert pair.incomparable == "data files differ" * (key == "data_checksum")


def test_a_run_and_its_repetition_are_identical(tmp_path):
    a, b = (make_run(tmp_path / x, l2=(0.0,), name=x) for x in ("one", "two"))
    b.summary["provenance"]["machine"] = "another"
    [judged, same] = comparison_verdict(a, b)
    assert "significantly" not in judged
    assert same.startswith("one and two have identical results, trial by trial.")
    [row] = cells(tables.pairs_table(compare(a, b)[1]))
    assert row["test"] == "none: identical trials"


def test_only_pairs_that_are_judged_are_corrected_for(tmp_path):
    seeds = {"one": 3, "two": 3, "three": 1}
    runs = [
        make_run(tmp_path / x, l2=(i / 1e3,), accuracy=gaps(0.1 * i), name=x, seeds=n)
        for i, (x, n) in enumerate(seeds.items())
    ]
    said = comparison_verdict(*runs)[0]
    assert said.startswith("1 of 1 comparable pair differs significantly")
    assert "Holm" not in said
    p = [pair.test["p_holm"] for pair in compare(*runs)[1]]
    assert [math.isnan(x) for x in p] == [False, True, True]


def test_p_values_of_several_runs_are_corrected_over_all_pairs(tmp_path):
    noise = iter(np.random.default_rng(1).random(99))
    runs = [
        make_run(tmp_path / x, l2=(l2,), accuracy=lambda *_: 0.9 + 0.01 * next(noise), name=x)
        for x, l2 in zip("abc", (0.0, 1e-3, 1e-2), strict=True)
    ]
    _, pairs = compare(*runs)
    p = [pair.test["p"] for pair in pairs]
    assert len(p) == 3
    assert min(pair.test["p_holm"] for pair in pairs) == pytest.approx(min(1, 3 * min(p)))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"protocol": "last_epoch"}, "scored by different protocols"),
        ({"dataset": "mnist"}, "not trained and tested on the same data"),
    ],
)
def test_runs_that_cannot_be_compared_are_warned_of(tmp_path, other, said):
    a = make_run(tmp_path / "a", l2=(0.0,), accuracy=gaps(0.0), name="one")
    b = make_run(tmp_path / "b", l2=(0.0,), accuracy=gaps(0.5), name="<two>", **other)
    (warning,), (judged,) = warnings(a, b), comparison_verdict(a, b)
    assert isinstance(warning, render.Warn)
    assert said in warning
    assert "No difference can be judged" in judged
    [row] = cells(tables.pairs_table(compare(a, b)[1]))
    assert row["no finding, because"].endswith("differ")
    for text in (
        render.to_markdown("", [("Verdict", [warning])]),
        render.to_html("", [("Verdict", [warning])]),
    ):
        assert said in text
    warning = render.Warn("WARNING: <two>")
    assert r"> **WARNING: \<two\>**" in render.to_markdown("", [("Verdict", [warning])])
    assert '<p class="warning">' in render.to_html("", [("Verdict", [warning])])


def test_choice_among_more_points_is_warned_of(tmp_path):
    a = make_run(tmp_path / "a", name="one")
    b = make_run(tmp_path / "b", l2=(0.0,), name="two")
    assert "different numbers of grid points" in warnings(a, b)[0]


def test_where_nothing_was_chosen_every_point_is_a_line(tmp_path):
    a = make_run(tmp_path / "a", "last_epoch", name="same")
    b = make_run(tmp_path / "b", "last_epoch", l2=(0.0,), name="same")
    lines, pairs = compare(a, b)
    assert [line.name for line in lines] == [
        *(f"same (a): l2={l2}" for l2 in ("0.001", "0.00075", "1e-06")),
        "same (b): l2=0",
    ]
    assert len(pairs) == 3  # none within a run
    long = make_run(
        tmp_path / "c", "last_epoch", l2=tuple(i / 1e4 for i in range(30)), seeds=1, name="long"
    )
    assert len(compare(a, long)[0]) == 3 + 10


def test_comparison_is_written_side_by_side(tmp_path, monkeypatch):
    make_run(tmp_path / "a", l2=(0.0,), name="one", diverging=[1])
    make_run(tmp_path / "b", "last_epoch", name="two", conv_features=((4,),))
    monkeypatch.chdir(tmp_path)
    text = several_runs.write_comparison(reading.read_runs(["a", "b"]))
    assert "\n\nwarning: the runs were scored by different protocols." in text
    [folder] = (tmp_path / "runs/report").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z", folder.name)
    assert f"Report: {folder.relative_to(tmp_path) / 'report.html'}" in text
    said = (folder / "report.md").read_text(encoding="utf-8")
    assert "python -m mnist_jax.report a b" in said
    assert "one: Of 3 trials, 1 diverged" in said
    assert "| two | last_epoch | cnn | " in said.split("## Configs")[1]  # what differs, by run
    assert "CNN 4, 8" in said
    assert "http" not in (folder / "report.html").read_text(encoding="utf-8")
    assert len([x for x in parsed(folder / "report.html").attributes if x[1] == "src"]) == 2
    again = several_runs.write_comparison(
        reading.read_runs(["a", "b"]), folder
    )  # its own report may be replaced
    assert str(folder) in again
    said = (folder / "report.md").read_text(encoding="utf-8")
    assert f"python -m mnist_jax.report a b --output={folder}" in said


# --- names ---

NAMES = (
    "$a_b$",
    "$\\frac{$",
    "{0} {x!r}",
    "_x_",
    "<script>&amp;|`*~~#",
    "a\nb\t\r\x1b[31m\0\udcff",
    "# 1. - _",
    "n" * 200,
    "--output=..",
)


def test_names_are_only_names_wherever_they_are_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = []
    for i, name in enumerate(NAMES):
        folder = name.replace("\0", "") if i else "same"
        runs.append(make_run(tmp_path / str(i) / folder, num_epochs=(1,), l2=(0.0,), name=name))
    text = several_runs.write_comparison(runs)
    [folder] = (tmp_path / "runs/report").iterdir()
    markdown, page = (folder / "report.md").read_text("utf-8"), parsed(folder / "report.html")
    svg = ElementTree.parse(folder / "figures/accuracy_by_run.svg")
    drawn = "".join("".join(x.itertext()) for x in svg.iter() if x.tag.endswith("}text"))
    legend = ElementTree.parse(folder / "figures/accuracy_curves.svg")
    drawn_too = "".join("".join(x.itertext()) for x in legend.iter() if x.tag.endswith("}text"))
    for name in NAMES:
        shown = re.sub(r"[\n\t\r]", " ", re.sub(r"[\x1b\0\udcff]", "\ufffd", name))
        assert shown[:30] in text  # what is longer is wrapped
        assert shown in "".join(page.text)
        for said in (drawn, drawn_too):
            assert "".join(shown.split()) in "".join(said.split())
    assert not re.search(r"(?<!\\)[<$`~]", re.sub(r"^    .*$", "", markdown, flags=re.M))
    assert "since it cannot be drawn" not in markdown
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f]*", text + markdown)


@pytest.mark.parametrize("name", ["../../there", "/there", "..", ".", "", "a/b", "a\0b", "n" * 999])
def test_a_name_is_a_folder_whatever_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = workdirs.new_workdir(name, "_merged")
    path.mkdir(parents=True)
    assert path.resolve().parent.parent == tmp_path / "runs"


def test_a_newline_in_a_command_is_no_markup():
    code = render.Code("python 'a\n\n# <b>x\rb'")
    markdown = render.to_markdown("t", [("Run", [code])])
    assert markdown == "# t\n\n## Run\n\n    python 'a\n    \n    # <b>x\n    b'\n"
    assert "&lt;b&gt;x" in render.to_html("t", [("Run", [code])])


# --- bad input ---


def bad_files(path):
    """Yields damaged copies of a run, and what must be said of each."""
    for i, (name, content, said) in enumerate(
        [
            ("summary.json", b"{", "cannot be read as a run"),
            ("summary.json", b'{"dataset": "digits"}', "another version"),
            ("summary.json", b"null", "damaged"),
            ("config.json", b"[" * 99999, "damaged"),
            ("config.json", b"{}", "damaged"),
            ("results.csv", b"", "damaged"),
            ("results.csv", b"trial\n0\n", "damaged"),
            ("metrics.jsonl", b'{"trial": 0, "epoch": 99}\n', "metrics.jsonl"),
            ("metrics.jsonl", b"", "some epochs of some trials are missing"),
            ("metrics.jsonl", None, "expected metrics.jsonl in it"),
        ]
    ):
        copy = path.with_name(f"bad_{i}")
        shutil.copytree(path, copy)
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        yield copy, said


def test_damaged_runs_are_one_line(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    for path, said in bad_files(run.workdir):
        with pytest.raises(UserError, match=re.escape(said)) as error:
            one_run.write_report(path)
        assert "\n" not in str(error.value)
        assert not (path / "figures").exists()  # nothing is written before all is read


def test_output_that_would_be_overwritten_is_refused(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/report.html").write_text("mine")
    (tmp_path / "figs/figures").mkdir(parents=True)
    for name, said in (
        ("a", "holds a run"),
        ("file", "is a file"),
        ("own", "did not make"),
        ("figs", "did not make"),
    ):
        with pytest.raises(UserError, match=said):
            saving.check_output(tmp_path / name)
    assert saving.check_output(tmp_path / "new") == tmp_path / "new"
    assert (tmp_path / "own/report.html").read_text() == "mine"


def test_report_of_one_run_can_go_elsewhere(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    one_run.write_report(run.workdir, tmp_path / "there")
    assert (tmp_path / "there/report.html").exists()
    assert not (run.workdir / "report.html").exists()


def test_unwritable_place_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    (run.workdir / "figures").write_text("in the way")
    with pytest.raises(UserError, match=r"figures.* cannot be written") as error:
        one_run.write_report(run.workdir)
    assert "\n" not in str(error.value)


def command(*arguments):
    call = [sys.executable, "-m", "mnist_jax.report", *map(str, arguments)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bad_command_is_one_line_and_status_2(tmp_path):
    make_run(tmp_path / "run", num_epochs=(1,))
    for arguments, said in (
        ([tmp_path / "nothing"], "nothing holds no finished run"),
        ([tmp_path / "run", tmp_path / "run" / "."], "named twice"),
        ([tmp_path / "run", f"--output={tmp_path / 'run'}"], "holds a run"),
        ([tmp_path / "run", "--output="], "--output=: expected a folder"),
        ([], "0 arguments: expected one, a run's directory"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(r"error: .*\n", done.stderr)
        assert said in done.stderr


WATCH = """
import runpy, sys
sys.modules["jax"] = None  # an import raises
{extra}
sys.argv = ["report", {argument!r}]
try:
    runpy.run_module("mnist_jax.report", run_name="__main__", alter_sys=True)
except SystemExit as end:
    sys.exit(end.code)
"""


@pytest.mark.parametrize(
    "extra", [pytest.param("sys.modules['matplotlib'] = None", marks=pytest.mark.slow), ""]
)
def test_help_is_light_and_a_report_needs_no_jax(tmp_path, extra):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,))
    argument = "--help" if extra else str(run.workdir)
    code = WATCH.format(extra=extra, argument=argument)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if extra:
        assert "python -m mnist_jax.report DIR" in done.stdout
        assert "--output" in done.stdout
    else:
        assert done.stdout == one_run.write_report(run.workdir) + "\n"


def test_the_made_up_recipe_has_every_axis():
    assert [*RECIPE] == [axis for axis in AXES if axis != "conv_features"]


# --- values that are close to each other ---

CLOSE = (0.1234567, 0.1234568)


def test_no_two_rows_have_one_name(tmp_path):
    run = make_run(tmp_path / "run", l2=(0.0, *CLOSE), momentum=(0.9999991, 0.9999992))
    names = [cell["l2"] + cell["momentum"] for cell in cells(tables.results_table(run))]
    assert len(set(names)) == 6
    assert {name[:9] for name in names} == {"00.999999", "0.1234567", "0.1234568"}
    axes = labels.varying(run.summary["grid"])
    assert len({labels.label(point, axes) for point in run.summary["grid"]}) == 6
    assert "0.1234567" in verdict_of(run)
    assert ["l2", "0, 0.1234567, 0.1234568"] in tables.key_values(run.config).rows


def test_runs_of_close_values_are_no_same_recipe(tmp_path):
    runs = [
        make_run(tmp_path / str(i), l2=(l2,), accuracy=lambda _, seed: 0.9 + seed / 50)
        for i, l2 in enumerate(CLOSE)
    ]
    lines = pairs.name_points(runs)
    assert not pairs.is_same_recipe(*lines)
    table = tables.differing(["a", "b"], [run.config for run in runs])
    assert cells(table) == [{"run": "a", "l2": "0.1234567"}, {"run": "b", "l2": "0.1234568"}]


# --- axes of one's own ---


def own_run(path, protocol="test", grid="list", **options):
    """Writes a run whose points have the values of axes [points], by whatever grid it says."""
    options = {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()}
    run = make_run(path, protocol, grid="list", **{"l2": (0.0,), "num_epochs": (2,)} | options)
    return run._replace(config=run.config | {"grid": grid})


OPTIMIZERS = {
    "optimizer": ("sgd", "sgd", "adamw", "adamw", "lion"),
    "momentum": (0.0, 0.9, None, None, None),
    "b2": (None, None, 0.99, 0.999, None),
    "nesterov": (False, False, None, None, None),
}


def test_what_an_optimizer_does_not_take_is_not_there(tmp_path):
    run = own_run(tmp_path / "run", **OPTIMIZERS)
    grid = run.summary["grid"]
    axes = labels.varying(grid)
    assert set(axes) == {"optimizer", "momentum", "b2"}  # of nesterov there is one value
    assert [labels.label(point, axes) for point in grid] == [
        "optimizer=sgd, momentum=0",
        "optimizer=sgd, momentum=0.9",
        "optimizer=adamw, b2=0.99",
        "optimizer=adamw, b2=0.999",
        "optimizer=lion",
    ]
    table = {row["optimizer"] + row["b2"]: row for row in cells(tables.results_table(run))}
    assert table.keys() == {"sgd—", "adamw0.99", "adamw0.999", "lion—"}
    assert table["lion—"]["momentum"] == "—"
    assert "None" not in page(run)
    del grid[0]["b2"]  # of a run that has no such axis, beside others
    assert labels.label(grid[0], axes) == "optimizer=sgd, momentum=0"
    assert labels.varying(grid) == axes


@pytest.mark.parametrize(
    ("model", "name", "options"),
    [
        ("my_net.py:LeNet5", "LeNet5", {"rate": (0.1,)}),
        ("mlp", "MLP 8", {}),
        ("mlp", "linear", {"hidden_sizes": ((),)}),
        ("cnn", "CNN 4, 8", {"conv_features": ((4,),)}),
    ],
)
def test_networks_are_named(tmp_path, model, name, options):
    run = make_run(tmp_path / "run", l2=(0.0,), num_epochs=(1,), **options)
    run = run._replace(config=run.config | {"model": model})
    [row] = cells(tables.runs_table(pairs.name_points([run])))
    assert row["network"] == name


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.1, 0.123456789), ("0.1", "0.123457")),
        ((0.1234567, 0.1234568, 1e-5), ("0.1234567", "0.1234568", "1e-05")),
        ((1234567.0, 1234568.0), ("1234567", "1234568")),
        ((0.1, 0.1 + 2**-56), ("0.10000000000000001", "0.10000000000000002")),
        ((0.9999999,), ("0.9999999",)),  # and not 1
        ((1.5848931924611134e-05, 1), ("1.58489e-05", "1")),
        ((), ()),
        ((math.nan, math.inf), ("nan", "inf")),
        ((None, 0.5, True, 3, "500-300", ""), ("—", "0.5", "True", "3", "500-300", "none")),
    ],
)
def test_digits_tell_values_apart(values, texts):
    digits = labels.num_digits(values)
    assert tuple(labels.shown(value, digits) for value in values) == texts
