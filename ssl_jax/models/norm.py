"""Batch normalisation whose statistics are said, not implied: over the global batch, or over fixed groups of it.

And layer normalisation, whose statistics are those of one token or of one example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
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

    Statistics take two passes, the mean first and then the mean of squared deviations: the difference
    E[x^2] - E[x]^2 loses in float32 every digit of a variance that is 1e-7 of the squared mean, and can turn
    negative. bfloat16 inputs are read as float32 for both.

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
        out_dtype = x.dtype if self.dtype is None else self.dtype
        x = x.astype(np.promote_types(x.dtype, np.float32))  # NumPy: jnp's refuses bfloat16 under strict promotion

        per_row = _same
        if not train:
            mean, var = running_mean.value, running_var.value
        elif self.groups == 1:
            mean, var = _moments(x, axis)
            batch_mean, batch_var = mean, var
        else:
            mean, var, per_row = _group_moments(x, self.groups, self.strided, axis)
            # Contiguous groups live on their own device; the mean over devices makes what is kept the same everywhere.
            batch_mean, batch_var = parallel.mean((mean.mean(0), var.mean(0)), axis)

        if train and not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            for running, batch in ((running_mean, batch_mean), (running_var, batch_var)):
                new = self.momentum * running.value + (1 - self.momentum) * batch.astype(running.value.dtype)
                running.value = lax.stop_gradient(new)

        multiplier = lax.rsqrt(var.astype(x.dtype) + self.eps)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, (channels,), jnp.float32).astype(x.dtype)
            multiplier = multiplier * jnp.broadcast_to(scale, multiplier.shape)
        y = (x - _align(per_row(mean.astype(x.dtype)), x)) * _align(per_row(multiplier), x)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32).astype(x.dtype)
            y = y + _align(bias, x)
        return y.astype(out_dtype)


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
        y = standardize(x.reshape(len(x), -1), self.eps).reshape(x.shape)
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


def _same(a: Array) -> Array:
    return a


def _align(a: Array, x: Array) -> Array:
    """``[c]`` or ``[n, c]`` with the middle dimensions of ``x [n, ..., c]`` as ones."""
    rows = a.shape[0] if a.ndim == 2 else 1
    return a.reshape((rows,) + (1,) * (x.ndim - 2) + (a.shape[-1],))


def _moments(x: Array, axis: Axis) -> tuple[Array, Array]:
    """Mean and biased variance ``[c]`` over every row of every device (each holds equally many)."""
    dims = tuple(range(x.ndim - 1))
    mean = parallel.mean(x.mean(dims), axis)
    return mean, parallel.mean(jnp.square(x - _align(mean, x)).mean(dims), axis)


def _group_moments(x: Array, groups: int, strided: bool, axis: Axis) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Mean and biased variance ``[g, c]`` of every group this device takes part in, and the map ``[g, c] -> [n, c]``.

    Only ``[n, c]`` sums over space are regrouped, by a product with a 0/1 matrix; the rows of ``x`` are never
    re-indexed. So the partitioner splits both layouts over devices without moving an activation.
    """
    n, shards = x.shape[0], parallel.num_shards(axis)
    if groups % shards:
        above = -(-groups // shards) * shards
        raise ValueError(f"BatchNorm groups={groups} is not a multiple of {shards} devices; use {above}")
    if (n * shards) % groups:
        raise ValueError(f"BatchNorm groups={groups} does not divide the global batch of {n * shards} rows")
    size = n * shards // groups
    if strided:
        owner, count = parallel.row_ids(n, axis) % groups, groups
    else:
        owner, count = jnp.arange(n, dtype=jnp.int32) // size, groups // shards
    member = (owner[:, None] == jnp.arange(count, dtype=jnp.int32)[None, :]).astype(x.dtype)  # [n, g]
    dims = tuple(range(1, x.ndim - 1))

    def per_group(a: Array) -> Array:
        total = jnp.einsum("ng,nc->gc", member, a.mean(dims), precision=lax.Precision.HIGHEST)
        # A strided group has rows on every device; a contiguous one is whole on one and needs no communication.
        return (parallel.mean(total, axis) * shards if strided else total) / size

    def per_row(a: Array) -> Array:
        return jnp.einsum("ng,gc->nc", member, a, precision=lax.Precision.HIGHEST)

    mean = per_group(x)
    return mean, per_group(jnp.square(x - _align(per_row(mean), x))), per_row
