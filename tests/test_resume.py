"""A run that is killed, stopped, starved or damaged ends with the files of a run left alone."""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import types
from unittest import mock

import jax
import numpy as np
import own
import pytest
from server import OURS, ROOT, snapshot

from mnist_jax import UserError, main
from mnist_jax.config.experiment import Experiment, read_config, read_experiment
from mnist_jax.data.splits import Dataset
from mnist_jax.report import one_run, reading
from mnist_jax.runs import (
    choosing,
    chosen_trial,
    execution,
    groups,
    records,
    results,
    runner,
    signals,
    workdirs,
)
from mnist_jax.runs.provenance import Process
from mnist_jax.training import machine, memory, recipes, sweep


def flags(**changes):
    """Flags of a small run; a flag that were given twice would add to a tuple."""
    # Neither two nor four devices can share five trials evenly; the last one diverges.
    five_trials = "0.05,0.1,0.2,0.3,1e9"
    values = {
        "dataset": "digits",
        "hidden_sizes": 8,
        "num_epochs": 12,
        "learning_rate": five_trials,
    }
    values = {key: value for key, value in (values | changes).items() if value is not None}
    config = f"--config={ROOT / 'configs' / 'baseline.py'}"
    return [config, *(f"--config.{key}={value}" for key, value in values.items())]


TINY = flags()
MOST_KB_A_TRIAL = 100
EXACT = ("config.json", "metrics.jsonl", "results.csv", "chosen_trial.npz")
SLOW = pytest.mark.slow
ON_SIGNAL = "stopping after this epoch; once more stops now\n"


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The run left alone."""
    path = tmp_path_factory.mktemp("whole")
    done = server.run("main", *TINY, f"--workdir={path}")
    assert (done.status, done.err) == (0, "")
    return path


def read(workdir, name):
    """Returns a file's content, without what may differ: times, command, folder, commit."""
    content = (workdir / name).read_bytes().replace(str(workdir).encode(), b"DIR")
    if name == "summary.json":
        summary = json.loads(content)
        for key in ("seconds", "seconds_by_process", "command", "commit"):
            summary["provenance"].pop(key, None)
        return summary
    for differing in (
        rb"## Timing.*?(?=\n## )",
        rb"<h2>Timing.*?(?=<h2>)",
        rb"\n    python[^\n]*",
        rb"<pre>python.*?</pre>",
        rb"\n\| commit [^\n]*",
        rb"<tr><td>commit.*?</tr>",
    ):
        if name in ("report.md", "report.html"):
            content = re.sub(differing, b"", content, flags=re.DOTALL)
    return content


def assert_same(workdir, whole, names=(*EXACT, "summary.json")):
    for name in names:
        assert read(workdir, name) == read(whole, name), name


def rows(workdir):
    with contextlib.suppress(FileNotFoundError):
        return (workdir / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def saved(workdir, count):
    """Returns a condition: there are so many rows, and a whole checkpoint."""

    def condition():
        with contextlib.suppress(FileNotFoundError):  # deleted, since there is a newer one
            manifests = workdir.glob("checkpoints/*/*/manifest.json")
            return rows(workdir) >= count and any(file.stat().st_size for file in manifests)

    return condition


def stop(process, number, condition):
    """Sends a signal once a condition holds; returns the status, or None if it came too late."""
    if process.wait_until(condition):
        process.send(number)
    return process.wait()


# --- signals ---


@pytest.fixture(scope="module")
def stopped(server, whole, tmp_path_factory):
    """A run that SIGTERM stopped, with two checkpoints; to be copied before it is touched."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    process = server.start("main", *TINY, f"--workdir={path}")
    status = stop(process, signal.SIGTERM, lambda: rows(path) >= 5 * 4)
    return path, status, process.err


def test_sigterm_ends_with_143_and_says_how_to_resume(server, whole, stopped, tmp_path):
    path, status, said = stopped
    assert status == 128 + signal.SIGTERM
    epoch = rows(path) // 5
    assert said == (
        f"{ON_SIGNAL}stopped after epoch {epoch} of 12, and saved: "
        f"the same command with --workdir={path} resumes it\n"
    )
    resumed = shutil.copytree(path, tmp_path / "run")
    done = server.run("main", *TINY, f"--workdir={resumed}")
    assert (done.status, done.err) == (0, "")
    assert f"resumed after epoch {epoch}" in done.out
    assert_same(resumed, whole)


@SLOW
def test_ctrl_c_ends_with_130_and_says_how_to_resume(server, whole, tmp_path):
    path = tmp_path / "run"
    process = server.start("main", *TINY, f"--workdir={path}")
    assert stop(process, signal.SIGINT, lambda: rows(path) > 0) == 128 + signal.SIGINT
    assert process.err.startswith(f"{ON_SIGNAL}stopped after epoch ")
    assert process.err.count("\n") == 2
    assert server.run("main", *TINY, f"--workdir={path}").status == 0
    assert_same(path, whole)


@SLOW
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_what_clusters_terminals_and_limits_send_is_as_sigterm(server, whole, tmp_path, number):
    process = server.start("main", *TINY, f"--workdir={tmp_path}")
    assert process.wait_until(lambda: rows(tmp_path) > 0)
    for _ in range(3):  # a shell and its terminal, or `timeout`, send one twice
        process.send(number)
    assert process.wait() == 128 + number
    assert process.err.startswith(f"{ON_SIGNAL}stopped after epoch ")
    done = server.run("main", *TINY, f"--workdir={tmp_path}")
    assert (done.status, done.err) == (0, "")
    assert "resumed after epoch" in done.out
    assert_same(tmp_path, whole)


def test_a_signal_that_was_ignored_stays_so(tmp_path):
    """As `nohup` ignores SIGHUP, and a shell SIGINT for what it starts in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with signals.StopSignals() as stop:
            for number in before:
                assert signal.getsignal(number) == signal.SIG_IGN
                os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGUSR1)
            deadline = time.monotonic() + 60
            while not stop.number and time.monotonic() < deadline:
                time.sleep(0.001)
        assert stop.number == signal.SIGUSR1
        assert all(signal.getsignal(number) == signal.SIG_IGN for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_in_terminal(tmp_path, num_epochs):
    """Starts a run in a terminal; returns it, and the terminal's other end."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "mnist_jax.main", *flags(num_epochs=num_epochs)]
    process = subprocess.Popen(
        [*command, f"--workdir={tmp_path}"],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def train_in_terminal(process, terminal, path, num_epochs):
    """Reads what a terminal shows until so many epochs are done."""
    while rows(path) < num_epochs * 5 and process.poll() is None:
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 9999)


@SLOW
def test_a_terminal_that_is_closed_costs_no_epoch(tmp_path):
    process, terminal = start_in_terminal(tmp_path, num_epochs=2000)
    train_in_terminal(process, terminal, tmp_path, 20)
    process.send_signal(signal.SIGSTOP)  # so that it hears of it after the terminal is closed
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 128 + signal.SIGHUP
    assert newest_checkpoint(tmp_path).name == str(rows(tmp_path) // 5)


@SLOW
@pytest.mark.parametrize("closed_after", [0, 20])
def test_a_run_outlives_its_terminal(tmp_path, closed_after):
    """As that of a shell which has disowned it, and sends no SIGHUP."""
    process, terminal = start_in_terminal(tmp_path, num_epochs=40)
    train_in_terminal(process, terminal, tmp_path, closed_after)
    os.close(terminal)
    assert process.wait() == 0
    assert results.is_finished(tmp_path)
    assert rows(tmp_path) == 40 * 5


@SLOW
def test_a_signal_while_a_trained_part_is_taken_up_again(server, whole, stopped, tmp_path):
    """All epochs are done and saved, the part is not: nothing is left to stop."""
    path = tmp_path / "run"
    assert server.run("main", *TINY, f"--workdir={path}", tidy=False).status == 0
    for name in ("results.csv", "summary.json"):
        (path / name).unlink()
    process = server.start("main", *TINY, f"--workdir={path}")
    status = stop(process, signal.SIGTERM, lambda: "resumed after" in process.out)
    assert "Traceback" not in process.err
    assert status in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
    assert server.run("main", *TINY, f"--workdir={path}").status == 0
    assert_same(path, whole)


@pytest.mark.parametrize(
    ("seconds", "second", "ends"),
    [(0, signal.SIGTERM, True), (60, signal.SIGTERM, False), (0, signal.SIGXCPU, False)],
)
def test_the_second_signal_ends_the_process_but_one_that_comes_twice(
    monkeypatch, seconds, second, ends
):
    ended, read, heard = [], os.read, []
    monkeypatch.setattr(signals, "SECOND", seconds)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(os, "read", lambda *_: heard.append(0) or read(*_))
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with signals.StopSignals() as stop:
        for handled, number in enumerate((signal.SIGUSR1, second), start=2):
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + 60
            while len(heard) < handled and time.monotonic() < deadline:
                time.sleep(0.001)
    assert stop.number == signal.SIGUSR1
    assert ended == [128 + second] * ends
    assert terminal.getvalue().startswith("\nstopping after")  # a bar is in the line before


@SLOW
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_a_long_epoch(server, tmp_path, number):
    long = flags(hidden_sizes="2000,1000", num_epochs=2)
    path, alone = tmp_path / "run", tmp_path / "alone"
    process = server.start("main", *long, f"--workdir={path}")
    # Epoch 2 takes seconds.
    assert process.wait_until(lambda: any(path.glob("checkpoints/trials_*/1/manifest.json")))
    while process.wait(os.WNOHANG) is None:
        process.send(number)
        time.sleep(0.05)
    assert (process.status, process.err) == (128 + number, ON_SIGNAL)
    done = server.run("main", *long, f"--workdir={path}")
    assert done.status == 0
    assert "resumed after epoch 1" in done.out
    if number == signal.SIGTERM:
        assert server.run("main", *long, f"--workdir={alone}").status == 0
        assert_same(path, alone)


def in_use(*_, **__):
    """In place of `jax_for`: JAX is set up already."""
    return contextlib.nullcontext()


def run_here(path, monkeypatch, write_report, load_data=lambda *_: tiny_dataset(), **options):
    """Runs a trial in this process, with a report of the test's own."""
    monkeypatch.setattr(one_run, "write_report", write_report)
    monkeypatch.setattr(execution, "jax_for", in_use)
    monkeypatch.setattr(Experiment, "load_data", load_data)
    main.run(experiment(num_epochs=(1,)), path and str(path), None, **options)


@pytest.mark.parametrize("place", [".", "..", "/", "~", "home/.."])
def test_a_folder_that_people_use_is_no_work_directory(tmp_path, monkeypatch, place):
    here = tmp_path / "here"
    (here / "home").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(here / "home"))
    monkeypatch.chdir(here)
    path = type(tmp_path)(place).expanduser()
    if place == "~":
        assert workdirs.check_workdir(path, {}, overwrite=False) == "new"  # it is empty
        (here / "home" / "letter").touch()
    with pytest.raises(UserError, match=r"(is|contains) (the current folder|your home), with file"):
        workdirs.check_workdir(path, {}, overwrite=False)
    assert workdirs.check_workdir(here / "home" / "new", {}, overwrite=False) == "new"


@SLOW
def test_latest_is_a_link_to_the_newest_run_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs" / "tiny"
    link = runs / "latest"
    for number in (1, 2):
        run_here(None, monkeypatch, str)
        assert link.is_symlink()
        assert (link / "summary.json").exists()
        folders = sorted(path for path in runs.iterdir() if not path.is_symlink())
        assert len(folders) == number
        assert link.resolve() == folders[-1]
    assert reading.without_latest([*folders, link]) == folders
    assert reading.without_latest([folders[0], link]) == folders[:2]
    run_here(tmp_path / "elsewhere", monkeypatch, str)
    assert link.resolve() == folders[-1]
    assert not (tmp_path / "latest").exists()


@pytest.mark.parametrize("there", ["file", "folder", "dangling link", "no links"])
def test_latest_never_fails_and_replaces_nothing_but_a_link(tmp_path, monkeypatch, there):
    run, link = tmp_path / "run", tmp_path / "latest"
    run.mkdir()
    if there == "file":
        link.write_text("mine")
    elif there == "folder":
        link.mkdir()
    elif there == "dangling link":
        link.symlink_to("gone")
    else:
        monkeypatch.setattr(os, "symlink", mock.Mock(side_effect=OSError))
    workdirs.link_latest(run)
    assert link.is_symlink() == (there == "dangling link")
    assert [path.name for path in run.iterdir()] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "latest"}
    assert there != "file" or link.read_text() == "mine"
    assert there != "dangling link" or link.resolve() == run


@pytest.mark.parametrize(("overwrite", "but"), [(False, ""), (True, ", but without --overwrite,")])
def test_ctrl_c_after_training_says_how_to_resume(tmp_path, monkeypatch, capsys, overwrite, but):
    def interrupt(path):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match=str(128 + signal.SIGINT)):
        run_here(tmp_path, monkeypatch, interrupt, overwrite=overwrite)
    said = f"interrupted; the same command with --workdir={tmp_path}{but} resumes it\n"
    assert capsys.readouterr().err == said
    assert (tmp_path / "summary.json").exists()


def test_the_record_resumes_a_run_whose_files_are_gone(tmp_path):
    assert "config.json" not in workdirs.how_to_resume(tmp_path)
    (tmp_path / "files").mkdir()
    said = (
        f"; if your files have changed, --config={tmp_path}/config.json --workdir={tmp_path} does"
    )
    assert workdirs.how_to_resume(tmp_path).endswith(said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/a/font"), "/a/font: Too many open files"),
        (OSError(errno.EAGAIN, "No more threads"), f"[Errno {errno.EAGAIN}] No more threads"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_fails_is_told_as_what_it_is(tmp_path, monkeypatch, error, said):
    def fail(path):
        raise error

    goes_on = f"; mend that, and the same command with --workdir={tmp_path} resumes it"
    with pytest.raises(UserError, match=re.escape(f"the run cannot continue ({said}){goes_on}")):
        run_here(tmp_path, monkeypatch, fail)


# --- what processes have in common ---


def assert_sums(path, num_processes):
    """Every phase is the sum over the processes, and they fit in the whole time."""
    made = json.loads((path / "summary.json").read_text())["provenance"]
    by_process = made.get("seconds_by_process", [made["seconds"]])
    assert len(by_process) == num_processes
    for phase, total in made["seconds"].items():
        assert total == pytest.approx(sum(process[phase] for process in by_process))
    for process in by_process:
        assert 0 < process["total"] >= sum(process[p] for p in ("load", "compile", "train"))
        assert process["train"] > 0


@pytest.mark.slow
def test_the_seconds_of_all_processes_add_up(server, stopped, tmp_path):
    path = shutil.copytree(stopped[0], tmp_path / "run")
    assert server.run("main", *TINY, f"--workdir={path}").status == 0
    assert_sums(path, 2)
    # As when it is killed between results.csv and summary.json.
    (path / "summary.json").unlink()
    before = json.loads((path / "checkpoints" / "processes.json").read_text())
    done = server.run("main", *TINY, f"--workdir={path}", draw=True)
    assert done.status == 0
    made = json.loads((path / "summary.json").read_text())["provenance"]
    assert made["seconds_by_process"][:2] == [record["seconds"] for record in before]
    assert made["seconds"]["train"] == sum(record["seconds"]["train"] for record in before)
    text = (path / "report.md").read_text()
    assert "| process | load | compile | train | total |" in text


@pytest.mark.slow
@pytest.mark.parametrize("clock", [[6e9], [-1e9, 6e9, 1e9, 0.0]])
def test_no_promise_hangs_on_a_clock(tmp_path, monkeypatch, left_alone, clock):
    """One that stands in 1970, is in 2160, or jumps back; files of both are the same bytes."""
    times = itertools.cycle(clock)
    monkeypatch.setattr(time, "time", lambda: next(times))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(times)) * 10**9)
    save = runner.Checkpoints.save

    def stop_before(checkpoints, epoch, state, record):
        if epoch == 3:
            raise PowerCutError
        save(checkpoints, epoch, state, record)

    monkeypatch.setattr(runner.Checkpoints, "save", stop_before)
    with pytest.raises(PowerCutError):
        train(tmp_path)
    monkeypatch.setattr(runner.Checkpoints, "save", save)
    process = Process()
    train(tmp_path, process)
    assert_same(tmp_path, left_alone, EXACT[1:])
    assert all(seconds >= 0 for seconds in process.record()["seconds"].values())


@SLOW
def test_seconds_that_older_checkpoints_keep_are_counted(tmp_path, monkeypatch):
    save = runner.Checkpoints.save

    def save_as_before(checkpoints, epoch, state, record):
        save(checkpoints, epoch, state, record | {"seconds": 1000.0})

    monkeypatch.setattr(runner.Checkpoints, "save", save_as_before)
    train(tmp_path)
    (tmp_path / "results.csv").unlink()
    process = Process()
    process.begin(tmp_path, "sha256:0")
    train(tmp_path, process)
    taken = process.record()["seconds"]
    assert taken["total"] > taken["train"] > 1000


@pytest.mark.parametrize("when", ["in a part", "between parts"])
def test_other_data_is_refused_before_anything_is_compiled(tmp_path, monkeypatch, when):
    """As when the files in a folder were replaced since."""
    asked = experiment(num_epochs=(2,), hidden_sizes=((2,), (3,)))
    dataset, compile_sweep = tiny_dataset(), sweep.compile_sweep
    monkeypatch.setattr(execution, "jax_for", in_use)
    monkeypatch.setattr(Experiment, "load_data", lambda *_: dataset)
    monkeypatch.setattr(one_run, "write_report", lambda path: "")
    compiled = []

    def compile_and_die(*arguments, **options):
        compiled.append(arguments)
        if len(compiled) == 2:
            raise PowerCutError
        return compile_sweep(*arguments, **options)

    monkeypatch.setattr(sweep, "compile_sweep", compile_and_die)
    if when == "in a part":
        monkeypatch.setattr(records.Recorder, "sync", mock.Mock(side_effect=PowerCutError))
    with pytest.raises(PowerCutError):
        main.run(asked, str(tmp_path), None)
    assert len(compiled) == (1 if when == "in a part" else 2)
    monkeypatch.undo()
    monkeypatch.setattr(execution, "jax_for", in_use)
    monkeypatch.setattr(Experiment, "load_data", lambda *_: dataset._replace(checksum="sha256:1"))
    monkeypatch.setattr(sweep, "compile_sweep", mock.Mock(side_effect=AssertionError))
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"on other data \(sha256:0, not sha256:1\)"):
        main.run(asked, str(tmp_path), None)
    changed = {path.name for path, was in snapshot(tmp_path).items() if before[path] != was}
    assert changed <= {"config.json", tmp_path.name}


# --- damage ---


def newest_checkpoint(path):
    (part,) = (path / "checkpoints").glob("trials_*")
    return max((p for p in part.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(path):
    file = largest_file(newest_checkpoint(path))
    file.write_bytes(file.read_bytes()[:-100])


def flip(path):
    file = largest_file(newest_checkpoint(path))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_in_a_line(path):
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])


def cut_epochs(path):
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[: 5 * 2]))


def add_what_is_no_row(path):
    with open(path / "metrics.jsonl", "ab") as file:
        for line in (
            "3",
            '"a"',
            '{"trial": [], "epoch": 1}',
            '{"trial": 0, "epoch": "x"}',
            "[" * 99999,
        ):
            file.write(line.encode() + b"\n")
        file.write(b"\xff\x00\n")


def lose_checkpoints(path):
    shutil.rmtree(path / "checkpoints")


def lose_metrics(path):
    (path / "metrics.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(truncate, "checkpoint ", marks=SLOW),
        pytest.param(flip, "checkpoint ", marks=SLOW),
        (cut_in_a_line, "{path}/metrics.jsonl was lost or cut: it holds {less} of {done} epochs"),
        pytest.param(cut_epochs, "{path}/metrics.jsonl was lost or cut: it holds 2", marks=SLOW),
        pytest.param(add_what_is_no_row, None, marks=SLOW),
        pytest.param(lose_checkpoints, None, marks=SLOW),
        pytest.param(lose_metrics, "{path}/metrics.jsonl was lost or cut: it holds 0", marks=SLOW),
    ],
)
def test_damage_is_mended(server, whole, stopped, tmp_path, damage, said):
    path = shutil.copytree(stopped[0], tmp_path / "run")
    epochs = rows(path) // 5
    damage(path)
    done = server.run("main", *TINY, f"--workdir={path}")
    assert done.status == 0, done.err
    assert done.err.count("\n") == bool(said), done.err
    if said:
        assert done.err.startswith(
            "warning: " + said.format(path=path, done=epochs, less=epochs - 1)
        )
    assert_same(path, whole)


@SLOW
def test_rows_of_a_trained_part_that_were_lost_are_noticed_and_made_again(server, whole, tmp_path):
    path = shutil.copytree(whole, tmp_path / "run")
    (path / "summary.json").unlink()
    shutil.rmtree(path / "checkpoints")
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:-1]))
    done = server.run("main", *TINY, f"--workdir={path}")
    assert done.status == 0
    assert done.err == (
        f"warning: {metrics} was lost or cut: it holds 11 of 12 epochs that trial 4 had done; "
        "what is missing is trained again\n"
    )
    assert_same(path, whole)


# --- a full disk ---


@pytest.fixture
def mount(tmp_path):
    mounted = []

    def make(kilobytes):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
        mounted.append(disk)
        return disk

    yield make
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_without_space_for_checkpoints_the_run_goes_on(server, whole, mount):
    path = mount(900) / "run"
    done = server.run("main", *TINY, f"--workdir={path}")
    assert done.status == 0
    assert done.err.count("\n") == 1
    assert done.err.startswith("warning: a checkpoint cannot be written")
    assert_same(path, whole)


@pytest.mark.parametrize(
    "kilobytes",
    [
        pytest.param(0, marks=SLOW),
        pytest.param(4, marks=SLOW),
        pytest.param(12, marks=SLOW),
        pytest.param(20, marks=SLOW),
        pytest.param(60, marks=SLOW),
    ],
)
def test_without_space_for_rows_the_run_says_so_and_goes_on_later(server, whole, mount, kilobytes):
    """The space is gone at config.json, at the rows, at results.csv, at chosen_trial.npz."""
    disk = mount(4096)
    path, ballast = disk / "run", disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, ballast.stat().st_size - kilobytes * 1024)
    done = server.run("main", *TINY, f"--workdir={path}")
    assert done.status == 2, done.err
    *warnings, error = done.err.splitlines()
    assert all(line.startswith("warning: a checkpoint cannot be written") for line in warnings)
    assert error.startswith(f"error: the run cannot continue ({path}/")
    assert "No space left" in error
    ballast.unlink()
    done = server.run("main", *TINY, f"--workdir={path}")
    assert (done.status, done.err) == (0, "")
    assert_same(path, whole)


# --- one work directory, several runs ---


def test_a_finished_run_is_not_trained_again_and_another_is_refused(server, whole):
    before = snapshot(whole)
    done = server.run("main", *TINY, f"--workdir={whole}")
    assert (done.status, done.err) == (0, "")
    assert "nothing is trained again" in done.out
    assert snapshot(whole) == before
    other = flags(num_epochs=13, l2="0,1e-3", devices=1)
    done = server.run("main", *other, f"--workdir={whole}")
    assert done.status == 2
    assert "differs in l2 ([0.0], not [0.0, 0.001]), num_epochs ([12], not [13]);" in done.err
    assert done.err.count("\n") == 1
    assert snapshot(whole) == before


@pytest.mark.slow
@pytest.mark.parametrize("left", ["everything", pytest.param("checkpoints", marks=SLOW)])
def test_overwrite_starts_anew_beside_stale_checkpoints(server, whole, stopped, tmp_path, left):
    """Those of a higher epoch, of a run with the same arrays and other numbers."""
    path = tmp_path / "run"
    other = flags(learning_rate="0.5,0.6,0.7,0.8,0.9")
    process = server.start("main", *other, f"--workdir={path}")
    assert stop(process, signal.SIGTERM, lambda: rows(path) >= 5 * 4) == 128 + signal.SIGTERM
    if left == "checkpoints":  # and what names the run
        for file in path.iterdir():
            if file.is_file() and file.name != "config.json":
                file.unlink()
    done = server.run("main", *TINY, f"--workdir={path}", "--overwrite")
    assert (done.status, done.err) == (0, "")
    assert "resumed" not in done.out
    assert_same(path, whole)


@pytest.mark.parametrize("fits", [0, 1])
def test_overwrite_deletes_nothing_for_a_run_that_cannot_train(tmp_path, monkeypatch, fits):
    """Memory holds the first of its two programs at most."""
    run_here(tmp_path, monkeypatch, lambda path: "")
    before, fit = snapshot(tmp_path), iter([1] * fits + [0])
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: next(fit))
    other = experiment(num_epochs=(1,), hidden_sizes=((4,), (5,)))
    with pytest.raises(UserError, match="does not hold a single trial"):
        main.run(other, str(tmp_path), None, overwrite=True)
    assert snapshot(tmp_path) == before
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: 1)
    main.run(other, str(tmp_path), None, overwrite=True)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3


def test_a_second_run_is_refused_while_the_first_lives(server, whole, tmp_path):
    path, link = tmp_path / "run", tmp_path / "link"
    link.symlink_to(path)
    first = server.start("main", *TINY, f"--workdir={path}")
    assert first.wait_until(lambda: rows(path) > 0)
    first.send(signal.SIGSTOP)
    before = snapshot(path)
    for name, *more in ((path,), (link, "--overwrite")):
        second = server.run("main", *TINY, f"--workdir={name}", *more)
        assert second.status == 2
        assert second.err.startswith(f"error: --workdir={name} is in use by a run")
        assert second.err.count("\n") == 1
        assert snapshot(path) == before
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert server.run("main", *TINY, f"--workdir={path}").status == 0
    assert_same(path, whole)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_on_a_read_only_disk_is_shown_if_it_is_finished(server, whole, mount, finished):
    disk = mount(4096)
    path = shutil.copytree(whole, disk / "run")
    if not finished:
        (path / "summary.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = server.run("main", *TINY, f"--workdir={path}", draw=True)
    assert done.err.count("\n") == 1
    if finished:
        assert done.status == 0
        assert "nothing is trained again" in done.out
        assert "report.html" not in done.out
        assert done.err.startswith(f"warning: {path}/figures")
        assert "cannot be written (Read-only file system)" in done.err
    else:
        assert (done.status, done.out) == (2, "")
        said = f"error: --workdir={path} cannot be written ({path} is on a read-only disk);"
        assert done.err.startswith(said)


def test_a_run_that_another_process_has_finished_meanwhile_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "run"

    def write_report(path):
        return "report"

    def load_data(*_):
        if not path.exists():
            path.mkdir()
            run_here(path, monkeypatch, write_report)
            before.update(snapshot(path))
        return tiny_dataset()

    before = {}
    run_here(path, monkeypatch, write_report, load_data)
    assert (path / "summary.json") in before
    assert snapshot(path) == before


@SLOW
def test_a_run_whose_folder_is_moved_keeps_out_of_the_run_in_its_place(server, whole, tmp_path):
    path, moved = tmp_path / "run", tmp_path / "moved"
    first = server.start("main", *TINY, f"--workdir={path}")
    assert first.wait_until(lambda: rows(path) > 0)
    first.send(signal.SIGSTOP)
    path.rename(moved)
    assert server.run("main", *flags(learning_rate=0.4), f"--workdir={path}").status == 0
    before = snapshot(path)
    first.send(signal.SIGCONT)
    assert first.wait() == 2
    assert first.err.startswith(f"error: --workdir={path} is no longer the folder in which")
    assert first.err.count("\n") == 1
    assert snapshot(path) == before
    assert server.run("main", *TINY, f"--workdir={moved}").status == 0
    assert_same(moved, whole)


# --- optimizers ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    ["adamw", *(pytest.param(name, marks=SLOW) for name in ("sgd,adamw", "lion", "muon"))],
)
def test_states_of_optimizers_and_averages_of_weights_go_on(server, tmp_path, optimizer):
    asked = flags(
        optimizer=optimizer,
        learning_rate=0.003,
        ema_decay="0,0.9",
        protocol="validation",
        num_epochs=40,
    )
    path, alone = tmp_path / "run", tmp_path / "alone"
    process = server.start("main", *asked, f"--workdir={path}")
    assert stop(process, signal.SIGKILL, saved(path, 2 * 5)) == -signal.SIGKILL
    done = server.run("main", *asked, f"--workdir={path}")
    assert done.status == 0
    unfinished = [line for line in done.err.splitlines() if "(it was not finished)" not in line]
    assert unfinished == []  # it may be killed while it saves
    assert "resumed after epoch" in done.out
    assert server.run("main", *asked, f"--workdir={alone}").status == 0
    assert_same(path, alone)
    last = {row["ema_decay"]: row for row in reading.read_run(path).results}
    assert last[0.0]["train_loss"] == last[0.9]["train_loss"]  # the average is scored alone
    assert last[0.0]["validation_loss"] != last[0.9]["validation_loss"]


# --- what is one's own ---

# A program with four trials: with dropout or without, with averaged weights or without.
OWN = flags(
    hidden_sizes=None,
    learning_rate=0.1,
    dropout="0,0.3",
    ema_decay="0,0.9",
    metrics="brier_score",
    protocol="validation",
    num_epochs=40,
)
OWN = [*OWN, *own.KEYS]


@pytest.fixture(scope="module")
def own_whole(server, tmp_path_factory):
    """A run with a model and an optimizer of one's own, left alone, beside them."""
    path = own.write(tmp_path_factory.mktemp("own")) / "run"
    done = server.run("main", *OWN, f"--workdir={path}", cwd=path.parent)
    assert (done.status, done.err) == (0, "")
    return path


@pytest.fixture(scope="module")
def own_killed(server, own_whole, tmp_path_factory):
    """The same run, killed in the middle; to be copied before it is touched."""
    path = tmp_path_factory.mktemp("own_killed") / "run"
    process = server.start("main", *OWN, f"--workdir={path}", cwd=own_whole.parent)
    assert stop(process, signal.SIGKILL, saved(path, 5 * 4)) == -signal.SIGKILL
    assert not (path / "results.csv").exists()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("original", [pytest.param("unchanged", marks=SLOW), "gone"])
def test_a_module_nested_three_deep_goes_on(server, own_whole, own_killed, tmp_path, original):
    """By the same command, or from the copies that the run has."""
    path = shutil.copytree(own_killed, tmp_path / "run")
    command = OWN if original == "unchanged" else [f"--config={path / 'config.json'}"]
    where = own_whole.parent if original == "unchanged" else tmp_path
    done = server.run("main", *command, f"--workdir={path}", cwd=where, draw=True)
    assert (done.status, done.err) == (0, "")
    assert "resumed after epoch" in done.out
    assert_same(path, own_whole)
    made = json.loads((path / "summary.json").read_text())["provenance"]
    assert made["files"] == {
        name: {"path": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        for name, text in (("my_net.py", own.NET), ("my_opt.py", own.OPTIMIZER))
    }
    page = (path / "report.md").read_text()
    assert "| files: my_net.py: path | my_net.py |" in page
    assert f"| files: my_opt.py: sha256 | {made['files']['my_opt.py']['sha256']} |" in page
    assert (path / "files" / "my_net.py").read_text() == own.NET
    with np.load(path / "chosen_trial.npz") as chosen:
        assert chosen["params/Block_0/Unit_0/Dense_0/kernel"].shape == (49, 8)
        assert chosen["batch_stats/Block_0/Unit_0/BatchNorm_0/mean"].shape == (8,)


def test_a_file_that_has_changed_since_is_refused_by_name(server, own_whole, own_killed, tmp_path):
    path = shutil.copytree(own_killed, tmp_path / "run")
    own.write(tmp_path)
    (tmp_path / "my_net.py").write_text(own.NET + "# better\n")
    before = snapshot(path)
    for where in (path, shutil.copytree(own_whole, tmp_path / "finished")):
        done = server.run("main", *OWN, f"--workdir={where}", cwd=tmp_path)
        assert (done.status, done.out) == (2, "")
        assert done.err == (
            f"error: --workdir={where} holds a run that began with another my_net.py, of which it "
            f"has a copy in {where}/files; put that back, choose another --workdir, or give "
            "--overwrite\n"
        )
    assert snapshot(path) == before


@SLOW
def test_a_file_that_has_changed_is_taken_by_overwrite(server, own_whole, own_killed, tmp_path):
    path = shutil.copytree(own_killed, tmp_path / "run")
    own.write(tmp_path)
    (tmp_path / "my_net.py").write_text(own.NET + "# better\n")
    done = server.run("main", *OWN, f"--workdir={path}", "--overwrite", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert (path / "files" / "my_net.py").read_bytes() == (tmp_path / "my_net.py").read_bytes()
    assert_same(path, own_whole, EXACT[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda copy: copy.unlink(), "there is no such file", marks=SLOW),
        (lambda copy: copy.write_text("x = 1"), "it has changed since the run began (SHA-256 "),
    ],
)
def test_a_copy_is_refused_by_name_where_it_is_needed(
    server, own_whole, own_killed, tmp_path, change, said
):
    path = shutil.copytree(own_killed, tmp_path / "run")
    copy = path / "files" / "my_net.py"
    change(copy)
    again = [f"--config={path / 'config.json'}", f"--workdir={path}"]
    done = server.run("main", *again, cwd=own_whole.parent)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {copy}: {said}")
    assert f"; put it back as it was: the run in {path} needs it\n" in done.err
    # With the original at hand it is not needed, and is made again; nor is it for a report.
    done = server.run("main", *OWN, f"--workdir={path}", cwd=own_whole.parent)
    assert (done.status, done.err) == (0, "")
    assert copy.read_text() == own.NET
    change(copy)
    assert "epoch chosen on validation images" in one_run.describe(path)


@pytest.mark.slow
def test_a_run_that_dies_before_it_has_its_copies_goes_on(server, own_whole, tmp_path):
    """What is left of the writing of one is deleted, and nothing else in that folder is."""
    path = tmp_path / "run"
    (path / "files").mkdir(parents=True)
    shutil.copy(own_whole / "config.json", path)
    process = server.start("main")
    process.wait()
    (path / "files" / f".my_net.py.{process.pid}").write_text("half")
    (path / "files" / "my_notes.py").write_text("mine")
    done = server.run("main", *OWN, f"--workdir={path}", cwd=own_whole.parent)
    assert (done.status, done.err) == (0, "")
    assert_same(path, own_whole)
    names = {"my_net.py", "my_notes.py", "my_opt.py"}
    assert {entry.name for entry in (path / "files").iterdir()} == names
    done = server.run("main", *TINY, "--config.num_epochs=1", f"--workdir={path}", "--overwrite")
    assert (done.status, done.err) == (0, "")
    assert {entry.name for entry in (path / "files").iterdir()} == {"my_notes.py"}


@pytest.mark.slow
def test_the_only_copy_is_never_deleted(server, own_killed, tmp_path):
    """Not even for a run that is made of it anew, whose originals are gone."""
    path = shutil.copytree(own_killed, tmp_path / "run")
    kept = snapshot(path / "files")
    again = [f"--config={path / 'config.json'}", f"--workdir={path}", "--overwrite"]
    process = server.start("main", *again, cwd=tmp_path)
    assert stop(process, signal.SIGKILL, lambda: rows(path) < 4) == -signal.SIGKILL
    assert snapshot(path / "files") == kept


def test_a_folder_of_files_is_no_run(server, own_whole, tmp_path):
    path = tmp_path / "run"
    (path / "files").mkdir(parents=True)
    (path / "files" / "my_net.py").write_text("mine")
    done = server.run("main", *OWN, f"--workdir={path}", "--overwrite", cwd=own_whole.parent)
    assert done.status == 2
    assert f"--workdir={path} holds files, which may be of something else than a run" in done.err
    assert (path / "files" / "my_net.py").read_text() == "mine"


@pytest.mark.parametrize("flag", ["--overwrite", "--nooverwrite"])
def test_a_link_in_place_of_the_copies_is_refused(server, own_whole, own_killed, tmp_path, flag):
    path = shutil.copytree(own_killed, tmp_path / "run")
    (path / "files").rename(tmp_path / "elsewhere")
    (path / "files").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    done = server.run("main", *OWN, f"--workdir={path}", flag, cwd=own_whole.parent)
    assert done.status == 2
    assert "files" in done.err
    assert " is a link, " in done.err
    assert snapshot(tmp_path) == before


# --- what an earlier version began ---

# A program of four trials.
EARLIER = flags(
    momentum="0.8,0.9",
    learning_rate=0.05,
    num_epochs=60,
    num_seeds=2,
    protocol="validation",
    num_validation=200,
)
RECORD = {
    "name": "baseline",
    "dataset": "digits",
    "num_validation": 200,
    "choose_epoch": True,
    "conv_features": [[]],
    "hidden_sizes": [[8]],
    "num_epochs": [60],
    "batch_size": [128],
    "nesterov": [False],
    "learning_rate": [0.05],
    "schedule": ["constant"],
    "warmup_steps": [0],
    "momentum": [0.8, 0.9],
    "l2": [0.0],
    "l2_on_output": [False],
    "weight_decay": [0.0],
    "label_smoothing": [0.0],
    "grid": "product",
    "num_points": 0,
    "design_seed": 0,
    "num_seeds": 2,
    "checkpoint_epochs": 1,
    "checkpoints_kept": 2,
    "platform": "",
    "devices": 0,
    "precision": "float32",
    "deterministic": False,
    "seed": 0,
    "shard": "0/1",
}
"""Its config.json as the version wrote it that had no models, optimizers and protocols by name."""


def begun(path, **changes):
    """A directory in which that version began the run, and came no further."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(RECORD | changes, indent=2) + "\n")
    return path


def table(path):
    """Returns the header of results.csv, and its rows without what only one version has."""
    header, *lines = csv.reader((path / "results.csv").open())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    for row in rows:
        for key in ("conv_features", "optimizer", "ema_decay", "scaling", "augmentation"):
            row.pop(key, None)
    return header, rows


@pytest.fixture(scope="module")
def today(server, tmp_path_factory):
    """The same run, by this version alone."""
    path = tmp_path_factory.mktemp("today")
    done = server.run("main", *EARLIER, f"--workdir={path}")
    assert (done.status, done.err) == (0, "")
    return path


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_in_the_words_of_its_record(server, today, tmp_path):
    path = begun(tmp_path / "run")
    record = (path / "config.json").read_bytes()
    process = server.start("main", *EARLIER, f"--workdir={path}")
    assert stop(process, signal.SIGKILL, saved(path, 4 * 3)) == -signal.SIGKILL
    checksum = json.loads((today / "summary.json").read_text())["provenance"]["data_checksum"]
    manifests = list(path.glob("checkpoints/*/*/manifest.json"))
    known = {json.loads(file.read_bytes().partition(b"\n")[2])["run"] for file in manifests}
    assert known == {workdirs.digest(RECORD, checksum)}
    done = server.run("main", *EARLIER, f"--workdir={path}", draw=True)
    assert (done.status, done.err) == (0, "")
    assert "resumed after epoch" in done.out
    assert (path / "config.json").read_bytes() == record
    assert_same(path, today, ("metrics.jsonl", "chosen_trial.npz"))
    header, lines = table(path)
    axes = [key for key, value in RECORD.items() if isinstance(value, list)]
    assert header[: 4 + len(axes)] == ["trial", "point", "seed", "dataset", *axes]
    assert lines == table(today)[1]
    found, expected = reading.read_run(path), reading.read_run(today)
    assert {*found.axes} == {*expected.axes}
    assert found.summary["grid"] == expected.summary["grid"]
    assert found.summary["run"] == workdirs.digest(RECORD, checksum)


@pytest.mark.slow
@pytest.mark.parametrize("second", [pytest.param("earlier", marks=SLOW), "today"])
def test_shards_of_an_earlier_version_are_put_together(server, today, tmp_path, second):
    """All of them, or with one that this version trained."""
    for i in range(2):
        path = tmp_path / f"s{i}"
        if not (i and second == "today"):
            begun(path, shard=f"{i}/2")
        done = server.run("main", *EARLIER, f"--shard={i}/2", f"--workdir={path}")
        assert (done.status, done.err) == (0, "")
    output = tmp_path / "merged"
    done = server.run("report", tmp_path / "s0", tmp_path / "s1", f"--output={output}")
    assert (done.status, done.err) == (0, "")
    assert_same(output, today, ("metrics.jsonl", "chosen_trial.npz"))
    assert table(output)[1] == table(today)[1]
    assert reading.read_run(output).summary["grid"] == reading.read_run(today).summary["grid"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/**/config.json")), ids=str)
def test_runs_that_studies_keep_are_read_as_they_were(tmp_path, path):
    """But for metrics.jsonl, which few of them keep, and statistics, which some leave out."""
    if not (path.parent / "summary.json").exists():
        pytest.skip("it is the config of a study alone")
    run = shutil.copytree(path.parent, tmp_path / "run")
    (run / "metrics.jsonl").touch()
    kept = json.loads((run / "summary.json").read_text())
    found = results.read_run(run)
    assert found.summary["chosen_trial"] == kept["chosen_trial"]
    for point, was in zip(found.summary["grid"], kept["grid"], strict=True):
        for column, statistics in was.get("statistics", {}).items():
            for name in {"n", "mean", "min", "max"} & statistics.keys():
                value = point["statistics"][column][name]
                assert value == pytest.approx(statistics[name], rel=1e-12), (column, name)
    again = read_experiment(str(run / "config.json"), {})
    assert len(again.points) == len(kept["grid"])
    assert workdirs.as_recorded(run, again.record()) == json.loads(path.read_text())


# --- devices ---


@pytest.mark.parametrize("devices", [*(pytest.param(n, marks=SLOW) for n in (1, 2)), 4])
def test_any_number_of_devices_gives_the_same_files(server, whole, tmp_path, devices):
    done = server.run("main", *TINY, f"--config.devices={devices}", f"--workdir={tmp_path}")
    if devices > machine.num_cores():  # whose bits would be others: sums are cut by threads
        assert done.status == 2
        assert f"--config.devices={devices}: expected at most {machine.num_cores()}" in done.err
        return
    assert (done.status, done.err) == (0, "")
    assert json.loads(read(tmp_path, "config.json"))["devices"] == devices
    assert read(tmp_path, "summary.json")["provenance"]["devices"]["count"] == devices
    assert_same(tmp_path, whole, EXACT[1:])


@SLOW
def test_a_run_may_go_on_with_other_devices(server, whole, tmp_path):
    path = tmp_path / "run"
    process = server.start("main", *TINY, "--config.devices=2", f"--workdir={path}")
    assert stop(process, signal.SIGTERM, lambda: rows(path) > 0) == 128 + signal.SIGTERM
    done = server.run("main", *TINY, "--config.devices=1", f"--workdir={path}")
    assert (done.status, done.err) == (0, "")
    assert "resumed after epoch" in done.out
    assert_same(path, whole, EXACT[1:])


# --- memory ---


def experiment(**changes):
    sys.path.insert(0, str(ROOT / "configs"))
    try:
        from baseline import get_config
    finally:
        sys.path.pop(0)
    config = get_config()
    for key, value in {"dataset": "digits", "hidden_sizes": (4,), **changes}.items():
        config[key] = value
    return read_config(config, "tiny", seed=0)


def tiny_dataset():
    rng = np.random.default_rng(0)
    splits = [
        array
        for n in (60, 0, 20)
        for array in (
            rng.integers(0, 256, (n, 28, 28), np.uint8),
            rng.integers(0, 10, n, np.uint8),
        )
    ]
    names = tuple("0123456789")
    return Dataset("digits", *splits, class_names=names, checksum="sha256:0", source="here")


@pytest.fixture(scope="module", autouse=True)
def share_programs():
    """What this process compiles it compiles once; programs of equal recipes and trials are one."""
    compile_sweep, programs = sweep.compile_sweep, {}

    def compile_once(recipe, trials, dataset, **options):
        numbers = tuple(leaf.tobytes() for leaf in jax.tree.leaves(trials))
        key = recipe, numbers, dataset.checksum, len(dataset.train_labels), repr(options)
        if key not in programs:
            programs[key] = compile_sweep(recipe, trials, dataset, **options)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "compile_sweep", compile_once)
        yield


def train(path, process=None):
    """Trains five trials on 60 images with a `Runner`, in this process and its two devices."""
    path.mkdir(exist_ok=True)
    grid = {"learning_rate": (0.1, 0.2, 0.3, 0.4, 0.5), "momentum": (0.0, 0.0, 0.0, 0.9, 0.9)}
    asked = experiment(grid="list", num_epochs=(3,), **grid)
    runner.Runner(path, asked, tiny_dataset(), process).train()
    return path


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("left_alone"))


def assert_same_but_for_order(path, other):
    assert_same(path, other, ("results.csv", "chosen_trial.npz"))
    lines = [(p / "metrics.jsonl").read_bytes().splitlines() for p in (path, other)]
    assert sorted(lines[0]) == sorted(lines[1])


def test_parts_that_fit_in_memory_give_the_results_of_the_whole(
    left_alone, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: min(2, len(program.trials.seed)))
    parted = train(tmp_path / "parted")
    assert "memory does not hold 5 trials: 3 parts, one after the other" in capsys.readouterr().out
    assert json.loads((parted / "checkpoints" / "parts.json").read_text()) == [[0, 1], [2, 3], [4]]
    assert_same_but_for_order(parted, left_alone)


@pytest.mark.slow
def test_metrics_are_read_once_however_many_parts_there_are(tmp_path, monkeypatch, capsys):
    trimmed, trim = [], records.trim_metrics

    def count(path, epochs):
        trimmed.append(path)
        return trim(path, epochs)

    monkeypatch.setattr(records, "trim_metrics", count)
    asked = experiment(num_epochs=(1,), hidden_sizes=((2,), (3,), (4,)))
    runner.Runner(tmp_path, asked, tiny_dataset()).train()
    assert len(trimmed) == 1
    assert "part 2 of 3 (hidden_sizes=3): 1 trial of 1 epoch" in capsys.readouterr().out


class PowerCutError(Exception):
    """Ends a run anywhere."""


@pytest.fixture
def cut(monkeypatch):
    """Two points of three seeds; what is chosen changes from part to part, and falls back."""
    score, write, written = records.Recorder.rows, records.write_results, []
    accuracies = [0.5, 0.5, 0.5, 0.9, 0.1, 0.1]

    def scored(recorder, scores, stopped):
        rows = score(recorder, scores, stopped)
        return [row | {"best_test_accuracy": accuracies[row["trial"]]} for row in rows]

    def write_at_the_second_try(path, rows):
        written.append(len(rows))
        if written.count(len(rows)) == 1:
            raise PowerCutError
        write(path, rows)

    def make(path, size, cuts):
        path.mkdir(exist_ok=True)
        monkeypatch.setattr(
            memory, "trials_that_fit", lambda program: min(size, len(program.trials.seed))
        )
        if cuts:
            monkeypatch.setattr(records, "write_results", write_at_the_second_try)
        while True:
            asked = experiment(num_epochs=(1,), num_seeds=3, learning_rate=(0.1, 0.2))
            trials = runner.Runner(path, asked, tiny_dataset())
            with contextlib.suppress(PowerCutError):
                trials.train()
                return trials

    monkeypatch.setattr(records.Recorder, "rows", scored)
    return make


@pytest.mark.parametrize(
    ("size", "cuts"),
    [(2, True), *(pytest.param(n, cuts, marks=SLOW) for n in (1, 2, 4) for cuts in (False, True))],
)
def test_the_weights_are_those_of_the_chosen_trial(cut, tmp_path, size, cuts):
    """However memory parts the trials, and wherever the run is stopped."""
    trials = cut(tmp_path, size, cuts)
    assert [row["trial"] for row in trials.rows] == list(range(6))
    assert choosing.choose_trial(trials.rows, "test")["trial"] == 0
    assert chosen_trial.trial_of_weights(tmp_path) == 0
    assert rows(tmp_path) == 6
    cut(tmp_path / "whole", 6, False)
    with (
        np.load(tmp_path / "chosen_trial.npz") as weights,
        np.load(tmp_path / "whole" / "chosen_trial.npz") as expected,
    ):
        assert {name: weights[name].tobytes() for name in weights} == {
            name: expected[name].tobytes() for name in expected
        }


def test_a_part_that_is_lost_costs_no_other(left_alone, tmp_path, monkeypatch):
    """As when it is killed while it trains again for its weights."""
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: min(2, len(program.trials.seed)))
    train(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(lines[0])["trial"] == 0
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines[1:]))
    shutil.rmtree(tmp_path / "checkpoints" / "trials_0_to_1")
    train(tmp_path)
    assert_same_but_for_order(tmp_path, left_alone)


@pytest.mark.parametrize("lost", ["checkpoints", "chosen_trial.npz"])
def test_weights_that_are_lost_are_made_again(cut, tmp_path, monkeypatch, lost):
    write = records.write_results

    def lose(path, rows):
        write(path, rows)
        if len(rows) == 6:
            shutil.rmtree(path / lost) if lost == "checkpoints" else (path / lost).unlink()
            monkeypatch.setattr(records, "write_results", write)

    monkeypatch.setattr(records, "write_results", lose)
    cut(tmp_path, 2, False)
    assert chosen_trial.trial_of_weights(tmp_path) == 0
    assert rows(tmp_path) == 6


@pytest.mark.parametrize(
    "found",
    [
        [[0, 1], [2, 3, 4]],  # cuts the first program's trials and runs over into the second's
        [[0, 1, 2], [3]],
        [[0, 1, 2], [3, 3]],
        [[0, 2, 1], [3, 4]],
        [[3, 4], [0, 1, 2]],
        [[0, 1, 2], [3, 4], []],
        [[0, 1, 2], [3.0, 4]],
        [[False, True, 2], [3, 4]],
        [[0, 1, 2], 3, 4],
        [[0, 1, 2], "34"],
        {"0": [0, 1, 2], "3": [3, 4]},
        [],
        3,
        None,
        "[" * 99999,
        b"\xff",
    ],
)
def test_parts_that_are_none_are_left_aside(tmp_path, capsys, found):
    asked = experiment(
        grid="list", hidden_sizes=((4,),) * 3 + ((5,),) * 2, l2=(0.0, 0.1, 0.2, 0.3, 0.4)
    )
    path = tmp_path / "checkpoints" / "parts.json"
    path.parent.mkdir()
    path.write_text(json.dumps([[0], [1, 2], [3, 4]]))
    assert groups.read_groups(tmp_path, [*asked.parts.values()]) == [[0], [1, 2], [3, 4]]
    assert capsys.readouterr().err == ""
    content = found if isinstance(found, str | bytes) else json.dumps(found)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert groups.read_groups(tmp_path, [*asked.parts.values()]) == [[0, 1, 2], [3, 4]]
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {path} is ignored (")
    assert err.count("\n") == 1


def exhaust(monkeypatch, fails, said="RESOURCE_EXHAUSTED: Allocator ran out"):
    """Makes a program call fail for want of memory where `fails(trials, calls so far)`."""
    compile_sweep, calls = sweep.compile_sweep, []

    def compile_short_of_memory(*arguments, **options):
        program = compile_sweep(*arguments, **options)

        def run_epoch(*inputs):
            calls.append(len(program.trials.seed))
            if fails(calls[-1], len(calls)):
                raise jax.errors.JaxRuntimeError(said)
            return program.run_epoch(*inputs)

        run_epoch.memory_analysis = program.run_epoch.memory_analysis
        return program._replace(run_epoch=run_epoch)

    monkeypatch.setattr(sweep, "compile_sweep", compile_short_of_memory)
    return calls


def test_a_part_for_which_memory_ran_out_is_halved(left_alone, tmp_path, monkeypatch, capsys):
    calls = exhaust(monkeypatch, lambda _, call: call == 2)
    halved = train(tmp_path / "halved")
    assert calls == [5] * 2 + [2] * 3 * 2 + [1] * 3
    assert capsys.readouterr().out.count("memory does not hold") == 1
    assert_same_but_for_order(halved, left_alone)


@SLOW
def test_halves_outlive_the_process(left_alone, tmp_path, monkeypatch):
    exhaust(monkeypatch, lambda trials, call: trials > 2 or call > 5)
    with pytest.raises(UserError):
        train(tmp_path / "halved")
    monkeypatch.undo()
    resumed = train(tmp_path / "halved")
    assert json.loads((resumed / "checkpoints" / "parts.json").read_text())[0] == [0, 1]
    assert_same_but_for_order(resumed, left_alone)


def test_memory_that_does_not_hold_a_trial_is_bad_input(tmp_path, monkeypatch):
    on_cpu = "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."
    exhaust(monkeypatch, lambda trials, call: True, on_cpu)
    with pytest.raises(UserError, match="does not hold a single trial; give a smaller network"):
        train(tmp_path / "run")


def test_another_failure_of_a_program_is_not_taken_for_want_of_memory(tmp_path, monkeypatch):
    def fails(trials, call):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    exhaust(monkeypatch, fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        train(tmp_path / "run")


@SLOW
def test_trials_that_fit(monkeypatch):
    """More memory holds more trials, and a larger network fewer."""

    def compile_trials(num_trials, sizes):
        asked = experiment(num_seeds=num_trials, hidden_sizes=sizes)
        (part,) = asked.parts.values()
        dataset = tiny_dataset()
        return sweep.compile_sweep(*recipes.create_recipe(asked, part, dataset), dataset)

    def fit(program, available):
        monkeypatch.setattr(machine, "free_memory", lambda: available)
        return memory.trials_that_fit(program)

    small, large = compile_trials(8, (4,)), compile_trials(8, (64,))
    few = compile_trials(4, (4,))
    amounts = [2 ** (exponent / 2) for exponent in range(20, 80)]
    for program in (small, large, few):
        found = [fit(program, amount) for amount in amounts]
        assert found == sorted(found)
        assert (found[0], found[-1]) == (0, len(program.trials.seed))
        assert len(set(found)) > 2 or program is few
        assert set(found) <= {0, 1, 2, 4, 6, 8}  # of two devices, none has a place that stays empty
    for amount in amounts:
        assert fit(large, amount) <= fit(small, amount)
        # A trial's share of the memory hardly depends on how many train beside it.
        assert abs(min(4, fit(small, amount)) - fit(few, amount)) <= 2
    assert any(fit(large, amount) < fit(small, amount) for amount in amounts)
    for known, most in ((None, 8), ({"bytes_limit": 1000, "bytes_in_use": 900}, 0)):
        device = mock.Mock(platform="gpu", memory_stats=lambda known=known: known)
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        assert memory.trials_that_fit(small) == most


@pytest.mark.parametrize(
    ("job", "step", "free"),
    [
        ("max", "max", 500),  # the machine's
        ("300", "max", 300 - 70 + 20),
        ("300", "200", 200 - 70 + 20),
        ("90", "200", 90 - 70 + 20),
        ("300", "no number", 300 - 70 + 20),
    ],
)
def test_the_memory_of_a_control_group_is_all_there_is(tmp_path, monkeypatch, job, step, free):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=500))
    own, folder = tmp_path / "own", tmp_path / "groups" / "job_1" / "step_2"
    folder.mkdir(parents=True)
    for group, limit in ((folder.parent, job), (folder, step)):
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text("70\n")
        (group / "memory.stat").write_text(
            "anon 45\ninactive_file 12\nactive_file 5\nslab_reclaimable 3\n"
        )
    own.write_text("0::/job_1/step_2\n")
    assert machine.free_memory(tmp_path / "groups", own) == free
    assert machine.free_memory(tmp_path / "none", own) == 500


def test_a_trial_that_no_memory_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match="does not hold a single trial; give a smaller network"):
        train(tmp_path / "run")


# --- soak ---

# The first part has the best trial.
SWEEP = flags(
    learning_rate=0.1,
    batch_size="64,1024",
    num_seeds=3,
    protocol="validation",
    num_validation=200,
    num_epochs=60,
)


def exists(pattern):
    return lambda path: any(path.glob(pattern))


def more_rows(number):
    """Rows that this process has added."""
    start = []

    def condition(path):
        start.append(rows(path))
        return start[-1] >= start[0] + number

    return condition


def is_saving(path):
    """Whether there is a checkpoint that is not whole."""
    return any(
        not (folder / "manifest.json").exists() for folder in path.glob("checkpoints/trials_*/*")
    )


def moments(rng):
    """Yields conditions to wait for, each with a delay after it (s); 20 and more."""
    yield lambda path: True, rng.uniform(0, 0.05)
    yield exists(".lock"), 0
    yield exists("config.json"), rng.uniform(0, 0.1)
    yield exists("config.json"), rng.uniform(0.1, 0.6)  # compiling
    yield more_rows(1), 0  # the first checkpoint begins
    yield is_saving, rng.uniform(0, 0.1)
    for _ in range(5):
        yield more_rows(rng.randrange(1, 100)), rng.uniform(0, 0.02)
    for _ in range(3):
        yield is_saving, rng.uniform(0, 0.15)
    yield exists("chosen_trial.npz"), 0  # the first part ends
    yield exists("results.csv"), rng.uniform(0, 0.3)
    for _ in range(3):
        yield more_rows(rng.randrange(1, 100)), rng.uniform(0, 0.02)
    yield is_saving, rng.uniform(0, 0.1)
    yield exists("summary.json"), 0
    yield exists("figures/*"), rng.uniform(0, 0.2)
    while True:  # the report is made again by every process
        yield lambda path: True, rng.uniform(0, 1)


@SLOW
def test_a_sweep_that_is_killed_20_times(server, tmp_path):
    path, alone = tmp_path / "killed" / "run", tmp_path / "alone" / "run"
    command = [sys.executable, "-m", "mnist_jax.main", *SWEEP, f"--workdir={alone}"]
    # As a user would; but for what the server's programs have in their environment.
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    kills, epochs = 0, []
    for condition, delay in moments(random.Random(0)):
        process = server.start("main", *SWEEP, f"--workdir={path}", draw=True, optimize=True)
        if process.wait_until(lambda now=condition: now(path)):
            after = time.monotonic() + delay
            process.wait_until(lambda end=after: time.monotonic() > end)
            process.send(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), process.err
        for line in process.err.splitlines():  # killed while it was saving
            assert re.fullmatch(r"warning: checkpoint \S+ cannot be used \(.*\)", line), line
        kills += status == -signal.SIGKILL
        epochs.append(rows(path))
        if kills == 20:
            break
    done = server.run("main", *SWEEP, f"--workdir={path}", draw=True, optimize=True)
    assert done.status == 0
    assert_same(path, alone, [*EXACT, "summary.json", "report.md", "report.html"])
    for figure in (alone / "figures").iterdir():
        assert figure.read_bytes() == (path / "figures" / figure.name).read_bytes()
    done = [json.loads(line) for line in (path / "metrics.jsonl").open()]
    assert [(row["trial"], row["epoch"]) for row in done] == [
        (trial, epoch)
        for part in (range(3), range(3, 6))
        for epoch in range(1, 61)
        for trial in part
    ]


@SLOW
def test_many_trials_take_little_memory(server, tmp_path):
    """A trial of 784-2-10 has 6.4 kB of weights, a row of metrics and one of results."""
    peak = {}
    for num_trials in (200, 2000):
        path = tmp_path / str(num_trials)
        many = flags(
            hidden_sizes=2,
            learning_rate=0.1,
            num_epochs=1,
            num_seeds=num_trials,
            batch_size=50,
            protocol="validation",
            num_validation=1337,  # so that 100 images train
        )
        done = server.run("main", *many, f"--workdir={path}", optimize=True)
        assert done.status == 0, done.err
        assert rows(path) == num_trials
        assert (path / "results.csv").read_bytes().count(b"\n") == num_trials + 1
        peak[num_trials] = done.peak_kb
    assert (peak[2000] - peak[200]) / 1800 < MOST_KB_A_TRIAL, peak
