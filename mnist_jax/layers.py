"""Layers that stay fast inside a compiled loop: `Conv`, `max_pool`, `avg_pool`, `Dropout`.

Inside `lax.scan` XLA:CPU runs the gradients of a convolution through an unoptimised emitter
(jax-ml/jax#12868), and `vmap` over trials that have their own kernels makes grouped convolutions,
slow on every GPU. The gradient of `reduce_window`'s maximum is slow on both, and has no known
deterministic kernel. The layers are built from matrix products, slices and comparisons instead.
They take Flax's arguments and parameters and give its values and gradients up to rounding, in
every mode of differentiation.

`training/fused_layer.py` combines three of them, faster still, for `models.CNN`.
"""

import contextlib
import contextvars
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array

Padding = str | Sequence[tuple[int, int]]

NARROW = 8  # with fewer input channels, patches are too short for the last axis
BLOCK_BYTES = {True: 2**23, False: 2**20}  # patches made at a time on a CPU, by `narrow`


_plainly = contextvars.ContextVar("plainly", default=False)


@contextlib.contextmanager
def traced_plainly() -> Iterator[None]:
    """Gives programs that are traced in its context the plain convolutions and pools of Flax.

    So the work of a program can be counted, since these layers do more or less of it than a
    convolution; and other programs can read an exported one.
    """
    before = _plainly.set(True)
    try:
        yield
    finally:
        _plainly.reset(before)


def is_traced_plainly() -> bool:
    """Says whether `traced_plainly` is in force."""
    return _plainly.get()


def window_taps(x: Array, axis: int, size: int, stride: int, dilation: int = 1) -> list[Array]:
    """Returns, for each position in a window, the entries of `x` that all windows have there."""
    length = x.shape[axis]
    read = max(0, (length - (size - 1) * dilation - 1) // stride * stride + 1)
    starts = [min(i * dilation, length - read) for i in range(size)]  # less than i only if none fit
    return [lax.slice_in_dim(x, start, start + read, stride, axis) for start in starts]


def _patches(x: Array, windows: Sequence[tuple], first: int, channels: int) -> Array:
    """Joins along the axis `channels` the taps of windows (size, stride, dilation).

    The windows span the axes from `first` on; the position in the last one varies fastest.
    """
    taps = [x]
    for axis, window in enumerate(windows, start=first):
        taps = [tap for part in taps for tap in window_taps(part, axis, *window)]
    return jnp.concatenate(taps, channels)


def block_size(batch: int, most: int) -> int:
    """Returns the largest divisor of the batch that is no larger than `most`, at least 1."""
    return next((size for size in range(min(batch, most), 0, -1) if batch % size == 0), 1)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: lax.ConvDimensionNumbers,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`lax.conv_general_dilated` for channels last, as patches times weights (im2col).

    On a CPU, images are taken in blocks, so that their patches stay in cache; the gradient
    recomputes the patches. With few channels, patches are short: then they are the first axis, and
    pixels the last, long one. Time inside a scan on one core, as a share of that of the plain
    operation outside: 5x5 kernels on 1 and 6 channels 0.3 and 0.5, 3x3 ones on 1 and 32 channels
    0.5 and 0.7, on 64 channels 1.1, on 32 groups of one channel 1.6 (plain, in a scan, 6).

    A TPU's compiler does better with the plain operation; an empty output needs it, too.

    Returns:
        [batch, *spatial, features].
    """
    whole = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    shape = jax.eval_shape(whole, lhs, rhs).shape
    backend = jax.default_backend()
    if backend == "tpu" or 0 in shape or is_traced_plainly():
        return whole(lhs, rhs)
    *kernel_size, depth, features = rhs.shape
    if isinstance(padding, str):
        spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, rhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], spans, window_strides, padding)
    edges = [(*pad, d - 1) for pad, d in zip(padding, lhs_dilation, strict=True)]
    lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    windows = list(zip(kernel_size, window_strides, rhs_dilation, strict=True))
    narrow = backend == "cpu" and feature_group_count == 1 and depth < NARROW

    def convolve(images: Array) -> Array:
        out = len(images), *shape[1:]
        weights = rhs.reshape(-1, features)
        if narrow:
            patches = _patches(jnp.moveaxis(images, -1, 0), windows, 2, 0).reshape(len(weights), -1)
            y = jnp.matmul(weights.T, patches, precision=precision)
            return jnp.moveaxis(y.reshape(features, *out[:-1]), 0, -1)
        patches = _patches(images, windows, 1, -1)
        if feature_group_count == 1:
            patches = patches.reshape(-1, len(weights))
            return jnp.matmul(patches, weights, precision=precision).reshape(out)
        patches = patches.reshape(-1, math.prod(kernel_size), feature_group_count, depth)
        weights = rhs.reshape(-1, depth, feature_group_count, features // feature_group_count)
        return jnp.einsum("pkgi,kigo->pgo", patches, weights, precision=precision).reshape(out)

    if backend != "cpu":
        return convolve(lhs)
    image_bytes = math.prod((*shape[1:-1], *kernel_size, lhs.shape[-1])) * lhs.dtype.itemsize
    block = block_size(len(lhs), BLOCK_BYTES[narrow] // image_bytes)
    if block == len(lhs):
        return convolve(lhs)
    blocks = lhs.reshape(-1, block, *lhs.shape[1:])
    return lax.map(jax.checkpoint(convolve, prevent_cse=False), blocks).reshape(shape)


@no_type_check  # the type of one of Flax's fields cannot be checked at run time
class Conv(nn.Conv):
    """`nn.Conv` as matrix products, with all its options: see `conv_general_dilated`.

    Arguments, parameters, initial weights and names are those of `nn.Conv`.
    """

    conv_general_dilated_cls: Any = lambda: conv_general_dilated


def max_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """`nn.max_pool`. As in Flax, the first of equal values in a window takes the gradient.

    Blank background ties in every window, and sharing the gradient there would change training.
    The axes are pooled one after the other, the last one first.
    """
    if is_traced_plainly():
        return nn.max_pool(inputs, window_shape, strides, padding)
    return _pool(_max_along, -jnp.inf, inputs, window_shape, strides, padding)


def avg_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """`nn.avg_pool`; the mean includes padding, unless `count_include_pad` is false."""
    if is_traced_plainly():
        return nn.avg_pool(inputs, window_shape, strides, padding, count_include_pad)
    total = _pool(_sum_along, 0.0, inputs, window_shape, strides, padding)
    if count_include_pad:
        return total / math.prod(window_shape)
    ones = jnp.ones((*inputs.shape[-1 - len(window_shape) : -1], 1))
    return total / _pool(_sum_along, 0.0, ones, window_shape, strides, padding)


def _pool(
    along: Callable,
    blank: float,
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Padding,
) -> Array:
    """Pools [..., *spatial, channels] along each spatial axis."""
    strides = strides or (1,) * len(window_shape)
    first = inputs.ndim - 1 - len(window_shape)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[first:-1], window_shape, strides, padding)
    edges = [(0, 0, 0)] * first + [(*pad, 0) for pad in padding] + [(0, 0, 0)]
    x = lax.pad(inputs, jnp.array(blank, inputs.dtype), edges)
    for axis in reversed(range(first, inputs.ndim - 1)):
        x = along(x, axis, window_shape[axis - first], strides[axis - first])
    return x


def _sum_along(x: Array, axis: int, size: int, stride: int) -> Array:
    return functools.reduce(operator.add, window_taps(x, axis, size, stride))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_along(x: Array, axis: int, size: int, stride: int) -> Array:
    return functools.reduce(jnp.maximum, window_taps(x, axis, size, stride))


@_max_along.defjvp
def _max_along_jvp(axis, size, stride, primals, tangents):
    taps, tangents = (window_taps(*x, axis, size, stride) for x in (primals, tangents))
    top = functools.reduce(jnp.maximum, taps)
    tangent = tangents.pop()
    for tap, candidate in zip(taps[-2::-1], tangents[::-1], strict=True):
        tangent = jnp.where(tap == top, candidate, tangent)
    return top, tangent


class Dropout(nn.Module):
    """`nn.Dropout` whose rate may also be traced: one program for trials of different rates.

    With the same key it drops what Flax's drops; the fields are Flax's. A traced rate of 0 gives
    the inputs bit for bit; a traced rate of 1 gives zeros, without NaN in the gradient.
    """

    rate: Any  # from 0 to 1: a number or an array of no axes
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(
        self, inputs: Array, deterministic: bool | None = None, rng: Array | None = None
    ) -> Array:
        """Returns the inputs, each divided by 1 - rate or replaced by 0.

        Raises:
            ValueError: The rate is a number that is not from 0 to 1, in training.
        """
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        static = isinstance(self.rate, int | float)
        if deterministic or (static and self.rate == 0):
            return inputs
        if static and not 0 <= self.rate <= 1:
            raise ValueError(f"a dropout rate of {self.rate:g}; expected from 0 to 1")
        if static and self.rate == 1:
            return jnp.zeros_like(inputs)
        rng = self.make_rng(self.rng_collection) if rng is None else rng
        shape = list(inputs.shape)
        for axis in self.broadcast_dims:
            shape[axis] = 1
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(rng, keep, shape)
        if static:
            return jnp.where(mask, inputs / keep, 0)
        # Not a division: XLA turns some into this product, and so the bits would depend on context.
        scale = 1 / jnp.where(keep > 0, keep, 1).astype(inputs.dtype)
        return jnp.where(mask, inputs * scale, 0)
