"""NNCLR: its loss by hand and by solo-learn, what it looks up and when, its queue."""

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
from numeric import assert_same_over_devices, numeric_gradient

from ssl_jax import methods, testing
from ssl_jax.losses.nnclr import nearest, nnclr

T = 0.2
ORACLE = np.load(Path(__file__).parent / "oracles" / "solo.npz")


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(z1, z2, p1, p2, queue):
    """Equations 2 to 4 of the paper, image by image."""
    total = 0
    for z, p in ((z1, p2), (z2, p1)):
        for i in range(len(z)):
            neighbour = max(queue, key=lambda row: row @ unit(z[i]))
            logits = np.array([neighbour @ unit(p[j]) / T for j in range(len(p))])
            total += np.log(np.exp(logits).sum()) - logits[i]
    return total / (2 * len(z1))


def test_the_loss_is_that_of_the_paper(x64):
    z1, z2, p1, p2 = normal(4, 6, 4)
    queue = unit(normal(32, 4, seed=1))
    f = jax.jit(jax.value_and_grad(lambda *a: nnclr(*a, temperature=T), argnums=(0, 1, 2, 3, 4)))
    value, (to_z1, to_z2, to_p1, to_p2, to_queue) = f(z1, z2, p1, p2, queue)
    np.testing.assert_allclose(value, by_hand(z1, z2, p1, p2, queue), rtol=1e-12)
    for got, wanted in (
        (to_p1, numeric_gradient(lambda x: by_hand(z1, z2, x, p2, queue), p1)),
        (to_p2, numeric_gradient(lambda x: by_hand(z1, z2, p1, x, queue), p2)),
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-8)
    assert not any(np.any(a) for a in (to_z1, to_z2, to_queue))
    swapped, _ = f(z2, z1, p2, p1, queue)
    np.testing.assert_allclose(swapped, value, rtol=1e-12)
    uniform, _ = f(z1, z2, np.ones_like(p1), np.ones_like(p2), queue)
    np.testing.assert_allclose(uniform, np.log(6), rtol=1e-12)


@pytest.mark.parametrize("case", range(3))
def test_the_loss_is_solo_learns(x64, case):
    """Theirs is one direction, ctr(NN(z1), p2): ours is the mean of both, so the gradient of either is halved."""
    (z1, z2), (p1, p2), queue = (ORACLE[f"{name}/{case}"] for name in ("z", "p", "queue"))
    f = partial(nnclr, temperature=float(ORACLE["temperatures"][case]))
    value, found = jax.jit(jax.value_and_grad(f, argnums=range(5)))(z1, z2, p1, p2, queue)
    np.testing.assert_allclose(value, sum(ORACLE[f"nnclr/loss/{case}/{v}"] for v in (0, 1)) / 2, rtol=1e-12)
    for v in (0, 1):
        wanted = ORACLE[f"nnclr/gradient/{case}/{v}"] / 2
        np.testing.assert_allclose(found[2 + v], wanted, rtol=1e-10, atol=1e-13)
    assert not any(np.any(found[i]) for i in (0, 1, 4))


def test_devices_compute_the_loss_of_all_rows(x64):
    queue = unit(normal(32, 5, seed=1))

    def loss(w, x1, x2, axis):
        return nnclr(x1 @ w, x2 @ w, x1 @ w * 2 + 1, x2 @ w + 1, queue, temperature=T, axis=axis)

    assert_same_over_devices(loss, normal(6, 5), normal(16, 6, seed=2), normal(16, 6, seed=3))


def test_what_was_just_enqueued_finds_itself():
    """Hence the look-up is before it."""
    z, queue = (jnp.asarray(unit(normal(n, 4, seed=n)), jnp.float32) for n in (8, 32))
    before = nearest(3 * z, queue)
    assert np.asarray(before.cosine).max() < 0.999
    np.testing.assert_array_equal(before.vector, queue[before.place])
    after = nearest(z, jnp.concatenate([z, queue[8:]]))
    np.testing.assert_array_equal(after.place, np.arange(8))
    np.testing.assert_allclose(after.cosine, 1, rtol=1e-6)


def test_what_is_wrong_is_said():
    z = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"queue \[K, 3\].*\(8, 2\)"):
        nnclr(z, z, z, z, jnp.ones((8, 2)), temperature=T)
    with pytest.raises(ValueError, match="temperature > 0, got 0"):
        nnclr(z, z, z, z, jnp.ones((8, 3)), temperature=0.0)
    with pytest.raises(ValueError, match=r"p2 \(2, 3\)"):
        nnclr(z, z, z, z[:2], jnp.ones((8, 3)), temperature=T)


def test_examples_in_docstrings():
    result = doctest.testmod(importlib.import_module("ssl_jax.losses.nnclr"))
    assert result.attempted
    assert not result.failed


# The method


def method_of(**changes):
    arguments = contract.CASES["nnclr"] | {"mean": (0.5,), "std": (0.25,)} | changes
    return methods.get("nnclr")(contract.convnet((8, 16)), plan=testing.plan_of(), **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 0.0}, "method.temperature=0.0 must be positive"),
        ({"queue_size": 100}, "method.queue_size=100 is not a multiple of the 64 embeddings .* use 128"),
        ({"queue_size": 0}, "use 64"),
    ],
)
def test_wrong_arguments_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        method_of(**changes)


def test_the_queue_is_looked_up_before_this_batch_is_in_it():
    """Six batches of 64 others, 4 of which the queue holds; then the first two again."""
    method = method_of()
    variables = jax.jit(method.init)(jax.random.key(0), contract.batch_of(0))

    @jax.jit
    def step(variables, batch, t):
        _, out = method.loss(variables, batch, jax.random.key(2), t, None)
        return out, variables._replace(aux=method.update_aux(variables, out.carry, t))

    assert set(np.asarray(variables.aux["index"])) == {-1}
    seen, expected = [], np.asarray(variables.aux["queue"]).copy()
    for t, number in enumerate([0, 1, 2, 3, 4, 5, 2, 1]):
        batch = contract.batch_of(number)
        batch = batch | {"index": batch["index"] + 64 * number}
        out, variables = step(variables, batch, np.int32(t))
        z = unit(np.asarray(out.outputs["projections"]))
        expected[(64 * t) % 256 : (64 * t) % 256 + 64] = z
        np.testing.assert_allclose(variables.aux["queue"], expected, atol=1e-6)
        np.testing.assert_array_equal(variables.aux["index"][(64 * t) % 256 :][:64], batch["index"])
        seen.append({name: float(value) for name, value in out.metrics.items()})
    # A sixth of the queue was random at first; the batch itself is never found, and what left the queue neither.
    assert [round(m["nn_same_image"], 3) for m in seen[:6]] == [0] * 6
    assert seen[6]["nn_same_image"] == 1
    assert seen[6]["nn_age"] == 4
    assert seen[0]["nn_age"] == 0  # what is found was there from the beginning
    assert 1 <= seen[1]["nn_age"] <= 4
    assert seen[6]["nn_cosine"] == pytest.approx(1, abs=1e-5)
    assert seen[7]["nn_same_image"] == 0


@pytest.mark.slow
def test_a_look_up_of_this_batch_would_be_seen():
    """A queue that is filled first gives every image itself: the method is another then, and says so."""
    method = method_of()

    def wrong(variables, batch, key, step, axis):
        _, out = method.loss(variables, batch, key, step, axis)
        filled = method.update_aux(variables, out.carry, step)
        return method.loss(variables._replace(aux=jax.lax.stop_gradient(filled)), batch, key, step, axis)

    first, _, _ = planted.train(method._replace(loss=wrong), 1)
    sound, _, _ = planted.train(method, 1)
    assert first["nn_same_image"] > 0.95
    assert sound["nn_same_image"] == 0
