import json
import math

import numpy as np
import pytest

from mnist_jax import UserError, results
from mnist_jax.data import Dataset

TRIALS = {
    "seed": np.array([0, 1, 0, 1]),
    "l2": np.array([0.0, 0.0, 1e-3, 1e-3]),
    "learning_rate": np.full(4, 0.1),
    "momentum": np.zeros(4),
}
TEST = np.array([[0.5, 0.9, 0.7, 0.2], [0.8, 0.9, 0.6, 0.3], [0.8, 0.4, 0.6, 0.4]])
VALIDATION = np.array([[0.1, 0.2, 0.9, 0.3], [0.3, 0.1, 0.9, 0.3], [0.2, 0.1, 0.3, 0.4]])


def epochs(validation):
    for test, held_out in zip(TEST, VALIDATION, strict=True):
        metrics = {"train_loss": 1 - test, "test_loss": test / 2, "test_accuracy": test}
        if validation:
            metrics["validation_accuracy"] = held_out
        yield metrics


def dataset(num_validation=0):
    images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8)
    held_out = (images[:num_validation], labels[:num_validation])
    return Dataset(
        "tiny", images, labels, *held_out, images, labels, tuple("0123456789"), "sha256:0", "here"
    )


def finished_run(path, validation=False):
    workdir = results.create_workdir(path)
    results.write_config(workdir, {"name": "tiny", "l2": (0.0, 1e-3)})
    rows = results.record(workdir, results.trial_rows(TRIALS, "tiny"), epochs(validation))
    results.write_summary(workdir, rows, dataset(4 * validation), results.provenance())
    return results.read_run(workdir)


def test_metrics_have_one_row_per_epoch_and_trial(tmp_path):
    metrics = finished_run(tmp_path / "run").metrics
    assert [(row["epoch"], row["trial"]) for row in metrics] == [
        (epoch, trial) for epoch in (1, 2, 3) for trial in range(4)
    ]
    assert [row["test_accuracy"] for row in metrics] == TEST.ravel().tolist()
    assert {row["dataset"] for row in metrics} == {"tiny"}
    assert metrics[3]["seed"] == 1
    assert metrics[3]["l2"] == 1e-3


def test_results_hold_the_last_epoch_and_the_earliest_best_one(tmp_path):
    rows = finished_run(tmp_path / "run").results
    assert [row["test_accuracy"] for row in rows] == TEST[-1].tolist()
    assert [row["best_test_accuracy"] for row in rows] == [0.8, 0.9, 0.7, 0.4]
    assert [row["best_test_epoch"] for row in rows] == [2, 1, 1, 3]
    assert {row["num_epochs"] for row in rows} == {3}
    assert list(rows[0])[:6] == ["trial", "seed", "dataset", "l2", "learning_rate", "momentum"]


def test_validation_chooses_an_epoch_without_looking_at_the_test_set(tmp_path):
    rows = finished_run(tmp_path / "run", validation=True).results
    assert [row["best_validation_accuracy"] for row in rows] == [0.3, 0.2, 0.9, 0.4]
    assert [row["best_validation_epoch"] for row in rows] == [2, 1, 1, 3]
    assert [row["test_accuracy_at_best_validation"] for row in rows] == [0.8, 0.9, 0.7, 0.4]


@pytest.mark.parametrize(
    ("validation", "chosen_on", "best"), [(False, "test", 1), (True, "validation", 2)]
)
def test_summary_says_what_chose_the_epoch(tmp_path, validation, chosen_on, best):
    summary = finished_run(tmp_path / "run", validation).summary
    assert summary["epoch_chosen_on"] == chosen_on
    assert summary["best_trial"] == best
    assert summary["dataset"] == "tiny"
    assert summary["provenance"]["data_checksum"] == "sha256:0"
    assert set(summary["provenance"]["versions"]) >= {"jax", "flax", "optax", "numpy", "python"}


def test_statistics_name_their_divisor(tmp_path):
    point = finished_run(tmp_path / "run").summary["grid"][1]
    assert point["l2"] == 1e-3
    assert point["num_trials"] == 2
    assert point["statistics"]["best_test_accuracy"] == pytest.approx(
        {"mean": 0.55, "std_ddof0": 0.15, "std_ddof1": 0.15 * math.sqrt(2), "min": 0.4, "max": 0.7}
    )


def test_statistics_of_one_trial_have_no_sample_deviation():
    row = {axis: 0.0 for axis in results.GRID_AXES} | {"test_accuracy": 0.5}
    statistics = results.summarise([row])[0]["statistics"]["test_accuracy"]
    assert statistics["std_ddof0"] == 0
    assert math.isnan(statistics["std_ddof1"])


def test_json_has_null_for_numbers_that_are_not_finite():
    text = results.to_json({"a": [math.nan, np.float32(np.inf), np.int64(3)], "b": (1.5, None)})
    assert json.loads(text) == {"a": [None, None, 3], "b": [1.5, None]}


def test_rows_on_disk_survive_a_run_that_dies(tmp_path):
    def dying():
        yield from list(epochs(False))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.record(tmp_path, results.trial_rows(TRIALS, "tiny"), dying())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    results.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(results.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        results.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_directory_with_a_run_is_refused(tmp_path):
    finished_run(tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        results.create_workdir(tmp_path)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        results.create_workdir(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.csv", "summary.json"])
def test_reading_needs_every_file_whole(tmp_path, name):
    finished_run(tmp_path)
    if name.startswith(("config", "metrics", "summary")):
        (tmp_path / name).write_text('{"cut')
        with pytest.raises(UserError, match="cannot be read as a run"):
            results.read_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"expected {name}"):
        results.read_run(tmp_path)


@pytest.mark.parametrize(
    ("accuracies", "best", "epoch"),
    [([0.2, 0.5, math.nan], 0.5, 2), ([math.nan, 0.3, 0.2], 0.3, 2), ([math.nan] * 3, math.nan, 1)],
)
def test_an_epoch_that_is_not_a_number_is_not_the_best(tmp_path, accuracies, best, epoch):
    trial = [{"trial": 0} | dict.fromkeys(results.GRID_AXES, 0.0)]
    metrics = ({"test_accuracy": np.array([a])} for a in accuracies)
    (row,) = results.record(tmp_path, trial, metrics)
    np.testing.assert_equal(row["best_test_accuracy"], best)
    assert row["best_test_epoch"] == epoch


def test_equal_trials_tie_in_any_order():
    values = [0.9555555555555556, 0.9472222222222222, 0.9527777777777777]
    rows = [
        dict.fromkeys(results.GRID_AXES, point) | {"test_accuracy": value}
        for point, order in [(0.0, (0, 1, 2)), (1.0, (2, 1, 0))]
        for value in (values[i] for i in order)
    ]
    first, second = (p["statistics"]["test_accuracy"]["mean"] for p in results.summarise(rows))
    assert first == second


def test_paired_difference_is_students(tmp_path):
    from scipy import stats

    run = finished_run(tmp_path / "run")
    a, b = run.summary["grid"]
    mean, half_width = results.paired_difference(run, a, b, "best_test_accuracy")
    differences = [0.8 - 0.7, 0.9 - 0.4]
    interval = stats.t.interval(0.95, 1, np.mean(differences), stats.sem(differences))
    assert (mean - half_width, mean + half_width) == pytest.approx(interval)
