"""A method trained for some steps on a few random batches, sound or with a fault that was put into it."""

from __future__ import annotations

from typing import Any

import contract
import jax
import numpy as np
import optax

from ssl_jax import optim
from ssl_jax.online.collapse import collapse_report, projection_moments
from ssl_jax.types import Method


def train(method: Method, steps: int, rate: float = 1e-2, batches: int = 8) -> tuple[Any, Any, dict[str, float]]:
    """(metrics of the first step with its ``"loss"``, those of the last, the alarm's report of the last)."""
    tx = method.wrap_tx(optim.make("adamw", learning_rate=lambda step: rate, momentum=0.9, weight_decay=0.0))
    variables = jax.jit(method.init)(jax.random.key(0), contract.batch_of(0))
    state = tx.init(variables.params)

    @jax.jit
    def step(variables, state, batch, t):
        def loss(params):
            return method.loss(
                variables._replace(params=params), batch, jax.random.fold_in(jax.random.key(1), t), t, None
            )

        (value, out), gradients = jax.value_and_grad(loss, has_aux=True)(variables.params)
        updates, state = tx.update(gradients, state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        new = variables._replace(params=params, model_state=out.model_state)
        new = new._replace(aux=method.update_aux(new, out.carry, t))
        moments = projection_moments(out.outputs["projections"], None)
        return new, state, dict(out.metrics) | {"loss": value}, moments

    first = metrics = moments = None
    for t in range(steps):
        variables, state, metrics, moments = step(variables, state, contract.batch_of(t % batches), np.int32(t))
        first = first or jax.device_get(metrics)
    return first, jax.device_get(metrics), collapse_report(jax.device_get(moments))
