"""Weights of all trials, and what a finished run deletes."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest
from server import snapshot
from test_resume import experiment, share_programs, tiny_dataset  # noqa: F401

from mnist_jax import UserError
from mnist_jax.config.experiment import Experiment
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import (
    checkpoints,
    chosen_trial,
    execution,
    made_files,
    runner,
    weights,
    workdirs,
)
from mnist_jax.training import recipes, trial


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """JAX is set up already, and data is made up."""
    monkeypatch.setattr(execution, "jax_for", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(Experiment, "load_data", lambda *_: tiny_dataset())


def asked(**changes):
    grid = {"num_epochs": (2,), "num_seeds": 2, "ema_decay": (0.0, 0.5)}
    return experiment(**grid | {"momentum": (0.9,)} | changes)


def run(path, **changes):
    return execution.execute(asked(**changes), str(path))


def arrays_of(path):
    with np.load(path) as arrays:
        return {name: (arrays[name].dtype, arrays[name].tobytes()) for name in arrays}


def left(path, folder):
    return sorted(x.name for x in (path / folder).iterdir()) if (path / folder).exists() else []


@pytest.fixture(scope="module")
def kept_all(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "jax_for", lambda *_, **__: contextlib.nullcontext())
        patch.setattr(Experiment, "load_data", lambda *_: tiny_dataset())
        run(path, keep_weights="all")
    return path


def test_a_finished_run_keeps_what_its_config_says(kept_all, tmp_path):
    run(tmp_path / "run")
    for path, found in ((kept_all, [0, 1, 2, 3]), (tmp_path / "run", [])):
        assert weights.kept(path) == found
        assert (path / "weights").exists() == bool(found)
        assert left(path, "checkpoints") == ["processes.json"]
    for name in ("metrics.jsonl", "results.csv", "chosen_trial.npz"):
        assert (tmp_path / "run" / name).read_bytes() == (kept_all / name).read_bytes()


def test_the_variables_are_those_that_count(kept_all):
    chosen = chosen_trial.read_chosen_trial(kept_all)
    found = weights.read_variables(kept_all, int(chosen["trial"]))
    assert sorted(found) == [
        f"params/{layer}/{name}" for layer in ("hidden_1", "output") for name in ("bias", "kernel")
    ]
    for name, array in found.items():
        assert array.tobytes() == chosen[name].tobytes()


@pytest.mark.parametrize("group", [[0, 1, 2, 3], [0, 1]], ids=["averages", "none"])
def test_the_state_goes_on_bit_for_bit(kept_all, tmp_path, monkeypatch, group):
    """As the checkpoint of all has it, whether or not a trial beside it averages its weights."""
    saved = {}
    save = checkpoints.Checkpoints.save

    def note(self, step, state, record):
        saved.update(step=step, record=record, state=jax.tree.map(np.array, state))
        save(self, step, state, record)

    monkeypatch.setattr(runner.Checkpoints, "save", note)
    changes = {"ema_decay": (0.0,)} if len(group) == 2 else {}
    run(tmp_path / "run", **changes)
    recipe, trials = recipes.create_recipe(asked(), group, tiny_dataset())
    assert recipe.use_ema == (len(group) == 4)
    for place, number in enumerate(group):
        hyper = jax.tree.map(lambda x, place=place: x[place], trials)
        like = jax.eval_shape(lambda h: trial.init(recipe, h), hyper)
        found = weights.read_state(kept_all, number, like)
        wanted = jax.tree.map(lambda x, place=place: x[place], saved["state"])
        assert jax.tree.structure(found.state) == jax.tree.structure(wanted)
        for one, other in zip(*map(jax.tree.leaves, (found.state, wanted)), strict=True):
            assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
        assert found.epoch == saved["step"] == 2
        columns = {name: values[place] for name, values in saved["record"]["columns"].items()}
        assert {name: value.item() for name, value in found.columns.items()} == columns


def test_a_state_of_another_network_or_a_damaged_file_is_refused(kept_all, tmp_path):
    path = shutil.copytree(kept_all, tmp_path / "run")
    recipe, trials = recipes.create_recipe(asked(hidden_sizes=(5,)), [0], tiny_dataset())
    hyper = jax.tree.map(lambda x: x[0], trials)
    like = jax.eval_shape(lambda h: trial.init(recipe, h), hyper)
    with pytest.raises(BadFileError, match=r"trial_0.npz: state/\S+ is missing, or not of this"):
        weights.read_state(path, 0, like)
    file = path / "weights" / "trial_0.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadFileError, match=r"trial_0.npz: "):
        weights.read_state(path, 0, like)
    for other in ("trial_x.npz", "trial_01.npz", "notes"):
        (file.parent / other).touch()
    assert weights.kept(path) == [0, 1, 2, 3]


def test_a_run_that_is_killed_before_it_has_deleted_its_checkpoints(tmp_path, monkeypatch):
    """It is finished, and the next start deletes them."""

    class KilledError(Exception):
        pass

    def kill(path):
        raise KilledError

    path, tidy = tmp_path / "run", made_files.tidy
    monkeypatch.setattr(made_files, "tidy", kill)
    with pytest.raises(KilledError):
        run(path)
    assert left(path, "checkpoints") == ["processes.json", "trials_0_to_3"]
    monkeypatch.setattr(made_files, "tidy", tidy)
    (path / "checkpoints" / "trials_0_to_3" / "mine").touch()
    with workdirs.lock_workdir(path):
        assert run(path).was_finished  # another process may be at work on it
    assert left(path, "checkpoints") == ["processes.json", "trials_0_to_3"]
    assert run(path).was_finished
    assert left(path, "checkpoints") == ["processes.json", "trials_0_to_3"]
    assert left(path, "checkpoints/trials_0_to_3") == ["mine"]
    before = snapshot(path)
    assert run(path).was_finished
    assert snapshot(path) == before


def test_a_shard_keeps_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(
        execution.workdirs, "tidy_finished", lambda path: pytest.fail("nothing is finished before")
    )
    changed = asked()
    object.__setattr__(changed, "shard", "1/2")
    execution.execute(changed, str(tmp_path))
    assert left(tmp_path, "checkpoints") == ["processes.json", "trials_1_to_3"]


def test_a_finished_run_cannot_keep_all_weights_any_more(kept_all, tmp_path):
    path = tmp_path / "run"
    run(path)
    before = snapshot(path)
    with pytest.raises(UserError, match=r"keep_weights=all: .* finished, without the weights of"):
        run(path, keep_weights="all")
    assert snapshot(path) == before
    before = snapshot(kept_all)
    for keep in ("all", "chosen"):  # nothing that was computed is lost
        assert run(kept_all, keep_weights=keep).was_finished
    assert snapshot(kept_all) == before


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "checkpoints"])
def test_a_stopped_run_can_keep_all_weights_from_now_on(kept_all, tmp_path, monkeypatch, lost):
    """Those of the program that is done come from its checkpoint, or are made again."""
    path, changes = tmp_path / "run", {"batch_size": (16, 32)}
    run(tmp_path / "whole", keep_weights="all", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(runner.records, "write_results", write_then_fail())
        with pytest.raises(UserError, match="killed"):
            execution.execute(asked(**changes), str(path))
    assert left(path, "weights") == []
    if lost == "checkpoints":
        shutil.rmtree(path / "checkpoints")
    before = (path / "metrics.jsonl").read_bytes()
    run(path, keep_weights="all", **changes)
    assert (path / "metrics.jsonl").read_bytes().startswith(before)
    assert json.loads((path / "config.json").read_text())["keep_weights"] == "all"
    for name in ("config.json", "metrics.jsonl", "results.csv"):
        assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert left(path, "weights") == left(tmp_path / "whole", "weights")
    for name in left(path, "weights"):
        made, wanted = (arrays_of(x / "weights" / name) for x in (path, tmp_path / "whole"))
        made = {key: value for key, value in made.items() if "average" not in key}
        assert made == {key: value for key, value in wanted.items() if "average" not in key}


def write_then_fail():
    write = runner.records.write_results

    def fail(path, rows):
        write(path, rows)
        raise OSError("killed")

    return fail
