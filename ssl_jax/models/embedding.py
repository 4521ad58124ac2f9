"""A table of words: a vector for each, whatever stands around it (word2vec, GloVe)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.norm import BatchNorm
from ssl_jax.types import Array, Axis


class Embedding(nn.Module):
    """Vectors of words; those of a document are averaged.

    Called ``(tokens int32 [b, t], train=bool, axis=None | "data")``.

    Attributes:
      vocab: how many tokens there are; set from the data. Token 0 is padding.
      width: of a vector.
      init_scale: from U(-s, s); None: 1/2 over the width, as word2vec's code has it.
      norm: what methods make their heads with.
      frozen_stages: changes nothing, since nothing is dropped or counted here.
      dtype: of the vectors; the table stays float32.

    Returns ``{"stem", "stage1": [b, t, width], "features": [b, width]}``; stage 1 is the stem without padding, the
    features are its mean over the tokens that are present, float32 or better.

    Raises:
      ValueError: sizes that make no table.
    """

    vocab: int = 2
    width: int = 100
    init_scale: float | None = None
    norm: Callable[..., nn.Module] = BatchNorm
    frozen_stages: int = 0
    dtype: Any = None

    by_token = ("stem_embedding",)
    min_size = 1
    stages = 1
    label = "embedding"

    @property
    def dim(self) -> int:
        """Of ``"features"``."""
        return self.width

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        if min(self.vocab, self.width) < 1:
            raise ValueError(f"model.vocab={self.vocab}, width={self.width} make no table; use numbers from 1 on")
        scale = 0.5 / self.width if self.init_scale is None else self.init_scale

        def init(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -scale, scale)

        table = self.param("stem_embedding", init, (self.vocab, self.width), jnp.float32)
        words = table.astype(self.dtype or table.dtype)[x]
        present = (x != 0)[:, :, None]
        kept = jnp.where(present, words, jnp.zeros_like(words))
        total = kept.astype(np.promote_types(kept.dtype, np.float32)).sum(1)
        features = total / jnp.maximum(present.sum(1), 1).astype(total.dtype)
        return {"stem": words, "stage1": kept, "features": features}
