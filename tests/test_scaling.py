import json
import math
import pickle
import runpy
import sys
from typing import ClassVar

import jax
import numpy as np
import pytest
from server import ROOT

from mnist_jax import UserError
from mnist_jax.benchmark import rounds, scaling
from mnist_jax.config.experiment import read_config
from mnist_jax.data import loading
from mnist_jax.training import jax_setup, machine, memory

CONFIG = f"--config={ROOT}/configs/baseline.py"


@pytest.fixture(scope="module")
def job():
    config = runpy.run_path(str(ROOT / "configs" / "baseline.py"))["get_config"]()
    config.dataset, config.hidden_sizes = "digits", (16,)
    return scaling.Job(read_config(config, "baseline", seed=0), loading.load_dataset("digits"))


@pytest.fixture(scope="module")
def measured(server, tmp_path_factory):
    """Digits under momentum, timed by 3 trials and by 1."""
    file = tmp_path_factory.mktemp("scaling") / "scaling.json"
    options = ("--config.dataset=digits", "--config.hidden_sizes=(16,)", "--config.momentum=0.9")
    done = server.run("benchmark", CONFIG, *options, "--trials=3,1", "--rounds=2", f"--json={file}")
    assert done.status == 0, done.err
    return json.loads(file.read_text(encoding="utf-8")), done


@pytest.mark.slow
def test_each_number_of_trials_has_a_row_and_a_process_of_its_own(measured):
    record, done = measured
    assert [row["trials"] for row in record["trials"]] == [1, 3]
    assert record["left_out"] == {}
    for row in record["trials"]:
        assert row["steps_per_round"] == row["steps_per_epoch"] == 12
        for name in ("ms_per_step", "images_per_second"):
            assert 0 < row[f"{name}_min"] <= row[name] <= row[f"{name}_max"]
        timed = record["rounds"][str(row["trials"])]["ms"]
        assert len(timed) == 3
        assert row["ms_per_step"] == pytest.approx(np.median(timed[1:]))
        # A step of every trial sees 1437 / 12 images on average.
        assert row["images_per_second_max"] == pytest.approx(
            1e3 * 1437 / 12 / row["ms_per_step_min"]
        )
        assert row["lower_seconds"] > 0
        assert row["compile_seconds"] > 0
    counts = [row["devices"]["count"] for row in record["trials"]]
    assert counts == [1, min(3, record["trials"][0]["devices"]["cores"])]
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["1", "3"]
    assert done.err.count("warm-up: 1 ") == 1
    assert "provenance" in record


@pytest.mark.slow
def test_memory_of_a_trial_counts_what_it_must_hold(measured):
    record, _ = measured
    floats = 784 * 16 + 16 + 16 * 10 + 10
    for row in record["trials"]:
        memory = row["memory"]
        assert memory["parameter_bytes"] == 4 * floats
        # Momentum; the best weights, and how many images they get right; the count of the steps.
        assert 3 * 4 * floats < memory["state_bytes"] < 3 * 4 * floats + 16
        assert memory["trial_bytes"] > memory["state_bytes"]
        assert memory["data_bytes"] == 1797 * (28 * 28 + 1)
        share = -(-row["trials"] // row["devices"]["count"])
        assert memory["device_bytes"] == memory["data_bytes"] + share * memory["trial_bytes"]
        assert memory["peak_bytes"] is None  # a CPU does not tell


class FakeProcess:
    """A process on some platform, of which the machine holds up to 300 trials."""

    platform = "cpu"
    living: ClassVar = set()
    most_living = 0

    def __init__(self, command, log, environment):
        self.number = int(command[2])
        if self.number > 300:
            raise rounds.TimingError(f"memory holds 300 of {self.number} trials")
        memory = {"device_bytes": 9, "data_bytes": 1, "trial_bytes": 8, "peak_bytes": 10**7}
        self.description = {
            **dict.fromkeys(("images", "steps", "epoch_steps"), 4),
            **dict.fromkeys(("lower_seconds", "compile_seconds"), 1.0),
            "mflop_per_step": 29.3,
            "memory": memory | {"parameter_bytes": 2, "state_bytes": 4},
            "devices": {"platform": self.platform, "kind": "fake", "count": 1, "cores": 2}
            | {"matmul_precision": "float32"},
        }
        self.living.add(self.number)
        FakeProcess.most_living = max(self.most_living, len(self.living))
        self.loss = 1.0

    def train_epoch(self):
        assert self.number in self.living
        self.loss /= 2
        return rounds.Epoch(seconds=1.0, steps=4 * self.number, loss=self.loss)

    def close(self):
        self.living.remove(self.number)


@pytest.mark.parametrize(("platform", "most_living"), [("cpu", 3), ("gpu", 1)])
def test_an_accelerator_has_one_process_at_a_time(monkeypatch, job, platform, most_living):
    monkeypatch.setattr(scaling, "TrainingProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "platform", platform)
    monkeypatch.setattr(FakeProcess, "most_living", 0)
    record = scaling.measure(job, [1, 4, 256, 512], rounds=2)
    assert FakeProcess.most_living == most_living
    assert set() == FakeProcess.living
    assert [row["trials"] for row in record["trials"]] == [1, 4, 256]
    assert record["left_out"] == {"512": "memory holds 300 of 512 trials"}
    lines = scaling.table(record).splitlines()
    assert lines[1].startswith("29.3 MFLOP a step and trial, 128 images a step; ")
    assert lines[-1] == "512 is left out: memory holds 300 of 512 trials"
    assert lines[-2].split()[0] == "256"
    assert lines[-2].split()[-1] == "10.0"  # the peak in MB


def test_nothing_to_time_is_bad_input(monkeypatch, job):
    monkeypatch.setattr(scaling, "TrainingProcess", FakeProcess)
    with pytest.raises(UserError, match=r"^--trials=400: memory holds 300 of 400 trials; choose"):
        scaling.measure(job, [400], rounds=1)


@pytest.fixture
def prepared(monkeypatch):
    """What the process of a number does, here: JAX is set up already."""
    monkeypatch.setattr(jax_setup, "configure_jax", lambda *arguments, **options: None)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.slow
def test_a_long_epoch_is_cut_to_its_first_steps(monkeypatch, prepared, job):
    work = 3 * 2 * 128 * (2 * 784 * 16 + 3 * 16 * 10)  # of a step of 3 trials
    monkeypatch.setattr(scaling, "WORK_PER_ROUND", 4.5 * work / machine.num_cores())
    train_round, description = scaling.prepare(job, 3)
    assert (description["steps"], description["images"], description["epoch_steps"]) == (4, 512, 12)
    assert description["memory"]["data_bytes"] == 1797 * (28 * 28 + 1)
    first, *_, last = [train_round() for _ in range(20)]
    assert first.steps == 3 * 4
    assert first.loss == pytest.approx(math.log(10), rel=0.2)  # a mean over the images of a round
    assert last.loss < 0.5 * first.loss


def test_what_memory_does_not_hold_is_not_trained(monkeypatch, prepared, job):
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: 2)
    with pytest.raises(rounds.TimingError, match=r"^memory holds 2 of 3 trials$"):
        scaling.prepare(job, 3)


def test_a_full_device_is_one_line(monkeypatch, tmp_path, job):
    def fail(job, number):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nlargest: 1 GiB")

    (tmp_path / "job").write_bytes(pickle.dumps(job))
    monkeypatch.setattr(scaling, "prepare", fail)
    monkeypatch.setattr(scaling, "take_output", lambda: None)
    monkeypatch.setattr(sys, "argv", ["scaling", "4", str(tmp_path / "job")])
    with pytest.raises(SystemExit, match=r"^RESOURCE_EXHAUSTED: Out of memory$"):
        scaling.main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials="], "--trials=: expected whole numbers from 1 to 4294967296, as in"),
        (["--trials=4,0"], "--trials=0: expected whole numbers from 1 to"),
        (["--trials=4,many"], "--trials=many: expected whole numbers from 1 to"),
        (["--trials=3", "--seed=4294967294"], "--trials=3: expected whole numbers from 1 to 2"),
        (["--trials=4,8", "--peers=flax"], "--trials=4,8: not with --peers"),
        (["--trials=4", "--profile=trace"], "--trials=4: not with --peers or --profile"),
        (
            ["--trials=1", "--config.dataset=digits", "--config.precision=bfloat16"],
            "--config.precision=bfloat16: expected float32",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(server, arguments, said):
    done = server.run("benchmark", CONFIG, *arguments)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith(f"error: {said}")
    assert done.err.count("\n") == 1
