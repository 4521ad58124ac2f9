"""Rates, decay and freezing by a parameter's path, and by step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ssl_jax.types import Tree


def by_path(f: Callable) -> Callable[[Tree], Tree]:
    """``f(path, leaf)`` of every leaf."""
    return lambda tree: jax.tree_util.tree_map_with_path(f, tree)


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
