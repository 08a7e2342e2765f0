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
import own
import pytest
from server import ROOT

from mnist_jax import UserError
from mnist_jax.training import hosts
from mnist_jax.training.devices import devices_for

EXACT = ("metrics.jsonl", "results.csv", "chosen_trial.npz")
# Two programs; two processes cannot share three or six trials of each evenly.
WAITS = "(--distributed_timeout)\n"
GRID = ("--config.hidden_sizes=((8,),(4,4))", "--config.l2=0,1e-4", "--config.num_seeds=3")


def start(workdir, num_epochs, process=None, program=("-m", "mnist_jax.main"), **options):
    """Starts a run, or a process `i/n@host:port` of one, with a device each."""
    command = [sys.executable, *program, "--config=configs/baseline.py", *GRID]
    command += ["--config.dataset=digits", f"--config.num_epochs={num_epochs}"]
    command += ["--config.devices=1", f"--workdir={workdir}"]
    if process:
        command.append(f"--distributed={process}")
    environment = {name: v for name, v in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def start_job(workdir, num_epochs, *program):
    address = f"127.0.0.1:{free_port()}"
    return [start(workdir, num_epochs, f"{i}/2@{address}", *program) for i in range(2)]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end(process):
    """Returns status, output and error of a process that has a minute and a half to end."""
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    err = "".join(x for x in err.splitlines(True) if not x.endswith(WAITS))  # on a busy machine
    return process.returncode, "\n".join(lines), err


def assert_same(workdir, other):
    for name in EXACT:
        assert (workdir / name).read_bytes() == (other / name).read_bytes(), name
    grids = [json.loads((p / "summary.json").read_text())["grid"] for p in (workdir, other)]
    assert grids[0] == grids[1]


TINY = ("--config=configs/baseline.py", "--config.dataset=digits", "--config.devices=1")
TINY += ("--config.hidden_sizes=8", "--config.num_seeds=3")  # which two cannot share evenly


@pytest.fixture(scope="module")
def alone(server, tmp_path_factory):
    """What one process makes of three epochs."""
    path = tmp_path_factory.mktemp("alone")
    done = server.run("main", *TINY, "--config.num_epochs=3", f"--workdir={path}")
    assert done.status == 0, done.err
    return path


def run_job(server, *arguments):
    """Runs a job of two processes to its end."""
    address = f"127.0.0.1:{free_port()}"
    job = [server.start("main", *arguments, f"--distributed={i}/2@{address}") for i in range(2)]
    for process in job:
        process.wait()
    return job


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(server, tmp_path, alone):
    two = tmp_path / "two"
    first, second = run_job(server, *TINY, "--config.num_epochs=3", f"--workdir={two}")
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "Runs on 2 cpu devices of 2 processes" in first.out
    assert "Epoch 3/3" in first.out
    lines = [line for line in second.out.splitlines() if not line.startswith("[Gloo]")]
    assert lines == []  # the first one alone speaks
    assert_same(two, alone)
    devices = json.loads((two / "summary.json").read_text())["provenance"]["devices"]
    assert (devices["count"], devices["processes"]) == (2, 2)


@pytest.mark.slow
def test_a_job_is_refused_the_directory_of_another_run(server, alone):
    refused, silent = run_job(server, *TINY, "--config.num_epochs=4", f"--workdir={alone}")
    assert (refused.status, silent.status) == (2, 2)
    assert "differs in num_epochs ([3], not [4])" in said(refused)
    assert (said(refused).count("\n"), said(silent)) == (1, "")


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
    assert err.endswith("the same command resumes from the last checkpoint\n")
    assert "Traceback" not in err
    assert not (tmp_path / "job" / "summary.json").exists()
    shutil.copytree(tmp_path / "job", tmp_path / "alone")
    for status, out, err in map(end, start_job(tmp_path / "job", num_epochs)):
        assert status == 0, err
        assert "resumed after epoch" in out or not out
    status, out, err = end(start(tmp_path / "alone", num_epochs))
    assert status == 0, err
    assert "resumed after epoch" in out
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


# --- coming together ---

RUN = ("--config=configs/baseline.py", "--config.dataset=digits", "--config.num_epochs=1")
RUN += ("--config.hidden_sizes=8", "--config.num_seeds=2", "--config.devices=1")


def said(process):
    """What a process has on its stderr but for what it waits for: busy machines start slowly."""
    return "".join(x for x in process.err.splitlines(True) if not x.endswith(WAITS))


@pytest.mark.parametrize(
    ("given", "differ"),
    [
        (
            {"learning_rate": 0.9, "hidden_sizes": 4},
            "hidden_sizes ([[8]] in process 0, ",
        ),
        pytest.param(
            {"num_seeds": 1}, "num_seeds (2 in process 0, 1 in 1);", marks=pytest.mark.slow
        ),
    ],
)
def test_processes_that_differ_are_refused(server, tmp_path, given, differ):
    """Neither what the numbers mean may differ, nor the shapes of what is passed on."""
    address, other = f"127.0.0.1:{free_port()}", [f"--config.{k}={v}" for k, v in given.items()]
    job = [
        server.start("main", *RUN, *more, f"--workdir={tmp_path}", f"--distributed={i}/2@{address}")
        for i, more in enumerate([[], other])
    ]
    for process in job:
        assert process.wait() == 2, process.err
        assert said(process).startswith("error: --distributed: the processes of the job differ in ")
        assert differ in said(process)
        assert said(process).count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_with_other_files_of_ones_own_are_refused(server, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    job = []
    for i in range(2):
        folder = own.write(tmp_path / str(i))
        if i:
            (folder / "my_opt.py").write_text(own.OPTIMIZER + "# better\n")
        flags = [f"--config.optimizer={folder}/my_opt.py:make", f"--workdir={tmp_path}/run"]
        job.append(server.start("main", *RUN, *flags, f"--distributed={i}/2@{address}"))
    for process in job:
        assert process.wait() == 2, process.err
        assert "processes of the job differ in my_opt.py (" in said(process)
        assert said(process).count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(server, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    job = [
        server.start(
            "main", *RUN, f"--workdir={tmp_path}", f"--distributed={i}/2@{address}",
            JAX_MADE_UP=value, JAX_LOG_COMPILES="0" * i,
        )
        for i, value in enumerate(["yes", "no"])
    ]  # fmt: skip
    for process in job:
        assert process.wait() == 2, process.err
        assert (
            "differ in environment ({'JAX_MADE_UP': 'yes'} in process 0, {'JAX_MADE_UP': 'no'} in"
            in said(process)
        )
        assert said(process).count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_who_waits_for_a_job_says_so_and_ends_in_time(server, tmp_path, number):
    flag = f"--distributed={number}/3@127.0.0.1:{free_port()}"
    done = server.run("main", *RUN, f"--workdir={tmp_path}", flag, "--distributed_timeout=2")
    assert done.status == 2
    waits, error = done.err.splitlines()
    who = "processes 1, 2 (of 0 to 2)" if number == 0 else "process 0 at 127.0.0.1:"
    assert waits.startswith(f"{flag}: waiting for {who}")
    assert waits.endswith("for up to 2 s (--distributed_timeout)")
    assert error.startswith(f"error: {flag}: ")
    assert "within 2 s; see that each was started" in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_ctrl_c_ends_the_wait_for_a_job(server, tmp_path, number):
    flag = f"--distributed={number}/2@127.0.0.1:{free_port()}"
    process = server.start("main", *RUN, f"--workdir={tmp_path}", flag)
    assert process.wait_until(lambda: process.err.endswith(WAITS))
    process.send(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    assert said(process) == "interrupted\n"


@pytest.mark.slow
def test_a_number_that_comes_twice_is_refused_and_the_job_comes_together(server, tmp_path):
    """The second process of a number must not harm those that are there; nor must a proxy.

    The job has come together where its last process is found to differ, which saves training it.
    """
    address = f"127.0.0.1:{free_port()}"

    def start(number, folder, num_seeds=3):
        given = [*RUN, f"--workdir={tmp_path / folder}", f"--distributed={number}/3@{address}"]
        given.append(f"--config.num_seeds={num_seeds}")
        return server.start("main", *given, http_proxy="http://127.0.0.1:9")

    job = [start(0, "job")]
    assert job[0].wait_until(lambda: "waiting for processes 1, 2" in job[0].err)
    first = server.run("main", *RUN, f"--distributed=0/2@{address}")
    assert first.status == 2
    assert "the first process cannot listen at port" in first.err
    assert first.err.count("\n") == 1
    twice = [start(1, "job"), start(1, "other")]
    while not (refused := [p for p in twice if p.wait(os.WNOHANG) is not None]):
        time.sleep(0.01)
    assert refused[0].status == 2
    assert "another process of the job has the number 1" in said(refused[0])
    assert said(refused[0]).count("\n") == 1
    job += [p for p in twice if p is not refused[0]] + [start(2, "job", num_seeds=4)]
    for process in job:
        assert process.wait() == 2, process.err
        assert "differ in num_seeds (3 in process 0, " in said(process)


def test_an_address_that_is_none_is_refused(server):
    for address in ("no.such.host.invalid:1234", "127.0.0.1:99999", "127.0.0.1:0"):
        done = server.run("main", *RUN, f"--distributed=1/2@{address}")
        assert done.status == 2
        assert f"{address} is no address that is known here (" in done.err
        assert done.err.count("\n") == 1


SHORT_OF_MEMORY = """
import sys, jax
from mnist_jax import cli, main
from mnist_jax.training import hosts, sweep

run, calls = sweep.run, []

def run_short_of_memory(program, *arguments):
    def run_epoch(*inputs):
        calls.append(len(program.trials.seed))
        if len(calls) == 1 and not hosts.is_first():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return program.run_epoch(*inputs)

    return run(program._replace(run_epoch=run_epoch), *arguments)

sweep.run = run_short_of_memory
agree = hosts.agree

def checked(numbers):
    assert agree([-(10**12)]) == [-(10**12)]
    return agree(numbers)

hosts.agree = checked
cli.run_command(main.main, main.define_flags)
"""


@pytest.mark.slow
def test_where_one_is_out_of_memory_all_halve_the_part(tmp_path):
    """Also, what they agree on may take more than 32 bits."""
    alone = tmp_path / "alone"
    status, _, err = end(start(alone, num_epochs=3))
    assert status == 0, err
    job = start_job(tmp_path / "job", 3, ("-c", SHORT_OF_MEMORY))
    for status, out, err in map(end, job):
        assert status == 0, err
        assert "memory does not hold 6 trials: 2 parts, one after the other" in out or not out
    rows, tables = (
        [(folder / name).read_text().splitlines() for folder in (tmp_path / "job", alone)]
        for name in ("metrics.jsonl", "results.csv")
    )
    assert sorted(rows[0]) == sorted(rows[1])
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, "Slurm with 4 processes"),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, ""),
        ({"SLURM_NTASKS": "1"}, ""),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, "Open MPI with 3 processes"),
    ],
)
def test_a_cluster_job_that_is_not_asked_for_is_told_of(monkeypatch, capsys, given, told):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    hosts.say_if_alone()
    err = capsys.readouterr().err
    assert (f"warning: this is a job of {told}: each that runs this command" in err) == bool(told)
    assert err.count("\n") == bool(told)


@pytest.mark.parametrize("job", ["", "yes", "2/2@localhost:1", "0/2", "0/2@localhost", "-1/2@a:1"])
def test_a_job_that_is_misspelt_is_refused(job):
    with pytest.raises(UserError, match=f"--distributed={job}: expected auto, or i/n@host:port"):
        hosts.join(job)


def test_where_no_cluster_is_recognised_there_is_no_job():
    code = "from mnist_jax.training import hosts; hosts.join('auto')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "UserError: --distributed=auto: no job of Slurm, Open MPI," in done.stderr


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
        return [(d.process_index, d.id) for d in devices_for(*arguments)]

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
