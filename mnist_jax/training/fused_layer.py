"""Convolution, ReLU and max-pool as one layer: `ConvReluMaxPool`, for `models.CNN`.

Its gradient is written by hand. With the layers of `mnist_jax.layers` in its place, a step of that
network takes 1.9 times as long, and its last bits differ. Three things need all three operations
at once: minimal filtering, one number for a window's winner in place of its four values, and small
blocks. Measured on two CPU cores, ms per step of the CNN and trial, batch 64, in a scan: patches
with automatic gradients 13.2, `Patches` for both layers 10.6, `Tiles` for the second layer 8.0.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from mnist_jax.config.settings import PRECISIONS
from mnist_jax.layers import block_size, is_traced_plainly

# Minimal filtering F(2x2, 3x3) of Lavin and Gray (arXiv:1509.09308): 2x2 results of a 3x3
# convolution from 16 products instead of 36. The 2x2 results are here one window of the pool.
TO_TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
TO_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
TO_WINDOW = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
BOTH_AXES = np.kron(TO_KERNEL, TO_KERNEL)  # [16, 9]
MIN_CHANNELS = 8  # with fewer, the products are too thin to pay for the transforms

TAPS = tuple((i, j) for i in range(3) for j in range(3))
WINDOW = np.array([[0, 1], [2, 3]]).reshape(1, 2, 1, 2, 1, 1)  # index of each position


def _combine(matrix, arrays):
    """A small matrix of 0, 1 and -1 times a list of arrays: a list of plain sums."""
    signed = ([a if s > 0 else -a for s, a in zip(row, arrays, strict=True) if s] for row in matrix)
    return [functools.reduce(operator.add, terms) for terms in signed]


def _pick(first, second, third, last, bias):
    """ReLU of the largest of four, and which it was: first of equals, 4 where ReLU is off."""
    top = jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, last))
    winner = jnp.where(first == top, 0, jnp.where(second == top, 1, jnp.where(third == top, 2, 3)))
    return nn.relu(top + bias), jnp.where(top + bias <= 0, 4, winner).astype(top.dtype)


def _factor(x):
    """A factor of matrix products; a GPU keeps it as they round it, in half of its memory."""
    rounded = jax.config.jax_default_matmul_precision == PRECISIONS["bfloat16"]
    if jax.default_backend() != "gpu" or not rounded:
        return x
    return lax.optimization_barrier(x.astype(jnp.bfloat16))  # else each product would round anew


def _product(a, b, dtype):
    """A matrix product; `dtype` is that of the layer's weights, which factors may have lost."""
    return jnp.matmul(a, b, preferred_element_type=dtype)


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
        y = _product(_factor(patches.reshape(-1, depth)), _factor(weights), weights.dtype)
        y = y.reshape(rows // 2, 2, cols // 2, 2, n, -1)
        return _pick(y[:, 0, :, 0], y[:, 0, :, 1], y[:, 1, :, 0], y[:, 1, :, 1], bias)

    @staticmethod
    def spread(winner, cotangent):
        """Gradients of the results [height * 2 * width * 2 * n, features], and of the bias."""
        grad = jnp.where(winner[:, None, :, None] == WINDOW, cotangent[:, None, :, None], 0)
        grad = grad.reshape(-1, cotangent.shape[-1])
        return grad, grad.sum(0)

    @classmethod
    def backward(cls, x, winner, cotangent, weights):
        """Gradients of the weights, of the bias, and of the part of x that the pool reads."""
        patches = Patches.inputs(x)
        rows, cols, n, depth = patches.shape
        grad, bias_grad = cls.spread(winner, cotangent)
        grad = _factor(grad)
        x_grad = _product(grad, _factor(weights).T, weights.dtype).reshape(rows, cols, n, 9, -1)
        x_grad = sum(
            jnp.pad(x_grad[:, :, :, t], ((i, 2 - i), (j, 2 - j), (0, 0), (0, 0)))
            for t, (i, j) in enumerate(TAPS)
        )
        patches = _factor(patches.reshape(-1, depth))
        return _product(patches.T, grad, weights.dtype), bias_grad, x_grad


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
        y = _product(_factor(Tiles.inputs(x)), _factor(weights), weights.dtype)
        y = y.reshape(4, 4, -1, weights.shape[-1])
        top, bottom = _combine(TO_WINDOW, list(y))
        window = *_combine(TO_WINDOW, list(top)), *_combine(TO_WINDOW, list(bottom))
        shape = (x.shape[0] - 2) // 2, (x.shape[1] - 2) // 2, x.shape[2], -1
        return tuple(a.reshape(shape) for a in _pick(*window, bias))

    @staticmethod
    def spread(winner, cotangent):
        """Gradients of the results [16, windows * n, features], and of the bias."""
        window = [jnp.where(winner == position, cotangent, 0) for position in range(4)]
        left, right = _combine(TO_WINDOW.T, window[::2]), _combine(TO_WINDOW.T, window[1::2])
        grad = [g for pair in zip(left, right, strict=True) for g in _combine(TO_WINDOW.T, pair)]
        return jnp.stack(grad), grad[5].sum(0)  # component (1, 1) is the sum over the window

    @classmethod
    def backward(cls, x, winner, cotangent, weights):
        """Gradients of the weights, of the bias, and of the part of x that the pool reads."""
        tiles = Tiles.inputs(x)
        rows, cols, n, features = cotangent.shape
        winner, cotangent = winner.reshape(-1, features), cotangent.reshape(-1, features)
        grad, bias_grad = cls.spread(winner, cotangent)
        grad = _factor(grad)
        weights_grad = _product(_factor(tiles).swapaxes(1, 2), grad, weights.dtype)
        x_grad = _product(grad, _factor(weights).swapaxes(1, 2), weights.dtype)
        x_grad = x_grad.reshape(4, 4, rows, cols, -1)
        x_grad = _overlap(_combine(TO_TILE.T, [x_grad[:, j] for j in range(4)]), axis=2)
        x_grad = _overlap(_combine(TO_TILE.T, list(x_grad)), axis=0)
        return weights_grad, bias_grad, x_grad.reshape(*x_grad.shape[:2], n, -1)


class PatchesOnGPU(Patches):
    """`Patches` with fewer passes over memory, whose speed bounds a GPU."""

    @staticmethod
    def spread(winner, cotangent):
        """Gradients of the results [height * 2 * width * 2 * n, features], and of the bias."""
        bias_grad = jnp.where(winner == 4, 0, cotangent).sum((0, 1, 2))
        return Patches.spread(winner, cotangent)[0], bias_grad


class TilesOnGPU(Tiles):
    """`Tiles` with fewer passes over memory, whose speed bounds a GPU.

    A step of the CNN took 29.5 us a trial in place of 39.8, 64 at a time on an H200 in TF32: see
    `experiments/accelerators/`.
    """

    @staticmethod
    def spread(winner, cotangent):
        """Gradients of the results [16, windows * n, features], and of the bias.

        Of a window's four results one alone has a gradient; its signs are a row of `TO_WINDOW` for
        each axis. A stack of sixteen sums took 7.7 of the 39.8 us.
        """
        passed = jnp.where(winner == 4, 0, cotangent)
        first, second = (jnp.asarray(row, passed.dtype).reshape(4, 1, 1) for row in TO_WINDOW)
        down = jnp.where(winner < 2, first, second)
        along = jnp.where(winner % 2 == 0, first, second)
        return (down[:, None] * (along * passed)).reshape(16, *passed.shape), passed.sum(0)


class Whole:
    """The same by `lax.conv`, for a TPU, whose compiler expects it to take a third of the cycles.

    That was compiled, not run (`experiments/accelerators/`). On a GPU it takes more than twice as
    long as the others, and on a CPU it is slow inside a loop.
    """

    @staticmethod
    def weights(kernel):
        """The kernel as it is."""
        return kernel

    @staticmethod
    def convolve(x, kernel):
        """Result [rows, cols, n, features], row and column counts even."""
        rows, cols = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
        numbers = ("HWNC", "HWIO", "HWNC")
        x = x[:rows, :cols]
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)

    @staticmethod
    def forward(x, weights, bias):
        """Pooled output and winners, both [height, width, n, features]."""
        y = Whole.convolve(x, weights)
        return _pick(y[::2, ::2], y[::2, 1::2], y[1::2, ::2], y[1::2, 1::2], bias)

    @staticmethod
    def backward(x, winner, cotangent, weights):
        """Gradients of the weights, of the bias, and of x."""
        window = [jnp.where(winner == position, cotangent, 0) for position in range(4)]
        grad = jnp.stack([jnp.stack(window[:2], 2), jnp.stack(window[2:], 2)], 1)
        rows, _, cols, _, n, features = grad.shape
        grad = grad.reshape(2 * rows, 2 * cols, n, features)
        x_grad, weights_grad = jax.vjp(Whole.convolve, x, weights)[1](grad)
        return weights_grad, grad.sum((0, 1, 2)), x_grad


def _overlap(parts, axis):
    """Adds tiles of 4 that overlap by 2 along `axis`; `parts` are the tiles' four positions."""

    def shifted(array, by):
        return jnp.pad(array, [(by, 1 - by) if d == axis else (0, 0) for d in range(array.ndim)])

    even, odd = (shifted(parts[i], 0) + shifted(parts[i + 2], 1) for i in (0, 1))
    shape = *even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _split(array, block):
    """[batch, h, w, c] to blocks [batch / n, h, w, n, c]: n images together in the last axes."""
    n = block_size(len(array), block)
    return array.reshape(-1, n, *array.shape[1:]).transpose(0, 2, 3, 1, 4)


def _join(blocks):
    return blocks.transpose(0, 3, 1, 2, 4).reshape(-1, *blocks.shape[1:3], blocks.shape[-1])


def _form(x):
    few = x.shape[-1] < MIN_CHANNELS
    match jax.default_backend():
        case "tpu":
            return Whole
        case "gpu":
            return PatchesOnGPU if few else TilesOnGPU
        case _:
            return Patches if few else Tiles


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv_relu_max_pool(x, kernel, bias, block):
    """3x3 VALID convolution, bias, ReLU and 2x2 VALID max-pool.

    Equal to `nn.Conv`, `nn.relu` and `nn.max_pool` up to rounding. Among equal values in a window
    the first in row-major order takes the gradient, as in XLA's own pool: blank background ties in
    every window, and sharing the gradient there would change training.

    Args:
        x: Images [batch, height, width, channels], height and width at least 4.
        kernel: [3, 3, channels, features].
        bias: [features].
        block: The most images in a step of the loop inside, so that its arrays stay in cache. A
            step takes the largest divisor of the batch that this allows.

    Returns:
        [batch, (height - 2) // 2, (width - 2) // 2, features].
    """
    return _conv_fwd(x, kernel, bias, block)[0]


def _conv_fwd(x, kernel, bias, block):
    form = _form(x)
    weights = form.weights(kernel)
    out, winner = lax.map(lambda images: form.forward(images, weights, bias), _split(x, block))
    if jax.default_backend() == "gpu":  # else the gradient would compare all four once more
        out, winner = lax.optimization_barrier((out, winner.astype(jnp.int8)))
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
        if is_traced_plainly():
            numbers = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
            return nn.max_pool(nn.relu(y + bias), (2, 2), (2, 2))
        block = 8 if jax.default_backend() == "cpu" else len(x)  # only a CPU gains from small ones
        return conv_relu_max_pool(x, kernel, bias, block)
