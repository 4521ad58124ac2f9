"""SimSiam, Barlow Twins, VICReg and SupCon: losses and heads by their papers, and what a dead run of each shows."""

from __future__ import annotations

import doctest
import importlib
from functools import partial
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numeric import numeric_gradient

from ssl_jax import losses, methods, models, optim, parallel, testing
from ssl_jax.losses import barlow_twins, byol_regression, nt_xent, sup_con, vicreg
from ssl_jax.methods import spread
from ssl_jax.online.collapse import alarm, collapse_report
from ssl_jax.types import Variables

ORACLE = np.load(Path(__file__).parent / "oracles" / "two_views.npz")
ALL_ONE = np.array([[1.0, 1.0], [-1.0, -1.0]])


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def close(a, b, tol=1e-12):
    np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=tol, atol=tol)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ------------------------------------------------------------------------------------------------ losses


def simsiam(z1, z2):
    return (byol_regression(z1, z2) + byol_regression(z2, z1)) / 4 - 1


LOSSES = {
    "simsiam": simsiam,
    "barlow_twins": lambda a, b: barlow_twins(a, b)[0],
    "barlow_twins/0.3": lambda a, b: barlow_twins(a, b, off_diagonal=0.3)[0],
    "vicreg": lambda a, b: vicreg(a, b)[0],
    "vicreg/3,7,2": lambda a, b: vicreg(a, b, invariance=3.0, variance=7.0, covariance=2.0)[0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_lightlys(x64, name):
    loss, grads = jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 1)))(ORACLE["z1"], ORACLE["z2"])
    close(loss, ORACLE[f"{name}/loss"])
    for found, wanted in zip(grads, (ORACLE[f"{name}/grad1"], ORACLE[f"{name}/grad2"]), strict=True):
        close(found, wanted, 1e-11)


def barlow_numpy(z1, z2):
    """Pair of dimensions by pair of dimensions."""
    u1, u2 = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z1, z2))
    c = [[np.mean(u1[:, i] * u2[:, j]) for j in range(z1.shape[1])] for i in range(z1.shape[1])]
    return sum((v - 1) ** 2 if i == j else 0.0051 * v**2 for i, row in enumerate(c) for j, v in enumerate(row))


def vicreg_numpy(z1, z2, halves=0.5):
    total = 25 * np.mean((z1 - z2) ** 2)
    for z in (z1, z2):
        cov = np.cov(z.T)
        total += halves * 25 * np.mean(np.maximum(0, 1 - np.sqrt(np.diag(cov) + 1e-4)))
        total += sum(cov[i, j] ** 2 for i in range(len(cov)) for j in range(len(cov)) if i != j) / len(cov)
    return total


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (LOSSES["barlow_twins"], barlow_numpy),
        (LOSSES["vicreg"], vicreg_numpy),
        (lambda a, b: vicreg(a, b, variance_of_views="sum")[0], partial(vicreg_numpy, halves=1.0)),
    ],
    ids=["barlow_twins", "vicreg", "vicreg-sum"],
)
def test_losses_are_their_formulas(x64, loss, formula):
    z1, z2 = normal(2, 5, 3)
    value, (g1, g2) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(z1, z2)
    close(value, formula(z1, z2))
    close(g1, numeric_gradient(lambda z: formula(z, z2), z1), 1e-6)
    close(g2, numeric_gradient(lambda z: formula(z1, z), z2), 1e-6)


def test_values_known_in_advance(x64):
    one_point = np.full((6, 4), 0.3)
    value, seen = barlow_twins(one_point, one_point)
    close(value, 4.0)  # d
    close([seen["diagonal"], seen["off_diagonal"]], [0, 0])
    value, seen = barlow_twins(ALL_ONE, ALL_ONE)
    close(value, 0.0102, 1e-4)
    close([seen["diagonal"], seen["off_diagonal"]], [1, 1], 1e-4)
    value, seen = vicreg(one_point, one_point)
    close([value, seen["variance"], seen["below_one"]], [24.75, 0.99, 1])
    close(vicreg(one_point, one_point, variance_of_views="sum")[0], 49.5)
    dead = np.array([[1.0, 0.0], [-1.0, 0.0]])
    value, seen = vicreg(dead, dead)
    close([value, seen["below_one"]], [12.375, 0.5])
    close(vicreg(ALL_ONE, ALL_ONE)[0], 8.0)
    z1, z2 = normal(2, 6, 4)
    close(simsiam(z1, 2 * z1), -1)
    close(simsiam(z1, z2), simsiam(z2, z1))
    close([spread(one_point, None), spread(ALL_ONE[:1].repeat(3, 0), None)], [0, 0], 1e-6)
    close(spread(ALL_ONE, None), 1)  # both numbers of the unit vectors are +-sqrt(1/2)


SHARED = {
    "barlow_twins": lambda a, b, label, axis: barlow_twins(a, b, axis=axis)[0],
    "vicreg": lambda a, b, label, axis: vicreg(a, b, axis=axis)[0],
    "sup_con": lambda a, b, label, axis: sup_con(a, b, label, temperature=0.3, axis=axis),
    "spread": lambda a, b, label, axis: spread(a, axis),
}


@pytest.mark.parametrize("name", SHARED)
def test_on_four_devices_a_loss_is_that_of_one_big_batch(x64, name):
    """Value, and gradient as a step takes it: the mean over devices of those of a shared matrix."""
    w, label = normal(6, 5), np.arange(16, dtype=np.int32) % 3
    x1, x2 = normal(2, 16, 6, seed=1) + 0.3

    def loss(w, x1, x2, label, axis=None):
        return SHARED[name](x1 @ w, x2 @ w, label, axis)

    def device(w, *rows):
        return parallel.mean(jax.value_and_grad(loss)(w, *rows, parallel.DATA), parallel.DATA)

    value, grad = jax.jit(jax.value_and_grad(loss))(w, x1, x2, label)
    rows = [a.reshape(4, 4, *a.shape[1:]) for a in (x1, x2, label)]
    got = jax.jit(jax.vmap(device, (None, 0, 0, 0), axis_name=parallel.DATA))(w, *rows)
    close(got[0], np.full(4, value))
    for each in got[1]:
        close(each, grad, 1e-11)
    alone = np.mean([loss(w, *(a[i] for a in rows)) for i in range(4)])
    assert abs(alone - value) > 1e-3  # a loss of each device's own rows is another one


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_low_precision_is_computed_in_float32(name):
    loss = LOSSES[name]
    a, b = jnp.asarray(normal(2, 8, 4), jnp.bfloat16)
    value, grad = jax.jit(jax.value_and_grad(loss))(a, b)
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)
    close(value, loss(a.astype(jnp.float32), b.astype(jnp.float32)), 1e-5)


def test_what_losses_refuse():
    z = jnp.zeros((6, 4))
    for loss in (barlow_twins, vicreg):
        with pytest.raises(ValueError, match=r"one shape \[b, d\]; got z1 \(6, 4\) and z2 \(5, 4\)"):
            loss(z, z[:5])
    with pytest.raises(ValueError, match="variance_of_views of mean, sum, got 'half'"):
        vicreg(z, z, variance_of_views="half")
    with pytest.raises(ValueError, match=r"two rows or more for a covariance, got z1 \(1, 4\)"):
        vicreg(z[:1], z[:1])


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"ssl_jax.losses.{name}"))
    assert (result.attempted > 0, result.failed) == (True, 0)
