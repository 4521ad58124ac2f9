"""Geometry against closed forms and plain NumPy; the alarm on forced and on absent collapse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import i0

from ssl_jax.evals import geometry


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def circle(n, phase=0.0):
    angle = 2 * np.pi * np.arange(n) / n + phase
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def with_spectrum(singular_values, n=300, d=20, seed=0):
    """Rows with exactly these singular values and mean zero."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, len(singular_values)))
    u = np.linalg.qr(u - u.mean(0))[0]
    v = np.linalg.qr(rng.normal(size=(d, len(singular_values))))[0]
    return (u * np.asarray(singular_values)) @ v.T


def test_alignment():
    theta = 0.3
    found = geometry.alignment(jnp.asarray(3 * circle(50)), jnp.asarray(circle(50, theta)))
    assert float(found) == pytest.approx(2 - 2 * np.cos(theta), rel=1e-5)
    assert float(geometry.alignment(jnp.ones((4, 3)), 2 * jnp.ones((4, 3)))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("block", [1024, 7])
def test_uniformity_on_a_circle(block):
    n, t = 60, 2.0
    k = np.arange(1, n)
    exact = np.log(np.mean(np.exp(-t * (2 - 2 * np.cos(2 * np.pi * k / n)))))
    assert float(geometry.uniformity(jnp.asarray(5 * circle(n)), t, block=block)) == pytest.approx(exact, rel=1e-5)


def test_uniformity_of_the_uniform_distribution():
    # equally spaced points tend to E exp(-t (2 - 2 cos)) = exp(-2t) I0(2t)
    found = float(geometry.uniformity(jnp.asarray(circle(3000)), 2.0))
    assert found == pytest.approx(np.log(np.exp(-4) * i0(4.0)), abs=2e-3)
    assert float(geometry.uniformity(jnp.ones((10, 4)))) == pytest.approx(0, abs=1e-5)


def test_uniformity_equals_numpy_and_its_gradient_is_finite():
    x = np.random.default_rng(0).normal(size=(37, 5))
    z = unit(x)
    distance = ((z[:, None] - z[None]) ** 2).sum(-1)
    expected = np.log(np.exp(-3 * distance)[~np.eye(37, dtype=bool)].mean())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert float(geometry.uniformity(jnp.asarray(x), 3.0, block=10)) == pytest.approx(expected, rel=1e-12)
    gradient = jax.grad(lambda a: geometry.uniformity(a, 3.0, block=10))(jnp.asarray(x, jnp.float32))
    assert np.isfinite(np.asarray(gradient)).all()
    with pytest.raises(ValueError, match="at least 2"):
        geometry.uniformity(jnp.ones((1, 3)))


def test_rankme():
    assert geometry.rankme(with_spectrum([3.0] * 6)) == pytest.approx(6, rel=1e-4)
    values = np.array([5.0, 2.0, 1.0, 0.5])
    p = values / values.sum()
    assert geometry.rankme(with_spectrum(values)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)
    s = np.linalg.svd(x := np.random.default_rng(1).normal(size=(30, 50)) + 1, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert geometry.rankme(x.astype(np.float32)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)
    # uncentred: a shift adds a direction
    assert geometry.rankme(with_spectrum([3.0] * 6) + 0.1) > 6.3


def test_effective_rank():
    assert geometry.effective_rank(circle(100)) == pytest.approx(2, rel=1e-6)
    assert geometry.effective_rank(circle(100) + 7) == pytest.approx(2, rel=1e-6)
    assert geometry.effective_rank(with_spectrum([2.0] * 9)) == pytest.approx(9, rel=1e-6)
    gaussian = np.random.default_rng(0).normal(size=(20000, 8))
    assert geometry.effective_rank(gaussian) == pytest.approx(8, rel=1e-3)
    assert geometry.effective_rank(np.ones((10, 4))) == 0.0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req(alpha):
    k = np.arange(1.0, 16.0)
    x = with_spectrum(k ** (-alpha / 2), d=40)
    assert geometry.alpha_req(x) == pytest.approx(alpha, rel=1e-6)
    broken = with_spectrum(np.concatenate([[100.0, 50.0], k[2:] ** (-alpha / 2)]), d=40)
    assert geometry.alpha_req(broken, first=3, last=12) == pytest.approx(alpha, rel=1e-6)
    with pytest.raises(ValueError, match="needs 2 eigenvalues"):
        geometry.alpha_req(x, first=15, last=15)


def report_of(z):
    moments = jax.jit(lambda a: geometry.projection_moments(a, None))(jnp.asarray(z, jnp.float32))
    return geometry.collapse_report(jax.device_get(moments))


def test_report_equals_numpy():
    x = np.random.default_rng(0).normal(size=(200, 12)) * np.arange(1, 13) + 1
    z = unit(x)
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T, bias=True))
    p = eigenvalues / eigenvalues.sum()
    report = report_of(x)
    assert report["proj_std"] == pytest.approx(z.std(axis=0).mean(), rel=1e-5)
    assert report["proj_std_ratio"] == pytest.approx(z.std(axis=0).mean() * np.sqrt(12), rel=1e-5)
    assert report["effective_rank"] == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)


def test_moments_do_not_depend_on_the_number_of_devices():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for d in (6, 700):
            z = jnp.asarray(np.random.default_rng(0).normal(size=(32, d)))
            whole = geometry.projection_moments(z, None)
            parts = jax.vmap(lambda a: geometry.projection_moments(a, "data"), axis_name="data")(z.reshape(8, 4, d))
            for name, value in whole.items():
                assert value.dtype == jnp.float64
                for shard in parts[name]:
                    np.testing.assert_allclose(shard, value, atol=1e-12)


def test_sketch_of_wide_projections(monkeypatch):
    rng = np.random.default_rng(0)
    wide = geometry.projection_moments(jnp.asarray(rng.normal(size=(4, 1300)), jnp.float32), None)
    assert {name: value.shape for name, value in wide.items()} == {
        "mean": (1300,),
        "square": (1300,),
        "second": (512, 512),
    }
    monkeypatch.setattr(geometry, "SKETCH", 64)
    d = 300
    low = rng.normal(size=(256, 4)) @ rng.normal(size=(4, d))
    assert report_of(low)["effective_rank"] == pytest.approx(geometry.effective_rank(unit(low)), rel=0.1)
    healthy = rng.normal(size=(256, d))
    report = report_of(healthy)
    assert report["proj_std_ratio"] == pytest.approx(1, abs=0.02)
    assert report["proj_std"] == pytest.approx(unit(healthy).std(axis=0).mean(), rel=1e-5)
    assert 45 < report["effective_rank"] <= 64
    assert report_of(rng.normal(size=(1, d)) + 1e-3 * rng.normal(size=(64, d)))["proj_std_ratio"] < 0.01


def test_zero_and_not_finite_projections():
    zero = report_of(np.zeros((8, 5)))
    assert zero["proj_std"] == 0
    broken = report_of(np.full((8, 5), np.nan))
    assert np.isnan(broken["proj_std_ratio"])
    assert geometry.alarm(1, broken, step=100, warmup_steps=10) == (0, None)


def steps(reports, warmup=10):
    history, messages = 0, {}
    for step, report in reports:
        history, message = geometry.alarm(history, report, step=step, warmup_steps=warmup)
        if message:
            messages[step] = message
    return messages


def test_alarm_trips_on_the_second_collapsed_report_after_warmup():
    rng = np.random.default_rng(0)
    same = report_of(rng.normal(size=(1, 16)) + 1e-3 * rng.normal(size=(64, 16)))
    line = report_of(rng.normal(size=(64, 1)) * rng.normal(size=(1, 16)))  # two opposite points: full spread, rank 1
    good = report_of(rng.normal(size=(64, 16)))
    assert same["proj_std_ratio"] < 0.2
    assert line["proj_std_ratio"] > 0.5
    for bad in (same, line):
        messages = steps([(s, bad) for s in range(1, 30)])
        assert list(messages) == [12]
        assert "collapsed" in messages[12]
        assert "Try" in messages[12]
    assert not steps([(s, good) for s in range(1, 30)])
    assert not steps([(s, same) for s in range(1, 11)] + [(11, same)])
    assert not steps([(s, same if s % 2 else good) for s in range(1, 30)])
    assert list(steps([(11, same), (12, same), (13, good), (14, same), (15, same), (16, same)])) == [12, 15]
