"""Convolutions as CPUs compute them fast: a weight gradient of our own, and depthwise ones as shifted products.

XLA computes the weight gradient as one convolution whose window is the whole image. On a CPU that reaches a tenth of
the speed of the forward pass on large maps (``experiments/benchmark.py`` compares). Here it is a sum of matrix products

.. math:: \\partial L / \\partial W = \\sum_t G_t^T C_t

over blocks t of output places, ``G_t [n, c_out]`` the gradient there and ``C_t [n, k_h k_w c_in]`` the patches that
those places saw. A block is small enough for its patches to stay in the cache of a core.

A depthwise convolution is ``sum_ij W_ij * x`` shifted by (i, j), channel by channel. XLA's own, backwards above all, is
2 to 30 times as slow on a CPU for MobileNetV2's layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax import parallel
from ssl_jax.types import Array

SMALLEST = 16_384  # output places of the batch up to which a loop over blocks gains nothing
BLOCK = 1_024  # output places of a block

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    lhs: Array,
    rhs: Array,
    window_strides: tuple[int, ...],
    padding: Any,
    lhs_dilation: tuple[int, ...] | None = None,
    rhs_dilation: tuple[int, ...] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """``lax.conv_general_dilated``, on a CPU with a weight gradient of large maps that is summed over blocks, and
    depthwise by shifts.

    Forward-mode differentiation (``jax.jvp``) of such a convolution is refused by JAX, as of any ``custom_vjp``.
    """
    plain = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    images = lhs.ndim == 4 and dimension_numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
    depthwise = feature_group_count == lhs.shape[-1] == rhs.shape[-1] > 1
    whole = set((*(lhs_dilation or (1,)), *(rhs_dilation or (1,)))) == {1} and (feature_group_count == 1 or depthwise)
    whole = whole and all(isinstance(n, int) for n in lhs.shape)  # not the symbols of a program that is exported
    if not (parallel.platform() == "cpu" and images and whole):
        return plain(lhs, rhs)
    out = jax.eval_shape(plain, lhs, rhs)
    if out.shape[0] * out.shape[1] * out.shape[2] <= SMALLEST and not depthwise:
        return plain(lhs, rhs)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    if depthwise:
        return _depthwise(lhs, rhs, window_strides, padding, out.shape[1:3])
    return _convolve(lhs, rhs, tuple(window_strides), tuple((int(a), int(b)) for a, b in padding))


Conv = partial(nn.Conv, conv_general_dilated=convolve)


def _depthwise(x: Array, kernel: Array, strides: Any, pads: Any, size: tuple[int, ...]) -> Array:
    """Every channel ``[b, h, w, c]`` by its own window ``[k_h, k_w, 1, c]``, summed in float32 or better."""
    low, high = zip(*pads, strict=True)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((a, b, 0) for a, b in zip(low, high, strict=True)), (0, 0, 0)))
    dtype = np.promote_types(x.dtype, np.float32)
    total = jnp.zeros((x.shape[0], *size, x.shape[-1]), dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            rows, columns = (slice(k, k + (n - 1) * s + 1, s) for k, n, s in zip((i, j), size, strides, strict=True))
            total += x[:, rows, columns].astype(dtype) * kernel[i, j].astype(dtype)[None, None]
    return total.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: tuple[int, int], pads: tuple[tuple[int, int], ...]) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _forward(x, kernel, strides, pads):
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, kept, g):
    x, kernel = kept
    to_input = jax.linear_transpose(
        lambda x: lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT), x
    )
    summed = parallel.sum_over_rows(partial(weight_gradient, kernel.shape[:2], strides, pads), x, g)
    return to_input(g)[0], summed.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


def weight_gradient(
    size: tuple[int, int], strides: tuple[int, int], pads: tuple[tuple[int, int], ...], x: Array, g: Array
) -> Array:
    """The gradient ``[k_h, k_w, c_in, c_out]`` of a kernel of ``size``, from its input ``x [b, H, W, c_in]`` and the
    gradient ``g [b, h, w, c_out]`` of its output; summed in float32 or better."""
    (b, h, w, c_out), c_in = g.shape, x.shape[-1]
    dtype = np.promote_types(x.dtype, np.float32)
    columns = max(n for n in range(1, w + 1) if w % n == 0 and n * b <= max(b, BLOCK))
    reach = tuple((n - 1) * s + k for n, s, k in zip((1, columns), strides, size, strict=True))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))

    def add_block(t, total):
        row, column = t // (w // columns), t % (w // columns) * columns
        seen = lax.dynamic_slice(x, (0, row * strides[0], column * strides[1], 0), (b, *reach, c_in))
        patches = jnp.concatenate(
            [
                seen[:, i : i + 1, j : j + (columns - 1) * strides[1] + 1 : strides[1]]
                for i in range(size[0])
                for j in range(size[1])
            ],
            axis=-1,
        )
        block = lax.dynamic_slice(g, (0, row, column, 0), (b, 1, columns, c_out))
        places = ((0, 1, 2), (0, 1, 2))
        return total + lax.dot_general(block, patches, (places, ((), ())), preferred_element_type=dtype)

    blocks = h * (w // columns)
    total = lax.fori_loop(0, blocks, add_block, jnp.zeros((c_out, size[0] * size[1] * c_in), dtype))
    return total.T.reshape(*size, c_in, c_out)
