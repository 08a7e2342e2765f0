"""What a config's check knows of one's own data, and what it refuses."""

import json

import in_process
import numpy as np
import pytest
from server import snapshot
from test_experiment import read
from test_own_data import write_csv

from mnist_jax import UserError
from mnist_jax.config.experiment import read_experiment
from mnist_jax.data import loading
from mnist_jax.data.datasets import FACTS, DataFacts, is_path, name_of
from mnist_jax.runs import workdirs

SMALL = {"hidden_sizes": (8,), "l2": (0.0,), "protocol": "validation", "batch_size": 8}


def write(path, num_train=60, num_test=0, shape=(8, 6), classes=3, seed=0):
    """Writes an npz file of random images."""
    generator, arrays = np.random.default_rng(seed), {}
    for part, n in (("train", num_train), ("test", num_test)):
        if n:
            arrays[f"x_{part}"] = generator.integers(0, 256, (n, *shape)).astype(np.uint8)
            arrays[f"y_{part}"] = np.arange(n) % classes
    np.savez(path, **arrays)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_facts_of_named_data_sets_need_no_files():
    experiment = read(dataset="CIFAR-10")
    assert (experiment.dataset, experiment.data) == ("cifar10", FACTS["cifar10"])
    assert experiment.data.image_shape == (32, 32, 3)
    assert "data" not in experiment.record()
    assert read(dataset="emnist_balanced", protocol="validation").num_validation == 112_800 // 6


def test_a_path_is_on_record_with_what_lies_there(tmp_path):
    path = write(tmp_path / "leaves.npz", 60, 9, (8, 6, 3))
    experiment = read(dataset="leaves.npz", **SMALL)
    assert experiment.dataset == str(path)
    checksum = loading.load_dataset(str(path)).checksum
    assert experiment.data == DataFacts((8, 6, 3), 3, 60, 9, checksum)
    assert experiment.num_validation == 10
    record = json.loads(json.dumps(experiment.record()))
    assert record["dataset"] == str(path)
    assert record["data"] == experiment.data._asdict() | {"image_shape": [8, 6, 3]}


def test_a_run_is_read_back_without_its_data_and_refuses_others(tmp_path):
    path, config = write(tmp_path / "leaves.npz", 60, 9), tmp_path / "config.json"
    was = read(dataset=str(path), **SMALL)
    config.write_text(json.dumps(was.record()))
    path.unlink()
    assert read_experiment(str(config), {}) == was
    with pytest.raises(UserError, match=r"leaves\.npz"):
        read_experiment(str(config), {"dataset": str(path)})  # typed, it is read
    write(path, 60, 9, seed=1)
    with pytest.raises(UserError, match="has changed since the run began: its checksum is sha256:"):
        read_experiment(str(config), {}).load_data(None)
    typed = read_experiment(str(config), {"dataset": str(path)})
    assert typed.data.checksum != was.data.checksum
    assert typed.load_data(None).num_images == {"train": 50, "validation": 10, "test": 9}


def test_a_path_that_is_not_here_is_looked_for_beside_the_config(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = write(folder / "leaves.npz", 60, 9)
    (folder / "my.py").write_text(
        "from mnist_jax import default_config\n\n\ndef get_config():\n"
        '    config = default_config("mlp")\n    config.dataset = "leaves.npz"\n'
        "    config.batch_size = 8\n    return config\n"
    )
    assert read_experiment(str(folder / "my.py"), {}).dataset == str(path)
    nearer = write(tmp_path / "leaves.npz", 60, 9)
    assert read_experiment(str(folder / "my.py"), {}).dataset == str(nearer)


def test_names_go_before_folders_that_are_called_alike(tmp_path):
    (tmp_path / "mnist").mkdir()
    assert read(dataset="mnist").dataset == "mnist"
    for name in ("./digit", "digits.npz"):
        with pytest.raises(UserError, match=f"{name}: .*nothing has this path; did you mean digi"):
            read(dataset=name)


@pytest.mark.parametrize(
    ("dataset", "keys", "said"),
    [
        ("mnist", {"num_test": 10}, "num_test=10: expected 0, since mnist has its own test images"),
        ("both.npz", {"num_test": 9}, "num_test=9: expected 0, since both.npz has its own test"),
        ("train.npz", {}, "num_test=0: expected 1 to 59, since train.npz has no test images: they"),
        ("train.npz", {"num_test": 60}, "num_test=60: expected 1 to 59, since train.npz has no"),
        ("train.npz", {"num_test": -1}, "num_test=-1: expected a whole number"),
        ("train.npz", {"num_test": 1.5}, "num_test=1.5: expected a whole number"),
        ("train.npz", {"num_test": 9, "test_seed": -1}, "test_seed=-1: expected a whole number"),
        ("train.npz", {"num_test": 9, "test_seed": 2**32}, "test_seed=4294967296: expected"),
        ("train.npz", {"num_test": 50, "num_validation": 10}, "less than the 10 training images"),
        ("train.npz", {"num_test": 50, "batch_size": 10}, "batch_size=10: expected at most 9, the"),
        ("train.npz", {"num_test": 9, "scaling": "none"}, "scaling=none: expected "),
        ("train.npz", {"num_test": 9, "augmentation": "flip"}, "augmentation=flip: expected "),
        (
            "both.npz",
            {"model": "cnn", "conv_features": ((2, 2, 2),)},
            "expected at most 1 block for images of 8 by 6",
        ),
    ],
)
def test_what_does_not_fit_the_data_is_refused(tmp_path, dataset, keys, said):
    write(tmp_path / "train.npz", 60)
    write(tmp_path / "both.npz", 60, 9)
    with pytest.raises(UserError) as error:
        read(dataset=dataset, **SMALL | keys)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_test_images_are_cut_by_their_seed_before_validation_images_are(tmp_path):
    write(tmp_path / "train.npz", 60)

    def load(**keys):
        experiment = read(dataset="train.npz", **SMALL | {"num_test": 12} | keys)
        assert experiment.data.num_test == 0
        return experiment, experiment.load_data(None)

    experiment, data = load()
    assert experiment.num_validation == (60 - 12) // 6
    assert data.num_images == {"train": 40, "validation": 8, "test": 12}
    assert np.bincount(data.test_labels).tolist() == [4, 4, 4]
    assert data.checksum == experiment.data.checksum
    seen = {x.tobytes() for split in data[1:7:2] for x in split}
    assert len(seen) == 60  # each image in one split
    same, other = (load(**keys)[1] for keys in ({"validation_seed": 1}, {"test_seed": 1}))
    np.testing.assert_array_equal(same.test_images, data.test_images)
    assert not np.array_equal(same.validation_images, data.validation_images)
    assert not np.array_equal(other.test_images, data.test_images)


# --- where the data are, and whether they are the same ---


def typed(path, config="mlp"):
    """Returns the experiment of a config whose data set is typed."""
    return read_experiment(str(config), {"dataset": str(path), "batch_size": "8"})


@pytest.mark.parametrize(
    "name",
    ["a b", "été", "漢字", "a,b", "2024", "1e3", "None", "True", "(1, 2)", "[x]", "x=y:z", "mnist"],
)
def test_a_path_is_a_path_whatever_it_looks_like(capsys, tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    write_csv(path)
    for given in (f"./{name}/", path, name):
        if given != "mnist":
            experiment = typed(given)
            assert experiment.dataset == str(path)
            assert experiment.data.num_train == 24
    words = "--config=mlp", f"--config.dataset=./{name}", "--config.batch_size=8"
    assert in_process.run(capsys, "main", *words, cwd=tmp_path) is None
    own_name = name_of(experiment.dataset)
    assert own_name == ("./mnist" if name == "mnist" else name)
    assert is_path(own_name)


def test_a_path_may_begin_at_home_and_is_recorded_whole(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    path = write(home / "leaves.npz", 60, 9)
    monkeypatch.setenv("HOME", str(home))
    begin(tmp_path / "run", typed("~/leaves.npz"))
    monkeypatch.chdir("/")
    assert read_experiment(str(tmp_path / "run" / "config.json"), {}).dataset == str(path)


def test_data_dir_is_for_names(tmp_path):
    write(tmp_path / "leaves.npz", 60, 9)
    with pytest.raises(
        UserError, match=r"^--data_dir=here: leave it out, since dataset is a path$"
    ):
        typed("leaves.npz").load_data("here")


def begin(workdir, experiment):
    """Leaves what a run leaves that is stopped before its first epoch."""
    workdir.mkdir()
    workdirs.open_workdir(workdir, experiment.record(), overwrite=False)


def test_a_run_whose_data_have_changed_is_not_resumed(capsys, tmp_path):
    run, path = tmp_path / "run", write(tmp_path / "leaves.npz", 60, 9)
    begin(run, typed(path))
    words = "--config=mlp", f"--config.dataset={path}", "--config.batch_size=8", f"--workdir={run}"
    assert in_process.run(capsys, "main", *words, cwd=tmp_path) is None
    content, was = path.read_bytes(), typed(path).data.checksum
    now = typed(write(path, 60, 9, seed=1)).data.checksum
    before = snapshot(run)
    done = in_process.run(capsys, "main", *words, cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"error: --workdir={run} holds a run that began with other data than {path} holds now:"
        f" data.checksum ({was}, not {now}); put the data back as it was, choose another"
        " --workdir, or give --overwrite\n"
    )
    with pytest.raises(UserError) as error:
        read_experiment(str(run / "config.json"), {}).load_data(None)
    assert str(error.value) == (
        f"{path} has changed since the run began: its checksum is {now}, not {was}; put it back as"
        " it was, or begin another run"
    )
    assert snapshot(run) == before
    path.write_bytes(content)
    assert in_process.run(capsys, "main", *words, cwd=tmp_path) is None
    assert read_experiment(str(run / "config.json"), {}).load_data(None).checksum == was


def test_data_may_be_moved_but_not_renamed_or_lost(capsys, tmp_path):
    run, path = tmp_path / "run", write(tmp_path / "leaves.npz", 60, 9)
    begin(run, typed(path))
    words = f"--config={run / 'config.json'}", f"--workdir={run}"
    (tmp_path / "new").mkdir()
    moved = path.rename(tmp_path / "new" / "leaves.npz")
    there = "--config.dataset=new/leaves.npz"
    assert in_process.run(capsys, "main", *words, there, cwd=tmp_path) is None
    with pytest.raises(UserError) as error:
        read_experiment(str(run / "config.json"), {}).load_data(None)
    assert str(error.value) == (
        f"{path}: the data of the run is not there any more; put it back, or say where it is now:"
        " --config.dataset=PATH"
    )
    renamed = moved.rename(tmp_path / "twigs.npz")
    done = in_process.run(capsys, "main", *words, f"--config.dataset={renamed}", cwd=tmp_path)
    assert done.status == 2
    said = "holds another run, which differs in dataset (leaves.npz, not twigs.npz); choose another"
    assert f"error: --workdir={run} {said}" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False])
def test_data_lost_or_changed_end_a_run_in_one_line(server, tmp_path, lost):
    run, path = tmp_path / "run", write(tmp_path / "leaves.npz", 60, 9)
    begin(run, typed(path))
    path.unlink() if lost else write(path, 60, 9, seed=1)
    before = snapshot(run)
    done = server.run("main", f"--config={run / 'config.json'}", f"--workdir={run}")
    assert done.status == 2
    said = "the data of the run is not there any more" if lost else "has changed since the run"
    assert said in done.err
    assert done.err.count("\n") == 1
    assert snapshot(run) == before


# --- what a record may say ---

GOOD = {"image_shape": [8, 6, 3], "num_classes": 3, "num_train": 60, "num_test": 9, "checksum": "x"}


def test_facts_are_read_back_from_a_record():
    facts = DataFacts((8, 6, 3), 3, 60, 9, "x")
    assert DataFacts.from_record(GOOD) == facts
    assert DataFacts.from_record(json.loads(json.dumps(facts._asdict()))) == facts
    assert DataFacts.from_record(GOOD | {"of a later version": 1}) == facts


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": []},
        {"image_shape": [8, 6]},
        {"image_shape": [8, 6, 3, 1]},
        {"image_shape": [8, 0, 3]},
        {"image_shape": [8, -6, 3]},
        {"image_shape": [8, 2**31, 3]},
        {"image_shape": [8.0, 6, 3]},
        {"image_shape": [True, 6, 3]},
        {"image_shape": "863"},
        {"image_shape": None},
        {"image_shape": [[8], 6, 3]},
        {"num_classes": 0},
        {"num_classes": "3"},
        {"num_classes": None},
        {"num_train": 0},
        {"num_train": 2**40},
        {"num_test": -1},
        {"num_test": 1.0},
        {"checksum": 3},
    ],
    ids=str,
)
def test_a_record_of_no_data_set_is_one_line(tmp_path, changes):
    record = read(dataset=str(write(tmp_path / "leaves.npz", 60, 9)), **SMALL).record()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record | {"data": GOOD | changes}))
    with pytest.raises(UserError, match=r"not the config\.json of a run") as error:
        read_experiment(str(path), {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lost", GOOD)
def test_a_record_that_lacks_a_fact_is_one_line(tmp_path, lost):
    record = read(dataset=str(write(tmp_path / "leaves.npz", 60, 9)), **SMALL).record()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record | {"data": {k: v for k, v in GOOD.items() if k != lost}}))
    with pytest.raises(UserError, match=f"{lost} .missing."):
        read_experiment(str(path), {})
