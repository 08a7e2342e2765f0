"""Records of runs by earlier versions, translated to the keys of this version.

A key that an old record lacks has its default, and this means what the code did then. Only this
file knows which keys were replaced, and by what.
"""

from collections.abc import Mapping
from typing import Any

from mnist_jax.config.protocol import protocol_name
from mnist_jax.config.settings import SETTINGS
from mnist_jax.data.datasets import name_of

_ADDED: dict[str, Any] = {
    "optimizer": ["sgd"],
    "ema_decay": [0.0],
    "scaling": ["unit"],
    "augmentation": ["none"],
    "num_test": 0,
    "test_seed": 0,
    "metrics": [],
    "halving": 0,
    "min_epochs": 1,
    "checkpoint_epochs": 1,
    "checkpoints_kept": 2,
    "keep_weights": "chosen",
    "platform": "",
    "devices": 0,
    "precision": "float32",
    "deterministic": False,
    "shard": "0/1",
}
"""Keys that older records lack, with the values that say what was done then."""


def axes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of a record's axes: the keys with lists of values that are no settings."""
    return tuple(
        key
        for key, value in config.items()
        if isinstance(value, list | tuple) and key not in ("seed", *SETTINGS)
    )


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config of a file or a record in the keys of this version."""
    new = dict(config)
    if isinstance(new.get("choose_epoch"), bool) and "protocol" not in new:
        new["protocol"] = protocol_name(new.get("num_validation", 0), new.pop("choose_epoch"))
        new.setdefault("validation_seed", new.get("design_seed", 0))
    if "conv_features" in new and "model" not in new:
        features = new["conv_features"]
        several = features if isinstance(features, tuple | list) else (features,)
        empty = not features or all(type(v) in (tuple, list) and not v for v in several)
        new["model"] = "mlp" if empty else "cnn"
        if empty:
            del new["conv_features"]
    return new


def upgrade_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's record with all keys of this version."""
    new = upgrade(config)
    return new | {key: value for key, value in _ADDED.items() if key not in new}


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record as it is compared with others.

    Each of the user's files is a key, and each fact of the user's own data, which may be elsewhere.
    """
    new = dict(config)
    own = new.pop("files", {})
    if isinstance(new.get("data"), Mapping) and isinstance(new.get("dataset"), str):
        new["dataset"] = name_of(new["dataset"])
        new |= {f"data.{key}": value for key, value in new.pop("data").items()}
    return new | (dict(own) if isinstance(own, Mapping) else {})


def upgrade_rows(
    rows: list[dict[str, Any]], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns rows, of trials or of grid points of an old record, with the axes of the new one."""
    gone, there = {*axes_of(old)} - {*axes_of(new)}, axes_of(new)
    if not gone and len(there) == len(axes_of(old)):
        return rows
    return [
        {key: value for key, value in row.items() if key not in gone}
        | {axis: new[axis][0] for axis in there if axis not in row}
        for row in rows
    ]
