"""Runs on one's own data in each form: the same arrays give the same results."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
from server import ROOT
from test_own_data import REAL_MNIST, WRITERS, csv_text, make_parts
from test_resume import rows, stop

from mnist_jax.data import datasets, loading
from mnist_jax.data.splits import Dataset, cut_test
from mnist_jax.report import one_run

CONFIG = f"--config={ROOT / 'configs' / 'baseline.py'}"
KEYS = (
    "--config.hidden_sizes=4",
    "--config.num_epochs=12",
    "--config.num_seeds=2",
    "--config.batch_size=8",
    "--config.protocol=validation",
    "--config.num_validation=9",
)
ONE_TABLE, NUM_TEST = "one table", 12
SLOW = pytest.mark.slow


def whole():
    """60 images of 6x6 in three classes, one brighter than the other."""
    images, labels = make_parts(6, 6, sizes=(60, 1))["train"]
    return (images // 2 + 60 * labels[:, None, None]).astype(np.uint8), labels


def parts():
    """The same, whose test images are those that `num_test` cuts."""
    images, labels = whole()
    names, none = ("0", "1", "2"), (images[:0], labels[:0])
    data = Dataset("own", images, labels, *none, *none, names, "", "")
    data = cut_test(data, NUM_TEST)
    return {
        "train": (data.train_images, data.train_labels),
        "test": (data.test_images, data.test_labels),
    }


def write(form, folder):
    """Writes the images in a form; returns their path and the flags that a run needs."""
    if form != ONE_TABLE:
        path = WRITERS[form](folder / "own", parts())
        return path, (f"--config.dataset={path}",)
    folder.mkdir()
    path = folder / "own.csv"
    path.write_text(csv_text(*whole()))
    return path, (f"--config.dataset={path}", f"--config.num_test={NUM_TEST}")


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def train(server, workdir, *flags, config=CONFIG, **options):
    done = server.run("main", config, *flags, f"--workdir={workdir}", **options)
    assert (done.status, done.err) == (0, "")
    return workdir


def results(workdir):
    """The lines of `results.csv` without the data set's name, and of `metrics.jsonl`."""
    name = json.loads((workdir / "summary.json").read_text())["dataset"]
    with (workdir / "results.csv").open() as file:
        assert {row["dataset"] for row in csv.DictReader(file)} == {name}
    content = (workdir / "results.csv").read_text()
    return content.replace(f",{name},", ",,"), (workdir / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    """What a run that is left alone gives."""
    folder = tmp_path_factory.mktemp("reference")
    _, flags = write("npz", folder / "data")
    return results(train(server, folder / "run", *flags, *KEYS))


@SLOW
@pytest.mark.parametrize("form", [*WRITERS, ONE_TABLE])
def test_each_form_is_trained_moved_resumed_merged_and_reported(server, reference, tmp_path, form):
    path, flags = write(form, tmp_path / "data")
    run, record = tmp_path / "run", f"--config={tmp_path / 'run' / 'config.json'}"
    process = server.start("main", CONFIG, *flags, *KEYS, f"--workdir={run}")
    assert stop(process, signal.SIGTERM, lambda: rows(run) > 0) == 128 + signal.SIGTERM
    assert 0 < rows(run) < 24
    halves = [train(server, tmp_path / "s0", *flags, *KEYS, "--shard=0/2")]
    moved = path.rename(tmp_path / path.name)
    there = f"--config.dataset={moved}"
    train(server, run, there, config=record)
    halves.append(train(server, tmp_path / "s1", *flags[1:], there, *KEYS, "--shard=1/2"))
    remove(moved)
    done = server.run("report", *halves, f"--output={tmp_path / 'merged'}")
    assert (done.status, done.err) == (0, "")
    train(server, run, config=record)  # which says that it is finished
    assert results(run) == results(tmp_path / "merged") == reference
    first, second = ((x / "chosen_trial.npz").read_bytes() for x in (run, tmp_path / "merged"))
    assert first == second
    for text in (one_run.write_report(run), one_run.describe(tmp_path / "merged")):
        said = " ".join(text.split())
        assert f"baseline on {datasets.name_of(str(path))}:" in said
        assert ("cut from the training set" in said) == (form == ONE_TABLE)
    assert (run / "figures" / "mistakes.png").exists()


# --- MNIST ---


@SLOW
@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_JAX_DATA_DIR, the folder of MNIST, is not set")
def test_mnist_in_a_file_gives_the_results_of_mnist(server, tmp_path):
    """One form is enough: `test_mnist_in_each_form_is_mnist` reads all, checksum and arrays."""
    mnist = loading.load_dataset("mnist", REAL_MNIST)
    parts = {
        "train": (mnist.train_images, mnist.train_labels),
        "test": (mnist.test_images, mnist.test_labels),
    }
    keys = ("--config.hidden_sizes=8", "--config.num_epochs=1", "--config.num_seeds=1")
    named = ("--config.dataset=mnist", f"--data_dir={REAL_MNIST}")
    expected = results(train(server, tmp_path / "mnist", *named, *keys))
    path = WRITERS["npz"](tmp_path / "own", parts)
    run = train(server, tmp_path / "run", f"--config.dataset={path}", *keys)
    assert results(run) == expected
