"""The settings: keys that have one value for all trials, one line each. They need no JAX."""

import typing
from dataclasses import dataclass
from typing import Annotated, Any

from mnist_jax.config.columns import METRICS
from mnist_jax.config.grid import GRIDS
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.config.values import COUNT, FLAG, SEED, WHOLE, WORD, WORDS, ValueKind, choice
from mnist_jax.data import datasets

PRECISIONS = {"float32": "float32", "tf32": "TF32_TF32_F32", "bfloat16": "BF16_BF16_F32"}
"""What matrix products round their factors to, by JAX's name; sums are always in float32."""
COMPUTED = {
    "cpu": ("float32",),
    "gpu": ("float32", "tf32", "bfloat16"),  # since compute capability 8.0
    "tpu": ("float32", "bfloat16"),
}
"""The precisions of each platform; JAX refuses some of the others, and ignores some silently."""


_DATASET = WORD._replace(
    expected=f"one of {', '.join(datasets.DATASETS)}, or the path of your own data"
)


_HALVING = COUNT._replace(
    expected="0, or a whole number from 2", valid=lambda value: COUNT.valid(value) and value != 1
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys that have one value for all trials of a run."""

    dataset: Annotated[
        str,
        _DATASET,
        f"{', '.join(datasets.DATASETS)}, or the path of your own data; digits needs no download",
    ] = "mnist"
    num_test: Annotated[
        int, COUNT, "images cut from your own data for the test set, if it has none"
    ] = 0
    test_seed: Annotated[int, SEED, "seed of the choice of these"] = 0
    model: Annotated[str, WORD, "mlp, cnn, or your own Flax module, as FILE.py:CLASS"] = "mlp"
    metrics: Annotated[
        tuple[str, ...],
        WORDS,
        f"measured beside loss and accuracy: {', '.join(METRICS)}, or your own,"
        " as FILE.py:FUNCTION",
    ] = ()
    protocol: Annotated[
        str,
        choice(tuple(PROTOCOLS)),
        "what chooses the epoch and the best grid point: validation; validation_last_epoch, where"
        " the last epoch counts; last_epoch, nothing; test, the test set, as in the notebook",
    ] = "validation"
    num_validation: Annotated[
        int,
        COUNT,
        "training images held out for validation; 0: a sixth, if the protocol needs them",
    ] = 0
    validation_seed: Annotated[int, SEED, "seed of the choice of validation images"] = 0
    grid: Annotated[
        str,
        choice(GRIDS),
        "product of the axes; list: read side by side; random or halton: a search",
    ] = "product"
    num_points: Annotated[int, COUNT, "number of points that a search draws"] = 0
    design_seed: Annotated[int, SEED, "seed of the search"] = 0
    halving: Annotated[
        int,
        _HALVING,
        "3, say: after num_epochs / 9 epochs, num_epochs / 3 and so on, only the best third of the"
        " points goes on; 0: all train to the end",
    ] = 0
    min_epochs: Annotated[int, WHOLE, "epochs before which halving stops nothing"] = 1
    num_seeds: Annotated[
        int, WHOLE, "repeated trials of each point, with the seeds --seed, --seed + 1, ..."
    ] = 5
    checkpoint_epochs: Annotated[
        int, WHOLE, "epochs between checkpoints, from which a stopped run resumes"
    ] = 1
    checkpoints_kept: Annotated[int, WHOLE, "number of checkpoints kept, the newest"] = 2
    keep_weights: Annotated[
        str,
        choice(("chosen", "all")),
        "of a finished run: chosen, those of the chosen trial; or all, also to train on",
    ] = "chosen"
    platform: Annotated[
        str,
        choice(("", *COMPUTED)),
        "cpu, gpu or tpu; empty: the first available of TPU, GPU and CPU",
    ] = ""
    devices: Annotated[
        int, COUNT, "number of devices that a process uses; 0: all; each core of a CPU is one"
    ] = 0
    precision: Annotated[
        str,
        choice(tuple(PRECISIONS)),
        "precision of matrix products: float32, or the faster tf32 (GPU) or bfloat16",
    ] = "float32"
    deterministic: Annotated[bool, FLAG, "whether a GPU repeats its bits too, at some cost"] = False


class Setting(typing.NamedTuple):
    """A key of `Settings`: what its value must be, the default, what it means."""

    kind: ValueKind
    default: Any
    text: str


SETTINGS = {
    name: Setting(hint.__metadata__[0], getattr(Settings, name), hint.__metadata__[1])
    for name, hint in typing.get_type_hints(Settings, include_extras=True).items()
}
"""All settings by name."""
