"""Layers that stay fast inside a compiled loop: `Conv`, `max_pool`, `avg_pool`, `Dropout`.

Inside `lax.scan` XLA:CPU runs the gradients of a convolution through an unoptimised emitter
(jax-ml/jax#12868), and `vmap` over trials that have their own kernels makes grouped convolutions,
slow on every GPU. The gradient of `reduce_window`'s maximum is slow on both, and no deterministic
kernel is known for it. Matrix products, slices and comparisons have none of these troubles, so the
layers are made of them. They take Flax's arguments and parameters and give its values and
gradients up to rounding, in every mode of differentiation.

`ConvReluMaxPool`, the layer of `models.CNN`, does three of them at once, and faster still.
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
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array

Padding = str | Sequence[tuple[int, int]]

NARROW = 8  # input channels from which on a patch is long enough to lie in the last axis
BLOCK_BYTES = {True: 2**23, False: 2**20}  # patches made at a time on a CPU, by `narrow`


_plainly = contextvars.ContextVar("plainly", default=False)


@contextlib.contextmanager
def traced_plainly() -> Iterator[None]:
    """Makes convolutions what Flax makes them, in programs that are traced meanwhile.

    Their work can then be counted, which ours, by other ways, do more or less of.
    """
    before = _plainly.set(True)
    try:
        yield
    finally:
        _plainly.reset(before)


def _taps(x: Array, axis: int, size: int, stride: int, dilation: int = 1) -> list[Array]:
    """Returns, for each position in a window, the entries of `x` that the windows have there."""
    length = x.shape[axis]
    read = max(0, (length - (size - 1) * dilation - 1) // stride * stride + 1)
    starts = [min(i * dilation, length - read) for i in range(size)]  # less than i only if none fit
    return [lax.slice_in_dim(x, start, start + read, stride, axis) for start in starts]


def _patches(x: Array, windows: Sequence[tuple], first: int, channels: int) -> Array:
    """Joins, along the axis of channels, the taps of windows (size, stride, dilation).

    The windows span the axes from `first` on; the last one's position varies fastest.
    """
    taps = [x]
    for axis, window in enumerate(windows, start=first):
        taps = [tap for part in taps for tap in _taps(part, axis, *window)]
    return jnp.concatenate(taps, channels)


def _block_size(batch: int, most: int) -> int:
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

    On a CPU, images are taken in blocks, so that their patches stay in cache, and are made again in
    the gradient. A few channels make short patches: these lie in the first axis, in long rows of
    pixels. Measured on one core inside a scan, as shares of the time that the plain operation takes
    outside of it: 5x5 kernels on 1 and 6 channels 0.3 and 0.5, 3x3 ones on 1 and 32 channels 0.5
    and 0.7, on 64 channels 1.1, on 32 groups of one channel 1.6 (plain, in a scan, 6).

    A TPU's compiler prefers the plain operation, which also stands for what has no output.

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
    if backend == "tpu" or 0 in shape or _plainly.get():
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
    block = _block_size(len(lhs), BLOCK_BYTES[narrow] // image_bytes)
    if block == len(lhs):
        return convolve(lhs)
    blocks = lhs.reshape(-1, block, *lhs.shape[1:])
    return lax.map(jax.checkpoint(convolve, prevent_cse=False), blocks).reshape(shape)


@no_type_check  # the type of one of Flax's fields cannot be checked at run time
class Conv(nn.Conv):
    """`nn.Conv`, made of matrix products: see `conv_general_dilated` for how and how fast.

    Arguments, parameters, initial weights and names are those of `nn.Conv`; every kernel, stride,
    padding, dilation, group and number of axes is served.
    """

    conv_general_dilated_cls: Any = lambda: conv_general_dilated


def max_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """`nn.max_pool`. The first of equal values in a window, row by row, takes the gradient.

    So it is in Flax. Blank background ties in every window, and sharing the gradient there would
    change training. The axes are pooled one after the other, the last one first.
    """
    return _pool(_max_along, -jnp.inf, inputs, window_shape, strides, padding)


def avg_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """`nn.avg_pool`; the mean counts what is padded, unless `count_include_pad` is false."""
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
    return functools.reduce(operator.add, _taps(x, axis, size, stride))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_along(x: Array, axis: int, size: int, stride: int) -> Array:
    return functools.reduce(jnp.maximum, _taps(x, axis, size, stride))


@_max_along.defjvp
def _max_along_jvp(axis, size, stride, primals, tangents):
    taps, tangents = (_taps(*x, axis, size, stride) for x in (primals, tangents))
    top = functools.reduce(jnp.maximum, taps)
    tangent = tangents.pop()
    for tap, candidate in zip(taps[-2::-1], tangents[::-1], strict=True):
        tangent = jnp.where(tap == top, candidate, tangent)
    return top, tangent


class Dropout(nn.Module):
    """`nn.Dropout` whose rate may also be traced: one program for trials of different rates.

    With the same key it drops what Flax's drops. A traced rate of 0 gives the inputs bit for bit;
    a traced rate of 1 gives zeros, without NaN in the gradient.

    Attributes:
        rate: The probability that an input is dropped, a number or an array of no axes.
        broadcast_dims: Axes along which one mask is shared.
        deterministic: Whether to return the inputs as they are; here or in the call.
        rng_collection: The name of the random numbers' key in `apply(..., rngs=)`.
    """

    rate: Any
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(
        self, inputs: Array, deterministic: bool | None = None, rng: Array | None = None
    ) -> Array:
        """Returns the inputs, each divided by 1 - rate or replaced by 0."""
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        known = isinstance(self.rate, int | float)
        if deterministic or (known and self.rate == 0):
            return inputs
        if known and self.rate == 1:
            return jnp.zeros_like(inputs)
        rng = self.make_rng(self.rng_collection) if rng is None else rng
        shape = list(inputs.shape)
        for axis in self.broadcast_dims:
            shape[axis] = 1
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(rng, keep, shape)
        if known:
            return jnp.where(mask, inputs / keep, 0)
        # Not a division, which XLA makes this of or not, as what is around it suggests.
        scale = 1 / jnp.where(keep > 0, keep, 1).astype(inputs.dtype)
        return jnp.where(mask, inputs * scale, 0)


# From here on: the three layers of `models.CNN` as one, with a gradient written by hand. Made of
# the layers above, a step of that network takes 1.9 times as long, and its last bits differ:
# minimal filtering, one number for a window's winner in place of its four values, and small blocks
# are to be had only where convolution, ReLU and pool are known together. Measured on two CPU cores,
# ms per step of the CNN and trial, batch 64, in a scan: patches with automatic gradients 13.2,
# `Patches` for both layers 10.6, `Tiles` for the second layer 8.0.

# Minimal filtering F(2x2, 3x3) of Lavin and Gray (arXiv:1509.09308): 2x2 results of a 3x3
# convolution from 16 products instead of 36. The 2x2 results are here one window of the pool.
TO_TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
TO_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
TO_WINDOW = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
BOTH_AXES = np.kron(TO_KERNEL, TO_KERNEL)  # [16, 9]
MIN_CHANNELS = 8  # with fewer, the products are too thin to pay for the transforms

TAPS = tuple((i, j) for i in range(3) for j in range(3))
WINDOW = np.array([[0, 1], [2, 3]]).reshape(1, 2, 1, 2, 1, 1)  # numbers a pool window's positions


def _combine(matrix, arrays):
    """A small matrix of 0, 1 and -1 times a list of arrays: a list of plain sums."""
    signed = ([a if s > 0 else -a for s, a in zip(row, arrays, strict=True) if s] for row in matrix)
    return [functools.reduce(operator.add, terms) for terms in signed]


def _pick(first, second, third, last, bias):
    """ReLU of the largest of four, and which it was: first of equals, 4 where ReLU is off."""
    top = jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, last))
    winner = jnp.where(first == top, 0, jnp.where(second == top, 1, jnp.where(third == top, 2, 3)))
    return nn.relu(top + bias), jnp.where(top + bias <= 0, 4, winner).astype(top.dtype)


class Patches:
    """The layer on one block [height, width, n, channels] as 3x3 patches times weights (im2col).

    A last row or column of an odd result is never read by the VALID pool, so it is not computed.
    """

    @staticmethod
    def weights(kernel):
        """Kernel [3, 3, channels, features] to [9 * channels, features]."""
        return kernel.reshape(-1, kernel.shape[-1])

    @staticmethod
    def inputs(x):
        """Patches [rows, cols, n, 9 * channels], row and column counts even."""
        rows, cols = (x.shape[0] - 2) // 2 * 2, (x.shape[1] - 2) // 2 * 2
        return jnp.concatenate([x[i : i + rows, j : j + cols] for i, j in TAPS], axis=-1)

    @staticmethod
    def forward(x, weights, bias):
        """Pooled output and winners, both [height, width, n, features]."""
        patches = Patches.inputs(x)
        rows, cols, n, depth = patches.shape
        y = (patches.reshape(-1, depth) @ weights).reshape(rows // 2, 2, cols // 2, 2, n, -1)
        return _pick(y[:, 0, :, 0], y[:, 0, :, 1], y[:, 1, :, 0], y[:, 1, :, 1], bias)

    @staticmethod
    def backward(x, winner, cotangent, weights):
        """Gradients of the weights, of the bias, and of the part of x that the pool reads."""
        patches = Patches.inputs(x)
        rows, cols, n, depth = patches.shape
        grad = jnp.where(winner[:, None, :, None] == WINDOW, cotangent[:, None, :, None], 0)
        grad = grad.reshape(-1, weights.shape[-1])
        x_grad = (grad @ weights.T).reshape(rows, cols, n, 9, -1)
        x_grad = sum(
            jnp.pad(x_grad[:, :, :, t], ((i, 2 - i), (j, 2 - j), (0, 0), (0, 0)))
            for t, (i, j) in enumerate(TAPS)
        )
        return patches.reshape(-1, depth).T @ grad, grad.sum(0), x_grad


class Tiles:
    """The same by minimal filtering: one product for each of a window's sixteen tile components.

    Where the image does not change along an axis, the components that tell the positions of a
    window apart are exactly zero, so blank background ties bit for bit, as in a convolution.
    The axes are transformed one after the other, because the stack between them keeps XLA from
    computing the first transform again inside every use of it (7.8 ms against 8.4 to 9.2).
    """

    @staticmethod
    def weights(kernel):
        """Kernel [3, 3, channels, features] to [16, channels, features]."""
        shape = 16, *kernel.shape[2:]
        both = jnp.asarray(BOTH_AXES, kernel.dtype)
        return jnp.matmul(both, kernel.reshape(9, -1), precision="highest").reshape(shape)

    @staticmethod
    def inputs(x):
        """Tile components [16, windows * n, channels]."""
        height, width, n, channels = x.shape
        rows, cols = (height - 2) // 2, (width - 2) // 2
        x = x.reshape(height, width, -1)  # one long axis: XLA's loops over it become vector code
        x = jnp.stack(_combine(TO_TILE, [x[i : i + 2 * rows - 1 : 2] for i in range(4)]))
        x = _combine(TO_TILE, [x[:, :, j : j + 2 * cols - 1 : 2] for j in range(4)])
        return jnp.stack(x, axis=1).reshape(16, rows * cols * n, channels)

    @staticmethod
    def forward(x, weights, bias):
        """Pooled output and winners, both [height, width, n, features]."""
        y = (Tiles.inputs(x) @ weights).reshape(4, 4, -1, weights.shape[-1])
        top, bottom = _combine(TO_WINDOW, list(y))
        window = *_combine(TO_WINDOW, list(top)), *_combine(TO_WINDOW, list(bottom))
        shape = (x.shape[0] - 2) // 2, (x.shape[1] - 2) // 2, x.shape[2], -1
        return tuple(a.reshape(shape) for a in _pick(*window, bias))

    @staticmethod
    def backward(x, winner, cotangent, weights):
        """Gradients of the weights, of the bias, and of the part of x that the pool reads."""
        tiles = Tiles.inputs(x)
        rows, cols, n, features = cotangent.shape
        winner, cotangent = winner.reshape(-1, features), cotangent.reshape(-1, features)
        window = [jnp.where(winner == position, cotangent, 0) for position in range(4)]
        left, right = _combine(TO_WINDOW.T, window[::2]), _combine(TO_WINDOW.T, window[1::2])
        grad = [g for pair in zip(left, right, strict=True) for g in _combine(TO_WINDOW.T, pair)]
        bias_grad = grad[5].sum(0)  # component (1, 1) is the sum over the window
        grad = jnp.stack(grad)
        weights_grad = tiles.swapaxes(1, 2) @ grad
        x_grad = (grad @ weights.swapaxes(1, 2)).reshape(4, 4, rows, cols, -1)
        x_grad = _overlap(_combine(TO_TILE.T, [x_grad[:, j] for j in range(4)]), axis=2)
        x_grad = _overlap(_combine(TO_TILE.T, list(x_grad)), axis=0)
        return weights_grad, bias_grad, x_grad.reshape(*x_grad.shape[:2], n, -1)


def _overlap(parts, axis):
    """Adds tiles of 4 that overlap by 2 along `axis`; `parts` are the tiles' four positions."""

    def shifted(array, by):
        return jnp.pad(array, [(by, 1 - by) if d == axis else (0, 0) for d in range(array.ndim)])

    even, odd = (shifted(parts[i], 0) + shifted(parts[i + 2], 1) for i in (0, 1))
    shape = *even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _split(array, block):
    """[batch, h, w, c] to blocks [batch / n, h, w, n, c]: n images together in the last axes."""
    n = _block_size(len(array), block)
    return array.reshape(-1, n, *array.shape[1:]).transpose(0, 2, 3, 1, 4)


def _join(blocks):
    return blocks.transpose(0, 3, 1, 2, 4).reshape(-1, *blocks.shape[1:3], blocks.shape[-1])


def _form(x):
    return Patches if x.shape[-1] < MIN_CHANNELS else Tiles


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv_relu_max_pool(x, kernel, bias, block):
    """3x3 VALID convolution, bias, ReLU and 2x2 VALID max-pool.

    Equal to `nn.Conv`, `nn.relu` and `nn.max_pool` up to rounding. Among equal values in a window
    the first in row-major order takes the gradient, as in XLA's own pool: blank background ties in
    every window, and sharing the gradient there would change training.

    Args:
      x: images [batch, height, width, channels], height and width at least 4.
      kernel: [3, 3, channels, features].
      bias: [features].
      block: at most this many images per step of the loop inside, so that what a step makes stays
        in cache; the largest divisor of the batch that this allows.

    Returns:
      [batch, (height - 2) // 2, (width - 2) // 2, features].
    """
    return _conv_fwd(x, kernel, bias, block)[0]


def _conv_fwd(x, kernel, bias, block):
    form = _form(x)
    weights = form.weights(kernel)
    out, winner = lax.map(lambda images: form.forward(images, weights, bias), _split(x, block))
    return _join(out), (x, kernel, winner)


def _conv_bwd(block, residuals, cotangent):
    x, kernel, winner = residuals
    form = _form(x)
    weights, weights_vjp = jax.vjp(form.weights, kernel)

    def step(totals, images):
        *grads, x_grad = form.backward(*images, weights)
        return [total + grad for total, grad in zip(totals, grads, strict=True)], x_grad

    zeros = [jnp.zeros_like(weights), jnp.zeros_like(kernel[0, 0, 0])]
    blocks = _split(x, block), winner, _split(cotangent, block)
    (weights_grad, bias_grad), x_grad = lax.scan(step, zeros, blocks)
    x_grad = _join(x_grad)
    unread = [(0, whole - read) for whole, read in zip(x.shape, x_grad.shape, strict=True)]
    return jnp.pad(x_grad, unread), *weights_vjp(weights_grad), bias_grad


conv_relu_max_pool.defvjp(_conv_fwd, _conv_bwd)


class ConvReluMaxPool(nn.Module):
    """`conv_relu_max_pool` with the parameters of `nn.Conv(features, (3, 3), padding="VALID")`."""

    features: int

    @nn.compact
    def __call__(self, x):
        """Returns [batch, (height - 2) // 2, (width - 2) // 2, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if _plainly.get():
            numbers = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
            return nn.max_pool(nn.relu(y + bias), (2, 2), (2, 2))
        block = 8 if jax.default_backend() == "cpu" else len(x)  # only a CPU gains from small ones
        return conv_relu_max_pool(x, kernel, bias, block)
