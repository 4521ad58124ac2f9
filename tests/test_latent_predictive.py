"""The energy with a latent: K-means, sparse coding, the envelope theorem, and that it is low where x and y fit."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import sparse_encode

from ssl_jax import methods, models
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.methods import latent_predictive
from ssl_jax.types import Plan, Variables

KEY = jax.random.key(0)
ENERGY_ALONE = {"target": "pixels", "context": False}


def make(size=8, channels=1, batch_size=32, total_steps=100, **arguments):
    encoder = models.make("convnet", widths=(8, 16), residual=False)
    plan = Plan(total_steps, 10, 1000, (size, size, channels), batch_size, 10)
    small = {"hidden": 32, "embed_dim": 16, "latent_size": 8}
    return methods.get("latent_predictive")(encoder, plan=plan, **small | arguments)


def digits():
    return (load_digits().images[..., None] / 16).astype(np.float32)


def run(method, variables, views, step=0):
    return method.loss(variables, {"views": views}, KEY, jnp.int32(step), None)


# --------------------------------------------------------------------------- without x: K-means and sparse coding


@pytest.fixture(scope="module")
def clusters():
    """(images, starting centres, scikit-learn's answer from them)."""
    images = digits()[:600]
    start = images[::75].reshape(8, 64)
    found = KMeans(8, init=start.astype(np.float64), n_init=1, tol=0, algorithm="lloyd").fit(images.reshape(600, 64))
    return images, start, found


def with_codes(method, images, centres):
    """Variables whose codes are ``centres`` of pixels; y is over the square root of their number."""
    variables = jax.jit(method.init)(KEY, {"views": (images, images)})
    variables.params["latent"]["codes"] = jnp.asarray(centres / 8, jnp.float32)
    return variables


def test_at_scikit_learns_centres_the_energy_is_its_inertia(clusters):
    images, _, found = clusters
    method = make(**ENERGY_ALONE)
    variables = with_codes(method, images, found.cluster_centers_)
    value, out = jax.jit(partial(run, method))(variables, (images, images))
    energies = jax.jit(method.hooks["energy"])(variables, (np.zeros_like(images), images))
    assert float(value) * 64 == pytest.approx(found.inertia_ / 600, rel=1e-5)
    assert float(energies.mean()) * 64 == pytest.approx(found.inertia_ / 600, rel=1e-5)
    shares = np.bincount(found.labels_) / 600
    assert float(out.metrics["code_perplexity"]) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_the_gradient_pulls_codes_to_their_means_and_alternating_with_it_is_k_means(clusters):
    images, start, found = clusters
    method = make(**ENERGY_ALONE)
    variables = with_codes(method, images, start)
    y = images.reshape(600, 64) / 8

    @jax.jit
    def gradient(codes):
        params = variables.params | {"latent": {"codes": codes}}
        return jax.grad(lambda p: run(method, variables._replace(params=p), (images, images))[0])(params)

    codes = np.asarray(variables.params["latent"]["codes"])
    for step in range(100):
        nearest = ((y[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
        counts = np.bincount(nearest, minlength=8)
        grads = gradient(codes)
        if step == 0:
            means = np.stack([y[nearest == k].mean(0) for k in range(8)])
            want = 2 * counts[:, None] / 600 * (codes - means)
            np.testing.assert_allclose(grads["latent"]["codes"], want, atol=1e-6)
            assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads["encoder"]))
        moved = codes - 600 / (2 * counts[:, None]) * np.asarray(grads["latent"]["codes"])
        done, codes = np.abs(moved - codes).max() < 1e-6, moved
        if done:
            break
    inertia = ((y[:, None] - codes[None]) ** 2).sum(-1).min(1).sum() * 64
    assert step > 3  # it was not there from the start
    assert inertia == pytest.approx(found.inertia_, rel=1e-4)


@pytest.mark.parametrize("l1", [0.05, 0.3])
def test_sparse_latents_are_scikit_learns_lasso(l1):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(12, 20))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    y = rng.normal(size=(30, 20)) / 4
    want = sparse_encode(y, codes, algorithm="lasso_cd", alpha=l1 / 2, max_iter=100_000)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        latent = jax.jit(latent_predictive.sparse_latent, static_argnames=("l1", "updates"))
        found, rough = (latent(y, codes, l1=l1, updates=updates) for updates in (2000, 50))

    def energy(z):
        z = np.asarray(z)
        return np.square(y - z @ codes).sum(1) + l1 * np.abs(z).sum(1)

    np.testing.assert_allclose(energy(found), energy(want), rtol=1e-5)
    np.testing.assert_allclose(found, want, atol=2e-3)
    assert 0.02 < (np.asarray(found) == 0).mean() < 0.98
    np.testing.assert_allclose(energy(rough), energy(want), rtol=2e-3)  # the default number of updates


# ------------------------------------------------------------------------------------------ the minimum over the latent


@pytest.mark.parametrize("latent", ["discrete", "sparse"])
def test_no_latent_is_better_than_the_one_found(latent):
    method = make(target="pixels", latent=latent)
    bare = make(target="pixels", latent="none")
    x, y = digits()[:40], digits()[40:80]
    variables = jax.jit(method.init)(KEY, {"views": (x, y)})
    codes = variables.params["latent"]["codes"]
    codes = np.asarray(l2_normalize(codes) if latent == "sparse" else codes)
    found = np.asarray(jax.jit(method.hooks["energy"])(variables, (x, y)))
    # Without a latent, y moved by -z D costs what y costs with z; pixels of any value are fine for that.
    rng = np.random.default_rng(0)
    sparse = rng.normal(size=(60, 8)) * (rng.random((60, 8)) < 0.3) * 0.2
    fixed = np.eye(8) if latent == "discrete" else np.concatenate([np.zeros((1, 8)), sparse])
    energy = jax.jit(bare.hooks["energy"])
    costs = []
    for z in fixed:
        moved = y - 8 * (z @ codes).reshape(1, 8, 8, 1).astype(np.float32)
        costs.append(np.asarray(energy(variables, (x, moved))) + (latent == "sparse") * 0.1 * np.abs(z).sum())
    assert (found <= np.min(costs, axis=0) + 1e-5).all()
    if latent == "discrete":
        np.testing.assert_allclose(found, np.min(costs, axis=0), rtol=1e-5)
        assert len(np.unique(np.argmin(costs, axis=0))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("latent", ["discrete", "sparse"])
def test_the_gradient_at_the_best_latent_is_that_of_the_minimum(latent):
    """Envelope theorem: differences of F itself, its minimum found anew, against the gradient at fixed z*."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        method = make(target="pixels", latent=latent, latent_updates=3000)
        x, y = (jnp.asarray(a, jnp.float64) for a in (digits()[:16], digits()[16:32]))
        variables = jax.jit(method.init)(KEY, {"views": (x, y)})
        variables = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)

        @jax.jit
        def value(params):
            return run(method, Variables(params, variables.model_state), (x, y))[0]

        gradient = jax.device_get(jax.jit(jax.grad(value))(variables.params))
        for seed in range(3):
            rng = np.random.default_rng(seed)
            direction = jax.tree.map(lambda a, rng=rng: rng.normal(size=a.shape), variables.params)
            up, down = (jax.tree.map(lambda a, d, s=s: a + s * d, variables.params, direction) for s in (1e-6, -1e-6))
            numeric = (float(value(up)) - float(value(down))) / 2e-6
            along = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            np.testing.assert_allclose(along, numeric, rtol=2e-4)
        assert np.abs(gradient["latent"]["codes"]).max() > 1e-4


# ---------------------------------------------------------------------------------------------------- joint embedding


def views_of(t, number=32):
    """Two noisy looks at the same smooth random images."""
    rng = np.random.default_rng(t)
    base = rng.random((number, 2, 2, 1)).repeat(4, 1).repeat(4, 2)
    return tuple((base + 0.1 * rng.normal(size=(number, 8, 8, 1))).astype(np.float32) for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "latent", "weight"),
    [
        ("features", "discrete", 1.0),
        ("features", "sparse", 0.0),
        ("pixels", "none", 0),
    ],
)
def test_energy_comes_to_be_low_where_x_and_y_fit_and_only_there(target, latent, weight):
    method = make(target=target, latent=latent, variance_weight=weight, covariance_weight=weight / 25, total_steps=200)
    variables = jax.jit(method.init)(KEY, {"views": views_of(0)})
    tx = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def update(variables, state, views, step):
        def loss(params):
            return method.loss(variables._replace(params=params), {"views": views}, KEY, step, None)

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(variables.params)
        updates, state = tx.update(grads, state)
        new = Variables(optax.apply_updates(variables.params, updates), out.model_state, variables.aux)
        return new._replace(aux=method.update_aux(new, None, step)), state, value, out.metrics

    state, values, metrics = tx.init(variables.params), [], []
    for t in range(100):
        variables, state, value, measured = update(variables, state, views_of(t), jnp.int32(t))
        values, metrics = [*values, float(value)], [*metrics, jax.device_get(measured)]
    x, y = views_of(1000, 64)
    energy = jax.jit(method.hooks["energy"])
    fitting, shuffled = (np.asarray(energy(variables, (x, other))) for other in (y, np.roll(y, 1, axis=0)))
    assert fitting.shape == (64,)
    assert fitting.mean() < 0.6 * shuffled.mean()
    assert (fitting < shuffled).mean() > 0.85
    assert np.mean([m["energy_gap"] for m in metrics[-10:]]) > 0.3 * (shuffled.mean() - fitting.mean())
    assert np.mean(values[-10:]) < np.mean(values[:10])
    if target == "features":
        assert metrics[-1]["target_std"] > 0.3
        assert metrics[-1]["feature_std"] > 0.1
    if latent == "discrete":
        assert metrics[-1]["code_perplexity"] > 1.5


def test_the_slow_copy_gets_no_gradient_and_follows():
    method = make(tau=0.9)
    views = views_of(0)
    variables = jax.jit(method.init)(KEY, {"views": views})

    def loss(target):
        return run(method, variables._replace(aux={"target": target}), views)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables.aux["target"])
    assert float(value) > 0
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradient))
    online = jax.tree.map(lambda a: np.asarray(a) + np.float32(1), variables.params)
    aux = jax.jit(lambda v: method.update_aux(v, None, jnp.int32(0)))(variables._replace(params=online))
    assert set(aux["target"]) == {"encoder", "projector"}
    changes = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), aux["target"], variables.aux["target"])
    for change in jax.tree.leaves(changes):
        np.testing.assert_allclose(change, 0.1, rtol=1e-4)


def test_flat_energy_has_no_gap():
    """A constant target is the collapse that the gap shows: every pair then has the same energy."""
    method = make(latent="none", variance_weight=0.0, covariance_weight=0.0)
    views = views_of(0)
    variables = jax.jit(method.init)(KEY, {"views": views})
    step = jax.jit(partial(run, method))
    _, out = step(variables, views)
    assert out.metrics["target_std"] > 0.3
    for tree in (variables.aux["target"], variables.params):
        last = tree["projector"]["dense1"]["kernel"]
        tree["projector"]["dense1"]["kernel"] = np.zeros_like(last)
    _, out = step(variables, views)
    assert abs(float(out.metrics["energy_gap"])) < 1e-6
    assert out.metrics["target_std"] < 0.05 * 16**0.5
    assert out.metrics["feature_std"] == pytest.approx(0.01, rel=1e-3)


def test_the_spread_over_the_batch_is_vicregs():
    h = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32) * np.arange(5)
    want = np.sqrt(h.var(0) + 1e-4)
    np.testing.assert_allclose(jax.jit(lambda a: latent_predictive.deviation(a, None))(h), want, rtol=1e-5)
    split = jax.jit(jax.vmap(lambda a: latent_predictive.deviation(a, "data"), axis_name="data"))
    each = split(h.reshape(4, 3, 5))
    np.testing.assert_allclose(each, np.broadcast_to(want, (4, 5)), rtol=1e-5)


def test_covariances_are_those_of_numpy_on_all_devices():
    h = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32) @ np.tri(5, dtype=np.float32)
    cov = np.cov(h.T, bias=True)
    want = np.square(cov[~np.eye(5, dtype=bool)]).sum() / 5
    np.testing.assert_allclose(jax.jit(lambda a: latent_predictive.covariance(a, None))(h), want, rtol=1e-4)
    split = jax.jit(jax.vmap(lambda a: latent_predictive.covariance(a, "data"), axis_name="data"))
    each = split(h.reshape(4, 3, 5))
    np.testing.assert_allclose(each, np.full(4, want), rtol=1e-4)


def test_variance_and_covariance_terms_are_of_what_the_projector_gives():
    views = views_of(0)
    weighed = make(variance_weight=2.0, covariance_weight=0.5)
    bare = make(variance_weight=0.0, covariance_weight=0.0)
    variables = jax.jit(weighed.init)(KEY, {"views": views})
    value, out = jax.jit(partial(run, weighed))(variables, views)
    h = np.asarray(out.outputs["projections"])
    hinge = np.maximum(0, 1 - np.sqrt(h.var(0) + 1e-4)).mean()
    assert hinge > 0.05
    cov = np.cov(h.T, bias=True)
    added = 2 * hinge + 0.5 * np.square(cov[~np.eye(16, dtype=bool)]).sum() / 16
    assert float(value - jax.jit(partial(run, bare))(variables, views)[0]) == pytest.approx(added, rel=1e-4)


# ------------------------------------------------------------------------------------------- pictures and bad input


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "latent"), [("features", "discrete"), pytest.param("pixels", "sparse", marks=pytest.mark.slow)]
)
def test_what_is_shown(target, latent):
    method = make(target=target, latent=latent)
    images = digits()[:6]
    variables = jax.jit(method.init)(KEY, {"views": (images, images)})
    rows = jax.jit(method.hooks["show"])(variables, images, KEY)
    assert len(rows) == 3
    for row in jax.device_get(rows).values():
        assert row.shape == images.shape
        assert (row.min() >= 0) & (row.max() <= 1)
    guess, x, y = (np.asarray(rows[name]) for name in sorted(rows))
    assert (x != y).any()
    if target == "features":
        assert {a.tobytes() for a in guess} <= {a.tobytes() for a in y}


def test_a_whole_image_in_one_crop_is_found_again():
    crops = jax.jit(latent_predictive.crops)
    flat = np.full((64, 8, 8, 1), 0.25, np.float32)
    np.testing.assert_allclose(crops(KEY, flat), flat, rtol=1e-6)
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None] / 8, (64, 8, 8, 1))
    tops = np.asarray(crops(KEY, ramp))[:, 0, 0, 0] * 8
    np.testing.assert_allclose(np.unique(tops.round(4)), [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "sound"}, "target='sound' is not one of features, pixels"),
        ({"latent": "dense"}, "latent='dense' is not one of discrete, sparse, none"),
        ({"latent_size": 0}, "latent_size=0 leaves no code"),
        ({"latent": "sparse", "latent_updates": 0}, "latent_updates=0"),
        ({"l1": -0.1}, "l1=-0.1 must not be negative"),
        ({"context": False, "target": "pixels", "latent": "none"}, "predicts nothing; use latent='discrete'"),
        ({"context": False}, "trains no encoder .* use target='pixels'"),
        ({"tau": 1.5}, "tau=1.5 must be between 0 and 1"),
        ({"variance_weight": -1.0}, "variance_weight=-1.0 must not be negative"),
        ({"covariance_weight": -1.0}, "covariance_weight=-1.0 must not be negative"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**arguments)
    assert "\n" not in str(error.value)
