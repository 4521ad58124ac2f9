"""Gradients by central differences, in float64."""

from __future__ import annotations

import jax
import numpy as np

from ssl_jax import parallel


def numeric_gradient(f, x, step=1e-5):
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        grad[i] = (f(up) - f(down)) / (2 * step)
    return grad


def over_devices(loss, w, *rows, devices=4):
    """Value and gradient by ``w`` of ``loss(w, *rows, axis)`` on several devices, as a step computes them, and on one.

    ``((value, gradient), (value, gradient))``; the first are those of every device, ``[devices, ...]``.
    """

    def step(w, *rows):
        return parallel.mean(jax.value_and_grad(loss)(w, *rows, parallel.DATA), parallel.DATA)

    mapped = jax.vmap(step, in_axes=(None, *[0] * len(rows)), axis_name=parallel.DATA)
    several = jax.jit(mapped)(w, *(x.reshape(devices, -1, *x.shape[1:]) for x in rows))
    return several, jax.jit(jax.value_and_grad(lambda w, *rows: loss(w, *rows, None)))(w, *rows)


def assert_same_over_devices(loss, w, *rows, devices=4, tol=1e-12):
    """:func:`over_devices` agree."""
    (values, gradients), (value, gradient) = over_devices(loss, w, *rows, devices=devices)
    np.testing.assert_allclose(values, np.broadcast_to(value, devices), rtol=tol)
    np.testing.assert_allclose(gradients, np.broadcast_to(gradient, (devices, *gradient.shape)), rtol=1e-9, atol=tol)
