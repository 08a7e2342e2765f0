"""Reports of runs that go on or were stopped: how far they are, and what may be compared."""

import fcntl
import json
import math
import os
import re
from pathlib import Path

import in_process
import numpy as np
import pytest
from server import ROOT, snapshot
from test_report import OPTIMIZERS, cells, make_run, own_data, parsed, verdict_of

from mnist_jax import UserError, disk
from mnist_jax.config.experiment import read_experiment
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.report import follow, one_run, points, reading, sections, standing, tables
from mnist_jax.runs import results, unfinished, workdirs

PARTS = {"hidden_sizes": ((8,), (6,)), "l2": (0.0, 1e-3)}
"""Four points in two programs, the second of which trains after the first."""


def stop(path, done, half_a_line=True):
    """Makes a finished run one that was stopped when each trial had `done(trial)` epochs."""
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    rows = list(map(json.loads, lines))
    kept = [line for line, x in zip(lines, rows, strict=True) if x["epoch"] <= done(x["trial"])]
    if half_a_line:
        kept.append(lines[-1][: len(lines[-1]) // 2])
    (path / "metrics.jsonl").write_text("".join(kept))
    for name in ("summary.json", "chosen_trial.npz"):
        (path / name).unlink()
    head, *rows = (path / "results.csv").read_text().splitlines(keepends=True)
    whole = max(row["epoch"] for row in map(json.loads, lines))
    finished = [row for row in rows if done(int(row.split(",")[0])) == whole]
    (path / "results.csv").unlink()
    if finished:
        (path / "results.csv").write_text("".join([head, *finished]))
    return path


def stopped_run(path, done, protocol="validation", **options):
    make_run(path, protocol, **options)
    return results.read_so_far(stop(path, done))


def page(run):
    return re.sub(r"\\(.)", r"\1", "\n".join(str(x) for _, x in parts_of(run)))


def parts_of(run):
    return sections.make_sections(run, points.compare_best(run), [])


SHOWN = {
    "test": ("best_test_accuracy", "best-epoch test accuracy so far"),
    "validation": ("best_validation_accuracy", "best-epoch validation accuracy so far"),
    "validation_last_epoch": ("validation_accuracy", "latest validation accuracy so far"),
    "last_epoch": ("train_accuracy", "training accuracy so far"),
}
"""By protocol, what stands in for the accuracy that will count."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stopped_run_has_the_numbers_of_its_epochs_so_far(tmp_path, protocol):
    run = stopped_run(tmp_path / "run", lambda trial: 4, protocol)
    column, measure = SHOWN[protocol]
    p = results.protocol(run)
    assert (p.column, p.measure) == (column, measure)
    by_trial = {}
    for row in run.metrics:
        by_trial.setdefault(row["trial"], []).append(row)
    split = {"train_accuracy": "train"}.get(column, p.held_out)
    for row in run.results:
        accuracies = [x[f"{split}_accuracy"] for x in by_trial[row["trial"]]]
        assert len(accuracies) == 4
        assert row[column] == (max(accuracies) if p.choose_epoch else accuracies[-1])
        assert row["train_loss"] == by_trial[row["trial"]][-1]["train_loss"]
        if p.choose_epoch:
            assert row[f"best_{split}_epoch"] == 1 + np.argmax(accuracies)
        assert math.isnan(row["test_loss"]) == (protocol != "test")
    for shown in cells(tables.results_table(run)):
        values = [x[column] for x in run.results if f"{x['l2']:g}" == shown["l2"]]
        assert shown[f"{measure} % mean"] == f"{100 * np.mean(values):.2f}"
        assert not [name for name in shown if re.search(r"\btest", name) and protocol != "test"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_report_so_far_says_which_images_it_is_of_and_that_nothing_is_final(tmp_path, protocol):
    path = tmp_path / "run"
    stopped_run(path, lambda trial: 4, protocol, metrics=("confidence",), diverging=[4])
    text, written = one_run.write_report(path), (path / "report.md").read_text()
    first = " ".join(text.split("\n\n")[0].split())
    for place in (first, written):
        assert "NOT FINISHED" in place
        assert "Nothing here is final" in place
        assert "the run was stopped" in place
        assert "9 trials are after epoch 4 of 6" in place
    page = parsed(path / "report.html")
    assert "NOT FINISHED" in "".join(page.text)
    assert page.text[page.text.index("made_up on digits (not finished)") :]
    assert ("meta", "http-equiv", "refresh") not in page.attributes
    assert "made_up on digits: 3 grid points, 9 trials, 6 epochs" in text
    measure = SHOWN[protocol][1]
    assert measure in written
    assert ("Test images are scored when a trial ends" in written) == (protocol != "test")
    assert f"--config={path}/config.json --workdir={path}" in written
    assert "chosen trial" not in written.lower()
    assert "figures/classes" not in written
    assert "cannot be drawn" not in written
    assert {"accuracy_curves.png", "loss_curves.svg"} <= {
        file.name for file in (path / "figures").iterdir()
    }
    if protocol == "last_epoch":
        assert "Nothing was chosen" in written


def test_parts_that_train_one_after_the_other_are_not_compared(tmp_path):
    run = stopped_run(tmp_path / "run", lambda trial: 6 if trial < 6 else 2, **PARTS)
    assert "12 trials: 6 done, 6 after epoch 2 of 6; 67 % of all epochs" in standing.standing(run)
    table = cells(tables.results_table(run))
    assert [row["epochs"] for row in table] == ["6 of 6", "6 of 6", "2 of 6", "2 of 6"]
    assert [row["hidden_sizes"] for row in table] == ["8", "8", "6", "6"]
    said = verdict_of(run)
    assert said.startswith(
        "Only the 2 of 4 grid points that are done (hidden_sizes=8) are compared. Best of 2 grid"
    )
    assert "Holm" not in said
    [(other, test)] = points.compare_best(run).others
    assert (test["n"], other["hidden_sizes"]) == (3, "8")
    assert run.summary["chosen_trial"] < 6
    drawn = one_run.figures_of_run(run)
    assert "heat_map" not in drawn  # of one row
    assert "accuracy_vs_l2" in drawn


def test_trials_on_their_way_are_told_one_by_one_while_they_are_few(tmp_path):
    def said(*done):
        progress = unfinished.Progress(
            True, 9, dict.fromkeys(range(9), 9), dict(enumerate(done)), 0, 81
        )
        return standing.epochs_words(progress)

    assert said(*[4] * 9) == "9 trials are after epoch 4 of 9"
    assert (
        said(*[5] * 8, 2)
        == "9 trials: 8 after epoch 5 of 9, 1 after epoch 2 of 9; 52 % of all epochs"
    )
    assert said(0, 1, 2, 3, 5, 5, 9, 9, 9) == (
        "9 trials: 3 done, 5 after epoch 1 to 5 of 9, 1 not begun; 53 % of all epochs"
    )


def test_what_has_not_begun_is_counted_and_not_shown_as_zero(tmp_path):
    run = stopped_run(tmp_path / "run", lambda trial: 3 * (trial < 6), **PARTS)
    assert "12 trials: 6 after epoch 3 of 6, 6 not begun; 25 %" in standing.standing(run)
    assert len(tables.results_table(run).rows) == 2
    assert "4 grid points, 12 trials, 6 epochs" in sections.headline(run)
    assert "that are after epoch 3 (hidden_sizes=8) are compared" in verdict_of(run)


def test_points_of_other_numbers_of_epochs_are_compared_when_they_are_done(tmp_path):
    def done(trial):
        return 6 if trial >= 3 else 3

    options = {"num_epochs": (3, 6), "l2": (0.0,)}
    run = stopped_run(tmp_path / "run", done, **options)
    [(_, test)] = points.compare_best(run).others
    assert math.isfinite(test["p_holm"])
    run = stopped_run(tmp_path / "less", lambda trial: 3 if trial < 3 else 2, **options)
    assert points.compare_best(run).others == []
    assert "Only 1 of 2 grid points is done (num_epochs=3)." in verdict_of(run)


def test_trials_behind_others_of_their_point_are_left_out(tmp_path):
    run = stopped_run(tmp_path / "run", lambda trial: 5 if trial % 3 < 2 else 1)
    assert [row["trial"] for row in run.results] == [0, 1, 3, 4, 6, 7]
    assert "3 trials are behind others of the same grid point and left" in standing.standing(run)
    assert [row["n"] for row in cells(tables.results_table(run))] == ["2", "2", "2"]


def test_several_optimizers_a_search_and_own_data_have_reports_so_far(tmp_path, monkeypatch):
    drawn = one_run.figures_of_run

    def fewer(*given):
        return {name: draw for name, draw in drawn(*given).items() if "curves" not in name}

    monkeypatch.setattr(one_run, "figures_of_run", fewer)
    for name, options in {
        "optimizers": OPTIMIZERS | {"grid": "list", "l2": (0.0,)},
        "search": {"grid": "halton", "num_points": 5, "l2": (1e-5, 1e-2)},
        "own": {"own": own_data(), "num_test": 0},
        "one": {"l2": (0.0,), "seeds": 1},
    }.items():
        path = tmp_path / name
        stopped_run(path, lambda trial: 3, **options)
        text = one_run.write_report(path)
        assert "after epoch 3 of 6" in " ".join(text.split())
        written = (path / "report.md").read_text()
        assert "cannot be drawn" not in written
        assert not re.search(r"\bnan\b", written)
    assert "in 12 classes." in (tmp_path / "own/report.md").read_text()
    assert "Ring: the best point." in (tmp_path / "search/report.md").read_text()


def test_a_shard_counts_its_own_trials(tmp_path):
    path = tmp_path / "run"
    make_run(path, "validation", **PARTS)
    config = json.loads((path / "config.json").read_text()) | {"shard": "1/5"}
    (path / "config.json").write_text(json.dumps(config))
    run = results.read_so_far(stop(path, lambda trial: 2 * (trial % 5 == 1)))
    assert sorted(run.progress.epochs) == [1, 6, 11]
    assert "3 trials are after epoch 2 of 6" in standing.standing(run)
    assert "WARNING: this is shard 1 alone" in page(run)


def test_trials_that_diverged_are_told(tmp_path):
    path = tmp_path / "run"
    make_run(path, "validation")
    text = re.sub(
        r'("trial": 4,.*"train_loss": )[^,]*', r"\1null", (path / "metrics.jsonl").read_text()
    )
    (path / "metrics.jsonl").write_text(text)
    run = results.read_so_far(stop(path, lambda trial: 2))
    assert [row["diverged_epoch"] for row in run.results if row["trial"] == 4] == [1]
    assert "Of 9 trials, 1 diverged" in verdict_of(run)


# --- whether it runs ---


@pytest.fixture
def lock():
    """Locks the directories of runs as a process does that trains there."""
    files = []

    def lock(path):
        files.append(open(path / ".lock", "wb"))  # noqa: SIM115
        fcntl.flock(files[-1], fcntl.LOCK_EX)

    def release():
        for file in files:
            file.close()

    lock.release = release
    yield lock
    release()


def test_whether_a_process_works_on_a_run_is_known_from_its_lock(tmp_path, lock, monkeypatch):
    assert unfinished.is_locked(tmp_path / "nowhere") is False
    assert unfinished.is_locked(tmp_path) is False
    (tmp_path / ".lock").touch()
    assert unfinished.is_locked(tmp_path) is False
    lock(tmp_path)
    assert unfinished.is_locked(tmp_path) is True

    def read_bytes(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)  # a system that lists no locks
    assert unfinished.is_locked(tmp_path) is None


def test_a_report_beside_a_run_touches_nothing_else(tmp_path, lock):
    path = tmp_path / "run"
    stopped_run(path, lambda trial: 3)
    config = read_experiment(str(path / "config.json"), {}).record()
    (path / "config.json").write_text(disk.to_json(config))
    lock(path)
    before = snapshot(path)
    text = one_run.write_report(path)
    assert "the run goes on" in " ".join(text.split())
    after = snapshot(path)
    ours = {path / "report.md", path / "report.html"}
    assert {file for file in after if after[file] != before.get(file)} == {
        *ours,
        *(file for file in after if file.relative_to(path).parts[0] == "figures"),
    }
    assert ("meta", "http-equiv", "refresh") in parsed(path / "report.html").attributes
    assert workdirs.check_workdir(path, config, overwrite=False) == "unfinished"
    assert workdirs.check_workdir(path, config, overwrite=True) == "new"


def test_a_run_without_an_epoch_says_that_nothing_is_there_yet(tmp_path, lock):
    path = tmp_path / "run"
    stop(make_run(path).workdir, lambda trial: 0)
    with pytest.raises(UserError, match=r"no epoch has ended; python -m mnist_jax\.main --config="):
        one_run.write_report(path)
    lock(path)
    (path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no epoch has ended; wait for the end of the first one"):
        one_run.write_report(path)


def test_a_run_that_ends_while_its_report_is_made_has_the_final_one(tmp_path, monkeypatch):
    monkeypatch.setattr(one_run, "figures_of_run", lambda *_: {})
    run = make_run(tmp_path / "run")
    one_run.write_report(run.workdir)
    final = (run.workdir / "report.md").read_text()
    summary = (run.workdir / "summary.json").read_text()
    chosen = (run.workdir / "chosen_trial.npz").read_bytes()
    stop(run.workdir, lambda trial: 6, half_a_line=False)
    read = reading.read_so_far

    def ends(workdir):
        found = read(workdir)
        (run.workdir / "summary.json").write_text(summary)
        (run.workdir / "chosen_trial.npz").write_bytes(chosen)
        return found

    monkeypatch.setattr(one_run, "read_so_far", ends)
    assert "NOT FINISHED" not in one_run.write_report(run.workdir)
    assert (run.workdir / "report.md").read_text() == final


# --- followed ---


class Time:
    """A clock that moves while somebody sleeps, when things happen: `events`, one a sleep."""

    def __init__(self, events):
        self.now, self.cpu, self.events, self.sleeps = 0.0, 0.0, list(events), []

    def monotonic(self):
        return self.now

    def process_time(self):
        return self.cpu

    def sleep(self, seconds):
        self.now += seconds
        self.sleeps.append(seconds)
        self.events.pop(0)()


def nothing():
    pass


class Growing:
    """A finished run that seems to be trained again, epoch by epoch."""

    def __init__(self, path):
        make_run(path, "validation", l2=(0.0, 1e-3))
        self.path = path
        self.files = {name: (path / name).read_bytes() for name in workdirs_files(path)}
        stop(path, lambda trial: 0)
        (path / "metrics.jsonl").write_bytes(b"")

    def to(self, epoch):
        lines = self.files["metrics.jsonl"].splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["epoch"] <= epoch]
        return lambda: (self.path / "metrics.jsonl").write_bytes(b"".join(kept))

    def end(self):
        for name, content in self.files.items():
            (self.path / name).write_bytes(content)


def workdirs_files(path):
    return [file.name for file in path.iterdir() if file.is_file()]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(one_run, "figures_of_run", lambda *_: {})


def test_a_followed_run_has_a_report_an_epoch_until_its_end(
    tmp_path, lock, monkeypatch, capsys, quick
):
    run, pages, costs = Growing(tmp_path / "run"), [], iter([0.05, 0.5, 0.5, 0.5])
    lock(run.path)
    # The first report costs little, so 5 seconds must pass; the second one 10.
    clock = Time(
        [nothing, run.to(1), *[nothing] * 4, run.to(2), *[nothing] * 3, run.to(3), *[nothing] * 9]
    )
    clock.events.append(run.end)
    monkeypatch.setattr(follow, "time", clock)

    def make(read):
        text = one_run.write_run(read)
        pages.append((run.path / "report.html").read_text())
        clock.cpu += next(costs)
        return text

    assert follow.follow(run.path, make)
    said = capsys.readouterr().out
    assert [re.findall(r"after epoch (.) of 6", page)[:1] for page in pages] == [
        ["1"],
        ["2"],
        ["3"],
        [],
    ]
    assert ["http-equiv" in page for page in pages] == [True, True, True, False]
    lines = said.split("\n\n")[0].splitlines()
    assert len(lines) == 4  # one for the beginning, and one a report
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d UTC, 6 trials are after epoch 2 of 6; best [\d.]+ %", lines[2]
    )
    assert "NOT FINISHED" not in said
    assert said.count("Report: ") == 1
    assert set(clock.sleeps) == {follow.TICK}
    assert clock.events == []


def test_the_pause_between_reports_grows_with_what_they_cost(tmp_path, lock, monkeypatch, quick):
    run, made = Growing(tmp_path / "run"), []
    run.to(1)()
    lock(run.path)
    clock = Time([run.to(2), *[nothing] * 98, nothing, run.end])
    monkeypatch.setattr(follow, "time", clock)

    def make(read):
        made.append(clock.now)
        clock.cpu += 5.0
        return ""

    assert follow.follow(run.path, make)
    assert made == [0.0, 100.0, 101.0]


def test_a_followed_run_whose_process_has_gone_is_told_to_be_stopped(
    tmp_path, lock, monkeypatch, capsys, quick
):
    run = Growing(tmp_path / "run")
    run.to(2)()
    lock(run.path)
    monkeypatch.setattr(follow, "time", Time([lock.release]))
    assert not follow.follow(run.path, one_run.write_run)
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT FINISHED" in said
    assert "the run was stopped" in said
    assert "http-equiv" not in (run.path / "report.html").read_text()


def test_following_waits_for_the_first_epoch_of_a_run_that_goes_on_alone(tmp_path, lock, quick):
    run = Growing(tmp_path / "run")
    with pytest.raises(UserError, match="no epoch has ended"):
        follow.follow(run.path, one_run.write_run)


def test_a_finished_run_that_is_followed_has_its_final_report_at_once(tmp_path, capsys, quick):
    run = make_run(tmp_path / "run")
    done = in_process.run(capsys, "report", str(run.workdir), "--follow", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "NOT FINISHED" not in done.out
    assert (run.workdir / "report.html").exists()


def test_ctrl_c_ends_following_quietly(tmp_path, lock, monkeypatch, capsys, quick):
    run = Growing(tmp_path / "run")
    run.to(2)()
    lock(run.path)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "time", Time([interrupt]))
    done = in_process.run(capsys, "report", str(run.path), "--follow", cwd=tmp_path)
    assert (done.status, done.err) == (130, "")


@pytest.mark.slow
def test_a_run_is_the_same_whether_it_is_watched_or_not(server, tmp_path):
    """Reports are made one after the other, and a follower's beside them, while a run trains."""
    flags = (
        f"--config={ROOT / 'configs' / 'baseline.py'}",
        "--config.dataset=digits",
        "--config.hidden_sizes=(32,),(16,)",
        "--config.num_epochs=80",
        "--config.num_seeds=4",
        "--config.checkpoint_epochs=20",
        "--config.protocol=validation",
    )
    alone = server.run("main", *flags, f"--workdir={tmp_path / 'alone'}")
    assert (alone.status, alone.err) == (0, "")
    path, counts = tmp_path / "watched", []
    run = server.start("main", *flags, f"--workdir={path}")
    assert run.wait_until(lambda: (path / "metrics.jsonl").exists())
    follower = server.start("report", path, "--follow", draw=True)
    while run.wait(os.WNOHANG) is None:
        report = server.run("report", path, draw=True)
        counts.append((report.status, "the run goes on" in " ".join(report.out.split())))
    assert (run.wait(), run.err) == (0, "")
    assert (follower.wait(), follower.err) == (0, "")
    assert counts.count((0, True)) > 1
    assert " UTC, " in follower.out  # a line of a report on the way
    for name in ("metrics.jsonl", "results.csv", "chosen_trial.npz", "config.json"):
        assert (path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert "NOT FINISHED" not in (path / "report.md").read_text()
