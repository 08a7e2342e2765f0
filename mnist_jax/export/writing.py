"""The content of an exported file."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from mnist_jax.export import forward, metadata, onnx_model
from mnist_jax.runs.trained_trial import TrainedTrial


def write(trained: TrainedTrial, name: str) -> tuple[bytes, dict[str, str]]:
    """Returns the content of a file of a format, and the metadata in it.

    Raises:
        UserError: The model cannot be converted, or the weights are not those of the model.
    """
    said = metadata.describe(trained)
    if name == "safetensors":
        return _safetensors(trained, said), said
    with trained.jax():
        traced = forward.trace(trained)
        convert = onnx_model.convert if name == "onnx" else _stablehlo
        return convert(traced, said), said


def _safetensors(trained: TrainedTrial, said: Mapping[str, str]) -> bytes:
    from safetensors.numpy import save

    arrays = traverse_util.flatten_dict(trained.variables, sep="/")
    return save({name: np.array(x, order="C") for name, x in arrays.items()}, dict(said))


def _stablehlo(traced: forward.Forward, said: Mapping[str, str]) -> bytes:
    """Returns what `jax.export.deserialize` reads; `fun_name` of that is the metadata as JSON.

    The format has no other place for text.
    """
    return bytes(dataclasses.replace(traced.exported(), fun_name=json.dumps(said)).serialize())
