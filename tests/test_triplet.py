"""Triplets: the losses against NumPy, optax and each other, mining against loops, and what collapse looks like."""

from __future__ import annotations

import doctest
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from numeric import numeric_gradient

from ssl_jax import methods, models
from ssl_jax.data.images import published, recipes
from ssl_jax.losses import triplet as losses
from ssl_jax.methods import triplet
from ssl_jax.types import Plan

KEY, AXIS = jax.random.key(0), "data"

# Compiled whole: operation by operation they were some hundred programs.
triplet_margin = jax.jit(losses.triplet_margin, static_argnames=("margin", "eps"))
triplet_all = jax.jit(losses.triplet_all, static_argnames=("margin", "axis"))
distance = jax.jit(losses.distance, static_argnames="eps")
negatives = jax.jit(triplet.negatives, static_argnames=("mining", "axis"))


def grad(f, argnums=0, **options):
    return jax.jit(jax.grad(f, argnums, **options))


def value_and_grad(f, argnums=0, **options):
    return jax.jit(jax.value_and_grad(f, argnums, **options))


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def margin_numpy(a, p, n, margin, eps=1e-6):
    """torch's TripletMarginLoss: pairwise_distance adds eps to every difference."""
    terms = [
        max(0.0, np.sqrt(sum((x - y + eps) ** 2)) - np.sqrt(sum((x - z + eps) ** 2)) + margin)
        for x, y, z in zip(a, p, n, strict=True)
    ]
    return sum(terms) / len(terms)


def all_numpy(a, p, margin):
    """(mean over active triplets, their share), pair by pair."""
    found = []
    for i in range(len(a)):
        for j in range(len(a)):
            if i != j:
                near, far = np.linalg.norm(a[i] - p[i] + 1e-6), np.linalg.norm(a[i] - p[j])
                found.append(max(0.0, near - far + margin))
    active = [term for term in found if term > 0]
    return sum(active) / max(1, len(active)), len(active) / len(found)


# ---------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("margin", [0.2, 1.0, 5.0])
def test_triplet_margin_is_the_formula_of_torch(x64, margin):
    a, p, n = normal(3, 8, 5)
    run = value_and_grad(lambda *x: triplet_margin(*x, margin=margin), argnums=(0, 1, 2))
    value, gradients = run(*map(jnp.asarray, (a, p, n)))
    np.testing.assert_allclose(value, margin_numpy(a, p, n, margin), rtol=1e-12)
    numeric = (
        numeric_gradient(lambda x: margin_numpy(x, p, n, margin), a),
        numeric_gradient(lambda x: margin_numpy(a, x, n, margin), p),
        numeric_gradient(lambda x: margin_numpy(a, p, x, margin), n),
    )
    for got, want in zip(gradients, numeric, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-7)
    assert 0 < margin_numpy(a, p, n, 0.2) < margin_numpy(a, p, n, 1.0)  # some triplets active, not all


def test_eps_is_added_to_the_difference(x64):
    """Seen where points coincide: the distance is then eps sqrt(d), and the gradient points along (1, ..., 1)."""
    a = normal(2, 9)
    np.testing.assert_allclose(distance(a, a), 3e-6, rtol=1e-9)
    gradient = grad(lambda x: distance(x, a).sum())(a)
    np.testing.assert_allclose(gradient, 1 / 3, rtol=1e-6)


def test_triplet_margin_is_that_of_optax_but_for_eps(x64):
    a, p, n = map(jnp.asarray, normal(3, 8, 5))
    other = jax.jit(lambda *x: optax.losses.triplet_margin_loss(*x, margin=1.0, eps=0.0).mean())(a, p, n)
    np.testing.assert_allclose(triplet_margin(a, p, n, margin=1.0, eps=0.0), other, rtol=1e-12)
    both = [grad(f, argnums=(0, 1, 2))(a, p, n) for f in (
        partial(triplet_margin, margin=1.0),
        lambda *x: optax.losses.triplet_margin_loss(*x, margin=1.0).mean(),
    )]  # fmt: skip
    for mine, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_triplet_all_is_the_mean_over_active_pairs(x64, margin):
    a = normal(7, 4)
    p = a + normal(7, 4, seed=1)
    value, gradients = value_and_grad(lambda *x: triplet_all(*x, margin=margin)[0], argnums=(0, 1))(
        jnp.asarray(a), jnp.asarray(p)
    )
    want, share = all_numpy(a, p, margin)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(triplet_all(jnp.asarray(a), jnp.asarray(p), margin=margin)[1], share, rtol=1e-12)
    assert 0 < share < 1
    np.testing.assert_allclose(gradients[0], numeric_gradient(lambda x: all_numpy(x, p, margin)[0], a), atol=1e-6)
    np.testing.assert_allclose(gradients[1], numeric_gradient(lambda x: all_numpy(a, x, margin)[0], p), atol=1e-6)


def test_triplet_all_over_devices_is_that_of_the_global_batch(x64):
    """Devices whose shares of active triplets differ: a mean of each device's ratio would be another number."""
    a = normal(6, 4)
    p = a + np.linspace(0, 1.5, 6)[:, None] * normal(6, 4, seed=1)
    run = partial(triplet_all, margin=0.7)
    (value, share), gradient = value_and_grad(run, has_aux=True)(jnp.asarray(a), jnp.asarray(p))

    @jax.jit
    @partial(jax.vmap, axis_name=AXIS)
    def mapped(a, p):
        (value, share), gradient = jax.value_and_grad(partial(run, axis=AXIS), has_aux=True)(a, p)
        return lax.pmean((value, share), AXIS), gradient, share

    (values, shares), gradients, local = mapped(jnp.asarray(a.reshape(3, 2, 4)), jnp.asarray(p.reshape(3, 2, 4)))
    np.testing.assert_allclose(values, value, rtol=1e-12)
    np.testing.assert_allclose(shares, share, rtol=1e-12)
    # the gradient of the sum over devices; step.py's mean divides by their number
    np.testing.assert_allclose(np.asarray(gradients).reshape(6, 4) / 3, gradient, rtol=1e-9, atol=1e-12)
    assert np.ptp(np.asarray(local)) > 0.1


def test_satisfied_triplets_cost_nothing_and_pull_nothing():
    a = 10 * np.eye(4, dtype=np.float32)
    for loss in (
        lambda x: triplet_all(x, a, margin=0.5)[0],
        lambda x: triplet_margin(x, a, np.roll(a, 1, 0), margin=0.5),
    ):
        value, gradient = value_and_grad(loss)(a)
        assert float(value) == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_one_point_for_all_costs_the_margin_exactly(margin):
    z = np.full((6, 4), 0.5, np.float32)
    value, gradient = value_and_grad(lambda x: triplet_margin(x, z, z, margin=margin))(z)
    assert float(value) == margin
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    run = value_and_grad(partial(triplet_all, margin=margin), argnums=(0, 1), has_aux=True)
    for x in (z, np.zeros_like(z)):
        (value, share), gradients = run(x, x)
        assert float(value) == pytest.approx(margin, abs=1e-5)
        assert float(share) == 1
        assert all(np.isfinite(g).all() for g in gradients)


def test_equal_points_have_a_finite_gradient_without_eps():
    gradient = grad(lambda x: distance(x, jnp.ones((2, 3)), eps=0.0).sum())(jnp.ones((2, 3)))
    np.testing.assert_array_equal(gradient, 0)


def test_half_precision_is_computed_in_float32():
    a, p, n = (jnp.asarray(x, jnp.bfloat16) for x in normal(3, 6, 4))
    value = triplet_margin(a, p, n, margin=1.0)
    assert value.dtype == triplet_all(a, p, margin=1.0)[0].dtype == jnp.float32
    again = triplet_margin(*(x.astype(jnp.float32) for x in (a, p, n)), margin=1.0)
    np.testing.assert_allclose(value, again, rtol=1e-6)


def test_what_the_losses_refuse():
    x = jnp.zeros((6, 4))
    with pytest.raises(ValueError, match=r"n \(5, 4\)"):
        triplet_margin(x, x, x[:5])
    with pytest.raises(ValueError, match=r"p \(5, 4\)"):
        triplet_all(x, x[:5])
    for loss in (lambda m: triplet_margin(x, x, x, margin=m), lambda m: triplet_all(x, x, margin=m)):
        for margin in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"margin > 0, got {margin}"):
                loss(margin)


def test_examples_in_docstrings():
    result = doctest.testmod(losses)
    assert result.attempted > 0
    assert result.failed == 0


# ---------------------------------------------------------------------------------------------------------- mining


def mine_numpy(a, p, mining):
    """Anchor by anchor, sorted by distance."""
    chosen = []
    for i in range(len(a)):
        others = sorted((j for j in range(len(a)) if j != i), key=lambda j: np.linalg.norm(a[i] - p[j]))
        farther = [j for j in others if np.linalg.norm(a[i] - p[j]) > np.linalg.norm(a[i] - p[i])]
        chosen.append(others[0] if mining == "hard" else farther[0] if farther else others[-1])
    return chosen


def crowd():
    """Positives near and far: some anchors have no negative farther than their positive, some only such."""
    a = normal(12, 3)
    return a, a + np.linspace(0, 8, 12)[:, None] * normal(12, 3, seed=1) / 3


@pytest.mark.parametrize("mining", ["hard", "semihard"])
def test_mined_negatives_are_those_of_a_loop(mining):
    a, p = crowd()
    chosen = negatives(KEY, jnp.asarray(a, jnp.float32), jnp.asarray(p, jnp.float32), mining)
    assert chosen.dtype == jnp.int32
    np.testing.assert_array_equal(chosen, mine_numpy(a, p, mining))
    assert mine_numpy(a, p, "hard") != mine_numpy(a, p, "semihard")
    between = np.linalg.norm(a[:, None] - p[None], axis=-1)
    nothing_farther = (between <= np.diag(between)[:, None]).all(1)
    assert 0 < nothing_farther.sum() < 12  # both branches were seen


def test_random_negatives_are_the_others_evenly():
    x = jnp.zeros((6, 2))
    keys = jax.random.split(KEY, 3000)
    chosen = np.asarray(jax.jit(jax.vmap(lambda k: triplet.negatives(k, x, x, "random")))(keys))
    for i in range(6):
        counts = np.bincount(chosen[:, i], minlength=6)
        assert counts[i] == 0
        np.testing.assert_allclose(np.delete(counts, i), 600, atol=5 * 600**0.5)
    assert abs(np.corrcoef((chosen - np.arange(6)[None]).T % 6) - np.eye(6)).max() < 0.1  # each draws for itself


@pytest.mark.parametrize("mining", ["random", "hard", "semihard"])
def test_negatives_are_mined_from_all_devices(mining):
    a, p = (jnp.asarray(x, jnp.float32) for x in crowd())
    split = jax.jit(jax.vmap(partial(triplet.negatives, mining=mining, axis=AXIS), (None, 0, 0), axis_name=AXIS))
    found = split(KEY, a.reshape(4, 3, 3), p.reshape(4, 3, 3))
    np.testing.assert_array_equal(np.asarray(found).reshape(12), negatives(KEY, a, p, mining))


# ---------------------------------------------------------------------------------------------------------- method


def make(**arguments):
    encoder = models.make("convnet", widths=(8,), strides=(2,), residual=False)
    return methods.get("triplet")(encoder, plan=Plan(20, 4, 100, (8, 8, 3), 16), **{"projector_dim": 16} | arguments)


def batch_of(seed=0, rows=16):
    rng = np.random.default_rng(seed)
    images = rng.random((rows, 8, 8, 3)).astype(np.float32)
    return {"views": (images, np.clip(images + 0.1 * rng.normal(size=images.shape), 0, 1).astype(np.float32))}


def embeddings(method, variables, batch):
    """Unit embeddings of both views; ``outputs`` shows those of view 1, and of view 2 when the views are exchanged."""
    views = (batch["views"], batch["views"][::-1])
    run = jax.jit(lambda v: method.loss(variables, {"views": v}, KEY, jnp.int32(0), None)[1].outputs["projections"])
    return [np.asarray(run(v), np.float64) for v in views]


@pytest.mark.parametrize("mining", triplet.MINING)
def test_the_loss_is_of_image_augmentation_and_mined_negative(mining):
    method, batch = make(mining=mining), batch_of()
    variables = jax.jit(method.init)(KEY, batch)
    value, out = jax.jit(lambda v: method.loss(v, batch, KEY, jnp.int32(0), None))(variables)
    a, p = embeddings(method, variables, batch)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, rtol=1e-5)
    if mining == "all":
        want, share = all_numpy(a, p, 0.5)
    else:
        n = p[np.asarray(negatives(KEY, jnp.asarray(a), jnp.asarray(p), "random"))] if mining == "random" else (
            p[mine_numpy(a, p, mining)]
        )  # fmt: skip
        want = margin_numpy(a, p, n, 0.5)
        share = (np.linalg.norm(a - p, axis=1) - np.linalg.norm(a - n, axis=1) + 0.5 > 0).mean()
    assert float(value) == pytest.approx(want, rel=1e-4)
    assert float(out.metrics["active"]) == pytest.approx(share, abs=1e-6)


def test_without_normalisation_embeddings_are_as_they_come():
    method, batch = make(normalize=False, mining="hard", margin=1.0), batch_of()
    variables = jax.jit(method.init)(KEY, batch)
    value, _ = jax.jit(lambda v: method.loss(v, batch, KEY, jnp.int32(0), None))(variables)
    a, p = embeddings(method, variables, batch)
    assert np.ptp(np.linalg.norm(a, axis=1)) > 1e-3
    assert float(value) == pytest.approx(margin_numpy(a, p, p[mine_numpy(a, p, "hard")], 1.0), rel=1e-4)


def train(method, steps=60, rate=0.2):
    """Losses and shares of active triplets on fresh batches."""
    variables = jax.jit(method.init)(KEY, batch_of())

    @jax.jit
    def step(variables, batch, t):
        def loss(params):
            key = jax.random.fold_in(KEY, t)
            return method.loss(variables._replace(params=params), batch, key, t, None)

        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
        params = jax.tree.map(lambda p, g: p - rate * g, variables.params, gradient)
        return variables._replace(params=params, model_state=out.model_state), value, out.metrics["active"]

    found = []
    for t in range(steps):
        variables, value, active = step(variables, batch_of(t), jnp.int32(t))
        found.append((float(value), float(active)))
    return np.array(found)


@pytest.mark.parametrize("mining", ["semihard", pytest.param("random", marks=pytest.mark.slow)])
def test_it_learns_to_find_the_augmentation(mining):
    found = train(make(mining=mining))
    assert found[-10:, 0].mean() < 0.6 * found[0, 0]
    assert found[-10:, 1].mean() < found[0, 1]


def test_a_collapsed_network_reads_the_margin():
    method, batch = make(mining="semihard"), batch_of()
    variables = jax.jit(method.init)(KEY, batch)
    head = variables.params["projector"]["dense0"]
    variables.params["projector"]["dense0"] = {
        "kernel": np.zeros_like(head["kernel"]),
        "bias": np.ones_like(head["bias"]),
    }
    value, out = jax.jit(lambda v: method.loss(v, batch, KEY, jnp.int32(0), None))(variables)
    assert float(value) == pytest.approx(0.5, abs=1e-6)
    assert float(out.metrics["active"]) == 1


@pytest.mark.parametrize("mining", ["semihard", "all"])
def test_it_can_be_looked_at(mining):
    method = make(mining=mining)
    images = batch_of(rows=8)["views"][0]
    variables = jax.jit(method.init)(KEY, batch_of())
    rows = {k: np.asarray(v) for k, v in jax.jit(method.hooks["show"])(variables, images, KEY).items()}
    assert set(rows) == {"anchor", "positive", "negative"}
    for i in range(8):
        np.testing.assert_array_equal(rows["anchor"][i], images[i])
        which = [j for j in range(8) if np.allclose(rows["negative"][i], rows["positive"][j], atol=1e-5)]
        assert which
        assert i not in which


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"margin": 0.0}, "margin=0.0 must be positive"),
        ({"mining": "easy"}, "mining='easy' is not one of random, semihard, hard, all"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


def test_the_recipe_is_the_image_and_an_augmentation():
    plain, augmented = published.get("triplet_cifar").views
    assert plain == recipes.View(None)
    assert augmented == published.get("simclr_cifar").views[0]


def test_a_recipe_of_one_view_is_refused():
    method, batch = make(), batch_of()
    variables = jax.eval_shape(method.init, KEY, batch)
    with pytest.raises(ValueError, match="needs two views"):
        jax.eval_shape(lambda v: method.loss(v, {"views": batch["views"][:1]}, KEY, jnp.int32(0), None), variables)
