import contextlib
import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from server import ROOT

from mnist_jax import UserError, default_config
from mnist_jax.config import old_records, user_code
from mnist_jax.config.config_files import ConfigFile, read_file
from mnist_jax.config.experiment import read_config, read_experiment
from mnist_jax.config.keys import find_axes
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.config.settings import SETTINGS
from mnist_jax.runs import records
from mnist_jax.training import jax_setup, optimizers, recipes
from mnist_jax.training.jax_setup import start_jax

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
    monkeypatch.setattr(jax_setup, "configure_jax", lambda *_, **__: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sizes = {"grid": "list", "num_seeds": 1, "l2": (0.0, 1e-3, 0.0)}
    start_jax(read(hidden_sizes=((8,),), **sizes))
    with pytest.raises(UserError, match="--distributed: 2 processes for 1 trials that train tog"):
        start_jax(read(hidden_sizes=((8,), (8,), (4,)), **sizes))


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
    assert read_file(str(path)) == ConfigFile({"word": "none"}, "of", tmp_path)
    assert read_file(f"{path}:a:b") == ConfigFile({"word": "a:b"}, "of", tmp_path)
    assert read_file(f"{path}:") == ConfigFile({"word": ""}, "of", tmp_path)
    named = path.rename(tmp_path / "of:this.py")
    assert read_file(str(named)) == ConfigFile({"word": "none"}, "of:this", tmp_path)
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/**/config.json")), ids=str)
def test_a_record_is_read_back_as_the_experiment_that_it_was(path):
    record = json.loads(path.read_text())
    experiment = read_experiment(str(path), {})
    again = json.loads(json.dumps(experiment.record()))
    assert again == old_records.upgrade_record(record)
    new = {"protocol", "validation_seed", "model", "optimizer", "ema_decay", "metrics"}
    assert {key for key in again if again[key] != record.get(key)} <= new | set(old_records._ADDED)
    if "model" in record:
        assert {key: again[key] for key in record} == record
        return
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


# --- configs that say what differs, and those of before ---

OLD = {  # as configs were while all keys stood in each
    "dataset": "digits",
    "num_validation": 0,
    "choose_epoch": False,
    "conv_features": (),
    "hidden_sizes": (500, 300),
    "num_epochs": (40,),
    "batch_size": (64,),
    "learning_rate": (0.08,),
    "schedule": ("linear",),
    "warmup_steps": (0,),
    "momentum": (0.9,),
    "nesterov": (False,),
    "l2": (1e-4,),
    "l2_on_output": (True,),
    "weight_decay": (0.0,),
    "label_smoothing": (0.2,),
    "grid": "product",
    "num_points": 0,
    "design_seed": 0,
    "num_seeds": 20,
    "checkpoint_epochs": 1,
    "checkpoints_kept": 2,
    "platform": "",
    "devices": 0,
    "precision": "float32",
    "deterministic": False,
}


def asked(config, *arguments, **typed):
    return read_config(config, "mine", 0, *arguments, typed=typed)


def test_a_config_of_two_lines_has_the_default_of_every_other_key():
    config = default_config()
    config.dataset, config.l2 = "digits", (0.0, 1e-3)
    found = asked({"dataset": "digits", "l2": (0.0, 1e-3)})
    assert found == asked(config)
    record = found.record()
    assert (record["protocol"], record["num_validation"]) == ("validation", 1437 // 6)
    keys = {*SETTINGS, *find_axes("mlp", ("sgd",))}
    assert record.keys() == {"name", "seed", "shard", *keys} == {"name", "seed", "shard", *config}


def test_a_config_of_an_earlier_version_means_what_it_meant():
    new = read_file(str(ROOT / "configs" / "beyond_98_47.py")).config | {"dataset": "digits"}
    assert asked(OLD) == asked(new)
    cnn = OLD | {"conv_features": ((8,), (8, 4)), "hidden_sizes": 16, "num_validation": 300}
    cnn |= {"choose_epoch": True, "design_seed": 7}
    found = asked(cnn)
    assert (found.model, found.values["conv_features"]) == ("cnn", ((8,), (8, 4)))
    assert (found.protocol, found.num_validation, found.validation_seed) == ("validation", 300, 7)
    assert asked(cnn, choose_epoch=False).protocol == "validation_last_epoch"
    again = asked(cnn, protocol="validation_last_epoch")
    assert again == asked(cnn, choose_epoch=False)
    assert (again.num_validation, again.validation_seed) == (300, 7)
    for protocol in ("test", "last_epoch"):  # which hold none out
        assert asked(cnn, protocol=protocol).num_validation == 0
    assert asked(OLD, num_validation=300, choose_epoch=True).protocol == "validation"
    assert asked(OLD, conv_features=(8,)).model == "cnn"
    for one in ({"conv_features": 8}, {"conv_features": 8, "model": "cnn"}):  # a number, no tuple
        assert asked({}, **one).values["conv_features"] == ((8,),)


def test_default_config_takes_no_other_keys(tmp_path):
    config = default_config()
    with pytest.raises(AttributeError, match="learning_rat"):
        config.learning_rat = 0.2
    cnn = default_config(model="cnn", optimizer=["adamw", "lion"])
    assert (cnn.conv_features, cnn.b1, cnn.b2) == ((32, 64), 0.9, None)  # each has its own b2
    assert not {"momentum", "l2"} & {*cnn}
    assert "conv_features" not in config
    assert asked(cnn).points[1]["b2"] == 0.99
    cnn.grid, cnn.optimizer = "list", ["adamw", "adamw", "lion"]
    assert len(asked(cnn).points) == 2  # distinct ones
    with pytest.raises(UserError, match="optimizer=None: expected sgd, "):
        cnn.optimizer = None


def test_a_config_has_the_keys_of_the_model_and_the_optimizer_that_are_set():
    config = default_config()
    config.momentum, config.l2, config.hidden_sizes = 0.9, 0.1, (8,)
    config.learning_rate = np.array([0.25, 0.5])
    config.optimizer = "adamw"
    assert (config.b1, config.weight_decay, *config.learning_rate) == (0.9, 1e-4, 0.25, 0.5)
    assert not {"momentum", "l2"} & {*config}
    config.weight_decay = 0.5
    config.optimizer = ("sgd", "adamw")
    assert (config.momentum, config.weight_decay, config.nesterov) == (0.0, 0.5, False)
    config.model = "cnn"
    assert (config.conv_features, config.hidden_sizes) == ((32, 64), (8,))
    config.model = "mlp"
    assert "conv_features" not in config
    with pytest.raises(AttributeError, match="conv_features"):
        config.conv_features = (4,)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(ROOT.glob("experiments/*/*.py")) if "def get_config" in p.read_text()],
    ids=str,
)
def test_the_config_of_a_study_can_be_read(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert len(read_experiment(str(path), {}).points) > 1


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_has_a_sound_default_and_says_what_it_is(key):
    kind, default, text = SETTINGS[key]
    assert kind.valid(default)
    assert len(text) > 10


# --- models and optimizers with keys of their own ---


def test_an_optimizer_that_is_typed_has_its_own_defaults():
    given = {"momentum": 0.9, "weight_decay": 1e-3, "l2": 0.1, "learning_rate": 0.5}
    found = asked(given, optimizer="adamw", b2=(0.99, 0.999)).points
    assert [point["b2"] for point in found] == [0.99, 0.999]
    assert (found[0]["weight_decay"], found[0]["learning_rate"]) == (1e-4, 1e-3)
    assert not {"momentum", "l2"} & found[0].keys()
    for before in ("sgd", ("sgd",)):
        same = asked(given | {"optimizer": before}, optimizer="sgd").points
        assert (same[0]["momentum"], same[0]["weight_decay"]) == (0.9, 1e-3)
    both = asked({"momentum": (0.9, 0), "grid": "list"}, optimizer=("sgd", "adamw"))
    assert [point["momentum"] for point in both.points] == [0.9, None]
    assert asked(given, optimizer="lion", weight_decay=0.5).values["weight_decay"] == (0.5,)
    cnn = asked({"model": "cnn", "hidden_sizes": 7, "num_epochs": 3}, model="mlp")
    assert (cnn.values["hidden_sizes"], cnn.values["num_epochs"]) == (((64, 64),), (3,))


def test_an_optimizer_that_is_typed_beside_the_files_has_its_own_defaults():
    """Whether the config file has every key, or those alone that differ."""
    for said in ({}, dict(default_config())):
        found = asked(said, optimizer=("sgd", "adamw"), l2=(0.0,))
        assert [point["weight_decay"] for point in found.points] == [0.0, 1e-4]
        assert [point["learning_rate"] for point in found.points] == [0.1, 1e-3]
    found = asked({"weight_decay": 0.5}, optimizer=("sgd", "adamw"))
    assert [point["weight_decay"] for point in found.points] == [0.5, 0.5]
    several = default_config(optimizer=("sgd", "adamw", "lion", "muon"))
    (point,) = asked(several, optimizer="muon").points  # of what is None there, too
    assert (point["nesterov"], point["weight_decay"]) == (True, 0.0)


def test_each_optimizer_has_a_learning_rate_of_its_own(own):
    (own / "my_opt.py").write_text(
        "def plain(rate): ...\n"
        "def slow(rate=1e-2): ...\n"
        "def schedule(rate=lambda step: 0.5): ...\n"
        "def negative(rate=-1): ...\n"
        "def second(momentum=0.9, learning_rate=0.1): ...\n"
    )
    rates = {"sgd": 0.1, "adamw": 1e-3, "lion": 3e-4, "muon": 0.02}
    rates |= {"my_opt.py:plain": 0.1, "my_opt.py:slow": 1e-2, "my_opt.py:schedule": 0.1}
    for name, rate in rates.items():
        assert default_config(optimizer=name).learning_rate == rate
        assert asked({"optimizer": name}).values["learning_rate"] == (rate,)
    # Also where all are in one grid, and a file with every key is changed.
    config = default_config(optimizer=tuple(rates))
    assert config.learning_rate is None
    for given in (config, {"optimizer": tuple(rates)}):
        found = asked(given).points
        assert {point["optimizer"]: point["learning_rate"] for point in found} == rates
    config.learning_rate = 0.5
    assert {point["learning_rate"] for point in asked(config).points} == {0.5}
    config.optimizer = "lion"  # which keeps a value that was set
    assert config.learning_rate == 0.5
    names = [*asked({"model": "cnn", "optimizer": ("sgd", "adamw")}).values]
    place = names.index("learning_rate")
    assert names[place - 1 : place + 2] == ["nesterov", "learning_rate", "schedule"]
    for name, said in (("negative", "the learning rate is -1 by"), ("second", "as its first")):
        with pytest.raises(UserError, match=f"my_opt.py:{name}: .*{said}"):
            asked({}, optimizer=f"my_opt.py:{name}")


def test_optimizers_side_by_side_are_one_grid(tmp_path):
    found = asked(
        {},
        optimizer=("sgd", "sgd", "adamw"),
        grid="list",
        learning_rate=(0.1, 0.2, 1e-3),
        momentum=(0.9, 0.8, None),
        weight_decay=(None, 1e-3, None),
        num_seeds=2,
    )
    names = ("optimizer", "learning_rate", "momentum", "weight_decay", "b1", "nesterov")
    assert [tuple(point[name] for name in names) for point in found.points] == [
        ("sgd", 0.1, 0.9, 0.0, None, False),
        ("sgd", 0.2, 0.8, 1e-3, None, False),
        ("adamw", 1e-3, None, 1e-4, 0.9, False),
    ]
    assert list(found.parts.values()) == [[0, 1, 2, 3], [4, 5]]
    recipe, trials = recipes.create_recipe(found, [4, 5])
    assert recipe.optimizer.make is optimizers.MAKERS["adamw"]
    assert trials.optimizer.keys() == {"b1", "b2", "eps", "weight_decay"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(found.record()))
    assert read_experiment(str(path), {}) == dataclasses.replace(found, name="mine")
    product = asked({}, optimizer=("sgd", "lion"), weight_decay=(0.0, 0.1)).points
    assert [(p["optimizer"], p["weight_decay"]) for p in product] == [
        (name, decay) for name in ("sgd", "lion") for decay in (0.0, 0.1)
    ]


NET = """
from typing import Annotated
from flax import linen as nn
from mnist_jax import layers

class Mixer(nn.Module):
    width: int = 4
    sizes: tuple[int, ...] = (3, 2)
    rate: float = 0.25
    share: Annotated[float, "static"] = 0.5
    kind: Annotated[str, "traced"] = "relu"  # which only numbers are
    bias: bool = True
    kernel_init: object = nn.initializers.ones
    num_classes: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        x = images.reshape(len(images), -1)
        for size in (self.width, *self.sizes, int(8 * self.share)):
            x = getattr(nn, self.kind)(nn.Dense(size, self.bias, kernel_init=self.kernel_init)(x))
        return nn.Dense(self.num_classes)(layers.Dropout(self.rate)(x, deterministic=not train))

class Fixed(Mixer):
    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(10)(images.reshape(len(images), -1))
        return nn.Dropout(self.rate)(x, deterministic=not train)
"""
MAKE = """
import optax

def make(learning_rate, decay=0.9, *, ahead: bool = False, power: int = 2, **others):
    return optax.sgd(learning_rate, decay, ahead)

def measure(logits, labels):
    return logits[:, 0]
"""
# What cannot be had, and what is said of it: of `model` in a file, and of `optimizer`.
REFUSED = [
    ({"model": "my_net.py:Mixer", "widht": 3}, "widht: ...; did you mean width?"),
    ({"model": "my_net.py:Mixer", "width": 2.5}, "--config.width=2.5: expected a whole number"),
    ({"model": "my_net.py:Mixer", "rate": "x"}, "--config.rate=x: expected a finite number"),
    ({"model": "my_net.py:Mixer", "sizes": 0}, "--config.sizes=(0,): expected a tuple of whole"),
    (
        {"model": "my_net.py:Mixer", "hidden_sizes": 8},
        "--config.hidden_sizes: my_net.py:Mixer takes no hidden_sizes, but width, sizes, share,"
        " kind, bias, rate; leave it out, or choose --config.model=mlp",
    ),
    (
        {"model": "my_net.py:Mixer", "kernel_init": 5},
        "--config.kernel_init: my_net.py:Mixer has a parameter kernel_init, but no config can give",
    ),
    (
        {"model": "my_net.py:Mixer", "num_classes": 5},
        "num_classes: ...; the classes are those of the data set, which a model may take as num_c",
    ),
    ({"model": "my_net.py:mixer"}, "did you mean Mixer? it defines Mixer"),
    ({"model": "my_net.py:add"}, "model=my_net.py:add: expected a class of flax.linen.Module"),
    ({"model": "my_net.py:Open"}, "model=my_net.py:Open: width has no default; give it one"),
    ({"model": "my_net.py:Wrong"}, "model=my_net.py:Wrong: width is 1099511627776 by default; ex"),
    ({"model": "my_net.py:Named"}, "seed: the model has a parameter of this name, which a run us"),
    ({"model": "my_net.py:Column"}, "train_loss: the model has a parameter of this name, which a"),
    ({"model": "my_net.py:Twice"}, "the key l2 is one of model and optimizer; expected differen"),
    ({"model": "my_net.py:Common"}, "the key num_epochs is one of model and every recipe; expec"),
    ({"optimizer": "my_net.py:none"}, "optimizer=my_net.py:none: expected a function of a lear"),
    ({"optimizer": "my_net.py:keys"}, "optimizer=my_net.py:keys: expected the learning rate as"),
    ({"optimizer": "my_net.py:open"}, "optimizer=my_net.py:open: decay has no default; give it o"),
    ({"optimizer": "my_net.py:named"}, "trial: the optimizer has a parameter of this name, which"),
    (
        {"optimizer": ("sgd", "my_net.py:whole")},
        "optimizer=sgd,my_net.py:whole: momentum is of another kind in my_net.py:whole; give eac",
    ),
    (
        {"optimizer": "my_net.py:width", "model": "my_net.py:Mixer"},
        "the key width is one of model and optimizer; expected different names",
    ),
    ({"optimizer": "adamw", "momentum": 0.9}, "--config.momentum: adamw takes no momentum, but n"),
    ({"optimizer": ("sgd", "lion"), "eps": 0.9}, "--config.eps: sgd and lion take no eps, but n"),
    (
        {"optimizer": ("sgd", "adamw"), "momentum": 0.9},
        "--config.momentum=0.9: adamw does not take it; with --config.grid=list give 0.0 where",
    ),
    (
        {"optimizer": ("sgd", "adamw"), "momentum": (0.9, 0.8), "grid": "list"},
        "--config.momentum=0.8: adamw does not take it; with --config.grid=list give 0.0 where",
    ),
    (
        {"optimizer": ("muon", "lion"), "nesterov": (True, False), "grid": "list"},
        "--config.nesterov=False: lion does not take it; with --config.grid=list give True where",
    ),
    ({"metrics": ("my_opt.py:measure",) * 2}, "metrics=my_opt.py:measure: expected a name of its"),
    (
        {"model": "my_net.py:Measured", "metrics": "my_opt.py:measure"},
        "metrics=my_opt.py:measure: it has a column best_test_measure_at_best_epoch, and so has",
    ),
    ({"metrics": "top2"}, "metrics=top2: expected top_2_ac...; did you mean top_2_accuracy?"),
    ({"optimizer": "Adam"}, "optimizer=Adam: expected sgd...; did you mean adamw?"),
]
TO_REFUSE = """

class Open(nn.Module):
    width: int

class Wrong(nn.Module):
    width: int = 2**40

class Named(nn.Module):
    seed: int = 0

class Column(nn.Module):
    train_loss: float = 0.0

class Measured(nn.Module):
    best_test_measure_at_best_epoch: float = 0.0

class Twice(nn.Module):
    l2: float = 0.0

class Common(nn.Module):
    num_epochs: int = 3

def add(a, b): ...
def none(): ...
def keys(*, learning_rate, decay=0.1): ...
def open(learning_rate, decay): ...
def named(learning_rate, trial=1): ...
def whole(learning_rate, momentum=1): ...
def width(learning_rate, width=0.5): ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Files of one's own in the current folder."""
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "my_opt.py").write_text(MAKE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = {"model": "my_net.py:Mixer", "optimizer": "my_opt.py:make"}


def test_fields_and_parameters_of_ones_own_are_axes(own):
    config = default_config(**OWN)
    assert (config.width, config.sizes, config.rate, config.decay) == (4, (3, 2), 0.25, 0.9)
    assert not {"num_classes", "kernel_init", "momentum", "hidden_sizes"} & {*config}
    found = asked({"num_seeds": 1}, **OWN, width=(4, 8), rate=(0, 0.5), decay=(0.5, 0.9))
    names = ("width", "rate", "decay")
    assert [tuple(point[name] for name in names) for point in found.points] == [
        (width, rate, decay) for width in (4, 8) for rate in (0.0, 0.5) for decay in (0.5, 0.9)
    ]
    traced = {name for name, axis in found.axes.items() if axis.traced and axis.of}
    assert traced == {"rate", "learning_rate", "decay"}
    assert list(found.parts.values()) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    found = dataclasses.replace(found, data=found.data._replace(num_classes=7))
    recipe, trials = recipes.create_recipe(found, [4, 5, 6, 7])
    assert (recipe.network.module.width, recipe.network.module.num_classes) == (8, 7)
    assert trials.model["rate"].tolist() == [0, 0, 0.5, 0.5]
    assert trials.optimizer["decay"].tolist() == pytest.approx([0.5, 0.9] * 2)


def test_a_string_may_be_empty(own):
    (own / "my_net.py").write_text(NET.replace('"relu"', '""'))
    assert asked({}, model=OWN["model"]).values["kind"] == ("",)
    assert asked({}, model=OWN["model"], kind=("", "tanh")).values["kind"] == ("", "tanh")
    assert records.as_text("") == "''"  # an empty cell of results.csv is no value


def test_metrics_can_be_cleared(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("def get_config():\n    return {'metrics': ['confidence']}\n")
    assert read_experiment(str(config), {}).metrics == ("confidence",)
    assert read_experiment(str(config), {"metrics": ""}).metrics == ()


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(("keys", "said"), REFUSED, ids=[said[:50] for _, said in REFUSED])
def test_what_is_ones_own_and_cannot_be_had_is_refused(own, keys, said, typed):
    (own / "my_net.py").write_text(NET + TO_REFUSE)
    with pytest.raises(UserError) as refused:
        asked(*([{}] if typed else [keys]), **keys if typed else {})
    assert re.search(".*".join(map(re.escape, said.split("..."))), str(refused.value))


def test_a_penalty_acts_on_layers_of_ones_own_whatever_their_sizes_are_called(own):
    (own / "my_net.py").write_text(NET.replace("sizes", "hidden_sizes"))
    assert asked({}, model=OWN["model"], hidden_sizes=((),), l2=0.1).values["l2"] == (0.1,)


def test_a_search_draws_floats_of_ones_own(own):
    search = {"grid": "halton", "num_points": 4, "rate": (0.0, 0.5), "decay": (0.5, 0.9)}
    points = asked({}, **OWN, **search, share=(0.25, 0.5)).points
    for name, low, high in (("rate", 0.0, 0.5), ("decay", 0.5, 0.9)):
        drawn = [point[name] for point in points]
        assert len({*drawn}) == 4
        assert low <= min(drawn) < (low + high) / 2 < max(drawn) <= high
    assert {point["share"] for point in points} <= {0.25, 0.5}  # which shapes the program


def test_a_float_that_cannot_be_traced_has_one_value(own):
    """Flax's Dropout branches on its rate."""
    fixed = OWN | {"model": "my_net.py:Fixed"}
    recipe, trials = recipes.create_recipe(asked({}, **fixed, rate=0.125), [0])
    assert (recipe.network.module.rate, trials.model) == (0.125, {})
    several = asked({}, **fixed, rate=(0.125, 0.5), num_seeds=1)
    said = r"--config\.rate=0\.125,0\.5: expected one value, since .* my_net\.py:Fixed .*Dropout"
    with pytest.raises(UserError, match=said):
        recipes.create_recipe(several, [0, 1])


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((0.5, 1.5), r"rate=1\.5: Mixer fails with it: ValueError \(line \d+\): a dropout rate"),
        ((-0.25, 0.5), r"rate=-0\.25: Mixer fails .* rate of -0\.25; expected from 0 to 1"),
        ((0.5, 0.75, 0.25), ""),
        ((0.0, 1.0), ""),
    ],
)
def test_numbers_that_a_layer_refuses_are_refused_at_the_start(own, rates, said):
    several = asked({}, model="my_net.py:Mixer", rate=rates)
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        recipes.check(several)
    recipe, _ = recipes.create_recipe(several, [0])  # a network that is trained is read back
    module, images = (
        recipe.network.module.clone(rate=1.5),
        jnp.zeros((2, *several.data.image_shape)),
    )
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    assert jax.eval_shape(lambda x: module.apply(x, images, train=False), variables).shape == (
        2,
        10,
    )


def test_numbers_that_a_model_refuses_are_refused_and_no_others(own):
    text = """
from flax import linen as nn

class Net(nn.Module):
    power: float = 1.0

    @nn.compact
    def __call__(self, images):
        if isinstance(self.power, float) and self.power < 0:
            raise ValueError("power: expected a positive number")
        return nn.Dense(10)(images.reshape(len(images), -1) ** self.power)

class OfArrays(nn.Module):
    power: float = 1.0

    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.reshape(len(images), -1) ** self.power.astype(float))
"""
    (own / "mine.py").write_text(text)
    for name in ("Net", "OfArrays"):
        recipes.check(asked({}, model=f"mine.py:{name}", power=(0.5, 2.0)))
    said = r"power=-1: Net fails with it: ValueError \(line 10\): power: expected a positive"
    with pytest.raises(UserError, match=said):
        recipes.check(asked({}, model="mine.py:Net", power=(2.0, -1.0)))


def test_a_run_with_files_of_ones_own_is_read_back_from_their_copies(own):
    found = asked({"l2": 0.1}, **OWN, metrics="my_opt.py:measure")
    record = found.record()
    assert (record["model"], record["optimizer"]) == (OWN["model"], (OWN["optimizer"],))
    assert record["files"].keys() == {"my_net.py", "my_opt.py"}
    run = own / "run"
    run.mkdir()
    user_code.save(run, found.own_files)
    (run / "config.json").write_text(json.dumps(record))
    for path in own.glob("*.py"):
        path.unlink()
    again = read_experiment(str(run / "config.json"), {})
    assert again.record() == record
    assert [file.content for file in again.own_files] == [NET.encode(), MAKE.encode()]
    with pytest.raises(UserError, match=r"model=my_net\.py:Mixer: no such file"):
        read_experiment(str(run / "config.json"), {"model": "my_net.py:Mixer"})
    assert read_experiment(str(run / "config.json"), {"model": "mlp"}).model == "mlp"
    (run / "files" / "my_net.py").write_text(NET + "\n")
    with pytest.raises(UserError, match=r"my_net\.py: it has changed since the run began"):
        read_experiment(str(run / "config.json"), {})
