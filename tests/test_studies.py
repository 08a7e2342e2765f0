"""What a study's page says is what its records say; what it measures, it can measure again."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from server import ROOT

ACCELERATORS = ROOT / "experiments" / "accelerators"


def load(study):
    """Returns the module of a study's `make.py`."""
    path = ROOT / "experiments" / study / "make.py"
    spec = importlib.util.spec_from_file_location(f"make_{study}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_on_accelerators_is_that_of_its_records(tmp_path):
    shutil.copytree(ACCELERATORS, tmp_path, dirs_exist_ok=True)
    make = load("accelerators")
    make.tell(tmp_path, make.WHOLE)
    assert (tmp_path / "README.md").read_text() == (ACCELERATORS / "README.md").read_text()


def test_what_is_recorded_or_noted_is_not_measured_again(tmp_path, monkeypatch, capfd):
    shutil.copytree(ACCELERATORS, tmp_path, dirs_exist_ok=True)
    make, ran = load("accelerators"), []
    monkeypatch.setattr(make.subprocess, "run", lambda command, **_: ran.append(command))
    make.measure(tmp_path, make.WHOLE, minutes=7)
    assert ran == []
    epochs = tmp_path / "epochs.jsonl"
    epochs.write_text("".join(epochs.read_text().splitlines(keepends=True)[1:]))
    (tmp_path / "benchmark_15.json").unlink()
    make.measure(tmp_path, make.WHOLE, minutes=7)
    (timed, benchmarked) = ran
    assert timed[3:] == ["mnist", "l2_sweep:15:tf32"]
    assert "--peers=torch,flax" in benchmarked
    make.measure(tmp_path, make.WHOLE, minutes=0)
    assert len(ran) == 2
    assert "benchmark_15.json is left for the next call" in capfd.readouterr().out


def test_a_run_is_cut_to_its_accuracies_on_the_test_set(tmp_path):
    study = ROOT / "experiments" / "dat407_a7" / "l2_sweep_validation" / "results.csv"
    load("accelerators").keep_accuracies(study, tmp_path / "accuracies.csv")
    first, second, *_ = (tmp_path / "accuracies.csv").read_text().splitlines()
    assert first == "seed,l2,diverged_epoch,test_accuracy,test_accuracy_at_best_validation"
    seed, l2, diverged, *accuracies = second.split(",")
    assert (seed, l2, diverged) == ("0", "0.001", "0")
    assert all(0.97 < float(value) < 0.99 for value in accuracies)


def test_the_page_on_the_notebook_has_what_many_seeds_say():
    make = load("dat407_a7")
    page = (ROOT / "experiments" / "dat407_a7" / "README.md").read_text()
    for name, section in (("many_seeds", make.many_seeds()), ("many_cnns", make.many_cnns())):
        assert f"<!-- {name} -->\n{section}\n<!-- end {name} -->" in page


@pytest.mark.slow
def test_accelerators_are_measured_in_small_on_a_cpu(tmp_path):
    command = [sys.executable, str(ACCELERATORS / "make.py"), str(tmp_path), "--small"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    make = load("accelerators")
    rows = make.rows_of(tmp_path / "epochs.jsonl")
    assert [f"{r['config']}:{r['trials']}:{r['precision']}" for r in rows] == make.SMALL.cases
    assert all(row["test_accuracy"] > 0.2 and row["epoch_ms"] > 0 for row in rows)
    records = {*make.SMALL.records} - {"peers.jsonl"}  # PyTorch may not be there
    assert all((tmp_path / record).exists() for record in records)
    for name in ("l2_15", "l2_15_warm", "l2_validation"):
        lines = (tmp_path / name / "accuracies.csv").read_text().splitlines()
        assert lines[0].startswith("seed,l2,diverged_epoch,test_accuracy")
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert len(lines) == 1 + sum(point["num_trials"] for point in summary["grid"])
    page = (tmp_path / "README.md").read_text()
    assert "| `l2_sweep.py`, 10 trials of 1 epochs, warm caches |" in page
    assert page.count("`benchmark_15.json`") == 1
    assert (tmp_path / "trials.png").stat().st_size > 10_000
