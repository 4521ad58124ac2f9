"""LSTM over tokens, with the dropouts of AWD-LSTM.

Layer l, token t, with x the layer below and gates in the order input, forget, cell, output:

    (i, f, g, o) = W_l x_t + U_l h_{t-1} + b_l
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),    h_t = sigmoid(o) tanh(c_t)

Every dropout is drawn once for all tokens of an example ("variational", Gal and Ghahramani 2016), except those of
weights (``U``, one mask for the batch) and of words (whole rows of the embedding).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.norm import BatchNorm
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import Array, Axis

State = tuple[tuple[Array, Array], ...]  # (h, c), each [b, width], of every layer


class LSTM(nn.Module):
    """Embedding and layers of LSTM; the last layer is as wide as the embedding, so that a decoder can share it.

    Called ``(tokens int32 [b, t], train=bool, axis=None | "data")`` and, if wanted, with

      rows: the state ``(h, c)`` of every layer that the text before left behind; without it begins anew.
      key: of the step, for dropout; without it nothing is dropped.

    Attributes:
      vocab: how many tokens there are; set from the data. Token 0 is padding.
      width: of the embedding and of the last layer.
      hidden: of the layers between; None: ``width``.
      layers: how many.
      dropout: of what the last layer gives, ``"output"``.
      inner_dropout: between layers.
      input_dropout: of the embedded words.
      word_dropout: of words: everywhere in the batch a word is nothing.
      weight_dropout: of U.
      bptt: gradients go back over the state of at most so many tokens: it is cut before every multiple of them, which
        bounds what a long document learns from its beginning but by pooling (ULMFiT's BPT3C). None: all of them.
      init_scale: embedding from U(-s, s); the layers are drawn from U(-1/sqrt(hidden), 1/sqrt(hidden)) as torch does.
      norm: what methods make their heads with.
      frozen_stages: of the lowest so many parts (the embedding is one) nothing is dropped even with ``train``.
      dtype: of the computation; parameters stay float32.

    Returns ``{"stem", "stageK": [b, t, w], "output": [b, t, width], "rows": state, "features": [b, 3 width]}`` for
    K = 1..layers. ``"features"`` is the concat pooling of ULMFiT: the last token's output, the greatest and the mean
    over the tokens that are not padding, float32 or better.

    Raises:
      ValueError: sizes that make no network.

    Reference: Merity et al., "Regularizing and Optimizing LSTM Language Models", 2018 (arXiv:1708.02182), section 4;
    pooling: Howard and Ruder 2018 (ULMFiT), section 3.3. Differs from torch.nn.LSTM: one bias where torch adds two.
    """

    vocab: int = 2
    width: int = 200
    hidden: int | None = None
    layers: int = 2
    dropout: float = 0.0
    inner_dropout: float = 0.0
    input_dropout: float = 0.0
    word_dropout: float = 0.0
    weight_dropout: float = 0.0
    bptt: int | None = None
    init_scale: float = 0.1
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    dtype: Any = None

    by_token = ("stem_embedding",)
    min_size = 1

    @property
    def stages(self) -> int:
        """Number of layers."""
        return self.layers

    @property
    def dim(self) -> int:
        """Of ``"features"``."""
        return 3 * self.width

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"lstm of {self.layers} layers"

    def sizes(self) -> tuple[int, ...]:
        """Width of every layer."""
        return (*(self.hidden or self.width for _ in range(self.layers - 1)), self.width)

    def _check(self) -> None:
        if min(self.vocab, self.width, self.layers, self.hidden or 1, 1 if self.bptt is None else self.bptt) < 1:
            raise ValueError(
                f"model.vocab={self.vocab}, width={self.width}, hidden={self.hidden}, layers={self.layers}, "
                f"bptt={self.bptt} make no network; use numbers from 1 on"
            )
        for name in ("dropout", "inner_dropout", "input_dropout", "word_dropout", "weight_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} must be in [0, 1)")

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool,
        axis: Axis = None,
        rows: State | None = None,
        key: Array | None = None,
    ) -> dict[str, Any]:
        self._check()
        drawn = key if train else None
        tokens, present = x, x != 0

        def drop(x: Array, rate: float, name: str, part: int) -> Array:
            """One mask ``[b, 1, c]`` for all tokens of an example."""
            if drawn is None or not rate or part < self.frozen_stages:
                return x
            keys = row_keys(named_key(drawn, name), x.shape[0], axis)
            kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, (1, x.shape[-1])))(keys)
            return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

        init = _uniform(self.init_scale)
        embedding = self.param("stem_embedding", init, (self.vocab, self.width), jnp.float32)
        table = embedding
        if drawn is not None and self.word_dropout and self.frozen_stages < 1:
            kept = jax.random.bernoulli(named_key(drawn, "words"), 1 - self.word_dropout, (self.vocab, 1))
            table = jnp.where(kept, table / (1 - self.word_dropout), jnp.zeros_like(table))
        table = table.astype(self.dtype or table.dtype)
        x = drop(table[tokens], self.input_dropout, "input", 0)
        outputs: dict[str, Any] = {"stem": x}
        states = []
        for k, size in enumerate(self.sizes(), 1):
            scale = _uniform(1 / math.sqrt(size))
            shapes = {"input": (x.shape[-1], 4 * size), "state": (size, 4 * size), "bias": (4 * size,)}
            w, u, b = (
                self.param(f"stage{k}_{n}", scale, shape, jnp.float32).astype(x.dtype) for n, shape in shapes.items()
            )
            if drawn is not None and self.weight_dropout and k >= self.frozen_stages:
                kept = jax.random.bernoulli(named_key(drawn, f"weights{k}"), 1 - self.weight_dropout, u.shape)
                u = jnp.where(kept, u / (1 - self.weight_dropout), jnp.zeros_like(u))
            nothing = jnp.zeros((x.shape[0], size), x.dtype)
            h, c = (nothing, nothing) if rows is None else rows[k - 1]
            x, state = _layer(x, w, u, b, (h.astype(x.dtype), c.astype(x.dtype)), self.bptt)
            states.append(state)
            outputs[f"stage{k}"] = x
            if k < self.layers:
                x = drop(x, self.inner_dropout, f"stage{k}", k)
        outputs["output"] = drop(x, self.dropout, "output", self.layers)
        return outputs | {"rows": tuple(states), "features": concat_pool(outputs["output"], present)}


def _uniform(scale: float) -> Callable[..., Array]:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -scale, scale)


def _layer(
    x: Array, w: Array, u: Array, b: Array, begin: tuple[Array, Array], bptt: int | None
) -> tuple[Array, tuple[Array, Array]]:
    """One layer over ``[b, t, c]``; what needs no state is one product for all tokens."""
    cuts = None if bptt is None else np.arange(x.shape[1]) % bptt == 0

    def step(state, given):
        projected, cut = given
        if cut is not None:
            state = jax.tree.map(lambda a: jnp.where(cut, jax.lax.stop_gradient(a), a), state)
        h, c = state
        i, f, g, o = jnp.split(projected + h @ u, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    state, hidden = jax.lax.scan(step, begin, (jnp.swapaxes(x @ w + b[None, None], 0, 1), cuts))
    return jnp.swapaxes(hidden, 0, 1), state


def concat_pool(x: Array, present: Array) -> Array:
    """``[b, 3 c]``: x of the last token that is present, the greatest and the mean over those, float32 or better.

    Args:
      x: ``[b, t, c]``.
      present: ``[b, t]`` bool; of an example without any all is 0.
    """
    x = x.astype(np.promote_types(x.dtype, np.float32))
    some = present.any(1)[:, None]
    at = jnp.where(present, jnp.arange(x.shape[1])[None], 0).max(1)
    last = jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]
    most = jnp.where(present[:, :, None], x, np.finfo(x.dtype).min).max(1)
    count = jnp.maximum(present.sum(1), 1)[:, None].astype(x.dtype)
    mean = jnp.where(present[:, :, None], x, jnp.zeros_like(x)).sum(1) / count
    pooled = jnp.concatenate([last, most, mean], axis=-1)
    return jnp.where(some, pooled, jnp.zeros_like(pooled))
