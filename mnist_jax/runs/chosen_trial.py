"""`chosen_trial.npz`: the weights of one trial, and what it predicts of the test images."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import run_files
from mnist_jax.arrays import npz_bytes
from mnist_jax.data.splits import Dataset
from mnist_jax.disk import write_bytes
from mnist_jax.run_files import BadFileError

NUM_MISTAKES = 24


def write_chosen_trial(
    workdir: Path,
    trial: int,
    variables: Mapping,
    probabilities: np.ndarray,
    dataset: Dataset,
    first_kernel: str = "",
) -> None:
    """Writes `chosen_trial.npz`: what a report shows of one trial, readable by `numpy.load`.

    It holds `trial`; the weights as `params/LAYER/NAME`, and a module's other collections in the
    same way; `first_kernel`, the name of the one that sees the images, if there is one; `labels`
    [n] of the test images and their `probabilities` [n, classes]; the most confident `mistakes`,
    indices of test images, and their `mistake_images`, as bytes.
    """
    labels = dataset.test_labels
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    confident = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    mistakes = wrong[confident][:NUM_MISTAKES]
    weights = flat_weights(variables)
    if first_kernel:
        weights["first_kernel"] = np.asarray(first_kernel)
    arrays = {
        "trial": trial,
        "labels": labels,
        "probabilities": probabilities,
        "mistakes": mistakes,
        "mistake_images": _to_bytes(dataset.test_images, mistakes),
    }
    write_bytes(workdir / "chosen_trial.npz", npz_bytes(arrays | weights))


def flat_weights(variables: Mapping) -> dict[str, Any]:
    """Returns variables as NumPy's arrays, by names such as `params/LAYER/NAME`."""
    from flax import traverse_util

    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: _to_numpy(value) for name, value in flat.items()}


def _to_bytes(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns some of the images as they are shown: of floats, black is the smallest of all."""
    if images.dtype == np.uint8:
        return images[chosen]
    low, high = float(images.min()), float(images.max())
    shares = (images[chosen] - low) / ((high - low) or 1.0)
    return np.round(255 * shares).astype(np.uint8)


def _to_numpy(value: Any) -> np.ndarray:
    """Returns an array that NumPy's files can hold: they have no bfloat16 nor 8-bit floats."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def read_chosen_trial(workdir: Path) -> dict[str, np.ndarray]:
    """Reads what `write_chosen_trial` wrote; raises `BadFileError` if it is missing or damaged."""
    path = workdir / "chosen_trial.npz"
    arrays = run_files.read_arrays(path)
    kinds = {"trial": ("iu", ()), "labels": ("iu", (-1,)), "probabilities": ("f", (-1, -1))}
    images = arrays.get("mistake_images")
    sizes = (-1,) * (4 if images is not None and images.ndim == 4 else 3)  # with channels, or not
    kinds |= {"mistakes": ("iu", (-1,)), "mistake_images": ("u", sizes)}
    run_files.check_arrays(path, arrays, kinds)
    labels, mistakes = arrays["labels"].tolist(), arrays["mistakes"].tolist()
    if not (
        0 < len(labels) == len(arrays["probabilities"])
        and len(mistakes) == len(arrays["mistake_images"])
        and 0 <= min(labels) <= max(labels) < arrays["probabilities"].shape[1]
        and 0 <= min(mistakes, default=0) <= max(mistakes, default=0) < len(labels)
    ):
        raise BadFileError(path, "its arrays do not belong together")
    return arrays


def renumbered(workdir: Path, trial: int) -> bytes:
    """Returns the content of `chosen_trial.npz` as that of a trial with another number.

    Raises:
        BadFileError: It is missing or damaged.
    """
    return npz_bytes(read_chosen_trial(workdir) | {"trial": np.asarray(trial)})


def trial_of_weights(workdir: Path) -> int | None:
    """Returns the trial that `chosen_trial.npz` is of; None if all of it cannot be read."""
    with contextlib.suppress(BadFileError):
        return int(read_chosen_trial(workdir)["trial"])
    return None
