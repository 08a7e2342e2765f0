"""Runs of networks that were not trained, which takes no time: their weights are random."""

import jax
import numpy as np

from mnist_jax import disk
from mnist_jax.config import user_code
from mnist_jax.config.experiment import read_config
from mnist_jax.data import splits
from mnist_jax.data.splits import Dataset
from mnist_jax.runs import chosen_trial, records, summaries, workdirs
from mnist_jax.runs.provenance import provenance
from mnist_jax.training import networks, recipes

DIGITS = tuple("0123456789")


def images_of(shape=(28, 28), dtype=np.uint8, name="digits", class_names=DIGITS):
    """Returns made-up images, 20 to train and 7 to test."""
    generator = np.random.default_rng(0)
    parts = []
    for n in (20, 0, 7):
        pixels = generator.integers(0, 256, (n, *shape)).astype(dtype)
        parts += [pixels if dtype is np.uint8 else pixels / 64 - 2]
        parts += [np.arange(n, dtype=np.uint8) % len(class_names)]
    return Dataset(name, *parts, class_names, "sha256:0", "made up")


def write_run(path, dataset, folders=(), **keys):
    """Writes the work directory of a run of one trial; `keys` are those of its config."""
    own = dataset.name not in ("digits", "mnist", "fashion_mnist", "cifar10")
    keys |= {"dataset": f"/none/{dataset.name}" if own else dataset.name, "batch_size": 4}
    keys |= {"num_epochs": 1, "num_seeds": 1, "protocol": "test"}
    facts = dataset.facts if own else None
    experiment = read_config(keys, "untrained", 0, folders=folders, data=facts)
    path.mkdir(parents=True)
    disk.write_text(path / "config.json", disk.to_json(experiment.record()))
    user_code.save(path, experiment.own_files)
    names = records.trial_rows(experiment.points, experiment.seeds, dataset.name)
    recorder = records.Recorder(path, names, (), "test")
    columns = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_objective")
    recorder.add(1, dict.fromkeys(columns, np.full(1, 0.75)))
    rows = recorder.rows({})
    records.write_results(path, rows)
    recipe, _ = recipes.create_recipe(experiment, [0], dataset)
    variables = jax.tree.map(_random, networks.shapes(recipe.network))
    probabilities = np.eye(len(dataset.class_names))[dataset.test_labels]
    chosen_trial.write_chosen_trial(path, 0, variables, probabilities, dataset)
    made = provenance() | {"data_checksum": "sha256:0", "seconds": {"train": 1.0}}
    more = {"run": workdirs.digest(experiment.record(), "sha256:0"), "data": dataset.describe()}
    if "standard" in experiment.values["scaling"]:
        more["data"]["moments"] = splits.moments(dataset.train_images)._asdict()
    axes, sizes = tuple(experiment.values), dataset.num_images
    summaries.write_summary(path, rows, axes, "test", dataset.name, sizes, made, **more)
    return path


def _random(like):
    generator = np.random.default_rng(1)
    if len(like.shape) < 2:  # of biases, and of variances, which are positive
        return 0.3 * generator.random(like.shape, np.float32)
    return (1.4 * generator.normal(size=like.shape) / np.prod(like.shape[:-1]) ** 0.5).astype(
        np.float32
    )
