"""SwAV and Sinkhorn's assignments, against lightly, closed forms and NumPy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import losses, methods, models, optim, testing
from ssl_jax.losses import cross_entropies, mean_over_pairs
from ssl_jax.parallel import DATA
from ssl_jax.types import Variables

ORACLE = np.load(Path(__file__).parent / "oracles" / "swav.npz")
sinkhorn = jax.jit(losses.sinkhorn, static_argnames=("iterations", "axis"))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def distance(a, b):
    """Mean total variation."""
    return np.abs(np.asarray(a) - np.asarray(b)).sum(-1).mean() / 2


# ------------------------------------------------------------------------------------------------ assignments


@pytest.mark.parametrize("case", range(3))
def test_assignments_are_lightlys(case):
    epsilon, iterations = ORACLE["cases"][case]
    found = sinkhorn(jnp.asarray(ORACLE["scores"][:, 0]), epsilon=epsilon, iterations=int(iterations))
    np.testing.assert_allclose(found, ORACLE[f"q/{case}"], atol=1e-13)


def test_closed_forms():
    np.testing.assert_allclose(sinkhorn(jnp.eye(2), epsilon=0.05)[0, 0], 1 / (1 + np.exp(-20)), rtol=1e-14)
    alike = jnp.asarray(random(1, 5).repeat(4, 0))
    np.testing.assert_allclose(sinkhorn(alike, epsilon=0.05), np.full((4, 5), 0.2), atol=1e-14)
    scores = jnp.array([[1.0, 0.0], [0.9, 0.0]])
    np.testing.assert_allclose(sinkhorn(scores, epsilon=0.05)[0], [0.72721, 0.27279], atol=5e-6)
    converged = sinkhorn(scores, epsilon=0.05, iterations=100)[0, 0]
    np.testing.assert_allclose(converged, 1 / (1 + np.exp(-1)), rtol=1e-12)


def test_a_constant_of_a_prototype_changes_nothing_and_one_of_a_row_does():
    scores = random(16, 6)
    of = partial(sinkhorn, epsilon=0.05)
    np.testing.assert_allclose(of(scores + random(1, 6, seed=1)), of(scores), atol=1e-12)
    shifted = scores + random(16, 1, seed=1)
    assert distance(of(shifted), of(scores)) > 0.1
    soft = partial(sinkhorn, epsilon=0.5, iterations=100)
    assert distance(soft(shifted), soft(scores)) < 1e-9


def test_sums_of_rows_and_prototypes():
    found = np.asarray(sinkhorn(random(64, 8), epsilon=0.5, iterations=100))
    np.testing.assert_allclose(found.sum(1), np.ones(64), rtol=1e-12)
    np.testing.assert_allclose(found.sum(0), np.full(8, 8.0), rtol=1e-9)


def test_no_epsilon_is_too_small():
    found = np.asarray(sinkhorn(random(16, 6).astype(np.float32) * 30, epsilon=0.03))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(1), np.ones(16), rtol=1e-5)


def test_devices_share_the_sums():
    scores = random(4, 4, 30)
    of = partial(sinkhorn, epsilon=0.05)
    shared = jax.vmap(lambda s: of(s, axis=DATA), axis_name=DATA)(scores)
    whole = of(scores.reshape(16, 30))
    np.testing.assert_allclose(shared.reshape(16, 30), whole, atol=1e-13)
    assert distance(jax.vmap(of)(scores), whole.reshape(4, 4, 30)) > 0.3  # each device for itself


def test_rows_that_do_not_count():
    scores, present = random(12, 5), np.arange(12) % 3 != 0
    found = sinkhorn(scores, epsilon=0.05, present=jnp.asarray(present))
    np.testing.assert_allclose(found[present], sinkhorn(scores[present], epsilon=0.05), atol=1e-13)
    none = jax.vmap(lambda s: sinkhorn(s, epsilon=0.05, present=jnp.zeros(6, bool), axis=DATA), axis_name=DATA)
    assert np.isfinite(none(scores.reshape(2, 6, 5))).all()


def test_no_gradient_goes_through():
    assert not np.any(jax.grad(lambda s: (sinkhorn(s, epsilon=0.05) * s**0).sum())(jnp.asarray(random(4, 3))))


def test_scores_that_cannot_be_assigned_are_refused():
    for scores, arguments, words in (
        (random(4, 3, 2), {"epsilon": 0.05}, r"needs scores \[b, k\]; got \(4, 3, 2\)"),
        (random(4, 3), {"epsilon": 0.0}, "needs temperature > 0, got 0.0"),
        (random(4, 3), {"epsilon": 0.05, "iterations": 0}, "got iterations=0"),
    ):
        with pytest.raises(ValueError, match=words):
            losses.sinkhorn(jnp.asarray(scores), **arguments)


@pytest.mark.parametrize("name", ["alone", "queue"])
def test_the_loss_is_lightlys(name):
    """Its queue stands behind the batch, and of the assignments only those of the batch are kept."""
    scores, queue = ORACLE["scores"], ORACLE["queue"]

    def loss(s):
        rows = [s[:, g] if name == "alone" else jnp.concatenate([s[:, g], queue[g]]) for g in range(2)]
        q = jnp.stack([sinkhorn(r, epsilon=0.05)[: len(s)] for r in rows], axis=1)
        return mean_over_pairs(cross_entropies(q, s, temperature=0.1))

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(scores))
    np.testing.assert_allclose(value, ORACLE[f"loss/{name}"], rtol=1e-12)
    np.testing.assert_allclose(gradient, ORACLE[f"gradient/{name}"], atol=1e-12)


# ------------------------------------------------------------------------------------------------ the method

ROWS, K, D = 8, 6, 4
PLAN = testing.plan_of(global_batch_size=ROWS, steps_per_epoch=2, total_steps=20)


def method_of(**arguments):
    encoder = models.make("convnet", widths=(4, 8), residual=False)
    small = {"prototypes": K, "hidden": 32, "projector_dim": D, "freeze_prototypes": 0}
    method = methods.get("swav")(encoder, plan=PLAN, **(small | arguments))
    return encoder, method._replace(init=jax.jit(method.init), loss=jax.jit(method.loss, static_argnums=4))


def batch_of(seed=0, small=3):
    rng = np.random.default_rng(seed)
    return {"views": tuple(rng.random((ROWS, size, size, 3)) for size in [8, 8] + [4] * small)}


def begin(method, batch):
    variables = method.init(jax.random.key(0), batch)
    return jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, variables)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def assigned(scores, epsilon=0.05):
    """Algorithm 1 of the paper's appendix, with Q ``[k, b]``."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    for _ in range(3):
        q /= len(q) * q.sum(1, keepdims=True)
        q /= q.shape[1] * q.sum(0, keepdims=True)
    return (q * q.shape[1]).T


forward = jax.jit(partial(models.forward, train=True), static_argnums=0)


def by_hand(encoder, method, variables, batch, queue=None):
    """The loss with views in the order of the paper's code: one after the other, not side by side."""
    views, params, state = batch["views"], variables.params, variables.model_state
    features = []
    for group in (views[:2], views[2:]):
        if group:
            images = np.concatenate(group)
            out, _ = forward(encoder, params["encoder"], state["encoder"], images)
            features.append(out["features"])
    head = models.heads.MLP((32, D))
    z, _ = forward(head, params["projector"], state["projector"], jnp.concatenate(features))
    z = unit(np.asarray(z)).reshape(len(views), ROWS, D)
    c = np.asarray(params["prototypes"]["kernel"])
    total = 0.0
    for g in range(2):
        rows = z[g] @ c if queue is None else np.concatenate([queue[g] @ c, z[g] @ c])
        q = assigned(rows)[-ROWS:]
        for v in range(len(views)):
            logits = z[v] @ c / 0.1
            log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            total += 0.0 if v == g else -(q * log_p).sum(1).mean()
    return total / 2 / (len(views) - 1), z


def loss_of(method, variables, batch, step=0):
    return method.loss(variables, batch, jax.random.key(1), jnp.int32(step), None)


@pytest.mark.parametrize("small", [0, 3])
def test_the_loss_of_views_of_two_sizes(small):
    encoder, method = method_of()
    batch = batch_of(small=small)
    variables = begin(method, batch)
    value, out = loss_of(method, variables, batch)
    want, z = by_hand(encoder, method, variables, batch)
    np.testing.assert_allclose(value, want, rtol=1e-9)
    np.testing.assert_allclose(out.outputs["projections"], z[0], atol=1e-9)
    assert out.outputs["features"].shape == (ROWS, 8)
    assert set(out.metrics) == {"assignment_perplexity", "assignment_max", "top_share"}
    turned = batch | {"views": (*batch["views"][:2], *batch["views"][:1:-1])}
    np.testing.assert_allclose(loss_of(method, variables, turned)[0], value, rtol=1e-9)


def test_a_queue_is_used_when_it_is_full():
    encoder, method = method_of(queue_size=2 * ROWS, queue_from=0.5)  # from step 1 on
    batches = [batch_of(seed) for seed in range(5)]
    variables = begin(method, batches[0])
    assert variables.aux["queue"].shape == (2, 2 * ROWS, D)
    seen = []
    for step, batch in enumerate(batches):
        value, out = loss_of(method, variables, batch, step)
        full = step > 2  # two batches, those of steps 1 and 2, fill it
        queue = np.concatenate(seen[-2:], axis=1) if full else None
        want, z = by_hand(encoder, method, variables, batch, queue)
        np.testing.assert_allclose(value, want, rtol=1e-9)
        assert out.metrics["queue_full"] == full
        seen += [z[:2]] if step else []
        variables = variables._replace(aux=method.update_aux(variables, out.carry, jnp.int32(step)))
    # Steps 1 to 4 were put into it, the last two are in it, the third in the place of the first.
    np.testing.assert_allclose(variables.aux["queue"], np.concatenate(seen[2:], axis=1), atol=1e-9)


def test_prototypes_have_length_one_and_are_frozen_at_first():
    _, method = method_of(freeze_prototypes=1)  # of two steps
    batch = batch_of()
    variables = begin(method, batch)
    tx = method.wrap_tx(optim.make("sgd", learning_rate=0.5, weight_decay=0.1))
    params, state = variables.params, tx.init(variables.params)
    first = params["prototypes"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(first, axis=0), np.ones(K), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: loss_of(method, variables._replace(params=p), batch)[0]))
    for step in range(4):
        grads = gradient(params)
        assert np.any(grads["prototypes"]["kernel"])
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
        now = params["prototypes"]["kernel"]
        assert (now == first).all() == (step < 2)
        np.testing.assert_allclose(np.linalg.norm(now, axis=0), np.ones(K), rtol=1e-6)


def test_what_is_dead_shows_in_the_first_step():
    """All images alike; assignments so soft that nothing is asked for."""
    _, method = method_of()
    batch = batch_of()
    variables = begin(method, batch)
    alike = batch | {"views": tuple(np.broadcast_to(view[:1], view.shape) for view in batch["views"])}
    for found in (loss_of(method, variables, alike), loss_of(method_of(epsilon=100.0)[1], variables, batch)):
        value, out = found
        np.testing.assert_allclose(out.metrics["assignment_max"], 1 / K, rtol=0.02)
        assert value > np.log(K) - 1e-9
        assert "near 1 / K; lower method.epsilon" in method.hooks["collapse"](out.metrics)
    alive = loss_of(method, variables, batch)[1].metrics
    assert alive["assignment_max"] > 2 / K
    assert method.hooks["collapse"](alive) is None
    assert 1 / K <= alive["top_share"] < 2 / K
    assert 0.8 * K < alive["assignment_perplexity"] <= K + 1e-9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"queue_size": 12}, r"method.queue_size=12 is no multiple of data.global_batch_size=8; use 16, or 0"),
        ({"queue_size": -8}, r"method.queue_size=-8 must be 0 or more"),
        ({"prototypes": 1}, r"method.prototypes=1 must be 2 or more"),
        ({"epsilon": 0.0}, r"method.temperature=0.1, epsilon=0.0 must be positive"),
        ({"iterations": 0}, r"method.iterations=0 must be 1 or more"),
        ({"freeze_prototypes": -1}, r"method.freeze_prototypes=-1 must be 0 or more"),
    ],
)
def test_arguments_outside_their_meaning_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        method_of(**arguments)


def test_one_view_is_too_few():
    _, method = method_of()
    batch = batch_of()
    variables = begin(method, batch)
    assert isinstance(variables, Variables)
    with pytest.raises(ValueError, match="two views or more"):
        loss_of(method, variables, {"views": batch["views"][:1]})
