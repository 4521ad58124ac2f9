"""Batch normalisation whose statistics are said, not implied: over the global batch, or over fixed groups of it.

And layer normalisation, whose statistics are those of one token or of one example.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssl_jax import parallel
from ssl_jax.types import Array, Axis


class BatchNorm(nn.Module):
    r"""Normalise every channel with the statistics of the global batch, or of a group of its rows.

    .. math:: y = \gamma (x - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + \beta

    ``groups=1``: one mean and one variance for all rows of all devices (synchronised BatchNorm, also under ``axis``).
    ``groups=G``: the N global rows fall into G groups of N / G, row i into group ``i // (N / G)`` or, ``strided``,
    ``i % G``; each is normalised by its own statistics. The number of groups is a hyper-parameter of the method
    (MoCo: 8) and not the device count, so results do not depend on the hardware.

    Running statistics are float32, move by ``running * momentum + batch * (1 - momentum)``, hold the biased variance as
    TensorFlow and Flax do (torch: times n / (n - 1)), and are the average over all groups of all devices.

    Both statistics take one pass over the differences from a mean of some of the values (:func:`_moments`): as it is,
    E[x^2] - E[x]^2 loses in float32 every digit of a variance that is 1e-7 of the squared mean, and can turn
    negative. bfloat16 inputs are read as float32. The derivative takes two passes, of any order and in both modes.

    Attributes:
      groups: number of groups; must divide the global batch and, under ``axis``, be a multiple of the device count.
      strided: which rows form a group.
      dtype: of the output; default: that of the input.

    Called ``(x [b, ..., c], train=bool, axis=None | "data")``: ``train`` uses and records batch statistics, otherwise
    running statistics are used. With ``train`` and an immutable ``batch_stats`` nothing is recorded.

    Raises:
      ValueError: groups that do not fit the batch or the devices.

    Reference: Ioffe and Szegedy 2015, algorithm 1; groups: He et al. 2020 (MoCo), section 3.3, shuffling BN.
    Differs from the reference code: MoCo's groups are the GPUs' batches (contiguous); its CIFAR demo has strided ones.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable[..., Array] = nn.initializers.ones
    groups: int = 1
    strided: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        wide = np.promote_types(x.dtype, np.float32)  # NumPy: jnp's refuses bfloat16 under strict promotion
        scale, bias = jnp.ones(channels, wide), jnp.zeros(channels, wide)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, (channels,), jnp.float32).astype(wide)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32).astype(wide)

        if train:
            rows = _rows(x.shape[0], self.groups, self.strided, axis)
            y, mean, var = _normalised(rows, self.eps, x, scale, bias)
        else:
            mean, var = (_align(a.value.astype(wide), x) for a in (running_mean, running_var))
            y = (x.astype(wide) - mean) * (lax.rsqrt(var + self.eps) * _align(scale, x)) + _align(bias, x)

        if train and not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            # Groups are equally large, so the mean over what stands here is that over groups, over devices too.
            batch = tuple(a.mean(tuple(range(a.ndim - 1))) for a in (mean, var))
            batch = batch if self.groups == 1 else parallel.mean(batch, axis)
            for running, found in zip((running_mean, running_var), batch, strict=True):
                new = self.momentum * running.value + (1 - self.momentum) * found.astype(running.value.dtype)
                running.value = lax.stop_gradient(new)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


class LayerNorm(nn.Module):
    """Every token to zero mean and unit variance over its channels, then scale and bias.

    Attributes:
      eps: added to the variance.
      dtype: of the output; default: that of the input. Statistics are float32 or better, parameters float32.

    Called ``(x [..., c])``: no token knows of another, so there is no ``train`` and no ``axis``.

    Reference: Ba et al. 2016, equation 3. flax's own one mixes dtypes, which strict promotion refuses in bfloat16.
    """

    eps: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = standardize(x, self.eps)
        scale, bias = (
            jnp.expand_dims(self.param(name, init, x.shape[-1:], jnp.float32).astype(y.dtype), range(x.ndim - 1))
            for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
        )
        return (y * scale + bias).astype(x.dtype if self.dtype is None else self.dtype)


class ExampleNorm(nn.Module):
    """Every example to zero mean and unit variance over its places and channels, then scale and bias per channel.

    A stand-in for ``BatchNorm`` through which no example learns of another, in training neither: group normalisation
    with one group, or layer normalisation as convolutional networks have it.

    Called like ``BatchNorm``, ``(x [b, ..., c], train=bool, axis=None | "data")``; nothing depends on the latter two.
    Statistics are float32 or better, parameters float32.

    Reference: Ba et al. 2016, section 3 (arXiv:1607.06450); Wu and He 2018, section 3.1 (arXiv:1803.08494).
    """

    eps: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable[..., Array] = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        y = standardize(x.reshape(x.shape[0], -1), self.eps).reshape(x.shape)
        if self.use_scale:
            y = y * _align(self.param("scale", self.scale_init, x.shape[-1:], jnp.float32).astype(y.dtype), y)
        if self.use_bias:
            y = y + _align(self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(y.dtype), y)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


def standardize(x: Array, eps: float = 1e-6) -> Array:
    """``(x - mean) / sqrt(var + eps)`` over the last dimension, in float32 or better: LayerNorm without parameters."""
    x = x.astype(np.promote_types(x.dtype, np.float32))
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def _align(a: Array, x: Array) -> Array:
    """``[c]`` with the leading dimensions of ``x [..., c]`` as ones."""
    return jnp.expand_dims(a, tuple(range(x.ndim - 1)))


class _Rows(NamedTuple):
    """Which rows a mean is over; static, as a function with a derivative of its own wants it.

    Attributes:
      split: the dimension of rows seen as one or two, ``(n,)``, ``(g, n / g)`` or, strided, ``(n / g, g)``.
      over: those of the two that a mean is over.
      axis: over whose devices, too.
      product: (groups, strided, axis) where no such view has the groups, and a product with a matrix must do.
    """

    split: tuple[int, ...]
    over: tuple[int, ...]
    axis: Axis = None
    product: tuple[int, bool, Axis] | None = None


def _rows(n: int, groups: int, strided: bool, axis: Axis) -> _Rows:
    """The groups of the rows of which ``n`` are here. None is re-indexed, so the partitioner moves no activation."""
    shards = parallel.num_shards(axis)
    if groups == 1:
        return _Rows((n,), (0,), axis)
    if groups % shards:
        above = -(-groups // shards) * shards
        raise ValueError(f"BatchNorm groups={groups} is not a multiple of {shards} devices; use {above}")
    if (n * shards) % groups:
        raise ValueError(f"BatchNorm groups={groups} does not divide the global batch of {n * shards} rows")
    here = groups if strided else groups // shards  # groups with rows on this device
    split = (n // here, here) if strided else (here, n // here)
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if axis is not None or mesh.empty else mesh.size
    if n % here or split[0] % devices:  # a view that the partitioner would have to move rows for
        return _Rows((n,), (), product=(groups, strided, axis))
    # A strided group has rows on every device; a contiguous one is whole on one and needs no communication.
    return _Rows(split, (0,), axis) if strided else _Rows(split, (1,))


def _means(rows: _Rows, *values: Array) -> tuple[Array, ...]:
    """The mean of every value over the rows of its group and over places: as many dimensions, some of them 1."""
    dims = (*rows.over, *range(len(rows.split), values[0].ndim - 1))
    means = tuple(a.mean(dims, keepdims=True) for a in values)
    return parallel.mean(means, rows.axis) if rows.product is None else tuple(_shared(a, *rows.product) for a in means)


def _shared(a: Array, groups: int, strided: bool, axis: Axis) -> Array:
    """``a [n, ...]`` of every row to the mean of its group, by products with a 0/1 matrix."""
    n, shards = a.shape[0], parallel.num_shards(axis)
    size = n * shards // groups
    if strided:
        owner, count = parallel.row_ids(n, axis) % groups, groups
    else:
        owner, count = jnp.arange(n, dtype=jnp.int32) // size, groups // shards
    member = (owner[:, None] == jnp.arange(count, dtype=jnp.int32)[None, :]).astype(a.dtype)  # [n, g]
    total = jnp.einsum("ng,n...->g...", member, a, precision=lax.Precision.HIGHEST) / size
    total = parallel.mean(total, axis) * shards if strided else total
    return jnp.einsum("ng,g...->n...", member, total, precision=lax.Precision.HIGHEST)


def _moments(rows: _Rows, x: Array, dtype: Any) -> tuple[Array, Array]:
    """Mean and biased variance of every group, of an x of which all places are read once.

    They are taken as differences d from the mean of the places in the middle, which is at most sqrt(places of an
    example) deviations from that of all, wherever zero is. So E[d^2] - E[d]^2 keeps its digits.
    """  # the mean of a fraction f of all values is at most sqrt(1 / f) deviations from theirs, by Cauchy and Schwarz
    middle = tuple(slice(size // 2, size // 2 + 1) for size in x.shape[len(rows.split) : -1])
    (shift,) = _means(rows, lax.stop_gradient(x[(..., *middle, slice(None))]).astype(dtype))
    d = x.astype(dtype) - shift
    mean, square = _means(rows, d, jnp.square(d))
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _normalised(rows: _Rows, eps: float, x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """``(x - mean) / sqrt(var + eps) * scale + bias`` as ``x``, with mean and variance of every group.

    JAX's own derivative reads x and the gradient g in one more pass for each of the two statistics. That of the rule
    below, transposed, has one pass for the sums over a group, of g and of ``g (x - mean)``, and one for dx.
    """
    (y, mean, var), _ = _parts(rows, eps, x, scale, bias)
    return y, mean, var


def _parts(rows, eps, x, scale, bias):
    """What ``_normalised`` gives, and of what its derivative is made."""
    rows_of_groups = x.reshape(*rows.split, *x.shape[1:])
    mean, var = _moments(rows, rows_of_groups, scale.dtype)
    centred, inverse = rows_of_groups.astype(scale.dtype) - mean, lax.rsqrt(var + eps)
    scale = _align(scale, centred)
    y = centred * (inverse * scale) + _align(bias, centred)
    return (y.reshape(x.shape), mean, var), (centred, inverse, scale)


@_normalised.defjvp
def _derivative(rows, eps, primals, tangents):
    """``dy = dx w + (x - mean) dw + dbias - dmean w`` with ``w = scale / sqrt(var + eps)``.

    The two means are of dx and of ``(x - mean) dx``, which is half of dvar: the mean of ``(x - mean) dmean`` is 0.
    """
    out, (centred, inverse, scale) = _parts(rows, eps, *primals)
    dx, dscale, dbias = tangents
    dx = dx.reshape(centred.shape).astype(centred.dtype)
    mean, half = _means(rows, dx, centred * dx)
    weight = inverse * scale
    dweight = inverse * _align(dscale, dx) - weight * jnp.square(inverse) * half
    dy = dx * weight + centred * dweight + (_align(dbias, dx) - mean * weight)
    return out, (dy.reshape(primals[0].shape), mean, 2 * half)
