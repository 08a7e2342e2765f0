"""Successive halving: what goes on has the bits of a run without it, and what stops is told."""

import contextlib
import csv
import dataclasses
import json
import random
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import test_growth
from test_growth import SEARCH, assert_same, held_out, run, stop_before
from test_hosts import run_job
from test_resume import PowerCutError, share_programs  # noqa: F401

from mnist_jax import UserError
from mnist_jax.config.experiment import Experiment, read_experiment
from mnist_jax.config.rungs import rungs
from mnist_jax.export.metadata import describe
from mnist_jax.runs import done as what_is_done
from mnist_jax.runs import results, runner
from mnist_jax.runs.stopped import StoppedError
from mnist_jax.runs.trained_trial import read_trained_trial
from mnist_jax.training import memory

# Programs of 16 and 32 images, which compete with each other.
GRID = SEARCH | {
    "grid": "halton",
    "num_points": 9,
    "batch_size": "16,32",
    "num_seeds": 2,
    "num_epochs": 9,
    "protocol": "validation",
}
HALVED = GRID | {"halving": 3}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """JAX is set up already, and data is made up."""
    test_growth.prepare(monkeypatch)
    monkeypatch.setattr(Experiment, "load_data", lambda *_: held_out())


def lines(path):
    """Returns the lines of `metrics.jsonl` by trial and epoch."""
    found = {}
    for line in (path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found[row["trial"], row["epoch"]] = line
    return found


def table(path):
    with open(path / "results.csv", newline="", encoding="utf-8") as file:
        return {int(row["trial"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that stops nothing, and one that does."""
    with pytest.MonkeyPatch.context() as patch:
        test_growth.prepare(patch)
        patch.setattr(Experiment, "load_data", lambda *_: held_out())
        folder = tmp_path_factory.mktemp("halving")
        run(folder / "all", **GRID)
        run(folder / "halved", **HALVED)
    return folder


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((20, 3, 1, 108), [2, 6]),
        ((27, 3, 1, 108), [1, 3, 9]),
        ((81, 3, 1, 108), [1, 3, 9, 27]),
        ((27, 3, 2, 108), [3, 9]),
        ((27, 3, 3, 108), [3, 9]),
        ((81, 3, 1, 26), [9, 27]),
        ((81, 3, 1, 2), []),
        ((16, 2, 1, 4), [4, 8]),
        ((16, 0, 1, 4), []),
        ((2, 3, 1, 100), []),
    ],
)
def test_rungs_are_shares_of_all_epochs(asked, expected):
    assert rungs(*asked) == expected


def test_what_goes_on_has_the_bits_of_a_run_without_halving(whole):
    every, halved = lines(whole / "all"), lines(whole / "halved")
    assert halved.items() <= every.items()
    ends = table(whole / "halved")
    finished = [trial for trial, row in ends.items() if row["stopped_epoch"] == "0"]
    assert len(finished) == 2
    for trial in finished:
        row = ends[trial] | {}
        del row["stopped_epoch"]
        assert row == table(whole / "all")[trial]


def test_the_best_third_goes_on_by_the_mean_over_seeds(whole):
    """Of 9 points 3, after 1 epoch, and of these 1, after 3."""
    every, ends = lines(whole / "all"), table(whole / "halved")
    stopped = {trial // 2: int(row["stopped_epoch"]) for trial, row in ends.items()}
    assert sorted(stopped.values()) == [0, *[1] * 6, 3, 3]
    there = list(range(9))
    for rung, kept in ((1, 3), (3, 1)):
        best = {
            point: np.mean(
                [
                    max(
                        json.loads(every[2 * point + seed, epoch])["validation_accuracy"]
                        for epoch in range(1, rung + 1)
                    )
                    for seed in range(2)
                ]
            )
            for point in there
        }
        order = sorted(there, key=lambda point: -best[point])
        assert {p for p in there if stopped[p] == rung} == {*order[kept:]}
        there = sorted(order[:kept])


def test_what_stopped_is_in_every_file_with_its_last_epoch(whole):
    halved = whole / "halved"
    ends = {trial: int(row["stopped_epoch"]) for trial, row in table(halved).items()}
    rows = lines(halved)
    for trial, end in ends.items():
        assert max(epoch for number, epoch in rows if number == trial) == (end or 9)
    for row in table(halved).values():
        assert (row["test_accuracy"] == "nan") == (row["stopped_epoch"] != "0")
        assert row["num_epochs"] == "9"
        assert list(row) == list(table(halved)[0])
    run_read = results.read_run(halved)
    grid = run_read.summary["grid"]
    assert {p["point"]: p["stopped_epoch"] for p in grid} == {t // 2: e for t, e in ends.items()}
    chosen = run_read.summary["chosen_trial"]
    assert not ends[chosen]
    keys = list(json.loads(rows[0, 1]))
    assert keys[:3] == ["trial", "seed", "batch_size"]
    assert "stopped_epoch" not in keys


def test_a_run_without_halving_has_no_column_for_it(whole):
    assert "stopped_epoch" not in table(whole / "all")[0]
    assert "stopped_epoch" not in (whole / "all" / "summary.json").read_text()


@pytest.mark.parametrize(
    ("group", "epoch"),
    [(0, 1), (1, 1), (2, 2), (2, 3), (4, 9)],
)
def test_a_run_that_dies_goes_on_with_the_same_bits(tmp_path, monkeypatch, whole, group, epoch):
    """At the border of a rung its rows are there, and the checkpoint is not."""
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_before(patch, epoch, group)
        with pytest.raises(PowerCutError):
            run(path, **HALVED)
    run(path, **HALVED)
    assert_same(path, whole / "halved")


def test_an_export_says_why_a_stopped_trial_has_no_test_accuracy(whole):
    chosen = read_trained_trial(whole / "halved")
    assert "not measured" not in describe(chosen)["test_accuracy_is"]
    for row in chosen.run.results:
        if epoch := row["stopped_epoch"]:
            said = describe(dataclasses.replace(chosen, number=row["trial"]))
            assert said["test_accuracy"] == "null"
            assert said["test_accuracy_is"].endswith(
                f"halving stopped the trial after epoch {epoch}"
            )


def test_a_signal_before_a_rung_says_how_many_epochs_there_are_in_all(tmp_path, monkeypatch):
    came = contextlib.nullcontext(SimpleNamespace(number=signal.SIGTERM))
    monkeypatch.setattr(runner, "StopSignals", lambda _: came)
    with pytest.raises(StoppedError, match="stopped after epoch 1 of 9, and saved"):
        run(tmp_path / "run", **HALVED, min_epochs=3)


def test_weights_of_a_rung_are_not_taken_for_those_of_the_next(tmp_path, monkeypatch):
    """The run dies when the rows of the second rung are there, and its weights are not."""
    path, kept = tmp_path / "run", HALVED | {"num_seeds": 1, "keep_weights": "all"}
    with monkeypatch.context() as patch:
        stop_before(patch, 3, group=2)
        with pytest.raises(PowerCutError):
            run(path, **kept)
    run(path, **kept)
    run(tmp_path / "whole", **kept)
    assert_same(path, tmp_path / "whole")


def test_a_run_that_dies_before_it_writes_what_stopped_decides_again(tmp_path, monkeypatch, whole):
    path = tmp_path / "run"
    write = runner.records.write_results
    for _ in range(2):
        with monkeypatch.context() as patch:

            def die(*_):
                raise PowerCutError

            patch.setattr(runner.records, "write_results", die)
            with pytest.raises(PowerCutError):
                run(path, **HALVED)
    assert runner.records.write_results is write
    assert not (path / "results.csv").exists()
    run(path, **HALVED)
    assert_same(path, whole / "halved")


def test_what_goes_on_is_packed_where_memory_had_divided_it(tmp_path, monkeypatch, whole, capsys):
    """The checkpoints of three groups make one of the next stage."""
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: min(4, len(program.trials.seed)))
    run(tmp_path / "run", **HALVED)
    assert_same(tmp_path / "run", whole / "halved")


@pytest.mark.parametrize("axis", ["momentum", "ema_decay"])
@pytest.mark.parametrize("keep", ["chosen", "all"])
def test_trials_that_kept_less_are_packed_with_others(tmp_path, monkeypatch, capsys, axis, keep):
    """Memory had divided them: the first of two had no momentum, or no average, to keep."""
    trials_that_fit = memory.trials_that_fit
    asked = {
        "grid": "list",
        "learning_rate": 1e-6,  # so that all are as good, and the first two go on
        axis: "0,0.5,0.6,0.7,0.8,0.9",
        "num_seeds": 1,
        "num_epochs": 3,
        "halving": 3,
        "protocol": "validation",
        "keep_weights": keep,
    }
    monkeypatch.setattr(memory, "trials_that_fit", lambda x: 1 + (len(x.trials.seed) == 2))
    run(tmp_path / "run", **asked)
    said = capsys.readouterr()
    assert said.err == ""
    assert "2 trials of 3 epochs\n" in said.out  # from the rung on
    monkeypatch.setattr(memory, "trials_that_fit", trials_that_fit)
    run(tmp_path / "whole", **asked)
    for name in ("metrics.jsonl", "results.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("keep", ["chosen", "all"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_points": 4}, {}),
        ({"num_seeds": 1}, {}),
        ({"num_points": 4, "num_seeds": 1}, {}),
    ],
)
def test_a_run_grows_and_decides_again(tmp_path, capsys, before, after, keep):
    path, kept = tmp_path / "run", {"keep_weights": keep}
    run(path, **HALVED | before | kept)
    run(path, **HALVED | after | kept)
    assert "after epoch 0" not in capsys.readouterr().out
    run(tmp_path / "whole", **HALVED | after | kept)
    assert_same(path, tmp_path / "whole")


def test_the_test_set_chooses_nothing(tmp_path, monkeypatch, whole):
    """With its labels shuffled, the same points stop, and the same trial is chosen."""
    data = held_out()
    shuffled = np.random.default_rng(1).permutation(data.test_labels)
    assert (shuffled != data.test_labels).any()
    other = data._replace(test_labels=shuffled, checksum="another")
    monkeypatch.setattr(Experiment, "load_data", lambda *_: other)
    run(tmp_path / "run", **HALVED)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (
        whole / "halved" / "metrics.jsonl"
    ).read_bytes()
    found, wanted = (results.read_run(x) for x in (tmp_path / "run", whole / "halved"))
    assert found.summary["chosen_trial"] == wanted.summary["chosen_trial"]
    losses = [[row["test_loss"] for row in each.results] for each in (found, wanted)]
    assert str(losses[0]) != str(losses[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"halving": 1}, "halving=1: expected 0, or a whole number from 2"),
        ({"protocol": "test"}, "halving=3: expected 0 with protocol=test, where the test"),
        ({"protocol": "last_epoch"}, "halving=3: expected 0 with protocol=last_epoch, where noth"),
        ({"num_epochs": "9,27"}, "num_epochs=9,27: expected one number of epochs with halving"),
        ({"num_epochs": 2}, "num_epochs=2: expected 3 epochs or more"),
        ({"min_epochs": 4}, "min_epochs=4: expected at most 3, num_epochs / halving"),
        ({"num_points": 2}, "halving=3: expected 0, or at most 2, the number of points"),
        ({"num_points": 1}, "halving=3: expected 0 with one point, which nothing competes with"),
        ({"halving": 0, "min_epochs": 2}, "min_epochs=2: expected 1 without halving"),
        ({"shard": "0/2"}, "halving=3: expected 0 with a shard, since shards would choose"),
    ],
)  # fmt: skip
def test_halving_is_refused_where_it_would_not_be_honest(changes, said):
    typed = {key: str(value) for key, value in (HALVED | changes).items()}
    shard = typed.pop("shard", None)
    config = str(test_growth.ROOT / "configs" / "baseline.py")
    with pytest.raises(UserError) as error:
        read_experiment(config, typed | {"dataset": "digits"}, shard=shard)
    assert said in str(error.value)


def test_more_epochs_are_another_run(tmp_path, whole):
    with pytest.raises(UserError, match="with halving the number of epochs says which points stop"):
        run(whole / "halved", **HALVED | {"num_epochs": 18})


SEARCHED = (
    *("--config=configs/baseline.py", "--config.dataset=digits", "--config.protocol=validation"),
    *("--config.grid=halton", "--config.num_points=9", "--config.learning_rate=0.01,1"),
    *("--config.batch_size=64,128", "--config.hidden_sizes=8", "--config.num_seeds=1"),
    *("--config.num_epochs=27", "--config.halving=3", "--config.devices=1"),
)


@pytest.fixture(scope="module")
def alone(server, tmp_path_factory):
    """What one process makes of a search that nothing interrupts."""
    path = tmp_path_factory.mktemp("alone") / "run"
    done = server.run("main", *SEARCHED, f"--workdir={path}")
    assert done.status == 0, done.err
    return path


@pytest.mark.slow
def test_a_job_writes_the_files_of_one_process(server, tmp_path, alone):
    """In the end there is one trial for two processes."""
    first, second = run_job(server, *SEARCHED, f"--workdir={tmp_path}/two")
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "after epoch 9, the best 1 of 3 points go on" in first.out
    assert_same(tmp_path / "two", alone)


@pytest.mark.slow
def test_a_search_that_is_killed_at_any_moment_goes_on(server, tmp_path, alone):
    path, rng = tmp_path / "run", random.Random(0)

    def has(count, delay):
        """Returns whether so many rows are there, and some time has passed."""
        file = path / "metrics.jsonl"
        if not file.exists() or file.read_bytes().count(b"\n") < count:
            return False
        time.sleep(delay)
        return True

    kills = 0
    for count in (1, 20, 27, 27, 30, 45, 45, 50, 62):  # rungs are after 27 and 45 rows
        process = server.start("main", *SEARCHED, f"--workdir={path}")
        if process.wait_until(lambda n=count: has(n, rng.uniform(0, 0.2))):
            process.send(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), process.err
        kills += status == -signal.SIGKILL
    assert kills >= 5
    assert server.run("main", *SEARCHED, f"--workdir={path}").status == 0
    assert_same(path, alone)


@pytest.mark.parametrize(("rows", "bare"), [(0, None), (30, None), (None, 20), (None, 0)])
def test_rows_that_cannot_be_read_are_trained_again(tmp_path, whole, capsys, rows, bare):
    """The file ends early, or a row has lost its numbers."""
    path = tmp_path / "run"
    shutil.copytree(whole / "halved", path)
    (path / "summary.json").unlink()
    content = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    content = content[:rows]
    if bare is not None:
        row = json.loads(content[bare])
        content[bare] = json.dumps({k: row[k] for k in ("trial", "epoch")}) + "\n"
    (path / "metrics.jsonl").write_text("".join(content))
    run(path, **HALVED)
    assert_same(path, whole / "halved")


def test_what_stops_since_a_run_has_grown_is_told_as_progress(tmp_path, capsys):
    said = []
    out, recorded = {0: {"stopped_epoch": 1}, 1: {"stopped_epoch": 1}}, {0: 3, 1: 1}
    what_is_done._drop_what_followed(tmp_path, out, recorded, said.append)
    assert capsys.readouterr() == ("", "")
    [line] = said
    assert line.startswith("1 trial that had gone on stops at a rung, since more points")
