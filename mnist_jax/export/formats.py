"""The formats of an exported file: what each holds, and which packages it needs."""

import importlib.util
from typing import NamedTuple

from mnist_jax import UserError


class Format(NamedTuple):
    """A format by what it holds, and what it needs."""

    holds: str  # in words
    packages: tuple[str, ...] = ()
    extra: str = ""  # of this package, that installs them


PRODUCER = "mnist_jax.export"
"""Stands in each file, as plain text: so a file that this package made is known."""
EXPECTED = "safetensors, stablehlo or onnx"
_FUNCTION = "the function from images to probabilities"
FORMATS = {
    "safetensors": Format("the weights by name", ("safetensors",), "export"),
    "stablehlo": Format(f"{_FUNCTION}, for CPU, CUDA and TPU", ("flatbuffers",), "export"),
    "onnx": Format(_FUNCTION, ("jax2onnx", "onnx", "onnxruntime"), "onnx"),
}


def check(name: str) -> None:
    """Raises `UserError` unless a format of this name can be written here."""
    if name not in FORMATS:
        raise UserError(f"--format={name}: expected {EXPECTED}")
    _, packages, extra = FORMATS[name]
    if missing := [package for package in packages if not importlib.util.find_spec(package)]:
        raise UserError(
            f"--format={name}: {' and '.join(missing)} cannot be found; pip install -e '.[{extra}]'"
        )
