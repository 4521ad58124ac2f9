"""Transformers over tokens: BERT's encoder, and the causal one of a language model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.norm import BatchNorm, LayerNorm
from ssl_jax.models.remat import remat
from ssl_jax.models.transformer import Block, dropout, mean_token
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import Array, Axis

POOLS = ("mean", "cls")


class TextTransformer(nn.Module):
    """Transformer over tokens, with learned positions and segments. A stage is a block.

        h_0 = norm(E[x_t] + P[t] + S[segment_t]),    h_k = block_k(h_{k-1})

    Called ``(tokens int32 [b, t], train=bool, axis=None | "data")`` and, if wanted, with

      segment: int32 ``[b, t]``, which part of a pair each token belongs to; without it all belong to the first.
      key: of the step, for dropout; without it nothing is dropped.

    Attributes:
      vocab: how many tokens there are; set from the data. Token 0 is padding, which no other token sees.
      width, depth, heads: of tokens, blocks, and attention.
      mlp_ratio: width of a block's hidden layer over ``width``.
      positions: of the longest sequence.
      segments: how many parts a sequence may have; 0: nothing is learned of them.
      causal: no token sees those behind it, for language models.
      norm_first: norms stand before the branches of a block, with one behind the last block and none at h_0 (GPT-2);
        else behind the sums (BERT).
      pool: what ``"features"`` are, "mean" of the tokens that are present or "cls", the first token.
      dropout: of h_0, of the attention's weights and of every branch, drawn by example.
      eps: of the norms.
      norm: what methods make their heads with; the network itself has only LayerNorm.
      frozen_stages: of the lowest so many parts (the embedding is one) nothing is dropped even with ``train``.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation, e.g. bfloat16; parameters, LayerNorm's statistics and the softmax stay float32.

    Returns ``{"stem", "stageK": [b, t, width], "output": [b, t, width], "features": [b, width]}`` for K = 1..depth;
    ``"output"`` is the last stage, normalised; ``"features"`` are float32 or better.

    Raises:
      ValueError: sizes that make no network, or tokens beyond the positions.

    Reference: Devlin et al., "BERT", 2019 (arXiv:1810.04805), section 3 and appendix A.2; small sizes: Turc et al.
    2019 (arXiv:1908.08962), table 1. Differs from the reference code: first weights are a normal that is not truncated.
    """

    vocab: int = 2
    width: int = 128
    depth: int = 2
    heads: int = 2
    mlp_ratio: float = 4.0
    positions: int = 512
    segments: int = 2
    causal: bool = False
    norm_first: bool = False
    pool: str = "mean"
    dropout: float = 0.1
    eps: float = 1e-12
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    by_token = ("stem_embedding",)
    min_size = 1

    @property
    def stages(self) -> int:
        """Number of blocks."""
        return self.depth

    @property
    def dim(self) -> int:
        """Of ``"features"``."""
        return self.width

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"text_transformer of {self.depth} blocks"

    def _check(self, length: int) -> None:
        if min(self.vocab, self.depth, self.heads, self.positions) < 1 or self.width % self.heads:
            raise ValueError(
                f"model.vocab={self.vocab}, width={self.width}, depth={self.depth}, heads={self.heads}, "
                f"positions={self.positions} make no transformer; use 1 or more of each, heads that divide the width"
            )
        if self.pool not in POOLS:
            raise ValueError(f"model.pool={self.pool!r} is not one of {', '.join(POOLS)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout} must be in [0, 1); BERT uses 0.1")
        if length > self.positions:
            raise ValueError(
                f"sequences of {length} tokens are longer than model.positions={self.positions}; lower data.length or "
                "data.document_length, or raise the positions"
            )

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool,
        axis: Axis = None,
        segment: Array | None = None,
        key: Array | None = None,
    ) -> dict[str, Array]:
        self._check(x.shape[1])
        present = x != 0
        drawn = row_keys(named_key(key, "dropout"), x.shape[0], axis) if train and key is not None else None
        norm = partial(LayerNorm, eps=self.eps, dtype=self.dtype)

        def keys(part: int) -> Array | None:
            if drawn is None or part < self.frozen_stages:
                return None
            return jax.vmap(jax.random.fold_in, in_axes=(0, None))(drawn, part)

        def table(name: str, rows: int) -> Array:
            found = self.param(name, nn.initializers.normal(0.02), (rows, self.width), jnp.float32)
            return found.astype(self.dtype or found.dtype)

        h = table("stem_embedding", self.vocab)[x] + table("stem_positions", self.positions)[None, : x.shape[1]]
        if self.segments:
            parts = table("stem_segments", self.segments)
            h = h + (parts[None, :1] if segment is None else parts[segment])
        h = h if self.norm_first else norm(name="stem_norm")(h)
        h = dropout(h, self.dropout, keys(0), 0)
        outputs = {"stem": h}
        block = partial(
            remat(Block, self.remat),
            **{"heads": self.heads, "mlp_ratio": self.mlp_ratio, "dtype": self.dtype, "norm_first": self.norm_first},
            **{"causal": self.causal, "dropout": self.dropout, "eps": self.eps},
        )
        for k in range(1, self.depth + 1):
            h = block(name=f"stage{k}_block")(h, present, None, keys(k))
            if k == self.depth and self.norm_first:
                h = norm(name=f"stage{k}_norm")(h)
            outputs[f"stage{k}"] = h
        first = h[:, 0].astype(np.promote_types(h.dtype, np.float32))
        return outputs | {"output": h, "features": first if self.pool == "cls" else mean_token(h, present)}
