"""A run that grows ends with the files of the run that had its trials and epochs from the start."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest
from server import ROOT, snapshot
from test_resume import PowerCutError, share_programs, tiny_dataset  # noqa: F401

from mnist_jax import UserError
from mnist_jax.config.experiment import Experiment, read_experiment
from mnist_jax.runs import (
    choosing,
    execution,
    growth,
    made_files,
    progress,
    provenance,
    results,
    runner,
    weights,
    workdirs,
)
from mnist_jax.training import memory

EXACT = ("config.json", "metrics.jsonl", "results.csv", "chosen_trial.npz")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """JAX is set up already, and data is made up."""
    prepare(monkeypatch)


def prepare(patch):
    patch.setattr(execution, "jax_for", lambda *_, **__: contextlib.nullcontext())
    patch.setattr(Experiment, "load_data", lambda *_: tiny_dataset())


def asked(seed="0", shard=None, **typed):
    base = {"dataset": "digits", "hidden_sizes": 4, "num_epochs": 2}
    given = {key: str(value) for key, value in (base | typed).items()}
    return read_experiment(str(ROOT / "configs" / "baseline.py"), given, seed=seed, shard=shard)


def run(path, **changes):
    return execution.execute(asked(**changes), str(path))


def stop_before(monkeypatch, epoch, group=0):
    """Makes a run die before it saves an epoch of a group."""
    save, folders = runner.Checkpoints.save, []

    def save_or_die(checkpoints, step, state, record):
        if checkpoints.folder not in folders:
            folders.append(checkpoints.folder)
        if step == epoch and folders.index(checkpoints.folder) == group:
            raise PowerCutError
        save(checkpoints, step, state, record)

    monkeypatch.setattr(runner.Checkpoints, "save", save_or_die)


def files_of(path):
    """Returns the content of what a run leaves, but for the report and how it was made."""
    names = [x for x in made_files.FILES if not x.startswith("report")]
    found = {name: (path / name).read_bytes() for name in names if (path / name).exists()}
    if "summary.json" in found:
        summary = json.loads(found["summary.json"])
        del summary["provenance"]
        found["summary.json"] = summary
    for trial in weights.kept(path):
        with np.load(weights.file(path, trial)) as arrays:
            found[trial] = {name: arrays[name].tobytes() for name in arrays}
    return found


def assert_same(path, whole):
    found, wanted = files_of(path), files_of(whole)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == wanted[name], name
    assert not (path / "growth").exists()


SEARCH = {"learning_rate": "0.01,1", "momentum": "0.1,0.9", "num_seeds": 2}
GROWN = {
    "seeds": ({"num_seeds": 2}, {"num_seeds": 5}),
    "seeds of a grid": (
        {"num_seeds": 2, "batch_size": "16,32", "l2": "0,0.1"},
        {"num_seeds": 3, "batch_size": "16,32", "l2": "0,0.1"},
    ),
    "a list of seeds": ({"seed": "3,1"}, {"seed": "1,2,3"}),
    "a list from a number": ({"seed": "4", "num_seeds": 2}, {"seed": "9,5,4"}),
    "another axis varies": ({"num_seeds": 2}, {"num_seeds": 3, "momentum": "0.9,0", "l2": "0,0.1"}),
    "another program comes first": ({"num_seeds": 2}, {"num_seeds": 2, "batch_size": "32,128"}),
    "a list": (
        {"grid": "list", "learning_rate": "0.1,0.2", "hidden_sizes": "((4,),(5,))", "num_seeds": 2},
        {
            "grid": "list",
            "learning_rate": "0.3,0.2,0.1",
            "hidden_sizes": "((4,),(5,),(4,))",
            "num_seeds": 2,
        },
    ),
    "a product of a list": (
        {"grid": "list", "learning_rate": "0.1,0.2", "l2": "0,0.1", "num_seeds": 1},
        {"grid": "product", "learning_rate": "0.1,0.2", "l2": "0,0.1", "num_seeds": 2},
    ),
    "random": (
        SEARCH | {"grid": "random", "num_points": 2},
        SEARCH | {"grid": "random", "num_points": 4},
    ),
    "halton": (
        SEARCH | {"grid": "halton", "num_points": 3},
        SEARCH | {"grid": "halton", "num_points": 4, "num_seeds": 3},
    ),
    "another optimizer": (
        {"num_seeds": 2, "learning_rate": "0.05"},
        {"num_seeds": 2, "learning_rate": "0.05", "optimizer": "adamw,sgd"},
    ),
    "numbers of epochs as an axis": ({"num_seeds": 2}, {"num_seeds": 2, "num_epochs": "3,2"}),
    "the same trials in other words": ({"seed": "0,1"}, {"seed": "0", "num_seeds": 2}),
}
ALWAYS = ("seeds", "another axis varies", "a list", "the same trials in other words")
OFTEN = [
    pytest.param(*changes, id=name, marks=[pytest.mark.slow] * (name not in ALWAYS))
    for name, changes in GROWN.items()
]


@pytest.mark.parametrize(("before", "after"), OFTEN)
def test_a_run_grows_by_the_trials_that_it_lacks(tmp_path, capsys, before, after):
    path, whole = tmp_path / "run", tmp_path / "whole"
    run(path, **before)
    capsys.readouterr()
    run(path, **after)
    said = capsys.readouterr().out
    have, want = (len(x.points) * x.num_seeds for x in (asked(**before), asked(**after)))
    assert f"{path} holds {have} of these {want} trials\n" in said
    groups = [int(n) for n in re.findall(r"(\d+) trials? of \d+ epochs?$", said, re.MULTILINE)]
    assert sum(groups) == want - have
    run(whole, **after)
    assert_same(path, whole)
    assert run(path, **after).was_finished
    if have < want:
        with pytest.raises(UserError, match=r"it has more trials than these, and a run does not"):
            run(path, **before)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_a_stopped_run_is_finished_before_it_grows(tmp_path, monkeypatch, capsys, first):
    """It may have been stopped while it grew, by one command, and go on by another."""
    path, grid = tmp_path / "run", {"batch_size": "16,32", "keep_weights": "all"}
    with monkeypatch.context() as patch:
        stop_before(patch, 2, group=int(first))
        with pytest.raises(PowerCutError):
            run(path, num_seeds=2, **grid)
    with monkeypatch.context() as patch:
        stop_before(patch, 1, group=2 if first else 3)  # the last one
        with pytest.raises(PowerCutError):
            run(path, num_seeds=3, **grid)
    assert json.loads((path / "config.json").read_text())["num_seeds"] == 3
    with pytest.raises(UserError, match=r"differs in num_seeds \(3, not 2\); it has more trials"):
        run(path, num_seeds=2, **grid)
    capsys.readouterr()
    run(path, num_seeds=4, **grid)
    assert "holds 6 of these 8 trials" in capsys.readouterr().out
    run(tmp_path / "whole", num_seeds=4, **grid)
    assert_same(path, tmp_path / "whole")
    made = json.loads((path / "summary.json").read_text())["provenance"]
    assert len(made["seconds_by_process"]) == 5  # each time that it grew it ended the old run first


# --- more epochs ---

LONG = {"batch_size": "16,32", "ema_decay": "0,0.5", "num_seeds": 2, "momentum": 0.9}


@pytest.mark.parametrize(
    "kept",
    ["all", *(pytest.param(x, marks=pytest.mark.slow) for x in ("checkpoints", "all, stopped"))],
)
@pytest.mark.parametrize("protocol", ["validation", pytest.param("test", marks=pytest.mark.slow)])
def test_a_finished_run_trains_on_where_its_state_is_kept(
    tmp_path, monkeypatch, capsys, kept, protocol
):
    """In the last case the trials that train on are stopped, and a damaged checkpoint is left."""
    path, whole, more = tmp_path / "run", tmp_path / "whole", LONG | {"warmup_steps": 3}
    monkeypatch.setattr(Experiment, "load_data", lambda *_: held_out())
    more |= {"protocol": protocol}
    with monkeypatch.context() as patch:
        if kept == "checkpoints":  # as versions left them that kept no weights
            patch.setattr(made_files, "tidy", lambda path: None)
        run(path, keep_weights="chosen" if kept == "checkpoints" else "all", **more)
    before = (path / "metrics.jsonl").read_bytes()
    if kept == "all, stopped":
        with monkeypatch.context() as patch:
            stop_before(patch, 5)
            with pytest.raises(PowerCutError):
                run(path, num_epochs=5, **more)
        for manifest in path.glob("checkpoints/trials_*/*/manifest.json"):
            manifest.write_text("")
    capsys.readouterr()
    run(path, num_epochs=5, **more)
    said = capsys.readouterr().out
    assert (path / "metrics.jsonl").read_bytes()[:200] == before[:200]
    assert said.count("4 trials of 5 epochs, resumed after epoch 2") == 2
    run(whole, num_epochs=5, **more)
    assert_same(path, whole)
    assert weights.kept(path) == []
    with pytest.raises(UserError, match=r"\[5\], not \[2\]\); a run does not get shorter; choose"):
        run(path, **more)


def held_out():
    data = tiny_dataset()
    return data._replace(
        validation_images=data.train_images[:10], validation_labels=data.train_labels[:10]
    )


def test_a_stopped_run_trains_on(tmp_path, monkeypatch):
    """A program is done, one is stopped, and one has not begun."""
    path, grid = tmp_path / "run", {"num_seeds": 2, "batch_size": "16,32,64"}
    with monkeypatch.context() as patch:
        stop_before(patch, 2, group=1)
        with pytest.raises(PowerCutError):
            run(path, **grid)
    run(path, num_epochs=3, keep_weights="all", **grid)
    run(tmp_path / "whole", num_epochs=3, keep_weights="all", **grid)
    assert_same(path, tmp_path / "whole")


def test_where_memory_divides_a_program_its_trials_train_on_too(tmp_path, monkeypatch):
    path = tmp_path / "run"
    run(path, num_seeds=5, keep_weights="all")
    monkeypatch.setattr(memory, "trials_that_fit", lambda program: min(2, len(program.trials.seed)))
    run(path, num_seeds=5, num_epochs=3)
    monkeypatch.undo()
    prepare(monkeypatch)
    run(tmp_path / "whole", num_seeds=5, num_epochs=3)
    assert_same(path, tmp_path / "whole")


# --- the chosen trial ---


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["chosen", "all"])
@pytest.mark.parametrize("killed", [False, True])
def test_the_chosen_trial_is_trained_again_where_its_weights_are_gone(
    tmp_path, monkeypatch, capsys, keep, killed
):
    """Its rows do not change, and it goes on if it is killed while it trains."""
    path, whole = tmp_path / "run", tmp_path / "whole"

    def choose(rows, protocol):
        return rows[1 if len(rows) == 6 else -1]

    monkeypatch.setattr(choosing, "choose_trial", choose)
    run(path, num_seeds=3, keep_weights=keep)
    with monkeypatch.context() as patch:
        if killed and keep == "chosen":
            stop_before(patch, 2, group=1)
            with pytest.raises(PowerCutError):
                run(path, num_seeds=6, keep_weights=keep)
            assert len((path / "metrics.jsonl").read_text().splitlines()) == 12
    capsys.readouterr()
    run(path, num_seeds=6, keep_weights=keep)
    said = capsys.readouterr().out
    again = "training trial 1 again for its weights, which is chosen in the end; no result changes"
    assert (again in said) == (keep == "chosen")
    assert ("1 trial of 2 epochs, resumed after epoch 1" in said) == (killed and keep == "chosen")
    run(whole, num_seeds=6, keep_weights=keep)
    assert_same(path, whole)


# --- refusals ---


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"num_seeds": 3}, {"num_seeds": 2}, "num_seeds (3, not 2); it has more trials than these"),
        ({}, {"seed": "1"}, "seed (0, not 1); a run grows if all its trials are asked for, and that"
         " of seed=0 is not; choose another --workdir"),
        ({"learning_rate": "0.1,0.2"}, {"learning_rate": "0.1,0.3"}, "and that of"
         " learning_rate=0.2, seed=0 is not"),
        ({"l2": "0"}, {"l2": "0.1"}, "and that of l2=0, seed=0 is not"),
        ({"schedule": "cosine"}, {"schedule": "cosine", "num_epochs": 3}, "num_epochs ([2], not"
         " [3]); with schedule=cosine the learning rate depends on the number of epochs"),
        ({}, {"num_epochs": 3}, "the state of its trials, to train on, was not kept"
         " (keep_weights=all keeps it); choose another --workdir"),
        ({}, {"num_epochs": 1}, "num_epochs ([2], not [1]); a run does not get shorter"),
        ({}, {"num_epochs": 3, "num_seeds": 2}, "epochs and trials do not grow at once"),
        ({"num_epochs": "1,2"}, {"num_epochs": "1,3"}, "where all trials have the same number"),
        ({}, {"num_seeds": 2, "keep_weights": "all"}, "num_seeds (1, not 2); the weights of its"
         " trials were not kept: leave keep_weights=all out"),
        ({}, {"num_seeds": 2, "num_validation": 10, "protocol": "validation"}, "num_seeds (1, not"
         " 2), num_validation (0, not 10), protocol (test, not validation); choose another"),
        ({"num_seeds": 3, "shard": "0/2"}, {"num_seeds": 4, "shard": "0/2"}, "a shard does not"
         " grow, but the run that its shards are merged into does"),
        ({"num_seeds": 3}, {"num_seeds": 4, "shard": "0/2"}, "a shard does not grow"),
    ],
)  # fmt: skip
def test_what_cannot_grow_is_refused_with_the_key_and_what_would_work(
    tmp_path, before, after, said
):
    path, config = tmp_path / "run", asked(**before).record()
    workdirs.open_workdir(path_made(path), config, overwrite=False)
    (path / "summary.json").touch()
    (path / "results.csv").touch()
    if "keep_weights=all" in said:
        (path / "summary.json").unlink()
        (path / "results.csv").unlink()
        run(path, **before)
    before = snapshot(path)
    with pytest.raises(UserError) as error:
        run(path, **after)
    assert said in str(error.value)
    assert str(error.value).startswith(f"--workdir={path} holds another run, which differs in ")
    assert str(error.value).endswith("; choose another --workdir, or give --overwrite")
    assert snapshot(path) == before


def path_made(path):
    path.mkdir()
    return path


def test_in_a_job_a_run_does_not_grow(tmp_path):
    run(tmp_path / "run")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"it can grow to this, but by one process: leave --dist"):
        execution.execute(asked(num_seeds=2), str(tmp_path / "run"), job="auto")
    assert {x for x in snapshot(tmp_path) if x not in before} <= {tmp_path / "run" / ".lock"}


@pytest.mark.parametrize("damage", ["metrics.jsonl", "results.csv", "data"])
def test_a_damaged_run_or_other_data_is_told_before_anything_changes(tmp_path, monkeypatch, damage):
    path = tmp_path / "run"
    run(path, num_seeds=2)
    kept = files_of(path)
    if damage == "data":
        other = tiny_dataset()._replace(checksum="sha256:1")
        monkeypatch.setattr(Experiment, "load_data", lambda *_: other)
    else:
        lines = (path / damage).read_text().splitlines(keepends=True)
        (path / damage).write_text("".join(lines[:-1]))
        kept[damage] = (path / damage).read_bytes()
    with pytest.raises(UserError, match=r"on other data|cannot be read as a run"):
        run(path, num_seeds=3)
    assert files_of(path) == kept
    assert json.loads((path / "config.json").read_text())["num_seeds"] == 2


# --- a power cut at any write ---


def cut_at(patch, number):
    """Ends the process before the given one of all changes of files and folders."""
    count = iter(range(number, 0, -1))

    def dying(function):
        def call(*arguments, **options):
            if next(count, 0) == 0:  # and nothing after it
                raise PowerCutError
            return function(*arguments, **options)

        return call

    for name in ("replace", "link", "mkdir", "rmdir", "unlink"):
        patch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("more", ["epochs", pytest.param("seeds", marks=pytest.mark.slow)])
def test_a_growth_that_is_cut_anywhere_is_repeated(tmp_path, monkeypatch, more):
    old, new = {"num_seeds": 2, "l2": "0,0.1", "keep_weights": "all"}, {"l2": "0.1,0.2,0"}
    new = old | new if more == "seeds" else old | {"num_epochs": 3}
    run(tmp_path / "old", **old)
    (tmp_path / "old/figures").mkdir()
    (tmp_path / "old/figures/classes.png").touch()
    (tmp_path / "old/report.md").touch()
    (tmp_path / "old/checkpoints/trials_0_to_3/2").mkdir(parents=True)
    experiment = asked(**new)
    config = experiment.record()

    def check(path):
        return workdirs.check_workdir(
            path, config, False, lambda *args: growth.why_not(path, experiment, *args)
        )

    def grow(path):
        state = check(path)
        growth.finish(path)
        if state == "smaller":
            quiet = progress.quiet(False)
            growth.grow(path, experiment, config, tiny_dataset(), provenance.Process(), quiet)
        workdirs.open_workdir(path, config, overwrite=False)

    wanted = shutil.copytree(tmp_path / "old", tmp_path / "wanted")
    grow(wanted)
    assert check(wanted) == "unfinished"
    left = {str(x.relative_to(wanted)) for x in wanted.rglob("*") if x.is_file()}
    held = [2, 3, 4, 5] if more == "seeds" else [0, 1, 2, 3]
    if more == "seeds":  # l2=0 comes last now
        held = [0, 1, 4, 5]
    assert weights.kept(wanted) == held
    assert left == {
        *(".lock", "config.json", "metrics.jsonl"),
        *("checkpoints/processes.json", "checkpoints/parts.json"),
        *({"results.csv", "chosen_trial.npz"} if more == "seeds" else ()),
        *(f"weights/trial_{trial}.npz" for trial in held),
    }
    for number in range(1000):
        path = shutil.copytree(tmp_path / "old", tmp_path / str(number))
        with monkeypatch.context() as patch:
            cut_at(patch, number)
            try:
                grow(path)
                break
            except PowerCutError:
                pass
        if check(path) == "smaller":  # it is still the old run, finished
            results.read_run(path)
            assert workdirs.check_workdir(path, asked(**old).record(), False) == "finished"
        else:
            with pytest.raises(UserError, match="holds another run"):
                workdirs.check_workdir(path, asked(**old).record(), False)
        grow(path)
        found = {str(x.relative_to(path)) for x in path.rglob("*") if x.is_file()}
        assert found == left, number
        found, wanted_files = files_of(path), files_of(wanted)
        assert found == wanted_files, number
    assert number > 20


def test_what_is_left_of_a_growth_that_never_was_is_deleted(tmp_path):
    run(tmp_path)
    (tmp_path / "growth/weights").mkdir(parents=True)
    for name in ("metrics.jsonl", "weights/trial_0.npz", ".config.json.999999999"):
        (tmp_path / "growth" / name).touch()
    assert run(tmp_path).was_finished
    left = [path for path in (tmp_path / "growth").rglob("*") if path.is_file()]
    assert left == [tmp_path / "growth/.config.json.999999999"]
    run(tmp_path, num_seeds=2)
    assert not (tmp_path / "growth").exists()


# --- killed ---

SWEEP = (
    f"--config={ROOT / 'configs' / 'baseline.py'}",
    "--config.dataset=digits",
    "--config.hidden_sizes=8",
    "--config.learning_rate=0.1,0.3",
    "--config.protocol=validation",
)
KILLED = {
    "seeds": [["--config.num_epochs=20", f"--config.num_seeds={n}"] for n in (3, 6, 10)],
    "points": [
        ["--config.num_epochs=20", "--config.num_seeds=3", f"--config.l2={values}"]
        for values in ("1e-3", "0,1e-3", "0,1e-4,1e-3,1e-2")
    ],
    "epochs": [
        ["--config.num_seeds=3", "--config.keep_weights=all", f"--config.num_epochs={n}"]
        for n in (10, 20, 40)
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", KILLED)
def test_a_sweep_that_is_killed_while_it_grows(server, tmp_path, what):
    """At random moments, and also in the middle of the change from a run to a larger one."""
    rng, path = random.Random(what), tmp_path / "killed/run"
    *_, largest = commands = [[*SWEEP, *more] for more in KILLED[what]]
    kills = 0
    for number, command in enumerate(commands):
        while True:
            process = server.start("main", *command, f"--workdir={path}", draw=True)
            wait = (
                lambda: (path / "growth").exists(),
                lambda: not (path / "summary.json").exists(),
                lambda: (path / "metrics.jsonl").exists(),
            )[kills % 3 if number else 2]
            if kills < 6 * (number + 1) and process.wait_until(wait):
                after = time.monotonic() + rng.choice([0, rng.uniform(0, 0.02), rng.uniform(0, 4)])
                process.wait_until(lambda end=after: time.monotonic() > end)
                process.send(signal.SIGKILL)
            status = process.wait()
            assert status in (0, -signal.SIGKILL), process.err
            kills += status == -signal.SIGKILL
            if number and rng.random() < 0.2:
                before = server.run("main", *commands[number - 1], f"--workdir={path}")
                assert before.status in (0, 2)
                assert before.status == 0 or "holds another run, which differs in" in before.err
            is_there = (path / "config.json").exists()
            if status == 0 or (number < 2 and is_there and rng.random() < 0.3):
                break
    assert kills > 2
    assert server.run("main", *largest, f"--workdir={path}", draw=True).status == 0
    whole = tmp_path / "whole/run"
    assert server.run("main", *largest, f"--workdir={whole}", draw=True).status == 0
    assert_same(path, whole)
    for figure in (whole / "figures").iterdir():
        assert figure.read_bytes() == (path / "figures" / figure.name).read_bytes()
    assert len([*(whole / "figures").iterdir()]) == len([*(path / "figures").iterdir()])
