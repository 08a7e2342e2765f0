"""Processes that train one sweep together, on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
from server import ROOT

from mnist_jax import UserError, hosts, machine

EXACT = ("metrics.jsonl", "results.csv", "chosen_trial.npz")
# Two programs; two processes cannot share three or six trials of each evenly.
GRID = ("--config.hidden_sizes=((8,),(4,4))", "--config.l2=0,1e-4", "--config.num_seeds=3")


def start(workdir, num_epochs, process=None, **options):
    """Starts a run, or a process `i/n@host:port` of one, with a device each."""
    command = [sys.executable, "-m", "mnist_jax.main", "--config=configs/baseline.py", *GRID]
    command += ["--config.dataset=digits", f"--config.num_epochs={num_epochs}"]
    command += ["--config.devices=1", f"--workdir={workdir}"]
    if process:
        command.append(f"--distributed={process}")
    environment = {name: v for name, v in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def start_job(workdir, num_epochs):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return [start(workdir, num_epochs, f"{i}/2@127.0.0.1:{port}") for i in range(2)]


def end(process):
    """Returns status, output and error of a process that has a minute and a half to end."""
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    return process.returncode, "\n".join(lines), err


def assert_same(workdir, other):
    for name in EXACT:
        assert (workdir / name).read_bytes() == (other / name).read_bytes(), name
    grids = [json.loads((p / "summary.json").read_text())["grid"] for p in (workdir, other)]
    assert grids[0] == grids[1]


def test_two_processes_write_the_files_of_one(tmp_path):
    job = start_job(tmp_path / "two", num_epochs=3)
    (status, out, err), (other_status, other_out, other_err) = map(end, job)
    assert (status, other_status) == (0, 0), err + other_err
    assert out.startswith("Runs on 2 cpu devices of 2 processes")
    assert "Report: " in out
    assert not other_out  # the first one alone speaks
    status, _, err = end(start(tmp_path / "one", num_epochs=3))
    assert status == 0, err
    assert_same(tmp_path / "two", tmp_path / "one")
    devices = json.loads((tmp_path / "two" / "summary.json").read_text())["provenance"]["devices"]
    assert (devices["count"], devices["processes"]) == (2, 2)

    refused, silent = map(end, start_job(tmp_path / "one", num_epochs=4))
    assert (refused[0], silent[0]) == (2, 2)
    assert "holds another run, which differs in num_epochs ([3], not [4])" in refused[2]
    assert (refused[2].count("\n"), silent[2]) == (1, "")


@pytest.mark.slow
def test_after_one_is_killed_a_job_and_a_lone_process_can_go_on(tmp_path):
    num_epochs = 60
    job = start_job(tmp_path / "job", num_epochs)
    metrics = tmp_path / "job" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.read_text().count("\n") > 6 * 10):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job[1].send_signal(signal.SIGKILL)
    (status, _, err), (killed_status, _, _) = map(end, job)
    assert (status, killed_status) == (1, -signal.SIGKILL)
    assert err.endswith("the same command goes on from the last checkpoint\n")
    assert "Traceback" not in err
    assert not (tmp_path / "job" / "summary.json").exists()
    shutil.copytree(tmp_path / "job", tmp_path / "alone")
    for status, out, err in map(end, start_job(tmp_path / "job", num_epochs)):
        assert status == 0, err
        assert "going on after epoch" in out or not out
    status, out, err = end(start(tmp_path / "alone", num_epochs))
    assert status == 0, err
    assert "going on after epoch" in out
    status, _, err = end(start(tmp_path / "undisturbed", num_epochs))
    assert status == 0, err
    assert_same(tmp_path / "job", tmp_path / "undisturbed")
    assert_same(tmp_path / "alone", tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_signal_to_one_of_them_stops_them_all_at_the_same_epoch(tmp_path):
    job = start_job(tmp_path, 1000)
    deadline = time.monotonic() + 90
    while not (tmp_path / "checkpoints" / "trials_0_to_5").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job[1].send_signal(signal.SIGTERM)
    for status, _, err in map(end, job):
        assert status == 128 + signal.SIGTERM
        assert "and saved: the same command" in err


@pytest.mark.parametrize("job", ["", "yes", "2/2@localhost:1", "0/2", "0/2@localhost", "-1/2@a:1"])
def test_a_job_that_is_misspelt_is_refused(job):
    with pytest.raises(UserError, match=f"--distributed={job}: expected auto, or i/n@host:port"):
        hosts.join(job)


def test_where_no_cluster_is_recognised_there_is_no_job():
    code = "from mnist_jax import hosts; hosts.join('auto')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "UserError: --distributed=auto: no job of several processes was found" in done.stderr


def test_processes_take_turns_with_their_devices(monkeypatch):
    devices = [
        mock.MagicMock(jax.Device, process_index=process, id=i, device_kind="made up")
        for process in range(2)
        for i in range(3)
    ]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:3])
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def chosen(*arguments):
        return [(d.process_index, d.id) for d in machine.devices_for(*arguments)]

    assert chosen(9) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert chosen(9, 2) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert chosen(3) == [(0, 0), (1, 0), (0, 1)]
    with pytest.raises(UserError, match="devices=4: expected at most 3"):
        chosen(9, 4)
    with pytest.raises(UserError, match="2 processes for 1 trials"):
        chosen(1)
    devices.pop()
    with pytest.raises(UserError, match="the processes have 2 to 3 devices; expected as many each"):
        chosen(9)


def test_one_process_is_a_job_of_its_own():
    tree = {"a": jax.numpy.arange(3)}
    assert hosts.is_first()
    assert hosts.first(lambda: 5) == 5
    assert hosts.agree([2, 0]) == [2, 0]
    np.testing.assert_array_equal(hosts.gather(tree)["a"], [0, 1, 2])
