"""Averaged SGD that begins when validation stops improving (NT-ASGD).

    w_bar = 1 / (t - T) sum_{s = T + 1}^{t} w_s

The run trains on w as ever; what is evaluated, encoded and kept of it is w_bar, the mean of the parameters behind every
update since step T, and before T w itself.

Reference: Merity et al., "Regularizing and Optimizing LSTM Language Models", 2018 (arXiv:1708.02182), section 3 and
algorithm 1; Polyak and Juditsky 1992. Differs from the reference code: torch's ASGD(t0=0) leaves the first update out
of its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.types import Method, Part, TrainState, Variables


def averaged(method: Method) -> Method:
    """The method that is known by the mean of its parameters; ``aux`` is ``{"own", "average", "since"}``.

    ``"since"`` is T, -1 while there is none: :func:`begin` sets it.
    """

    def inner(variables: Variables) -> Variables:
        return variables._replace(aux=variables.aux["own"])

    def mean(variables: Variables) -> Variables:
        return variables._replace(params=variables.aux["average"], aux=variables.aux["own"])

    def init(key, batch, given=None) -> Variables:
        found = method.init(key, batch, given)
        aux = {"own": found.aux, "average": jax.tree.map(jnp.copy, found.params), "since": jnp.int32(-1)}
        return found._replace(aux=aux)

    def update_aux(variables: Variables, carry, step):
        since = variables.aux["since"]
        count = jnp.where(since < 0, 1, jnp.maximum(step + 1 - since, 1))

        def moved(old, new):
            return old + (new - old) / count.astype(new.dtype)

        average = jax.tree.map(moved, variables.aux["average"], variables.params)
        return {"own": method.update_aux(inner(variables), carry, step), "average": average, "since": since}

    def of_mean(f: Callable) -> Callable:
        return lambda variables, *given, **named: f(mean(variables), *given, **named)

    return method._replace(
        init=init,
        loss=lambda variables, *given: method.loss(inner(variables), *given),
        trunk=of_mean(method.trunk),
        encode=of_mean(method.encode),
        update_aux=update_aux,
        hooks={name: f if name == "asked" else of_mean(f) for name, f in method.hooks.items()},
        parts={name: Part(of_mean(p.read), p.check, p.needed) for name, p in method.parts.items()},
    )


def due(measured: Sequence[float], patience: int) -> bool:
    """Whether the last of the validation losses so far is no better than the best of those ``patience`` checks ago.

    ``k > n and v_k > min(v_0, ..., v_{k - n - 1})`` for the losses v_0 to v_k: the paper's algorithm 1.
    """
    k = len(measured) - 1
    return k > patience and measured[k] > min(measured[: k - patience])


def begin(state: TrainState, step: int) -> TrainState:
    """The state whose mean begins behind ``step``."""
    since: Any = state.aux["since"]
    value = np.int32(step)
    placed = jax.make_array_from_callback((), since.sharding, lambda index: value)
    return state.replace(aux={**state.aux, "since": placed})


def waits(state: TrainState) -> bool:
    """Whether no mean has begun."""
    return int(state.aux["since"].addressable_data(0)) < 0
