"""Rematerialisation: activations that are computed again in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

POLICIES = {
    "blocks": None,  # of a block its input is kept
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # and products with weights
}


def remat(block: Any, policy: str | None, static: tuple[int, ...] = ()) -> Any:
    """A module class whose activations are kept by a policy; parameters and their names are those of ``block``.

    Args:
      block: a linen module class.
      policy: None keeps everything, ``"blocks"`` the inputs of blocks (about a third more operations), ``"dots"`` also
        the products of matrices with weights, which is for transformers.
      static: numbers of the arguments of ``__call__`` that are no arrays, ``self`` being 0.

    Raises:
      ValueError: an unknown policy.
    """
    if policy is None:
        return block
    if policy not in POLICIES:
        raise ValueError(f"model.remat={policy!r} is unknown; use {', '.join(POLICIES)} or none")
    return nn.remat(block, static_argnums=static, policy=POLICIES[policy])
