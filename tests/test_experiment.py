import importlib.util
from pathlib import Path

import jax
import pytest

from mnist_jax import UserError, machine
from mnist_jax.experiment import configure_jax, read_config

CONFIG = Path(__file__).parent.parent / "configs" / "l2_sweep.py"


def read(shard="0/1", **changes):
    spec = importlib.util.spec_from_file_location("l2_sweep", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    for key, value in changes.items():
        config[key] = value
    return read_config(config, "l2_sweep", 0, shard)


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
