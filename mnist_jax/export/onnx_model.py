"""ONNX, through jax2onnx.

jax2onnx replaces Flax's functions while it traces, and its MaxPool and Pad fail on images with
channels last or on a free batch. So it is given the program as JAX traced it, in operations that it
converts: pools and padding become slices, maxima, sums and concatenations.
"""

import contextlib
import functools
import io
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Jaxpr, Literal

from mnist_jax import UserError
from mnist_jax.export.formats import PRODUCER
from mnist_jax.export.forward import Forward
from mnist_jax.layers import window_taps
from mnist_jax.text import error_line

OPSET = 21  # which ONNX Runtime has from version 1.18 on
IR_VERSION = 10
_MOST = 1e-3  # by which a probability may differ; of rounding it is some 1e-7


def convert(forward: Forward, metadata: Mapping[str, str]) -> bytes:
    """Returns an ONNX model whose input is `images` and whose output is `probabilities`.

    Raises:
        UserError: The converter, or ONNX Runtime, lacks an operation of the model.
    """
    with _silent():
        import jax2onnx
        import onnx

        try:
            model = jax2onnx.to_onnx(
                lambda images: _replay(forward.program.jaxpr, forward.program.consts, images)[0],
                [forward.images],
                model_name=PRODUCER,
                opset=OPSET,
                input_names=["images"],
                output_names=["probabilities"],
            )
            model.ir_version = IR_VERSION
            model.producer_name, model.producer_version = PRODUCER, metadata["producer_version"]
            onnx.helper.set_model_props(model, dict(metadata))
            content = model.SerializeToString()
            _check(content, forward)
        except Exception as error:  # of the converter, or of ONNX Runtime, whatever the model has
            raise UserError(
                f"--format=onnx: the model cannot be converted ({error_line(error, 200)}); give"
                " --format=stablehlo"
            ) from error
    return content


def _check(content: bytes, forward: Forward) -> None:
    """Compares what ONNX Runtime computes with what JAX does, of black, white and random images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    shape, dtype = forward.images.shape[1:], forward.images.dtype
    white = 255 if dtype == np.uint8 else 1
    noise = np.random.default_rng(0).random(shape) * white
    images = np.stack([np.zeros(shape), np.full(shape, white), noise]).astype(dtype)
    [found] = session.run(["probabilities"], {"images": images})
    wanted = np.asarray(forward.exported().call(images))
    if not np.allclose(found, wanted, rtol=0, atol=_MOST, equal_nan=True):
        raise ValueError(f"probabilities differ by {np.abs(found - wanted).max():.2g}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps the converter from talking: of plugins for other libraries, and of what it tries."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _replay(program: Jaxpr, constants: Sequence[Any], *arguments: Any) -> list[Any]:
    """Evaluates a program in operations that are converted; inlines calls."""
    values = dict(zip([*program.constvars, *program.invars], [*constants, *arguments], strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in program.eqns:
        inputs, params = list(map(value, equation.invars)), equation.params
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if equation.primitive.name in _REPLACED:
            results = [_REPLACED[equation.primitive.name](*inputs, **params)]
        elif inner is not None and equation.primitive.name not in ("scan", "while", "cond"):
            results = _replay(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), *inputs)
        else:
            found = equation.primitive.bind(*inputs, **params)
            results = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, results, strict=True))
    return list(map(value, program.outvars))


def _pad(x: Array, blank: Any, *, padding_config: Sequence[tuple[int, int, int]]) -> Array:
    for axis, (low, high, between) in enumerate(padding_config):
        if between or min(low, high) < 0:
            raise NotImplementedError("padding between entries, or of less than 0")
        strips = [
            [jnp.broadcast_to(blank, (*x.shape[:axis], size, *x.shape[axis + 1 :]))] * (size > 0)
            for size in (low, high)
        ]
        if low or high:
            x = lax.concatenate([*strips[0], x, *strips[1]], axis)
    return x


def _window(combine: Callable, blank: float) -> Callable:
    """Returns the reduction of windows of an array, as slices, one for each position in them."""

    def reduce(
        x: Array,
        *,
        window_dimensions: Sequence[int],
        window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        base_dilation: Sequence[int],
        window_dilation: Sequence[int],
    ) -> Array:
        edges = [(*pad, each - 1) for pad, each in zip(padding, base_dilation, strict=True)]
        x = _pad(x, jnp.asarray(blank, x.dtype), padding_config=edges)
        windows = zip(window_dimensions, window_strides, window_dilation, strict=True)
        for axis, window in enumerate(windows):
            if window[:2] != (1, 1):
                x = functools.reduce(combine, window_taps(x, axis, *window))
        return x

    return reduce


_REPLACED: dict[str, Callable[..., Array]] = {
    "pad": _pad,
    "reduce_window_max": _window(lax.max, -np.inf),
    "reduce_window_sum": _window(operator.add, 0.0),
}
