"""The work of a training step, counted in the program that JAX traces: any model, any optimizer.

Matrix products and convolutions are counted, at 2 operations a multiply-add, as a plain
implementation computes them. `Compiled.cost_analysis` would not do: it counts a loop's body once,
however often that runs, and it counts what `layers.py` computes in place of a convolution.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from mnist_jax import layers
from mnist_jax.training import trial


class Product(NamedTuple):
    """A matrix product [rows, depth] x [depth, columns], or a convolution seen as one."""

    rows: int  # of a convolution, pixels of all images
    depth: int  # of a convolution, input channels times positions in the kernel
    columns: int  # of a convolution, features
    multiply_adds: int  # all that the step does, without those with padding


def step_products(recipe: trial.Recipe, trials: trial.Hyperparameters) -> list[Product]:
    """Returns the products of one trial's training step, in their order.

    Of the hyper-parameters only the types count.
    """
    hyper = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), trials)
    batch = (recipe.batch_size,)
    images = jax.ShapeDtypeStruct(batch + recipe.network.image_shape, jnp.uint8)
    labels, weights = (jax.ShapeDtypeStruct(batch, dtype) for dtype in (jnp.uint8, jnp.float32))

    with layers.traced_plainly():
        state = jax.eval_shape(partial(trial.init, recipe), hyper)
        step = partial(trial.train_step, recipe)
        program = jax.make_jaxpr(step)(hyper, state, images, labels, weights)
    return list(count_products(program.jaxpr))


def flop(products: Sequence[Product]) -> int:
    """Returns the floating-point operations of products."""
    return 2 * sum(product.multiply_adds for product in products)


def count_products(program: core.Jaxpr) -> Iterator[Product]:
    """Yields the products of a program: in a scan as often as it runs, of branches the costliest.

    Any other loop counts once, since the program does not say how often it runs.
    """
    for equation in program.eqns:
        name, params = equation.primitive.name, equation.params
        if name in _COUNTERS:
            arrays: list[Any] = [v.aval for v in (*equation.invars[:2], *equation.outvars)]
            yield _COUNTERS[name](*(array.shape for array in arrays), **params)
            continue
        inner = [list(count_products(each)) for each in core.jaxprs_in_params(params)]
        if name == "cond":
            inner = [max(inner, key=flop)]
        times = params["length"] if name == "scan" else 1
        for product in (product for products in inner for product in products):
            yield product._replace(multiply_adds=times * product.multiply_adds)


def _matrix_product(
    left: tuple, right: tuple, out: tuple, *, dimension_numbers: Any, **_: Any
) -> Product:
    (contracted, _), (batch, _) = dimension_numbers
    depth = math.prod(left[axis] for axis in contracted)
    columns = math.prod(right) // depth // math.prod(left[axis] for axis in batch)
    rows = math.prod(left) // depth
    return Product(rows, depth, columns, rows * depth * columns)


def _convolution(
    left: tuple,
    right: tuple,
    out: tuple,
    *,
    dimension_numbers: Any,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    **_: Any,
) -> Product:
    (_, _, *images), (_, channels, *kernel), (batch, features, *pixels) = dimension_numbers
    axes = zip(
        (left[axis] for axis in images),
        (right[axis] for axis in kernel),
        (out[axis] for axis in pixels),
        window_strides,
        (low for low, _ in padding),
        lhs_dilation,
        rhs_dilation,
        strict=True,
    )
    overlaps = math.prod(_num_overlaps(*axis) for axis in axes)
    rows = out[batch] * math.prod(out[axis] for axis in pixels)
    depth = right[channels] * math.prod(right[axis] for axis in kernel)
    multiply_adds = out[batch] * right[channels] * out[features] * overlaps
    return Product(rows, depth, out[features], multiply_adds)


def _num_overlaps(
    size: int, taps: int, out: int, stride: int, low: int, dilation: int, tap_dilation: int
) -> int:
    """Returns how often, along one axis, a position of a kernel meets an entry of the input.

    Elsewhere it meets padding, or the zeros between dilated entries.
    """
    met = np.arange(out)[:, None] * stride + np.arange(taps) * tap_dilation - low
    return int(np.sum((met >= 0) & (met <= (size - 1) * dilation) & (met % dilation == 0)))


_COUNTERS = {"dot_general": _matrix_product, "conv_general_dilated": _convolution}
