"""The program as a user meets it: what it prints, what it leaves, how it ends."""

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import in_process
import pytest
from absl import logging as absl_logging
from server import ROOT

from mnist_jax import cli
from mnist_jax.config.keys import find_axes
from mnist_jax.config.settings import SETTINGS
from mnist_jax.runs.provenance import provenance
from mnist_jax.training import machine

CONFIG = f"--config={ROOT / 'configs' / 'baseline.py'}"
DIGITS = (CONFIG, "--config.dataset=digits")
TINY = (*DIGITS, "--config.num_epochs=2")
FOUR_TRIALS = (*TINY, "--config.l2=0,1e-3", "--config.num_seeds=2")
# Unlike the tests', as a user's.
OWN_CACHE = {"JAX_COMPILATION_CACHE_DIR": None, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": None}


def main(*arguments, shell='exec "$@"', **environment):
    """Runs the program as a user would, and without the tests' JAX settings."""
    ours = {"XLA_FLAGS": None, "JAX_NUM_CPU_DEVICES": None, "PYTHONPATH": str(ROOT)}
    variables = os.environ | ours | environment
    return subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-m", "mnist_jax.main", *map(str, arguments)],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


@pytest.fixture
def run(server):
    """Runs the program to a good end, in less time; without `draw` no report is made."""

    def run(*arguments, **options):
        done = server.run("main", *arguments, XLA_FLAGS="", **options)
        assert (done.status, done.err) == (0, "")
        return done

    return run


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """A run in a folder with an unusual name."""
    workdir = tmp_path_factory.mktemp("runs") / "it's the first, Ä"
    done = server.run("main", *FOUR_TRIALS, f"--workdir={workdir}", draw=True, XLA_FLAGS="")
    assert (done.status, done.err) == (0, "")
    return workdir, done


@pytest.mark.slow
def test_without_a_language_and_a_compile_cache_a_run_gives_the_same_files(run, tmp_path):
    workdir = tmp_path / "it's the first, Ä"
    own = OWN_CACHE | {"MNIST_JAX_CACHE_DIR": str(tmp_path / "cache"), "LC_ALL": "C"}
    own |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = main(*FOUR_TRIALS, f"--workdir={workdir}", **own)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "cache").exists()
    run(*FOUR_TRIALS, f"--workdir={tmp_path / 'again'}", optimize=True)
    for name in ("config.json", "metrics.jsonl", "results.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (workdir / name).read_bytes()


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def test_a_run_leaves_what_is_promised(finished):
    workdir, _ = finished
    assert {str(path.relative_to(workdir)) for path in workdir.rglob("*")} >= {
        "config.json", "metrics.jsonl", "results.csv", "summary.json", "report.md", "report.html",
        "chosen_trial.npz", "checkpoints",
        "figures/accuracy_curves.png", "figures/accuracy_curves.svg",
        "figures/loss_curves.png", "figures/loss_curves.svg",
        "figures/accuracy_vs_l2.png", "figures/accuracy_vs_l2.svg",
    }  # fmt: skip
    assert len(metrics(workdir)) == 2 * 4
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
        assert part in done.out


@pytest.mark.slow
def test_the_same_command_gives_the_same_files(finished, run, tmp_path):
    workdir, _ = finished
    run(*FOUR_TRIALS, f"--workdir={tmp_path}")
    for name in ("config.json", "metrics.jsonl", "results.csv"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()
    grids = [json.loads((w / "summary.json").read_text())["grid"] for w in (tmp_path, workdir)]
    assert grids[0] == grids[1]


@pytest.mark.slow
def test_a_trial_that_shares_the_cores_gives_the_same_files_again(run, tmp_path):
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        run(*TINY, "--config.hidden_sizes=300,100", f"--workdir={path}")
        devices = json.loads((path / "summary.json").read_text())["provenance"]["devices"]
        assert devices["count"] == 1
        several = machine.num_cores() > 1
        assert devices["threads"] == ("shared by the devices" if several else "one a device")
    for name in ("metrics.jsonl", "results.csv"):
        assert len({(path / name).read_bytes() for path in paths}) == 1


@pytest.mark.slow
def test_seeds_may_be_named(finished, run, tmp_path):
    workdir, _ = finished
    arguments = (*TINY, "--config.l2=0,1e-3", "--seed=7,1,0", f"--workdir={tmp_path}")
    run(*arguments)
    rows = [row for row in metrics(tmp_path) if row["epoch"] == 2]
    assert [row["seed"] for row in rows] == [7, 1, 0] * 2
    known = {(r["l2"], r["seed"]): r["test_loss"] for r in metrics(workdir) if r["epoch"] == 2}
    found = {(row["l2"], row["seed"]): row["test_loss"] for row in rows if row["seed"] != 7}
    assert found == known
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["seed"], config["num_seeds"]) == ([7, 1, 0], 3)
    assert "nothing is trained again" in run(*arguments).out


@pytest.mark.slow
def test_seed_shifts_the_seeds(finished, run, tmp_path):
    workdir, _ = finished
    run(*TINY, "--config.num_seeds=2", "--seed=1", f"--workdir={tmp_path}")
    shifted = metrics(tmp_path)
    assert [row["seed"] for row in shifted] == [1, 2, 1, 2]
    by_seed = {row["seed"]: row for row in metrics(workdir) if row["l2"] == 0 and row["epoch"] == 2}
    assert shifted[2]["test_loss"] == by_seed[1]["test_loss"]


@pytest.mark.slow
def test_of_a_key_that_is_given_twice_the_last_counts(run, tmp_path):
    """Also where the first is in a file of flags, after which the command line goes on."""
    (tmp_path / "flags").write_text(
        f"{CONFIG}\n--config.l2=1,2\n--config.l2=3\n--seed=1,2\n--config.momentum=0.5\n"
    )
    given = ("--config.hidden_sizes=64", "--config.hidden_sizes", "16", "--config.l2=0", "--seed=7")
    given += ("--config.nesterov",)  # True, since it has no value
    flags = (f"--flagfile={tmp_path / 'flags'}", *given, "--config.dataset=digits")
    run(*flags, "--config.num_epochs=3", "--config.num_epochs=1", f"--workdir={tmp_path / 'run'}")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    wanted = {"hidden_sizes": [[16]], "l2": [0.0], "num_epochs": [1], "seed": 7}
    wanted |= {"momentum": [0.5], "nesterov": [True]}
    assert {key: config[key] for key in wanted} == wanted


def test_a_run_is_repeated_from_its_record(finished, run, tmp_path):
    workdir, _ = finished
    run(f"--config={workdir / 'config.json'}", f"--workdir={tmp_path}")
    for name in ("config.json", "metrics.jsonl", "results.csv"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "protocol", "num_train"),
    [
        (("--config.protocol=validation", "--config.num_validation=400"), "validation", 1037),
        pytest.param(
            ("--config.protocol=validation_last_epoch",),
            "validation_last_epoch",
            1198,
            marks=pytest.mark.slow,
        ),
        pytest.param(("--config.protocol=last_epoch",), "last_epoch", 1437, marks=pytest.mark.slow),
    ],
)
def test_the_test_set_is_read_once_unless_it_chooses(run, tmp_path, arguments, protocol, num_train):
    run(*TINY, *arguments, f"--workdir={tmp_path}")
    splits = {n.split("_")[0] for n in metrics(tmp_path)[0] if n.endswith(("_loss", "_accuracy"))}
    assert splits == {"train", "validation"} if num_train < 1437 else {"train"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["protocol"], summary["num_images"]["train"]) == (protocol, num_train)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_validation"] == 1437 - num_train
    assert "test_accuracy" in (tmp_path / "results.csv").read_text()


@pytest.mark.slow
def test_what_is_static_may_vary_too(run, tmp_path):
    several = ("--config.batch_size=64,128", "--config.hidden_sizes=(8,),(16,)")
    run(*DIGITS, *several, "--config.num_epochs=1,2", "--config.grid=list", f"--workdir={tmp_path}")
    rows = (tmp_path / "results.csv").read_text().splitlines()
    columns = rows[0].split(",")
    found = [dict(zip(columns, row.split(","), strict=True)) for row in rows[1:]]
    assert [(r["hidden_sizes"], r["num_epochs"], r["batch_size"]) for r in found] == [
        ("8", "1", "64"),
        ("16", "2", "128"),
    ]
    assert [(row["trial"], row["epoch"]) for row in metrics(tmp_path)] == [(0, 1), (1, 1), (1, 2)]


@pytest.mark.slow
def test_a_model_without_finite_logits_is_not_a_matter_of_the_learning_rate(server, tmp_path):
    (tmp_path / "net.py").write_text(
        "from flax import linen as nn\n"
        "class Net(nn.Module):\n"
        "    def setup(self):\n"
        "        self.output = nn.Dense(10)\n"
        "    def __call__(self, images):\n"
        "        return self.output(images.reshape(len(images), -1)) / 0.0\n"
    )
    asked = (*TINY, f"--config.model={tmp_path / 'net.py'}:Net", "--config.num_epochs=1")
    done = server.run("main", *asked, f"--workdir={tmp_path / 'run'}")
    said = "every trial diverged; the model's logits are not finite before any training, so mend"
    assert (done.status, done.err) == (3, f"{said} the model\n")


@pytest.mark.slow
def test_a_run_in_which_every_trial_diverged_ends_with_status_3(server, tmp_path):
    diverging = "--config.learning_rate=1e30"
    for _ in ("trained", "finished"):
        done = server.run("main", *TINY, diverging, f"--workdir={tmp_path}", draw=True)
        assert (done.status, done.err) == (3, "every trial diverged; lower the learning rate\n")
        assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_run_whose_last_trials_all_diverged_after_a_rung_ends_with_status_3(server, tmp_path):
    (tmp_path / "late.py").write_text(
        "import jax.numpy as jnp\n"
        "import optax\n"
        "def make(learning_rate=0.1, at: float = 1e9):\n"
        "    return optax.sgd(lambda i: jnp.where(i >= at, jnp.nan, learning_rate(i)))\n"
    )
    asked = (
        *TINY,
        f"--config.optimizer={tmp_path / 'late.py'}:make",
        *("--config.grid=list", "--config.learning_rate=0.05,0.0001,0.0002"),
        *("--config.at=24.0,1e6,1e6", "--config.protocol=validation"),
        *("--config.num_epochs=3", "--config.halving=3"),
    )
    for _ in ("trained", "finished"):
        done = server.run("main", *asked, f"--workdir={tmp_path / 'run'}")
        said = "every trial that was trained to the end diverged; lower the learning rate\n"
        assert (done.status, done.err) == (3, said), done.out


@pytest.mark.slow
def test_closed_streams_cost_no_run(tmp_path):
    done = main(*TINY, f"--workdir={tmp_path}", shell='exec "$@" <&- >&- 2>&-')
    assert done.returncode == 0
    assert len(metrics(tmp_path)) == 2
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_a_run_with_one_line(tmp_path):
    shell = '"$@" | head -n 1; exit ${PIPESTATUS[0]}'
    done = main(*TINY, f"--workdir={tmp_path}", shell=shell)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == "error: nobody reads the output any more; repeat the command\n"


FULL = "error: the output cannot be written (No space left on device); mend that, and repeat the"


ON_LINUX = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has it")


@pytest.mark.slow
@ON_LINUX
def test_output_of_a_finished_run_that_cannot_be_written_ends_with_one_line(finished):
    done = main(*FOUR_TRIALS, f"--workdir={finished[0]}", shell='exec "$@" > /dev/full')
    assert (done.returncode, done.stderr) == (os.EX_IOERR, f"{FULL} command\n")


@pytest.mark.slow
@ON_LINUX
def test_output_that_cannot_be_written_ends_with_one_line(tmp_path):
    """Nothing that was computed is lost: another command shows it."""
    shell = 'exec "$@" > /dev/full'
    done = main(*TINY, f"--workdir={tmp_path}", shell=shell)
    assert (done.returncode, done.stderr) == (os.EX_IOERR, f"{FULL} command\n")
    assert main(*TINY, f"--workdir={tmp_path}").returncode == 0
    for each in (None, "1"):
        done = main(*TINY, f"--workdir={tmp_path}", shell=shell, PYTHONUNBUFFERED=each)
        assert (done.returncode, done.stderr) == (os.EX_IOERR, f"{FULL} command\n")
    for name, argument in (("report", tmp_path), ("report", "--help"), ("main", "--help")):
        command = ["bash", "-c", shell, "-", sys.executable, "-m", f"mnist_jax.{name}", argument]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (os.EX_IOERR, f"{FULL} command\n")


@pytest.mark.slow
def test_a_folder_whose_name_is_no_text_costs_the_checkpoints(server, tmp_path):
    done = server.run("main", *TINY, f"--workdir={tmp_path}/\udcff", draw=True)
    assert done.status == 0
    assert done.err.startswith("warning: a checkpoint cannot be written")
    assert done.err.count("\n") == 1
    assert (tmp_path / "\udcff" / "report.html").exists()


@pytest.mark.slow
def test_runs_that_start_together_have_folders_of_their_own(server, tmp_path):
    started = [server.start("main", *TINY, cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert len(list(tmp_path.glob("runs/baseline/*Z/summary.json"))) == 2


@pytest.mark.slow
def test_a_bad_compile_cache_costs_no_run(tmp_path):
    own = OWN_CACHE | {"MNIST_JAX_CACHE_DIR": str(tmp_path / "cache")}
    folder, contents = tmp_path / "cache" / "jax", []

    def run(name):
        done = main(*TINY, "--config.hidden_sizes=8", f"--workdir={tmp_path / name}", **own)
        assert done.returncode == 0, done.stderr
        contents.append((tmp_path / name / "metrics.jsonl").read_bytes())

    run("filled")
    entries = list(folder.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
    run("corrupt")
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    run("unwritable")
    assert len(set(contents)) == 1


@pytest.mark.parametrize("platform", ["cuda", pytest.param("no_such", marks=pytest.mark.slow)])
def test_a_platform_that_is_not_there_is_bad_input(tmp_path, platform):
    done = main(*TINY, f"--workdir={tmp_path / 'run'}", JAX_PLATFORMS=platform)
    assert done.returncode == 2
    assert f"error: JAX_PLATFORMS={platform}: JAX cannot start it (" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_trained_again(finished, run):
    workdir, first = finished
    before = (workdir / "metrics.jsonl").stat().st_mtime_ns
    done = run(*FOUR_TRIALS, f"--workdir={workdir}", draw=True)
    assert "nothing is trained again" in done.out
    assert done.out.endswith(first.out[first.out.index("baseline on digits:") :])
    assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_finished_run_is_overwritten_where_that_is_asked_for(finished, run, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "copy")
    run(*TINY, f"--workdir={workdir}", "--overwrite")
    assert len(metrics(workdir)) == 2
    assert not (workdir / "figures" / "accuracy_vs_l2.png").exists()


@pytest.mark.parametrize(
    "flag", ["--overwrite", "-overwrite", "--overwrite=true", "-overwrite=1", "--nooverwrite"]
)
def test_the_command_that_repeats_a_run_deletes_nothing(monkeypatch, flag):
    command = ["python", "-m", "mnist_jax.main", CONFIG, "--workdir=--overwrite", "--seed=1"]
    monkeypatch.setattr(sys, "orig_argv", [*command[:4], flag, *command[4:]])
    assert shlex.split(provenance()["command"]) == command


@pytest.mark.parametrize("module", ["main", "report", "benchmark", None])
def test_windows_is_told_of_in_one_line(module):
    start = f"runpy.run_module('mnist_jax.{module}', run_name='__main__')"
    if not module:
        start = "mnist_jax.cli.main()"  # as the command mnist-jax does
    code = (
        "import os, runpy, signal, sys\n"
        "import absl.app, absl.logging, numpy\n"  # which know the machine that they are on
        "sys.platform = 'win32'\n"
        "sys.modules |= dict.fromkeys(['fcntl', 'resource', 'termios', 'pty'])\n"
        "for name in ('O_NONBLOCK', 'O_NOCTTY', 'getuid', 'fork'): delattr(os, name)\n"
        "for name in ('PIPE', 'USR1', 'HUP', 'XCPU'): delattr(signal, 'SIG' + name)\n"
        "import mnist_jax.cli\n"
        "sys.argv = ['x', '--help']\n"
        f"{start}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = "error: Windows: expected Linux or macOS; start it in WSL\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize("program", ["main", "report"])
@pytest.mark.parametrize(
    "columns", ["1", *(pytest.param(each, marks=pytest.mark.slow) for each in ("-7", "many", ""))]
)
def test_help_fits_any_terminal(program, columns):
    code = (
        "import os, pty, sys\n"
        "if not (pid := pty.fork()[0]):\n"
        f"    os.execvp(sys.executable, [sys.executable, '-m', 'mnist_jax.{program}', '--help'])\n"
        "os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    variables = os.environ | {"COLUMNS": columns}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("program", ["main", "report"])
def test_help_that_nobody_reads_ends_without_a_word(program):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", f"mnist_jax.{program}", "--help"]
    with open(writer, "wb") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_log_lines_are_as_those_that_are_printed_and_jax_talks_to_nobody(capsys, tmp_path):
    in_process.run(capsys, "report", cwd=tmp_path)  # once, as absl sets itself up but once
    handler = absl_logging.get_absl_handler()
    lines = [(logging.WARNING, "warning: 3 are lost"), (logging.INFO, "3 are lost")]
    for level, line in lines:
        record = logging.LogRecord("mnist_jax.x", level, "x.py", 1, "%d are lost", (3,), None)
        assert handler.python_handler.formatter.format(record) == line
    absl_logging.set_verbosity(absl_logging.INFO)
    cli._parse_flags(["x"])
    cli.FLAGS.unparse_flags()
    assert absl_logging.get_verbosity() == absl_logging.WARNING


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
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    if arguments == ["--help"]:
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= 80
        keys = {*SETTINGS, *find_axes("mlp", ("sgd", "adamw", "lion", "muon")), "conv_features"}
        named = {*re.findall(r"[ ](\w+)=", done.stdout)}
        assert (keys <= named) == (module == "mnist_jax.main")
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
