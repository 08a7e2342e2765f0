"""Several runs in one process, where JAX is in use already, and in threads."""

import json
import os
import subprocess
import sys

import pytest
from server import ROOT

SIZES = {"one": 1, "five": 5, "two": 2, "three": 3, "four": 4}
KEYS = {"dataset": "digits", "num_epochs": 2, "hidden_sizes": 16}

SCRIPT = """
import json, os, sys, threading
import jax

print(len(jax.devices()))
before = dict(jax.config.values), dict(os.environ)
import mnist_jax


def run(name):
    mnist_jax.run("baseline", workdir=name, num_seeds=SIZES[name], platform="cpu", **KEYS)


run("one")
run("five")
run("four")
threads = [threading.Thread(target=run, args=(name,)) for name in ("two", "three")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
old, settings = before[0], jax.config.values
changed = {name for name in old if old[name] != settings[name] and "num_cpu_devices" not in name}
assert not changed, changed
changed = {name for name in before[1] if os.environ[name] != before[1][name]}
assert not changed, changed
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 2])
def test_runs_of_any_size_have_the_bits_of_lone_ones(tmp_path, num_devices):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "TQDM_DISABLE")}
    environment |= {"JAX_NUM_CPU_DEVICES": str(num_devices), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"SIZES, KEYS = {SIZES}, {KEYS}\n{SCRIPT}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{num_devices}\n"
    costs = "warning: JAX was in use before, with 1 CPU device: no more trials train at once, thou"
    assert (costs in done.stderr) == (num_devices < (os.cpu_count() or 1))
    for name, size in SIZES.items():
        keys = [f"--config.{key}={value}" for key, value in KEYS.items()]
        arguments = [
            "--config=baseline",
            "--config.platform=cpu",
            *keys,
            f"--config.num_seeds={size}",
        ]
        if size > 1:  # as many threads in a device
            arguments.append(f"--config.devices={num_devices}")
        command = [sys.executable, "-m", "mnist_jax.main", *arguments, f"--workdir=alone/{name}"]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
        for file in ("metrics.jsonl", "results.csv"):
            together, alone = (tmp_path / path / name / file for path in (".", "alone"))
            assert together.read_bytes() == alone.read_bytes(), (name, file)
        record = json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))
        assert record["provenance"]["devices"]["count"] == min(size, num_devices)
