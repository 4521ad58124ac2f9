"""What transformers are made of: attention and the block, its norms before or behind the branches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import parallel
from ssl_jax.models.norm import LayerNorm
from ssl_jax.types import Array


def attention(
    q: Array,
    k: Array,
    v: Array,
    present: Array | None = None,
    *,
    causal: bool = False,
    drop: Callable[[Array], Array] | None = None,
) -> Array:
    """``softmax(q k^T / sqrt(d)) v`` of every head, ``[b, t, heads, d]``; logits and softmax in float32 or better.

    On a GPU, in bfloat16 or float16 and without dropout, by cuDNN's flash attention, which never writes the logits to
    memory and which JAX differentiates backwards alone.

    Args:
      present: ``[b, t]`` bool, False: a token that no other sees.
      causal: no token sees those behind it.
      drop: dropout of the softmax's weights ``[b, heads, t, t]``.
    """
    b, t, s = q.shape[0], q.shape[1], k.shape[1]
    if drop is None and parallel.platform() == "gpu" and _fits_cudnn(q, k, masked=present is not None) and _has_cudnn():
        mask = None if present is None else jnp.broadcast_to(present[:, None, None, :], (b, 1, t, s))
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="cudnn")
    dtype = np.promote_types(q.dtype, np.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype) / np.sqrt(q.shape[-1]).astype(dtype)
    if present is not None:
        logits = jnp.where(present[:, None, None, :], logits, np.finfo(dtype).min)
    if causal:
        before = np.tril(np.ones((t, s), bool))
        logits = jnp.where(before[None, None], logits, np.finfo(dtype).min)
    weights = jax.nn.softmax(logits)
    weights = weights if drop is None else drop(weights)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def _fits_cudnn(q: Array, k: Array, *, masked: bool) -> bool:
    """Whether cuDNN's flash attention takes such arrays, of any GPU since Ampere; masks want even lengths."""
    even = q.shape[1] % 2 == k.shape[1] % 2 == 0
    return (
        q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and (even or not masked)
    )


@cache
def _has_cudnn() -> bool:
    """Whether JAX finds cuDNN here, which a machine that only compiles for a GPU need not have."""
    if jax.default_backend() == "gpu" and float(jax.devices()[0].compute_capability) < 8:
        return False
    one = jax.ShapeDtypeStruct((1, 2, 1, 8), jnp.bfloat16)
    try:
        jax.eval_shape(partial(jax.nn.dot_product_attention, implementation="cudnn"), one, one, one)
    except RuntimeError:
        return False
    return True


class Block(nn.Module):
    """Transformer block of two branches, self-attention and a network of two layers.

    Pre-norm: ``x + proj(attention(norm1(x)))``, then ``x + fc2(gelu(fc1(norm2(x))))``; else, as BERT has it,
    ``norm1(x + proj(attention(x)))``, then ``norm2(x + fc2(gelu(fc1(x))))``. With ``swiglu`` the layer between is
    ``silu(a) * b``, a and b the halves of what ``fc1`` gives (DINOv2's giant).

    Called ``(x [b, t, d], present [b, t] = None, scale [b, 2] = None, keys [b] = None)``: ``scale`` multiplies the two
    branches, for drop-path; ``keys`` are those of the examples, for dropout, without which nothing is dropped.

    Attributes:
      heads: of the attention.
      mlp_ratio: width of the hidden layer over that of the tokens.
      residual_std: standard deviation of the first weights of ``proj`` and ``fc2``; of the others it is .02.
      norm_first: pre-norm.
      causal: as in :func:`attention`.
      dropout: of the attention's weights and of what each branch gives.
      eps: of the norms.
      gelu: "exact", or "tanh", the approximation that big_vision has.
      swiglu: as above; ``mlp_ratio`` is then that of ``silu(a) * b``.
      layer_scale: first value of factors that multiply each branch channel by channel; None: there are none.
    """

    heads: int
    mlp_ratio: float = 4.0
    residual_std: float = 0.02
    dtype: Any = None
    norm_first: bool = True
    causal: bool = False
    dropout: float = 0.0
    eps: float = 1e-6
    gelu: str = "exact"
    swiglu: bool = False
    layer_scale: float | None = None

    @nn.compact
    def __call__(
        self, x: Array, present: Array | None = None, scale: Array | None = None, keys: Array | None = None
    ) -> Array:
        width = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype)
        back = partial(nn.Dense, width, kernel_init=nn.initializers.normal(self.residual_std), dtype=self.dtype)
        norm = partial(LayerNorm, eps=self.eps, dtype=self.dtype)

        def drop(y: Array, place: int) -> Array:
            return dropout(y, self.dropout, keys, place)

        def branch(y: Array, number: int) -> Array:
            if self.layer_scale is not None:
                y = LayerScale(self.layer_scale, name=f"layer_scale{number + 1}")(y)
            y = drop(y, number)
            return y if scale is None else y * scale[:, number, None, None].astype(y.dtype)

        y = norm(name="norm1")(x) if self.norm_first else x
        y = dense(3 * width, name="qkv")(y)
        q, k, v = jnp.moveaxis(y.reshape(*y.shape[:2], 3, self.heads, width // self.heads), 2, 0)
        drops = self.dropout > 0 and keys is not None
        y = attention(q, k, v, present, causal=self.causal, drop=partial(drop, place=2) if drops else None)
        x = x + branch(back(name="proj")(y.reshape(x.shape)), 0)
        x = x if self.norm_first else norm(name="norm1")(x)
        y = norm(name="norm2")(x) if self.norm_first else x
        y = dense(round(self.mlp_ratio * width) * (2 if self.swiglu else 1), name="fc1")(y)
        if self.swiglu:
            gate, y = jnp.split(y, 2, axis=-1)
            y = jax.nn.silu(gate) * y
        else:
            y = jax.nn.gelu(y, approximate=self.gelu == "tanh")
        x = x + branch(back(name="fc2")(y), 1)
        return x if self.norm_first else norm(name="norm2")(x)


class LayerScale(nn.Module):
    """``x * scale``, a learned factor for each channel, which starts at ``init_value``.

    Reference: Touvron et al. 2021 (CaiT, arXiv:2103.17239), equation 3. Weight decay passes over it, by its name.
    """

    init_value: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.constant(self.init_value), x.shape[-1:], jnp.float32)
        return x * jnp.expand_dims(scale.astype(x.dtype), range(x.ndim - 1))


def dropout(x: Array, rate: float, keys: Array | None, place: int) -> Array:
    """0 with probability ``rate``, else ``x / (1 - rate)``; every example ``[b, ...]`` draws from its own key.

    Args:
      keys: ``[b]``; None: x as it is.
      place: another number for every dropout that has the same keys.
    """
    if not rate or keys is None:
        return x
    draw = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, x.shape[1:]))
    return jnp.where(draw(keys), x / (1 - rate), jnp.zeros_like(x))


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
    """``[b, c]``: mean of the tokens that are present, in float32 or better; 0 where none is."""
    x = x.astype(np.promote_types(x.dtype, np.float32))
    if present is None:
        return x.mean(1)
    weight = present.astype(x.dtype)
    return jnp.einsum("bt,btc->bc", weight, x) / jnp.maximum(weight.sum(1, keepdims=True), 1)
