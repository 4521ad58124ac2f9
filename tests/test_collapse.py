"""The collapse alarm: its moments and report against NumPy, on forced and on absent collapse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.evals import geometry
from ssl_jax.online import alarms, collapse


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@jax.jit
def moments_of(z):
    return collapse.projection_moments(z, None)


def report_of(z):
    return collapse.collapse_report(jax.device_get(moments_of(jnp.asarray(z, jnp.float32))))


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
            whole = collapse.projection_moments(z, None)
            parts = jax.vmap(lambda a: collapse.projection_moments(a, "data"), axis_name="data")(z.reshape(8, 4, d))
            for name, value in whole.items():
                assert value.dtype == jnp.float64
                for shard in parts[name]:
                    np.testing.assert_allclose(shard, value, atol=1e-12)


def test_sketch_of_wide_projections(monkeypatch):
    rng = np.random.default_rng(0)
    wide = collapse.projection_moments(jnp.asarray(rng.normal(size=(4, 1300)), jnp.float32), None)
    assert {name: value.shape for name, value in wide.items()} == {
        "mean": (1300,),
        "square": (1300,),
        "second": (512, 512),
    }
    monkeypatch.setattr(collapse, "SKETCH", 64)
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
    assert collapse.alarm(1, broken, step=100, warmup_steps=10) == (1, None)
    assert collapse.alarm(3, broken, step=100, warmup_steps=10) == (3, None)


def steps(reports, warmup=10):
    history, messages = 0, {}
    for step, report in reports:
        history, message = collapse.alarm(history, report, step=step, warmup_steps=warmup)
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
    messages = steps([(s, good if s in (13, 16, 17) else same) for s in range(11, 21)])
    assert list(messages) == [12, 17, 19]
    assert messages[17] == "step 17: the representation looks collapsed no more"


def test_a_sign_of_the_methods_own_counts_and_is_said():
    good, history = report_of(np.random.default_rng(0).normal(size=(64, 16))), 0
    found = []
    for step in range(9, 14):
        history, said = collapse.alarm(history, good, step=step, warmup_steps=10, own="z is near 0; raise it")
        found.append(said)
    assert found == [None, None, None, "step 12: the representation looks collapsed: z is near 0; raise it", None]


@pytest.mark.parametrize(
    ("rows", "dim", "spread", "rank"),
    [
        (2, 128, True, False),
        (3, 128, True, False),
        (4, 128, True, False),
        (5, 128, True, True),
        (2, 4, False, False),
        (256, 1, True, False),
        (256, 3, True, False),
        (256, 4, True, True),
        (64, 16, True, True),
    ],
)
def test_signs_that_mean_nothing_at_a_size_are_left_out(rows, dim, spread, rank):
    signs = collapse.watched(rows, dim)
    assert signs == (spread, rank)
    assert (collapse.unwatched(rows, dim) is None) == (spread and rank)
    rng = np.random.default_rng(0)
    healthy = [(s, report_of(rng.normal(size=(rows, dim)))) for s in range(11, 31)]
    history = 0
    for step, report in healthy:
        history, message = collapse.alarm(history, report, step=step, warmup_steps=10, signs=signs)
        assert message is None
    same = report_of(np.ones((1, dim)) + (1e-3 * rng.normal(size=(rows, dim)) if dim > 1 else 0))
    history, message = collapse.alarm(1, same, step=40, warmup_steps=10, signs=signs)
    assert (message is not None) == (spread or rank)
    if message is not None:  # names the signs that speak, and no others
        assert ("differ by" in message) == (spread and same["proj_std_ratio"] < 0.2)
        assert ("fill" in message) == (rank and same["effective_rank"] < collapse.MIN_RANK)


def test_what_is_left_out_is_said():
    assert collapse.unwatched(2, 128) == (
        "the collapse alarm leaves the rank out: that of 2 examples in 128 dimensions is small in a healthy run, too"
    )
    assert collapse.unwatched(2, 2).startswith("no collapse alarm: that of 2 examples")


def test_a_number_that_is_not_finite_is_no_sign_of_a_methods_own():
    progress = alarms.NEW | {"losses": [], "loss_spikes": []}
    report = {"proj_std_ratio": 1.0, "effective_rank": 8.0, "dim": 16}
    for step, seen, suspicious in ((1, None, 0), (2, 3.0, 1), (3, 3.0, 2), (4, None, -1), (5, None, 0)):
        line = {"train_loss": 1.0, "train_sign": seen, "train_other": None}
        how = {"step": step, "warmup_steps": 0, "rows": 64}
        said = list(alarms.judge(progress, line, report, own=lambda m: "dead" if m["sign"] > 2 else None, **how))
        assert progress["suspicious"] == suspicious
        assert said == {3: ["WARNING: step 3: the representation looks collapsed: dead"]}.get(
            step, ["step 5: the representation looks collapsed no more"] if step == 5 else []
        )
