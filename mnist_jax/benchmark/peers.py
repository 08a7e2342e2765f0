"""Peers, what a user would write instead: which configs they can train, and how they compare."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import UserError
from mnist_jax.benchmark import rounds
from mnist_jax.benchmark.peer_loops import Task
from mnist_jax.benchmark.processes import TrainingProcess
from mnist_jax.benchmark.rounds import TimingError, Timings
from mnist_jax.config.axes import MODELS
from mnist_jax.config.grid import Point
from mnist_jax.data.splits import Dataset, image_shape
from mnist_jax.text import text_table
from mnist_jax.training.machine import bound_cores, num_cores

PACKAGES = {
    "keras": ("keras", "tensorflow"),
    "keras-jax": ("keras", "jax"),
    "torch": ("torch",),
    "flax": ("flax", "optax", "jax"),
}
"""What each peer imports; for Keras the last is its backend."""

THREADS = ("NPROC", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
"""The variables by which JAX, PyTorch and TensorFlow are told how many threads to use."""


def start_peer(
    name: str, task: Task, file: Path, environment: Mapping[str, str]
) -> TrainingProcess:
    """Starts a peer, which describes its versions, platform and threads.

    `file` is a NumPy archive with `images` and `labels`, as a `Dataset` has them.

    Raises:
        TimingError: A package is missing, or the process died.
    """
    missing = [p for p in PACKAGES[name] if importlib.util.find_spec(p) is None]
    if missing:
        raise TimingError(f"{missing[0]} is not installed; pip install -e '.[bench]' in a checkout")
    environment = {k: v for k, v in environment.items() if not k.startswith("KERAS_")} | {
        "KERAS_BACKEND": PACKAGES[name][-1],
        "KERAS_HOME": str(file.with_name("keras")),  # so that no keras.json of the user's counts
    }
    command = ["-m", "mnist_jax.benchmark.peer_loops", name, json.dumps(task._asdict()), str(file)]
    return TrainingProcess(command, file.with_name(f"{name}.log"), environment)


def check_peers_can_train(model: str, point: Point) -> None:
    """Refuses a config that the peers cannot train: by its model, its optimizer, its pixels."""
    for key, value, known in (("model", model, MODELS), ("optimizer", point["optimizer"], ["sgd"])):
        if value not in known:
            raise UserError(
                f"--config.{key}={value}: expected {' or '.join(known)}, which the peers train;"
                " change it, or leave out --peers"
            )
    plain = {"schedule": "constant", "warmup_steps": 0, "nesterov": False, "weight_decay": 0}
    plain |= {"label_smoothing": 0, "ema_decay": 0}
    as_stored = {"scaling": "unit", "augmentation": "none"}
    for key, value in (plain | as_stored).items():
        if point[key] != value:
            how = "on unchanged images" if key in as_stored else "by plain SGD"
            raise UserError(
                f"--config.{key}={point[key]}: expected {value}, since the peers train {how};"
                " change it, or leave out --peers"
            )


def start_peers(
    names: Sequence[str],
    point: Point,
    dataset: Dataset,
    folder: Path,
    environment: Mapping[str, str],
    platform_name: str,
    precision: str,
) -> tuple[dict[str, TrainingProcess], dict[str, str]]:
    """Returns the peers that run, by name; and, by name, why the others do not."""
    if not names:
        return {}, {}  # and any model and optimizer will do
    shared = {
        name: point.get(name, ()) for name in Task._fields if name in (*point, "conv_features")
    }
    shared["image_shape"] = image_shape(dataset.train_images)
    task = Task(num_classes=len(dataset.class_names), precision=precision, **shared)
    few = num_cores() < bound_cores()  # by a quota, of which the peers' libraries know nothing
    environment = {
        **(dict.fromkeys(THREADS, str(num_cores())) if few else {}),
        **environment,
        "JAX_TRACEBACK_FILTERING": "off",  # or else an error's last line is about the traceback
        # On a GPU they share its memory with ours.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if platform_name == "cpu":
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    np.savez(folder / "images.npz", images=dataset.train_images, labels=dataset.train_labels)
    running: dict[str, TrainingProcess] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            peer = start_peer(name, task, folder / "images.npz", environment)
            if peer.description["platform"] != platform_name:
                peer.close()
                raise TimingError(
                    f"it runs on {peer.description['platform']} here, ours on {platform_name}"
                )
            running[name] = peer
        except TimingError as error:
            rounds.leave_out(left_out, name, error)
    return running, left_out


def compare_peers(
    running: Mapping[str, TrainingProcess], timings: Mapping[str, Timings]
) -> dict[str, dict[str, Any]]:
    """Returns the record of the peers that were timed, in pairs of rounds with `ours`."""
    return {
        name: {
            **rounds.with_extremes("ms_per_step", timings[name].ms[1:]),
            "ratio": rounds.ratio_by_round(timings[name].ms[1:], timings["ours"].ms[1:]),
            **peer.description,
        }
        for name, peer in running.items()
        if name in timings
    }


def peer_lines(compared: Mapping[str, Mapping], left_out: Mapping[str, str]) -> list[str]:
    """Returns what is printed about the peers: a table, and why others are left out of it."""
    rows = []
    for name, peer in compared.items():
        versions = (f"{k} {v}" for k, v in peer["versions"].items() if k in name.split("-"))
        label = f"{name} ({' '.join(versions)})"
        times, word = peer["ratio"], "faster"
        if times["median"] < 1:
            inverse = {"median": "median", "min": "max", "max": "min"}
            times, word = {name: 1 / times[of] for name, of in inverse.items()}, "slower"
        extremes = f"{times['min']:.2f} to {times['max']:.2f}"
        how = f"{times['median']:.2f} times {word}"
        rows.append([label, f"{peer['ms_per_step']:.3f}", how, extremes])
    names = ("peer, one network at a time", "ms a step", "ours is", "min to max")
    tables = [text_table(names, rows)] if rows else []
    return tables + [f"{name} is left out: {why}" for name, why in left_out.items()]
