import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = ("--config=configs/baseline.py", "--config.dataset=digits", "--config.num_epochs=2")


def main(*arguments, **environment):
    """Runs the program as a user would, from the checkout, and without the tests' JAX settings."""
    ours = {"XLA_FLAGS": None, "JAX_NUM_CPU_DEVICES": None}
    variables = os.environ | ours | environment
    return subprocess.run(
        [sys.executable, "-m", "mnist_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def snapshot(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "first"
    done = main(*TINY, "--config.l2=0,1e-3", "--config.num_seeds=2", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_a_run_leaves_what_is_promised(finished):
    workdir, _ = finished
    assert set(map(str, snapshot(workdir))) >= {
        "config.json", "metrics.jsonl", "results.csv", "summary.json", "report.md", "report.html",
        "chosen_trial.npz", "checkpoints",
        "figures/accuracy_curves.png", "figures/accuracy_curves.svg",
        "figures/accuracy_vs_l2.png", "figures/accuracy_vs_l2.svg",
    }  # fmt: skip
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2 * 4
    config = json.loads((workdir / "config.json").read_text())
    assert config["name"] == "baseline"
    assert config["l2"] == [0.0, 1e-3]
    columns = (workdir / "results.csv").read_text().splitlines()[0].split(",")
    assert set(columns) >= {
        "trial", "point", "seed", "l2", "learning_rate", "momentum", "num_epochs", "train_loss",
        "train_accuracy", "test_loss", "test_objective", "test_accuracy", "best_test_accuracy",
        "best_test_epoch", "diverged_epoch",
    }  # fmt: skip


def test_a_run_shows_layers_progress_table_and_paths(finished):
    workdir, done = finished
    for part in ("hidden_1", "55,050", "Epoch 1/2 - loss: ", "val_accuracy: ", str(workdir)):
        assert part in done.stdout
    assert done.stderr == ""


def test_the_same_command_gives_the_same_files(finished, tmp_path):
    workdir, _ = finished
    done = main(*TINY, "--config.l2=0,1e-3", "--config.num_seeds=2", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in ("config.json", "metrics.jsonl", "results.csv"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()
    grids = [json.loads((w / "summary.json").read_text())["grid"] for w in (tmp_path, workdir)]
    assert grids[0] == grids[1]


def test_seed_shifts_the_seeds(finished, tmp_path):
    workdir, _ = finished
    done = main(*TINY, "--config.num_seeds=2", "--seed=1", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    first = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    shifted = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["seed"] for row in shifted] == [1, 2, 1, 2]
    by_seed = {row["seed"]: row for row in first if row["l2"] == 0.0 and row["epoch"] == 2}
    assert shifted[2]["test_loss"] == by_seed[1]["test_loss"]


@pytest.mark.parametrize(
    ("arguments", "protocol", "held_out"),
    [
        (("--config.num_validation=400",), "validation", "validation"),
        (
            ("--config.num_validation=400", "--config.choose_epoch=False"),
            "validation_last_epoch",
            "validation",
        ),
        (("--config.choose_epoch=False",), "last_epoch", None),
    ],
)
def test_the_test_set_is_read_once_unless_it_chooses(tmp_path, arguments, protocol, held_out):
    done = main(*TINY, *arguments, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    splits = {name.split("_")[0] for name in row if name.endswith(("_loss", "_accuracy"))}
    assert splits == {"train", held_out} - {None}
    assert json.loads((tmp_path / "summary.json").read_text())["protocol"] == protocol
    assert "test_accuracy" in (tmp_path / "results.csv").read_text()


def test_what_is_static_may_vary_too(tmp_path):
    arguments = ("--config.batch_size=64,128", "--config.hidden_sizes=(8,),(16,)")
    both = (*arguments, "--config.num_epochs=1,2", "--config.grid=list")
    done = main(TINY[0], TINY[1], *both, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "results.csv").read_text().splitlines()
    columns = rows[0].split(",")
    found = [dict(zip(columns, row.split(","), strict=True)) for row in rows[1:]]
    assert [(r["hidden_sizes"], r["num_epochs"], r["batch_size"]) for r in found] == [
        ("8", "1", "64"),
        ("16", "2", "128"),
    ]
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [(row["trial"], row["epoch"]) for row in metrics] == [(0, 1), (1, 1), (1, 2)]


def test_a_run_in_which_every_trial_diverged_ends_with_status_3(tmp_path):
    done = main(*TINY, "--config.learning_rate=1e30", f"--workdir={tmp_path}")
    assert done.returncode == 3
    assert done.stderr.startswith("every trial diverged")
    assert (tmp_path / "report.html").exists()


def test_a_bad_compile_cache_costs_no_run(tmp_path):
    own = {"JAX_COMPILATION_CACHE_DIR": None, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": None}
    own |= {"MNIST_JAX_CACHE_DIR": str(tmp_path / "cache")}
    folder, metrics = tmp_path / "cache" / "jax", []

    def run(name):
        done = main(*TINY, f"--workdir={tmp_path / name}", **own)
        assert done.returncode == 0, done.stderr
        metrics.append((tmp_path / name / "metrics.jsonl").read_bytes())

    run("filled")
    entries = list(folder.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
    run("corrupt")
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    run("unwritable")
    assert len(set(metrics)) == 1


BAD_INPUT = {
    "--config.num_epoch=3": "num_epoch",
    "--config.num_epochs=0": "num_epochs=0",
    "--config.num_epochs=-2": "num_epochs=-2",
    "--config.num_epochs=1.5": "num_epochs=1.5",
    "--config.num_seeds=0": "num_seeds=0",
    "--config.batch_size=0": "batch_size=0",
    "--config.batch_size=1438": "at most 1437",
    "--config.num_validation=-1": "num_validation=-1",
    "--config.num_validation=1437": "less than the 1437",
    "--config.hidden_sizes=64,0": "hidden_sizes",
    "--config.hidden_sizes=6.5": "hidden_sizes",
    "--config.conv_features=1,1,1,1": "at most 3",
    "--config.hidden_sizes=()": "no kernel",
    "--config.l2=-1": "l2=-1",
    "--config.l2=nan": "l2=nan",
    "--config.l2=inf": "l2=inf",
    "--config.l2=()": "l2=()",
    "--config.l2=0.1,0.1": "distinct",
    "--config.l2=small": "l2=small",
    "--config.learning_rate=0": "learning_rate=0",
    "--config.momentum=1": "momentum=1",
    "--config.dataset=mnst": "mnst",
    "--config.l2_on_output=maybe": "maybe",
    "--config.schedule=cosinus": "cosinus",
    "--config.warmup_steps=24": "less than all 24",
    "--config.nesterov=True": "a momentum above 0",
    "--config.label_smoothing=1": "label_smoothing=1",
    "--config.weight_decay=-1": "weight_decay=-1",
    "--config.choose_epoch=2": "choose_epoch",
    "--config.grid=grid": "grid=grid",
    "--config.grid=random": "num_points=0",
    "--config.num_points=3": "num_points=3",
    "--config.design_seed=-1": "design_seed=-1",
    "--config.checkpoint_epochs=0": "checkpoint_epochs=0",
    "--config.checkpoints_kept=0": "checkpoints_kept=0",
    "--overwrite=maybe": "overwrite",
    "--seed=-1": "--seed=-1",
    "--seed=4294967296": "--seed=4294967296",
    "--seed=one": "--seed=one",
    "--sed=1": "Did you mean: seed",
    "baseline": "baseline: unexpected",
    "--data_dir=/nowhere": "--data_dir=/nowhere",
    "--config=configs/nowhere.py": "configs/nowhere.py",
    "--config=configs": "configs",
    "--config=README.md": "README.md",
}


def assert_refused_in_one_line(done, said):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


@pytest.mark.parametrize("bad", BAD_INPUT)
def test_bad_input_is_one_line_and_status_2(bad, tmp_path):
    workdir = tmp_path / "run"
    given = [bad] if bad.startswith("--config=") else [*TINY, bad]
    if bad == "--config.hidden_sizes=()":
        given.append("--config.l2=1e-3")
    if bad.startswith("--data_dir"):
        given.append("--config.dataset=mnist")
    if bad.startswith("--config.num_epochs"):
        given.remove(TINY[2])
    done = main(*given, f"--workdir={workdir}", MNIST_JAX_CACHE_DIR=str(tmp_path / "cache"))
    assert_refused_in_one_line(done, BAD_INPUT[bad])
    assert done.stdout == ""
    assert not workdir.exists()


BAD_CONFIGS = {
    "def get_config(:": "invalid syntax",
    "x = 1": "get_config",
    "def get_config(): raise RuntimeError('no\\nluck')": "no luck",
    "def get_config(): return 3": "",
    "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'l3': 1.0})": "l3",
    "import ml_collections\ndef get_config(): return ml_collections.ConfigDict()": "missing",
}


@pytest.mark.parametrize("text", BAD_CONFIGS)
def test_a_bad_config_file_is_one_line_and_status_2(text, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(text)
    done = main(f"--config={path}")
    assert_refused_in_one_line(done, BAD_CONFIGS[text])


def test_a_finished_run_is_not_trained_again(finished):
    workdir, first = finished
    before = (workdir / "metrics.jsonl").stat().st_mtime_ns
    done = main(*TINY, "--config.l2=0,1e-3", "--config.num_seeds=2", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "nothing is trained again" in done.stdout
    assert done.stdout.endswith(first.stdout[first.stdout.index("baseline on digits:") :])
    assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_run_is_refused_and_left_as_it_is_unless_overwritten(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    done = main(*TINY, f"--workdir={workdir}")
    assert_refused_in_one_line(
        done, "differs in l2 ([0.0, 0.001], not [0.0]), num_seeds (2, not 1)"
    )
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    done = main(*TINY, f"--workdir={workdir}", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (workdir / "figures" / "accuracy_vs_l2.png").exists()


def test_a_work_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = main(*TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("module", ["mnist_jax.main", "mnist_jax.report"])
@pytest.mark.parametrize("arguments", [["--help"], ["--sed=1"]])
def test_help_and_mistakes_do_not_wait_for_jax(module, arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = {['x', *arguments]!r}\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "finally:\n"
        "    slow = {'jax', 'matplotlib', 'tensorflow_datasets', 'sklearn', 'scipy'}\n"
        "    assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
    assert "AssertionError" not in done.stderr
