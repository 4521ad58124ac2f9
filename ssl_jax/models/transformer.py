"""What transformers are made of: attention and the pre-norm block."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.norm import LayerNorm
from ssl_jax.types import Array


def attention(q: Array, k: Array, v: Array, present: Array | None = None) -> Array:
    """``softmax(q k^T / sqrt(d)) v`` of every head, ``[b, t, heads, d]``; logits and softmax in float32 or better.

    Args:
      present: ``[b, t]`` bool, False: a token that no other sees.
    """
    dtype = np.promote_types(q.dtype, np.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype) / np.sqrt(q.shape[-1]).astype(dtype)
    if present is not None:
        logits = jnp.where(present[:, None, None, :], logits, np.finfo(dtype).min)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(v.dtype), v)


class Block(nn.Module):
    """Pre-norm transformer block: ``x + proj(attention(norm1(x)))``, then ``x + fc2(gelu(fc1(norm2(x))))``.

    GELU is the exact one. Called ``(x [b, t, d], present [b, t] = None, scale [b, 2] = None)``: ``scale`` multiplies
    the two branches, for drop-path.

    Attributes:
      heads: of the attention.
      mlp_ratio: width of the hidden layer over that of the tokens.
      residual_std: standard deviation of the first weights of ``proj`` and ``fc2``; of the others it is .02.
    """

    heads: int
    mlp_ratio: float = 4.0
    residual_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, present: Array | None = None, scale: Array | None = None) -> Array:
        width = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype)
        back = partial(nn.Dense, width, kernel_init=nn.initializers.normal(self.residual_std), dtype=self.dtype)

        def branch(y: Array, number: int) -> Array:
            return y if scale is None else y * scale[:, number, None, None].astype(y.dtype)

        y = dense(3 * width, name="qkv")(LayerNorm(dtype=self.dtype, name="norm1")(x))
        q, k, v = jnp.moveaxis(y.reshape(*y.shape[:2], 3, self.heads, width // self.heads), 2, 0)
        y = back(name="proj")(attention(q, k, v, present).reshape(x.shape))
        x = x + branch(y, 0)
        y = dense(round(self.mlp_ratio * width), name="fc1")(LayerNorm(dtype=self.dtype, name="norm2")(x))
        return x + branch(back(name="fc2")(jax.nn.gelu(y, approximate=False)), 1)


def residual_std(block: int, scaled: bool) -> float:
    """.02, or ``scaled`` .02 / sqrt(2 k) in block k = 1, 2, ..., as BEiT has it.

    I-JEPA's networks are made so, too, but its training script draws every Linear again at .02 before it starts.
    """
    return 0.02 / (2 * block) ** 0.5 if scaled else 0.02


def branch_scales(keys: Array, block: int, rate: float) -> Array:
    """``[b, 2]``: 0 with probability ``rate``, else ``1 / (1 - rate)``, for each example and each of two branches."""
    draw = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, block), (2,), jnp.float32))
    return (draw(keys) >= rate).astype(jnp.float32) / (1 - rate)


def mean_token(x: Array, present: Array | None) -> Array:
    x = x.astype(np.promote_types(x.dtype, np.float32))
    if present is None:
        return x.mean(1)
    weight = present.astype(x.dtype)
    return jnp.einsum("bt,btc->bc", weight, x) / weight.sum(1, keepdims=True)
