"""`mnist_jax.run` and `mnist_jax.load`: what they take, what they return, how they end."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import own
import pandas as pd
import pytest
from server import ROOT

import mnist_jax
from mnist_jax import UserError, api
from mnist_jax.config.config_files import plain, read_value
from mnist_jax.runs import execution, runner, signals

KEYS = {"dataset": "digits", "num_epochs": 2, "hidden_sizes": 4, "num_seeds": 2}


@pytest.fixture(scope="module", autouse=True)
def in_use():
    """JAX is set up already, as the tests need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "jax_for", lambda *_, **__: contextlib.nullcontext())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return mnist_jax.run("l2_sweep", l2=(0, 1e-3), workdir=folder / "run", **KEYS)


def test_the_package_hands_out_what_it_names_and_imports_no_jax():
    code = (
        "import sys, mnist_jax\n"
        "assert {*mnist_jax.__all__} <= {*dir(mnist_jax)}\n"
        "for name in mnist_jax.__all__: getattr(mnist_jax, name)\n"
        "print({'jax', 'pandas', 'matplotlib'} & {*sys.modules})\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_tables_are_those_of_the_files(run):
    rows = (run.path / "metrics.jsonl").read_text().splitlines()
    assert run.epochs.to_dict("records") == list(map(json.loads, rows))
    assert run.trials["trial"].tolist() == [0, 1, 2, 3]
    header = (run.path / "results.csv").read_text().splitlines()[0]
    assert ",".join(run.trials.columns) == header
    points = run.points
    assert points["l2"].tolist() == [0, 1e-3]
    assert "hidden_sizes" not in points
    best = run.trials.groupby("point")["best_test_accuracy"]
    np.testing.assert_allclose(points["best_test_accuracy_mean"], best.mean())
    np.testing.assert_allclose(points["best_test_accuracy_std"], best.std())
    assert (points["best_test_accuracy_low"] < points["best_test_accuracy_mean"]).all()
    assert run.config["num_seeds"] == 2
    assert run.trials["nesterov"].dtype == bool  # text would be true


def test_it_shows_itself_in_a_terminal_and_in_a_notebook(run):
    text = repr(run)
    assert text.startswith("l2_sweep on digits: 2 grid points, 4 trials, 2 epochs\n")
    assert " ".join(run.verdict.split())[:30] in " ".join(text.split())
    page = run._repr_html_()
    assert page.count("<table>") == 1
    assert page.count('<img src="data:image/png;base64,') == 3  # curves, and accuracy by l2
    assert "<h2>" not in page


def test_figures_are_drawn_one_by_one(run):
    figure = run.figures["accuracy_vs_l2"]()
    assert figure.axes[0].get_xlabel().startswith("l2 ")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_best_trial_has_its_parameters_and_predicts(run):
    assert run.best.number == run._run.summary["chosen_trial"]
    kernel = run.best.params["hidden_1"]["kernel"]
    assert kernel.shape == (784, 4)
    assert run.best is run.best
    assert run.trial(run.best.number).params["hidden_1"]["kernel"].tolist() == kernel.tolist()
    with pytest.raises(UserError, match=r"keep_weights=all") as error:
        run.trial((run.best.number + 1) % 4)
    assert "--" not in str(error.value)


def test_it_loads_what_is_there_and_trains_nothing_again(run, monkeypatch):
    monkeypatch.setattr(execution, "jax_for", None)
    again = mnist_jax.run("l2_sweep", l2=(0, 1e-3), workdir=run.path, report=False, **KEYS)
    for view in (again, mnist_jax.load(run.path), mnist_jax.load(str(run.path))):
        assert view.trials.equals(run.trials)


def test_a_report_is_written_unless_it_is_not_wanted(run, tmp_path, monkeypatch, capsys):
    assert (run.path / "report.html").exists()
    monkeypatch.chdir(tmp_path)
    config = mnist_jax.default_config()
    for key, value in KEYS.items():
        config[key] = value
    view = mnist_jax.run(config, report=False, seed=(3, 8), progress=False)
    assert not (view.path / "report.html").exists()
    assert view.path.parent == tmp_path / "runs" / "run"
    assert view.trials["seed"].tolist() == [3, 8]
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_where_it_is_wanted(tmp_path, capfd):
    mnist_jax.run(workdir=tmp_path, report=False, progress=True, **(KEYS | {"num_seeds": 1}))
    out, err = capfd.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "val_accuracy: 0." in err


@pytest.mark.parametrize(
    "value",
    [
        3,
        0.1,
        1e-30,
        True,
        None,
        "cosine",
        "a,b",
        (),
        (1,),
        (0, 1e-4),
        ("sgd", "adam"),
        ((500, 300), (64,)),
        [1, 2],
        np.float32(0.5),
        np.arange(3),
        range(2),
    ],
)
def test_values_are_recorded_as_they_can_be_typed(value):
    typed = api._typed(value)
    assert typed == value if isinstance(value, str) else read_value(typed) == plain(value)


def test_the_record_has_the_command_that_does_the_same(run, tmp_path):
    assert run.provenance == json.loads((run.path / "summary.json").read_text())["provenance"]
    assert run.provenance["command"] == (
        "python -m mnist_jax.main --config=l2_sweep --config.l2=0,0.001 --config.dataset=digits"
        " --config.num_epochs=2 --config.hidden_sizes=4 --config.num_seeds=2"
    )


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        (None, {"learning_rate": -1}, r"^learning_rate=-1: expected a finite number, positive"),
        ({"learning_rate": -1}, {}, r"^learning_rate=-1: expected a finite number, positive"),
        (None, {"lr": 1}, r"^lr: no such key; did you mean learning_rate\?"),
        ("l2_swep", {}, r"^config=l2_swep: no config has that name; did you mean l2_sweep\?"),
        (None, {"seed": -1}, "^seed=-1: expected a whole number"),
        (None, {"seed": (1, 1)}, "^seed=1,1: expected seeds that differ"),
        (None, {"data_dir": "/nix"}, "^data_dir=/nix"),
        (None, {"model": dict}, "^model=<class 'dict'>: expected a name, .* model='FILE.py:dict'"),
        (None, {"dataset": np.zeros(3)}, "^dataset=ndarray: expected a name or a path"),
        (None, {"platform": "gpux"}, "^platform=gpux: expected "),
        (None, {"dataset": ([[0]], [1])}, r"^dataset=tuple: expected a name or a path"),
        (None, {"l2": pd.DataFrame({"l2": [0, 1]})}, r"^l2=\(0,\): expected a finite number"),
        (None, {"workdir": 3}, "^workdir=3: expected a path, as text or a pathlib.Path$"),
        (None, {"workdir": ""}, "^workdir=: expected a folder; name one, or leave it out$"),
        (None, {"data_dir": b"x"}, "^data_dir=b'x': expected a path"),
        (None, {"overwrite": "no"}, "^overwrite='no': expected True or False$"),
        (3, {}, "^config=3: expected a config file .*; or a dict of keys"),
        ([1], {}, r"^config=\[1\]: expected a config file"),
        (mnist_jax.default_config, {}, "^config=<function .*: expected a config file"),
    ],
)
def test_bad_input_is_one_error_in_the_words_of_a_call(
    tmp_path, monkeypatch, config, changes, said
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        mnist_jax.run(config, **changes)
    assert "--" not in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_who_asks_for_a_shard_is_told_of_the_command():
    with pytest.raises(UserError, match=r"^shard: no such key; python -m mnist_jax.main has "):
        mnist_jax.run(shard="0/2")


def test_another_run_in_the_folder_is_refused_or_overwritten(tmp_path):
    keys = KEYS | {"num_epochs": 1, "num_seeds": 1}
    mnist_jax.run(workdir=tmp_path, report=False, **keys)
    with pytest.raises(UserError, match=r"^workdir=.*; choose another workdir, or give overwrite="):
        mnist_jax.run(workdir=tmp_path, report=False, **(keys | {"learning_rate": 0.3}))
    keys |= {"learning_rate": 0.3}
    view = mnist_jax.run(workdir=tmp_path, report=False, overwrite=True, **keys)
    assert view.config["learning_rate"] == [0.3]


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(UserError, match="holds no"):
        mnist_jax.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"^workdir=None: expected a path"):
        mnist_jax.load(None)


def test_diverged_trials_are_told_of(tmp_path, capsys):
    keys = KEYS | {"learning_rate": 1e30, "num_epochs": 1}
    view = mnist_jax.run(workdir=tmp_path, report=False, **keys)
    assert "warning: every trial diverged; lower the learning rate" in capsys.readouterr().err
    assert (view.trials["diverged_epoch"] == 1).all()


@pytest.mark.slow
def test_own_code_is_named_by_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(own.NET)
    keys = KEYS | {"num_epochs": 1, "num_seeds": 1}
    del keys["hidden_sizes"]
    view = mnist_jax.run(model="net.py:Net", report=False, **keys)
    assert view.best.predict(np.zeros((2, 28, 28))).shape == (2, 10)


class Stop:
    """In place of `StopSignals`: a signal has come."""

    def __init__(self, number):
        self.number = number

    def __call__(self, own_process):
        assert not own_process
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_ctrl_c_returns_what_is_there_and_the_same_call_goes_on(tmp_path, monkeypatch, capsys):
    keys = KEYS | {"num_epochs": 6, "workdir": tmp_path / "run", "report": False}
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopSignals", Stop(signal.SIGINT))
        view = mnist_jax.run(**keys)
    said = capsys.readouterr().err
    assert re.fullmatch(r"stopped after epoch \d of 6, and saved: the same call with .*\n", said)
    assert f"workdir={tmp_path / 'run'} resumes it" in said
    assert 1 <= view.epochs["epoch"].max() < 6
    assert repr(view).startswith("NOT FINISHED")
    assert ">NOT FINISHED" in view._repr_html_()
    with pytest.raises(UserError, match="has not finished"):
        view.best  # noqa: B018
    whole = mnist_jax.run(**keys)
    assert whole.epochs["epoch"].max() == 6
    assert whole.best.number in whole.trials["trial"].tolist()


def test_other_signals_end_the_program_that_calls_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "StopSignals", Stop(signal.SIGTERM))
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        mnist_jax.run(**KEYS, workdir=tmp_path, report=False)


def test_ctrl_c_before_the_first_epoch_is_what_it_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.Runner, "train", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mnist_jax.run(**KEYS, workdir=tmp_path)


def test_a_second_ctrl_c_interrupts_at_once_where_the_process_is_not_the_run_s(monkeypatch):
    exits = mock.Mock()
    monkeypatch.setattr(os, "_exit", exits)
    monkeypatch.setattr(signals, "SECOND", 0.0)

    def press():
        with signals.StopSignals(own_process=False):
            for _ in range(1000):  # until it is heard
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            press()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not exits.called
