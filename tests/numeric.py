"""Gradients by central differences, in float64."""

from __future__ import annotations

import numpy as np


def numeric_gradient(f, x, step=1e-5):
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        grad[i] = (f(up) - f(down)) / (2 * step)
    return grad
