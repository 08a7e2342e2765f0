"""Convolution, ReLU and max-pool in one layer that stays fast inside a compiled loop.

Inside `lax.scan` XLA:CPU runs the gradients of a convolution through an unoptimised emitter
(jax-ml/jax#12868), and `vmap` over trials with their own kernels makes grouped convolutions, slow on
every backend. Matrix multiplications have neither trouble. So the convolution is written as patches
times weights (im2col), and the gradient of the whole layer is written by hand.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

TAPS = tuple((i, j) for i in range(3) for j in range(3))
WINDOW = np.array([[0, 1], [2, 3]]).reshape(1, 1, 2, 1, 2, 1)  # numbers a pool window's positions


def _patches(x):
    """Images [n, h, w, c] to the 3x3 patches that the pool reads: [n, rows, cols, 9 c], even counts.

    A last row or column of an odd result is never read by the VALID pool, so it is not computed.
    """
    rows, cols = (x.shape[1] - 2) // 2 * 2, (x.shape[2] - 2) // 2 * 2
    return jnp.concatenate([x[:, i : i + rows, j : j + cols] for i, j in TAPS], axis=-1)


def _scatter_patches(patches, height, width):
    """Transpose of `_patches`: sums [n, rows, cols, 9, c] into images [n, height, width, c]."""
    _, rows, cols, _, _ = patches.shape
    image = sum(
        jnp.pad(patches[:, :, :, t], ((0, 0), (i, 2 - i), (j, 2 - j), (0, 0)))
        for t, (i, j) in enumerate(TAPS)
    )
    return jnp.pad(image, ((0, 0), (0, height - rows - 2), (0, width - cols - 2), (0, 0)))


def _forward(x, kernel, bias):
    """One block: the pooled output, and per output which window position won (4: the ReLU is off)."""
    patches = _patches(x)
    n, rows, cols, depth = patches.shape
    y = patches.reshape(-1, depth) @ kernel.reshape(depth, -1)
    y = y.reshape(n, rows // 2, 2, cols // 2, 2, -1)
    first, second, third, last = (y[:, :, i, :, j] for i in (0, 1) for j in (0, 1))
    top = jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, last))
    winner = jnp.where(first == top, 0, jnp.where(second == top, 1, jnp.where(third == top, 2, 3)))
    return nn.relu(top + bias), jnp.where(top + bias <= 0, 4, winner).astype(x.dtype)


def _backward(x, winner, cotangent, kernel):
    """One block: gradients of the kernel, the bias and the images."""
    features = kernel.shape[-1]
    patches = _patches(x)
    n, rows, cols, depth = patches.shape
    grad = jnp.where(winner[:, :, None, :, None] == WINDOW, cotangent[:, :, None, :, None], 0)
    grad = grad.reshape(-1, features)
    kernel_grad = (patches.reshape(-1, depth).T @ grad).reshape(kernel.shape)
    bias_grad = jnp.where(winner < 4, cotangent, 0).sum((0, 1, 2))
    x_grad = (grad @ kernel.reshape(depth, features).T).reshape(n, rows, cols, 9, -1)
    return kernel_grad, bias_grad, _scatter_patches(x_grad, *x.shape[1:3])


def _split(array, block):
    return array.reshape(-1, math.gcd(block, len(array)), *array.shape[1:])


def _join(array):
    return array.reshape(-1, *array.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv_relu_max_pool(x, kernel, bias, block):
    """3x3 VALID convolution, bias, ReLU and 2x2 VALID max-pool.

    Equal to `nn.Conv`, `nn.relu` and `nn.max_pool`. Among equal values in a pool window the first in
    row-major order takes the gradient, as in XLA's own pool: blank background ties in every window.

    Args:
      x: images [batch, height, width, channels], height and width at least 4.
      kernel: [3, 3, channels, features].
      bias: [features].
      block: images per step of the inner loop, so that patches stay in cache; rounded down to a
        divisor of the batch.

    Returns:
      [batch, (height - 2) // 2, (width - 2) // 2, features].
    """
    return _conv_fwd(x, kernel, bias, block)[0]


def _conv_fwd(x, kernel, bias, block):
    out, winner = lax.map(lambda images: _forward(images, kernel, bias), _split(x, block))
    return _join(out), (x, kernel, winner)


def _conv_bwd(block, residuals, cotangent):
    x, kernel, winner = residuals

    def step(total, images):
        kernel_grad, bias_grad, x_grad = _backward(*images, kernel)
        return (total[0] + kernel_grad, total[1] + bias_grad), x_grad

    zeros = jnp.zeros_like(kernel), jnp.zeros_like(kernel[0, 0, 0])
    blocks = _split(x, block), winner, _split(cotangent, block)
    (kernel_grad, bias_grad), x_grad = lax.scan(step, zeros, blocks)
    return _join(x_grad), kernel_grad, bias_grad


conv_relu_max_pool.defvjp(_conv_fwd, _conv_bwd)


class ConvReluMaxPool(nn.Module):
    """`conv_relu_max_pool` with the parameters of `nn.Conv(features, (3, 3), padding="VALID")`."""

    features: int
    block: int = 8

    @nn.compact
    def __call__(self, x):
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv_relu_max_pool(x, kernel, bias, self.block)
