import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from server import ROOT

from mnist_jax import UserError, machine, recorded
from mnist_jax.config_files import Found, read_file
from mnist_jax.experiment import read_config, read_experiment
from mnist_jax.protocol import PROTOCOLS
from mnist_jax.start import configure_jax

CONFIG = str(ROOT / "configs" / "l2_sweep.py")


def read(shard="0/1", seed=0, **changes):
    return read_config(read_file(CONFIG).config | changes, "l2_sweep", seed, shard)


def test_shards_share_the_trials_of_each_program_out():
    """Two networks, two factors, three seeds: trials 0 to 5 and 6 to 11."""
    changes = {"hidden_sizes": ((8,), (4, 4)), "l2": (0.0, 1e-3)}
    assert list(read(**changes).parts.values()) == [[*range(6)], [*range(6, 12)]]
    shards = [read(f"{i}/5", **changes).parts for i in range(5)]
    assert [list(shard.values()) for shard in shards] == [
        [[0, 5], [10]],
        [[1], [6, 11]],
        [[2], [7]],
        [[3], [8]],
        [[4], [9]],
    ]
    assert {static[1] for shard in shards for static in shard} == {(8,), (4, 4)}


@pytest.mark.parametrize(
    "name", ["fashion_mnist", "Fashion-MNIST", "FashionMNIST", "FASHION_MNIST"]
)
def test_data_sets_have_one_name_on_record(name):
    assert read(dataset=name).dataset == "fashion_mnist"


@pytest.mark.parametrize("shard", ["", "0", "3/3", "-1/3", "0/0", "0/16", "a/b", "0/3/1", "1.0/3"])
def test_a_shard_that_is_none_of_the_experiments_is_refused(shard):
    with pytest.raises(UserError, match=f"--shard={shard}: expected i/n .* n at most 15"):
        read(shard)


def test_a_job_is_no_larger_than_the_smallest_part(monkeypatch):
    monkeypatch.setattr(machine, "configure_jax", lambda *_, **__: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sizes = {"grid": "list", "num_seeds": 1, "l2": (0.0, 1e-3, 0.0)}
    configure_jax(read(hidden_sizes=((8,),), **sizes))
    with pytest.raises(UserError, match="--distributed: 2 processes for 1 trials that train tog"):
        configure_jax(read(hidden_sizes=((8,), (8,), (4,)), **sizes))


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("l2", np.logspace(-3, -1, 3), (1e-3, 1e-2, 1e-1)),
        ("l2", tuple(np.array([0, 0.5])), (0.0, 0.5)),
        ("l2", [0, 0.5], (0.0, 0.5)),
        ("l2", 0.5, (0.5,)),
        ("l2", np.float32(0.5), (0.5,)),
        ("l2", np.array(0.5), (0.5,)),
        ("l2", jnp.array([0.25, 0.5]), (0.25, 0.5)),
        ("num_epochs", range(1, 4), (1, 2, 3)),
        ("num_epochs", np.arange(1, 3), (1, 2)),
        ("hidden_sizes", 64, ((64,),)),
        ("hidden_sizes", [64, np.int64(32)], ((64, 32),)),
        ("hidden_sizes", np.array([[64, 32], [8, 8]]), ((64, 32), (8, 8))),
        ("hidden_sizes", [[64], [8, 8]], ((64,), (8, 8))),
        ("hidden_sizes", [], ((),)),
        ("schedule", "cosine", ("cosine",)),
        ("schedule", np.array(["cosine", "linear"]), ("cosine", "linear")),
        ("nesterov", np.array([False]), (False,)),
        ("deterministic", np.bool_(False), False),
        ("num_seeds", np.int32(2), 2),
        ("num_seeds", (2,), 2),
        ("dataset", ["digits"], "digits"),
    ],
)
def test_values_are_taken_as_people_have_them(tmp_path, key, given, expected):
    experiment = read(**{"l2": (0.0,), key: given})
    assert experiment.record()[key] == expected
    assert json.loads(json.dumps(experiment.record()))  # Python's own numbers alone
    config = ml_collections.ConfigDict(read_file(CONFIG).config, type_safe=False)
    config.update({"l2": 0.0} | {key: given})
    assert read_config(config, "l2_sweep", 0) == experiment


@pytest.mark.parametrize(
    ("key", "typed", "expected"),
    [
        ("l2", "0.1", (0.1,)),
        ("l2", "0,1e-3", (0.0, 1e-3)),
        ("l2", "(0, 1e-3)", (0.0, 1e-3)),
        ("l2", "[0, 1e-3]", (0.0, 1e-3)),
        ("l2", "0, .001,", (0.0, 1e-3)),
        ("hidden_sizes", "64", ((64,),)),
        ("hidden_sizes", "500,300", ((500, 300),)),
        ("hidden_sizes", "()", ((),)),
        ("hidden_sizes", "(8,),(4,4)", ((8,), (4, 4))),
        ("num_epochs", "007", (7,)),
        ("schedule", "cosine,linear", ("cosine", "linear")),
        ("schedule", "cosine, linear", ("cosine", "linear")),
        ("schedule", "'cosine','linear'", ("cosine", "linear")),
        ("l2_on_output", "true,FALSE", (True, False)),
        ("deterministic", "false", False),
        ("num_seeds", "2", 2),
        ("dataset", "digits", "digits"),
        ("platform", "", ""),
    ],
)
@pytest.mark.parametrize("kind", ["several", "list(several)", "several[0] if several else ()"])
def test_values_typed_do_not_depend_on_what_the_file_has(tmp_path, key, typed, expected, kind):
    path = tmp_path / "mine.py"
    several = f"config.{key} if isinstance(config.{key}, tuple) else (config.{key},)"
    change = f"several = {several}\n    config.{key} = {kind}\n    return config"
    path.write_text(Path(CONFIG).read_text().replace("return config", change))
    experiment = read_experiment(str(path), {"l2": "0", key: typed})
    assert experiment.record()[key] == expected
    assert experiment.name == "mine"


def test_a_config_file_may_take_a_word(tmp_path):
    path = tmp_path / "of.py"
    path.write_text("import numpy\ndef get_config(word='none'): return {'word': word}\n")
    assert read_file(str(path)) == Found({"word": "none"}, "of", tmp_path)
    assert read_file(f"{path}:a:b") == Found({"word": "a:b"}, "of", tmp_path)
    assert read_file(f"{path}:") == Found({"word": ""}, "of", tmp_path)
    named = path.rename(tmp_path / "of:this.py")
    assert read_file(str(named)) == Found({"word": "none"}, "of:this", tmp_path)
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/**/config.json")), ids=str)
def test_a_record_is_read_back_as_the_experiment_that_it_was(path):
    record = json.loads(path.read_text())
    experiment = read_experiment(str(path), {})
    again = json.loads(json.dumps(experiment.record()))
    assert again == recorded.upgrade_record(record)
    new = {"protocol", "validation_seed", "model", "optimizer", "ema_decay", "metrics"}
    assert {key for key in again if again[key] != record.get(key)} <= new | set(recorded._ADDED)
    assert again["model"] == ("cnn" if any(record["conv_features"]) else "mlp")
    p = PROTOCOLS[again["protocol"]]
    assert p.choose_epoch == record["choose_epoch"]
    assert (p.held_out == "validation") == bool(record["num_validation"])


def test_a_record_gives_name_seed_and_shard_unless_they_are_typed(tmp_path):
    path = tmp_path / "config.json"
    for seed in (7, (42, 3, 9)):
        was = read("1/2", seed)
        path.write_text(json.dumps(was.record()))
        assert read_experiment(str(path), {}) == was
        assert read_experiment(str(path), {}, shard="0/3") == dataclasses.replace(was, shard="0/3")
        assert read_experiment(str(path), {}, seed="1").seeds == range(1, 4)
        assert read_experiment(str(path), {"l2": "0"}) == dataclasses.replace(
            was, values=was.values | {"l2": (0.0,)}
        )


def test_seeds_are_a_first_one_or_all_that_are_named():
    assert read(seed=5).seeds == range(5, 8)
    for seeds in ([42, 123, 456, 7], (42, 123, 456, 7)):
        experiment = read(seed=seeds)
        assert (experiment.seeds, experiment.num_seeds) == ((42, 123, 456, 7), 4)
    assert read_experiment(CONFIG, {}, "42,123").seeds == (42, 123)
    assert read_experiment(CONFIG, {"num_seeds": "2"}, "42,123").num_seeds == 2
    assert read_experiment(CONFIG, {"num_seeds": "2"}, "42").seeds == range(42, 44)
    assert [*read("1/2", (42, 7)).parts.values()] == [[1, 3, 5, 7, 9]]
