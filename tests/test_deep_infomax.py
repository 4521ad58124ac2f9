"""Deep InfoMax: both forms of its loss by hand, on devices; its terms, and where it is dead."""

from __future__ import annotations

import doctest
import importlib

import contract
import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from numeric import assert_same_over_devices, numeric_gradient

from ssl_jax import methods, models, testing
from ssl_jax.losses.deep_infomax import FORMS, deep_infomax, deep_infomax_and_accuracy

every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def by_hand(places, images, form):
    """Equations 4 and 5 of the paper, score by score."""
    n, p = places.shape[:2]
    u = np.array([[[images[i] @ places[j, q] for q in range(p)] for j in range(n)] for i in range(n)])
    total = 0
    for i in range(n):
        others = np.delete(u[i], i, axis=0)
        for q in range(p):
            if form == "jsd":
                total += np.log1p(np.exp(-u[i, i, q])) + np.log1p(np.exp(others)).mean()
            else:
                total += np.log(np.exp(u[i, i, q]) + np.exp(others).sum()) - u[i, i, q]
    return total / (n * p)


@every_form
def test_the_loss_is_that_of_the_paper(x64, form):
    places, images = normal(4, 3, 2), normal(4, 2, seed=1)
    f = jax.jit(jax.value_and_grad(lambda *a: deep_infomax(*a, form=form), argnums=(0, 1)))
    value, (to_places, to_images) = f(places, images)
    np.testing.assert_allclose(value, by_hand(places, images, form), rtol=1e-12)
    np.testing.assert_allclose(to_places, numeric_gradient(lambda x: by_hand(x, images, form), places), atol=1e-8)
    np.testing.assert_allclose(to_images, numeric_gradient(lambda x: by_hand(places, x, form), images), atol=1e-8)
    uniform, _ = f(places, 0 * images)
    np.testing.assert_allclose(uniform, 2 * np.log(2) if form == "jsd" else np.log(1 + 3 * 3), rtol=1e-12)
    far, gradients = f(1e3 * places, images)
    assert np.isfinite(far)
    assert all(np.isfinite(g).all() for g in gradients)


@every_form
def test_devices_compute_the_loss_of_all_rows(x64, form):
    def loss(w, x, y, axis):
        return deep_infomax((x @ w).reshape(-1, 3, 5), jnp.tanh(y @ w), form=form, axis=axis)

    x = normal(16, 3, 6, seed=1)
    assert_same_over_devices(
        lambda w, x, y, axis: loss(w, x.reshape(-1, 6), y, axis), normal(6, 5), x, normal(16, 6, seed=2)
    )


def test_the_accuracy_is_the_share_of_places_that_find_their_image():
    images = jnp.eye(4)
    places = jnp.stack([jnp.eye(4), jnp.roll(jnp.eye(4), 1, 0)], 1)
    assert float(deep_infomax_and_accuracy(places, images)[1]) == 0.5
    assert float(deep_infomax_and_accuracy(places, 0 * images)[1]) == 0  # all equal: none is above the others


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"\(4, 3, 2\) and \(4, 3\)"):
        deep_infomax(jnp.ones((4, 3, 2)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="form='dv' is not one of jsd, info_nce"):
        deep_infomax(jnp.ones((4, 3, 2)), jnp.ones((4, 2)), form="dv")
    with pytest.raises(ValueError, match="the batch holds 1"):
        deep_infomax(jnp.ones((1, 3, 2)), jnp.ones((1, 2)))


def test_examples_in_docstrings():
    result = doctest.testmod(importlib.import_module("ssl_jax.losses.deep_infomax"))
    assert result.attempted
    assert not result.failed


# The method


def method_of(encoder=None, **changes):
    arguments = contract.CASES["deep_infomax"] | {"mean": (0.5,), "std": (0.25,)} | changes
    encoder = encoder or contract.convnet((8, 16))
    return methods.get("deep_infomax")(encoder, plan=testing.plan_of(), **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "dv"}, "method.form='dv' is not one of jsd, info_nce"),
        ({"prior_weight": -1.0}, "method.prior_weight=-1.0 must not be negative"),
        ({"local_weight": 0.0}, "leave nothing to learn"),
    ],
)
def test_wrong_arguments_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        method_of(**changes)


@pytest.mark.parametrize(
    ("encoder", "stage", "words"),
    [
        (None, "stage9", "method.stage='stage9' is no map of .*; it has stem, stage1, stage2"),
        (models.make("mlp"), None, "method.name='deep_infomax' learns from the places of a map and mlp makes none"),
    ],
)
def test_an_encoder_without_that_map_is_refused_before_anything_is_compiled(encoder, stage, words):
    method = method_of(encoder, stage=stage)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(method.init, jax.random.key(0), contract.batch_of(0))


def test_of_a_deep_vit_which_shows_some_stages_alone_it_is_the_last_but_one_of_those():
    encoder, batch = models.make("vit", patch_size=4, width=8, depth=12, heads=2), contract.batch_of(0)
    variables = jax.jit(method_of(encoder).init)(jax.random.key(0), batch)
    shown, _ = models.forward(encoder, variables.params["encoder"], {}, batch["views"][0], train=False)
    assert [name for name in shown if name.startswith("stage")] == ["stage3", "stage6", "stage9", "stage12"]
    loss = {
        stage: method_of(encoder, stage=stage).loss(variables, batch, jax.random.key(2), jnp.int32(0), None)[0]
        for stage in (None, "stage6", "stage9", "stage12")
    }
    assert loss[None] == loss["stage9"]
    assert len({float(value) for value in loss.values()}) == 3


def test_the_loss_is_the_sum_of_its_terms_and_only_the_first_view_is_used():
    method = method_of(global_weight=0.5, prior_weight=0.25, local_weight=2.0)
    batch = contract.batch_of(0)
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    run = jax.jit(lambda v, b: method.loss(v, b, jax.random.key(2), jnp.int32(0), None))
    value, out = run(variables, batch)
    m = {name: float(a) for name, a in out.metrics.items()}
    total = 2 * m["local_loss"] + 0.5 * m["global_loss"] + 0.25 * m["prior_loss"] + m["discriminator_loss"]
    assert float(value) == pytest.approx(total, rel=1e-5)
    again, _ = run(variables, batch | {"views": (batch["views"][0], batch["views"][1] * 0)})
    assert float(again) == float(value)


@pytest.mark.slow
def test_the_discriminator_and_the_encoder_pull_apart():
    """Each term moves its own parameters alone: the prior's never the discriminator's, and the reverse."""
    method = method_of(prior_weight=0.5)
    batch = contract.batch_of(0)
    variables = jax.jit(method.init)(jax.random.key(0), batch)

    def term(name):
        def f(params):
            out = method.loss(variables._replace(params=params), batch, jax.random.key(2), jnp.int32(0), None)[1]
            return out.metrics[name]

        gradients = jax.jit(jax.grad(f))(variables.params)
        return {part for part, tree in gradients.items() if any(np.any(g) for g in jax.tree.leaves(tree))}

    assert term("prior_loss") == {"encoder", "projector"}
    assert term("discriminator_loss") == {"discriminator"}
    assert term("local_loss") == {"encoder", "projector", "of_image", "of_place"}


@pytest.mark.slow
def test_without_other_images_it_learns_nothing_and_the_log_says_so(monkeypatch):
    """Planted: positives alone, whose loss goes to 0."""
    module = importlib.import_module("ssl_jax.methods.deep_infomax")

    def positives(places, images, *, form, axis):
        _, right = deep_infomax_and_accuracy(places, images, form=form, axis=axis)
        return jax.nn.softplus(-jnp.einsum("bpd,bd->bp", places, images)).mean(), right

    sound = {"prior_weight": 0.0, "form": "info_nce", "stage": "stage2"}
    _, well, _ = planted.train(method_of(**sound), 100, 1e-2, batches=1)
    monkeypatch.setattr(module, "deep_infomax_and_accuracy", positives)
    _, dead, _ = planted.train(method_of(**sound), 100, 1e-2, batches=1)
    assert well["local_accuracy"] > 0.15
    assert dead["local_accuracy"] < 0.05
