"""LeJEPA: SIGReg against lightly and closed forms, on devices; its own way of collapsing."""

from __future__ import annotations

import doctest
import importlib
from functools import partial
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from numeric import assert_same_over_devices

from ssl_jax import methods, models, parallel, testing
from ssl_jax.losses.sigreg import epps_pulley, random_directions, sigreg, view_variance

ORACLE = np.load(Path(__file__).parent / "oracles" / "sigreg.npz")


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def directions_of(dim, slices=64, seed=0):
    return np.asarray(random_directions(jax.random.key(seed), dim, slices), np.float64)


@pytest.mark.parametrize(("knots", "t_max"), [(17, 3.0), (9, 5.0)])
def test_sigreg_is_lightly(x64, knots, t_max):
    """Whose weights are rounded to float32."""
    f = jax.jit(jax.value_and_grad(partial(sigreg, knots=knots, t_max=t_max)))
    value, gradient = f(ORACLE["z"][0], ORACLE["directions"])
    np.testing.assert_allclose(value, ORACLE[f"sigreg/{knots}/loss"], rtol=1e-7)
    np.testing.assert_allclose(gradient, ORACLE[f"sigreg/{knots}/grad"], rtol=1e-6, atol=1e-7)


def test_both_terms_are_lightly(x64):
    """Its SIGReg of several views is the mean of that of each; its centre is that of the global ones."""

    def loss(z):
        statistics = jax.vmap(epps_pulley, in_axes=(0, None))(z, ORACLE["directions"])
        return 0.05 * statistics.mean() + 0.95 * view_variance(z.swapaxes(0, 1), centre=2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(ORACLE["z"])
    np.testing.assert_allclose(value, ORACLE["lejepa/loss"], rtol=1e-7)
    np.testing.assert_allclose(gradient, ORACLE["lejepa/grad"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("t_max", "want"), [(3.0, 1.0525), (5.0, 1.0594)])
def test_a_standard_normal_has_the_floor_whatever_its_size(t_max, want):
    f = jax.jit(partial(sigreg, t_max=t_max))
    for n in (64, 256):
        draws = [f(normal(n, 64, seed=s).astype(np.float32), directions_of(64, seed=s)) for s in range(20)]
        assert np.mean(draws) == pytest.approx(want, abs=0.05)


def test_collapse_has_the_values_of_its_closed_forms(x64):
    n, dim = 256, 16
    f = jax.jit(sigreg)
    assert f(np.zeros((n, dim)), directions_of(dim)) == pytest.approx(0.40205 * n, rel=1e-4)
    line = normal(n, 1) @ normal(1, dim, seed=1) / 4  # rank one
    half = normal(n, dim) * (np.arange(dim) < dim // 2)
    floor = 3 * 1.0525
    unit = normal(n, dim)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for broken in (line, half, unit):
        assert f(broken, directions_of(dim, 512)) > floor


def test_invariances(x64):
    z, a = normal(32, 5), directions_of(5)
    f = jax.jit(sigreg)
    np.testing.assert_allclose(f(-z, a), f(z, a), rtol=1e-12)
    np.testing.assert_allclose(f(z[::-1], a), f(z, a), rtol=1e-12)
    assert abs(f(2 * z, a) - f(z, a)) > 0.1
    assert abs(f(z + 0.5, a) - f(z, a)) > 0.1


def test_devices_compute_the_statistic_of_all_rows(x64):
    a = directions_of(5)
    assert_same_over_devices(
        lambda w, x, axis: sigreg(x @ w, jnp.asarray(a), axis=axis), normal(6, 5), normal(16, 6, seed=1)
    )


def test_own_statistics_of_devices_would_be_seen(x64, monkeypatch):
    a = directions_of(5)
    monkeypatch.setattr(parallel, "num_shards", lambda axis: 1)
    module = importlib.import_module("ssl_jax.losses.sigreg")
    monkeypatch.setattr(module, "num_shards", lambda axis: 1)
    with pytest.raises(AssertionError):
        assert_same_over_devices(
            lambda w, x, axis: sigreg(x @ w, jnp.asarray(a), axis=axis), normal(6, 5), normal(16, 6, seed=1)
        )


def test_directions_are_unit_vectors_of_their_key():
    a = random_directions(jax.random.key(0), 7, 33)
    assert a.shape == (7, 33)
    np.testing.assert_allclose(np.linalg.norm(a, axis=0), 1, rtol=1e-6)
    assert np.abs(a - random_directions(jax.random.key(1), 7, 33)).max() > 0.1


def test_the_centre_takes_gradient(x64):
    z = normal(3, 4, 2)
    for centre, views in ((None, 4), (2, 2)):
        value, gradient = jax.jit(jax.value_and_grad(partial(view_variance, centre=centre)))(z)
        c = z[:, :views].mean(1, keepdims=True)
        np.testing.assert_allclose(value, np.mean((z - c) ** 2))
        own = 2 * (z - c)
        own[:, :views] -= 2 * (z - c).sum(1, keepdims=True) / views
        np.testing.assert_allclose(gradient, own / z.size, atol=1e-15)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"directions \[d, s\]; got \(3, 2\) and \(3, 2\)"):
        sigreg(jnp.ones((3, 2)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="knots=1"):
        sigreg(jnp.ones((3, 2)), jnp.ones((2, 2)), knots=1)


def test_examples_in_docstrings():
    result = doctest.testmod(importlib.import_module("ssl_jax.losses.sigreg"))
    assert result.attempted
    assert not result.failed


# The method


def method_of(**changes):
    arguments = contract.CASES["lejepa"] | {"mean": (0.5,), "std": (0.25,)} | changes
    return methods.get("lejepa")(contract.convnet((8, 16)), plan=testing.plan_of(), **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sigreg_weight": 1.5}, "method.sigreg_weight=1.5 must be between 0 and 1"),
        ({"centre": "mean"}, "method.centre='mean' is not one of all, global"),
        ({"slices": 0}, "method.slices=0"),
    ],
)
def test_wrong_arguments_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        method_of(**changes)


def test_the_loss_is_that_of_its_views_of_two_sizes():
    method = method_of(centre="global")
    batch = contract.batch_of(0)
    small = tuple(view[:, 1:5, 2:6] for view in batch["views"])
    batch = batch | {"views": batch["views"] + (*small, small[0][:, ::-1])}
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    value, out = jax.jit(lambda v, b: method.loss(v, b, jax.random.key(2), jnp.int32(0), None))(variables, batch)
    encoder, features = contract.convnet((8, 16)), []
    for views in (batch["views"][:2], batch["views"][2:]):
        images = (np.concatenate(views) - 0.5) / 0.25
        seen = forward(encoder, variables, "encoder", images)
        features.extend(np.split(np.asarray(seen["features"]), len(views)))
    projector = models.heads.MLP((32, 32, 8))
    rows = np.concatenate(features)
    z = forward(projector, variables, "projector", rows)
    z = np.asarray(z, np.float64).reshape(5, contract.ROWS, 8)
    invariance = np.mean((z - z[:2].mean(0)) ** 2)
    directions = random_directions(parallel.named_key(jax.random.key(2), "directions"), 8, 16)
    test = np.mean(jax.vmap(sigreg, in_axes=(0, None))(jnp.asarray(z, jnp.float32), directions))
    assert float(value) == pytest.approx(0.05 * float(test) + 0.95 * invariance, rel=1e-4)
    np.testing.assert_allclose(out.outputs["features"], features[0], rtol=1e-4, atol=1e-5)
    assert float(out.metrics["std_least"]) == pytest.approx(z.std((0, 1)).min(), rel=1e-3)


def forward(module, variables, part, x):
    run = jax.jit(lambda params, state, x: models.forward(module, params, state, x, train=True)[0])
    return run(variables.params[part], variables.model_state[part], x)


@pytest.mark.slow
def test_without_sigreg_it_collapses_and_the_log_says_so():
    _, dead, _ = planted.train(method_of(sigreg_weight=0.0), 60)
    _, well, report = planted.train(method_of(), 60)
    assert dead["std_least"] < 0.1 < 0.4 < well["std_least"]
    assert dead["sigreg"] > 20 > well["sigreg"]  # .402 N is 25.7
    said = method_of().hooks["collapse"]
    assert "where one embedding for all images has 25.7 and normal ones 1.05" in said(dead)
    assert said(well) is None
    assert report["proj_std_ratio"] > 0.5
