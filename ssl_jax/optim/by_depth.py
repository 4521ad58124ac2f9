"""Rates, decay and freezing by a parameter's path, and by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.types import Tree


def by_path(f: Callable) -> Callable[[Tree], Tree]:
    """``f(path, leaf)`` of every leaf."""
    return lambda tree: jax.tree_util.tree_map_with_path(f, tree)


def rates_by_depth(
    tx: optax.GradientTransformation,
    depth: Callable[[Any], int],
    top: int,
    *,
    layer_decay: float = 1.0,
    head_rate: float = 1.0,
) -> optax.GradientTransformation:
    """``tx`` whose updates of depth d are ``layer_decay ** (top - d)`` times as large, those of ``top`` ``head_rate``.

    It comes last, so that adaptive optimizers and weight decay feel it.

    Args:
      depth: of a parameter's path.
      top: depth of what is made anew, the head.

    Raises:
      ValueError: an argument outside its meaning.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"method.layer_decay={layer_decay} must be in (0, 1]; 1 is one rate for all")
    if not head_rate > 0:
        raise ValueError(f"method.head_rate={head_rate} must be positive; 1 is one rate for all")
    if (layer_decay, head_rate) == (1, 1):
        return tx

    def scale(path, update):
        return update * (layer_decay ** (top - depth(path)) * (head_rate if depth(path) == top else 1.0))

    return optax.chain(tx, optax.stateless(lambda updates, params: by_path(scale)(updates)))


def from_update(tx: optax.GradientTransformation, first: int) -> optax.GradientTransformation:
    """``tx`` from update ``first`` on; before it no updates, and nothing is remembered but how late it is.

    The schedule's count goes on while the rest of the state waits: what joins late learns at the rate of the others.
    """

    def init(params: Tree):
        return jnp.int32(0), tx.init(params)

    def update(updates, state, params=None):
        count, waiting = state
        updates, moved = tx.update(updates, waiting, params)

        def if_learning(new, old):
            return new if _is_clock(new) else jnp.where(count >= first, new, old)

        updates = jax.tree.map(lambda u: if_learning(u, jnp.zeros_like(u)), updates)
        return updates, (count + 1, jax.tree.map(if_learning, moved, waiting, is_leaf=_is_clock))

    return optax.GradientTransformation(init, update)


def _is_clock(state) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)
