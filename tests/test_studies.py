"""What a study's page says is what its records say; what it measures, it can measure again."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from server import ROOT

from mnist_jax.report import render

ACCELERATORS = ROOT / "experiments" / "accelerators"


def load(study):
    """Returns the module of a study's `make.py`."""
    path = ROOT / "experiments" / study / "make.py"
    spec = importlib.util.spec_from_file_location(f"make_{study}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def copy_study(study, folder):
    """Copies a study, with nothing between the markers of its page; returns what the page was."""
    shutil.copytree(ROOT / "experiments" / study, folder)
    page = (folder / "README.md").read_text()
    blank = re.sub(r"<!-- (\w+) -->\n.*?\n<!-- end \1 -->", r"<!-- \1 --><!-- end \1 -->", page,
                   flags=re.DOTALL)  # fmt: skip
    assert len(blank) < len(page)
    (folder / "README.md").write_text(blank)
    return page


def test_the_page_on_accelerators_is_that_of_its_records(tmp_path):
    page, make = copy_study("accelerators", tmp_path / "study"), load("accelerators")
    make.write_page(tmp_path / "study", make.WHOLE)
    assert (tmp_path / "study" / "README.md").read_text() == page


@pytest.mark.parametrize("study", ["beyond_98_47", "dat407_a7", "halving", "step_time"])
def test_a_page_is_that_of_its_records(study, tmp_path, monkeypatch):
    """The kept files of runs stand for the runs: without the metrics and figures that are large."""
    folder, runs = tmp_path / "study", tmp_path / "runs"
    page, make = copy_study(study, folder), load(study)
    shutil.copytree(folder, runs)
    for record in runs.glob("*/config.json"):
        record.with_name("metrics.jsonl").touch()
        record.with_name("figures").mkdir()
    for figure in folder.glob("*_accuracy_*.png"):
        name, _, kind = figure.stem.partition("_accuracy_")
        shutil.copy(figure, runs / name / "figures" / f"accuracy_{kind}.png")
    monkeypatch.setattr(make, "HERE", folder)
    monkeypatch.setattr(make, "RUNS", runs, raising=False)
    monkeypatch.setattr(sys, "argv", ["make.py"])
    make.main()
    assert (folder / "README.md").read_text() == page


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


def test_a_run_is_trained_unless_it_is_finished(tmp_path, monkeypatch):
    studies, trained = load("beyond_98_47").studies, []
    monkeypatch.setattr(studies, "run", lambda *words: trained.append(words))
    monkeypatch.setattr(studies.results, "read_run", lambda path: path)
    assert studies.run_once(tmp_path, "--seed=1") == tmp_path
    assert trained == [("main", "--seed=1", f"--workdir={tmp_path}")]
    (tmp_path / "summary.json").touch()
    studies.run_once(tmp_path, "--seed=1")
    assert len(trained) == 1


def test_a_page_is_filled_in_between_its_markers(tmp_path):
    path, studies = tmp_path / "README.md", load("beyond_98_47").studies
    path.write_text("a\n<!-- x -->\nold\n<!-- end x -->\nb\n")
    for _ in range(2):
        studies.fill_in(path, {"x": render.markdown_table(["h", "n"], [["1", "`2`"]])})
    expected = "| h | n |\n| --- | ---: |\n| 1 | `2` |"
    assert path.read_text() == f"a\n<!-- x -->\n{expected}\n<!-- end x -->\nb\n"


def test_commit_is_shortened_and_a_changed_checkout_is_told():
    commit_of = load("beyond_98_47").studies.commit_of
    assert commit_of({"commit": "a" * 40}) == "a" * 12
    assert commit_of({"commit": f"{'a' * 40}-dirty"}) == f"{'a' * 12}-dirty"


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
    rows = make.studies.read_rows(tmp_path / "epochs.jsonl")
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
