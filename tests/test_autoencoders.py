"""Autoencoder, denoising and in-painting: losses, noise, masks and roles against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import doctest
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from ssl_jax import methods, models
from ssl_jax.losses import pixel_bce, pixel_entropy, psnr
from ssl_jax.methods import inpainting
from ssl_jax.methods.denoising_autoencoder import KINDS, corrupt
from ssl_jax.models.decoder import ConvDecoder, depth_to_space
from ssl_jax.types import Plan


def make(name, *, model="convnet", shape=(8, 8, 3), mean=(0.5,), std=(0.25,), **arguments):
    """A method on a small encoder; arguments of the encoder are those that it knows."""
    known = {k: arguments.pop(k) for k in [*arguments] if k in ("widths", "dtype")}
    if model == "mlp" and "latent_dim" in arguments:
        known["latent_dim"] = arguments.pop("latent_dim")
    encoder = models.make(model, **({"widths": (8, 16), "residual": False} if model == "convnet" else {}) | known)
    plan = Plan(total_steps=20, steps_per_epoch=4, num_examples=64, input_shape=shape, global_batch_size=16)
    return methods.get(name)(encoder, plan=plan, mean=mean, std=std, **arguments)


def pictures(rows=16, shape=(8, 8, 3), seed=0):
    """Random images in [0, 1] with large and small structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((rows, shape[0] // 4, shape[1] // 4, shape[2])).repeat(4, 1).repeat(4, 2)
    return jnp.asarray((coarse + rng.random((rows, *shape))) / 2, jnp.float32)


def start(method, images):
    return jax.jit(method.init)(jax.random.key(0), {"views": (images,)})


def loss_of(method, variables, images, key=0):
    loss = jax.jit(method.loss, static_argnums=4)
    return loss(variables, {"views": (images,)}, jax.random.key(key), jnp.int32(0), None)


def value_and_gradient(method, variables, images):
    def loss(params):
        return loss_of(method, variables._replace(params=params), images)[0]

    return jax.jit(jax.value_and_grad(loss))(variables.params)


@functools.cache
def digits():
    """Digits of scikit-learn, float32 [1797, 8, 8, 1] in [0, 1]."""
    return np.asarray(load_digits().images[..., None] / 16, np.float32)


def train(method, images, tx, steps, batch=None):
    """Variables after some steps on random batches (or on all images at once), compiled as one loop."""

    def step(carry, t):
        variables, opt_state = carry
        key = jax.random.fold_in(jax.random.key(1), t)
        rows = images if batch is None else images[jax.random.randint(key, (batch,), 0, len(images), np.int32)]
        grads, out = jax.grad(
            lambda p: method.loss(variables._replace(params=p), {"views": (rows,)}, key, t, None), has_aux=True
        )(variables.params)
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction
            updates, opt_state = tx.update(grads, opt_state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        return (variables._replace(params=params, model_state=out.model_state), opt_state), None

    variables = start(method, images[:16])
    carry = variables, tx.init(variables.params)
    return jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps, dtype=jnp.int32)))(carry)[0][0]


# ------------------------------------------------------------------------------------------------------------ networks


def test_the_mlp_is_its_formula():
    encoder = models.make("mlp", widths=(7, 5), latent_dim=3)
    x = pictures(4)
    params, state = models.init(encoder, jax.random.key(0), x)
    out, _ = models.forward(encoder, params, state, x, train=True)
    h, stages = np.asarray(x, np.float64).reshape(4, -1), {}
    for k in (1, 2, 3):
        w = params[f"stage{k}_dense"]
        h = h @ np.asarray(w["kernel"], np.float64) + np.asarray(w["bias"], np.float64)
        h = stages[f"stage{k}"] = np.maximum(h, 0) if k < 3 else h
    assert set(out) == {*stages, "features"}
    for name, want in (stages | {"features": h}).items():
        np.testing.assert_allclose(out[name], want, rtol=1e-4, atol=1e-5)
    assert models.pooled(out).keys() == out.keys()
    assert models.deepest(out).shape == (4, encoder.dim) == (4, 3)
    assert [models.depth(f"encoder/stage{k}_dense/kernel", stages=encoder.stages) for k in (1, 2, 3)] == [1, 2, 3]


def test_the_mlp_normalises_over_the_batch_when_asked_and_not_where_it_is_frozen():
    encoder = models.make("mlp", widths=(7, 5), latent_dim=3, hidden_norm=True)
    x = pictures(8)
    variables = models.init(encoder, jax.random.key(0), x)
    moved, kept = (
        jax.jit(lambda *v, e=e: models.forward(e, *v, x, train=True)[1])(*variables)
        for e in (encoder, encoder.clone(frozen_stages=2))
    )
    changed = [
        [bool(jnp.any(new["batch_stats"][f"stage{k}_norm"]["mean"] != 0)) for k in (1, 2)] for new in (moved, kept)
    ]
    assert changed == [[True, True], [False, True]]


@pytest.mark.parametrize("model", ["convnet", "mlp"])
def test_losses_and_features_of_low_precision_networks_are_float32(model):
    method, images = make("autoencoder", model=model, dtype="bfloat16"), pictures()
    variables = jax.eval_shape(functools.partial(start, method), images)
    value, out = jax.eval_shape(functools.partial(loss_of, method), variables, images)
    assert value.dtype == out.outputs["features"].dtype == out.metrics["psnr"].dtype == jnp.float32


def test_deepest_is_the_last_stage_whatever_the_order():
    assert models.deepest({"stage10": jnp.int32(1), "stage2": jnp.int32(2), "features": jnp.int32(3)}) == 1


def test_depth_to_space_puts_channels_where_it_says():
    x = np.random.default_rng(0).random((2, 3, 4, 20)).astype(np.float32)
    y = np.asarray(depth_to_space(jnp.asarray(x)))
    assert y.shape == (2, 6, 8, 5)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(y[:, i::2, j::2], x[..., (2 * i + j) * 5 : (2 * i + j + 1) * 5])


@pytest.mark.parametrize(("shape", "widths"), [((28, 28, 1), (8, 4)), ((8, 8, 3), (8, 8, 4)), ((4, 8, 3), ())])
def test_the_decoder_makes_the_shape_that_was_asked_for(shape, widths):
    decoder, z = ConvDecoder(shape, widths), jnp.ones((2, 6))
    made, _ = jax.eval_shape(lambda: decoder.init_with_output(jax.random.key(0), z, train=False))
    assert made.shape == (2, *shape)


# -------------------------------------------------------------------------------------------------------------- losses


def test_pixel_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    x, logits = rng.random((3, 4, 5)), 3 * rng.normal(size=(3, 4, 5))
    x[0, 0, :2] = 0, 1
    p = 1 / (1 + np.exp(-logits))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        value, gradient = jax.jit(jax.value_and_grad(pixel_bce))(logits, x)
        floor = float(jax.jit(pixel_entropy)(x))
        inside = x[(x > 0) & (x < 1)]
        at_floor = float(jax.jit(pixel_bce)(np.log(inside / (1 - inside)), inside))
    np.testing.assert_allclose(value, -np.mean(x * np.log(p) + (1 - x) * np.log(1 - p)), rtol=1e-12)
    np.testing.assert_allclose(gradient, (p - x) / x.size, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(floor, at_floor * inside.size / x.size, rtol=1e-10)
    assert floor < float(value)
    assert float(psnr(jnp.float32(0.04), peak=2.0)) == pytest.approx(20)
    with pytest.raises(ValueError, match="one shape"):
        pixel_bce(jnp.zeros((2, 3)), jnp.zeros((3, 2)))


def test_examples_in_docstrings():
    result = doctest.testmod(importlib.import_module("ssl_jax.losses.pixels"))
    assert (result.failed, result.attempted) == (0, 6)


@pytest.mark.parametrize("name", ["autoencoder", pytest.param("denoising_autoencoder", marks=pytest.mark.slow)])
def test_a_network_that_says_nothing_has_ln_2(name):
    method, images = make(name), pictures()
    variables = start(method, images)
    variables.params["decoder"]["out_conv"] = jax.tree.map(jnp.zeros_like, variables.params["decoder"]["out_conv"])
    value, out = loss_of(method, variables, images)
    assert float(value) == pytest.approx(np.log(2), rel=1e-4)
    x = np.asarray(images, np.float64)
    floor = -np.mean(x * np.log(x) + (1 - x) * np.log(1 - x))
    assert float(out.metrics["excess_loss"]) == pytest.approx(np.log(2) - floor, abs=3e-5)
    assert float(out.metrics["psnr"]) == pytest.approx(-10 * np.log10(np.mean((x - 0.5) ** 2)), rel=1e-4)


# --------------------------------------------------------------------------------------------------------- autoencoder


def test_a_linear_autoencoder_finds_the_subspace_of_pca():
    """Random start, full batches; the decoder's columns span what PCA spans, and the loss is PCA's residual."""
    images, k = digits()[:400], 3
    flat = images.reshape(len(images), -1).astype(np.float64)
    method = make("autoencoder", model="mlp", shape=(8, 8, 1), widths=(), latent_dim=k, loss="mse", decoder_widths=())
    variables = train(method, jnp.asarray(images), optax.adam(optax.cosine_decay_schedule(0.03, 3000)), 3000)
    pca = PCA(k).fit(flat)
    columns = np.linalg.qr(np.asarray(variables.params["decoder"]["dense0"]["kernel"], np.float64).T)[0]
    np.testing.assert_allclose(columns @ columns.T, pca.components_.T @ pca.components_, atol=1e-2)
    residual = np.mean((flat - pca.inverse_transform(pca.transform(flat))) ** 2)
    assert float(loss_of(method, variables, jnp.asarray(images))[0]) == pytest.approx(residual, rel=1e-3)


@pytest.mark.slow  # it trains
def test_cross_entropy_ends_between_its_floor_and_that_of_the_mean_image():
    images = jnp.asarray(digits())
    method = make("autoencoder", model="mlp", shape=(8, 8, 1), mean=(0.0,), std=(1.0,), widths=(64,))
    variables = train(method, images[:1200], optax.adam(1e-2), 300, batch=128)
    value, out = loss_of(method, variables, images[1200:])
    p = np.clip(np.asarray(images[:1200], np.float64).mean(0), 1e-3, 1 - 1e-3)
    x = np.asarray(images[1200:], np.float64)
    mean_image = -np.mean(x * np.log(p) + (1 - x) * np.log(1 - p))
    floor = float(value - out.metrics["excess_loss"])
    assert 0.18 < floor < float(value) < 0.31 < mean_image
    seen = method.hooks["reconstruct"](variables, images[1200:])
    assert float(jnp.square(seen - images[1200:]).mean()) < 0.5 * np.mean((x - p) ** 2)


def test_the_convolutional_form_reads_the_last_map_and_its_features_are_pooled():
    method, images = make("autoencoder", latent_dim=6, decoder_widths=(8,)), pictures()
    variables = jax.eval_shape(functools.partial(start, method), images)
    assert variables.params["bottleneck"]["dense"]["kernel"].shape == (4 * 4 * 16, 6)
    _, out = jax.eval_shape(functools.partial(loss_of, method), variables, images)
    assert out.outputs["projections"].shape == (16, 6)
    assert out.outputs["features"].shape == (16, 16)


# ------------------------------------------------------------------------------------------------------------- denoise


corrupted = jax.jit(corrupt, static_argnums=(2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_has_the_amount_that_was_asked_for(kind):
    images = 0.25 + 0.5 * pictures(64)  # no pixel is 0 or 1
    noisy = np.asarray(corrupted(jax.random.key(0), images, kind, 0.3))
    changed = noisy != np.asarray(images)
    if kind == "gaussian":
        noise = noisy - np.asarray(images)
        assert noise.std() == pytest.approx(0.3, rel=0.03)
        assert abs(noise.mean()) < 0.01
        return
    assert (changed.reshape(64, -1).sum(1) == round(0.3 * 8 * 8 * 3)).all()
    values = noisy[changed]
    assert set(values) == ({0} if kind == "masking" else {0, 1})
    if kind == "salt_and_pepper":
        assert values.mean() == pytest.approx(0.5, abs=0.05)
    where = changed.reshape(64, -1).mean(0)  # every entry is as likely as any other
    assert where.std() < 1.3 * np.sqrt(0.3 * 0.7 / 64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_a_row_does_not_depend_on_the_other_rows(kind):
    images = jnp.full((8, 8, 8, 3), 0.5)
    every = np.asarray(corrupted(jax.random.key(0), images, kind, 0.5))
    np.testing.assert_array_equal(every[:2], corrupted(jax.random.key(0), images[:2], kind, 0.5))
    assert len({row.tobytes() for row in every}) == 8
    assert (every != np.asarray(corrupted(jax.random.key(1), images, kind, 0.5))).any()


def test_all_entries_can_be_masked():
    assert not np.asarray(corrupted(jax.random.key(0), pictures(), "masking", 1.0)).any()


@pytest.mark.slow
def test_without_noise_it_is_the_autoencoder_bit_for_bit():
    images = pictures()
    plain = make("autoencoder", model="mlp", widths=(8,))
    variables = start(plain, images)
    want = value_and_gradient(plain, variables, images)
    for kind in KINDS:
        method = make("denoising_autoencoder", model="mlp", widths=(8,), corruption=kind, amount=0.0)
        for a, b in zip(*map(jax.tree.leaves, (value_and_gradient(method, variables, images), want)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_linear_denoiser_has_its_optimum_where_it_can_be_computed():
    """Masking k of d entries: E[x'x'] scales the diagonal by q, the rest by the chance that two survive; E[xx'] by q.

    Marginalised denoising (Chen et al. 2012) is linear regression with these moments; with it as decoder behind an
    identity encoder the mean gradient of the loss over many draws of the noise vanishes.
    """
    rng = np.random.default_rng(0)
    d, masked, n = 6, 2, 40
    x = np.clip(rng.random((n, 1)) * 0.7 + 0.3 * rng.random((n, d)), 0, 1).astype(np.float32)
    q, both = (d - masked) / d, (d - masked) * (d - masked - 1) / (d * (d - 1))
    survive = np.full((d, d), both) + np.diag(np.full(d, q - both))
    ones = np.concatenate([x, np.ones((n, 1))], axis=1)  # the bias as a column that always survives
    keep = np.pad(survive, (0, 1), constant_values=q)
    keep[-1, -1] = 1
    scatter, cross = (ones.T @ ones / n) * keep, (ones.T @ x / n) * keep[-1][:, None]
    closed = np.linalg.solve(scatter, cross)  # [d + 1, d]

    method = make(
        "denoising_autoencoder",
        **{"model": "mlp", "shape": (2, 3, 1), "mean": (0.0,), "std": (1.0,), "widths": (), "latent_dim": d},
        **{"loss": "mse", "decoder_widths": (), "corruption": "masking", "amount": masked / d},
    )
    images = jnp.asarray(x.reshape(n, 2, 3, 1))
    variables = start(method, images)

    def gradient(weights):
        params = {
            "encoder": {"stage1_dense": {"kernel": jnp.eye(d), "bias": jnp.zeros(d)}},
            "decoder": {"dense0": {"kernel": weights[:-1], "bias": weights[-1]}},
        }
        one = jax.grad(lambda p, key: loss_of(method, variables._replace(params=p), images, key)[0])
        grads = jax.vmap(one, (None, 0))(params, jnp.arange(2000))["decoder"]["dense0"]
        return jnp.concatenate([grads["kernel"].mean(0), grads["bias"].mean(0)[None]])

    at_optimum, at_identity = (
        np.abs(jax.jit(gradient)(jnp.asarray(w, jnp.float32))).max() for w in (closed, np.eye(d + 1, d))
    )
    assert at_optimum < 0.01 * at_identity


@pytest.mark.slow
def test_the_gain_is_measured_against_the_damaged_image():
    method, images = make("denoising_autoencoder", model="mlp", amount=0.3), pictures()
    variables = start(method, images)
    _, out = loss_of(method, variables, images, key=5)
    damaged = np.asarray(corrupted(jax.random.key(5), images, "masking", 0.3), np.float64)
    of_input = -10 * np.log10(np.mean((damaged - np.asarray(images)) ** 2))
    assert float(out.metrics["psnr"] - out.metrics["psnr_gain"]) == pytest.approx(of_input, rel=1e-5)
    shown = jax.jit(lambda *a: method.hooks["show"](*a)["input"])(variables, images, jax.random.key(5))
    np.testing.assert_allclose(shown, damaged, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ inpaint


def hide(images, blank, overlap=1, fill=(0.2, 0.4, 0.6)):
    return _hide(images, blank, fill, overlap)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _hide(images, blank, fill, overlap):
    return inpainting.task(images, blank, fill=fill, overlap=overlap, overlap_weight=10.0)


@pytest.mark.parametrize(("size", "hole", "overlap"), [(128, 64, 4), (32, 16, 1), (9, 3, 0)])
def test_the_centre_is_where_the_paper_has_it(size, hole, overlap):
    images = jnp.full((2, size, size, 3), 0.9)
    hidden = hide(images, inpainting.centre_square(images, hole - 2 * overlap), overlap)
    first, last = (size - hole) // 2, (size - hole) // 2 + hole
    weight = np.zeros((size, size))
    weight[first:last, first:last] = 10
    weight[first + overlap : last - overlap, first + overlap : last - overlap] = 1
    np.testing.assert_array_equal(hidden.weight, np.broadcast_to(weight, (2, size, size)))
    context = np.full((2, size, size, 3), 0.9, np.float32)
    context[:, first + overlap : last - overlap, first + overlap : last - overlap] = (0.2, 0.4, 0.6)
    np.testing.assert_array_equal(hidden.context, context)


def test_random_regions_hide_their_share_and_their_rim_is_a_dilation():
    images = pictures(16, (32, 32, 3))
    region = jax.jit(inpainting.random_region, static_argnums=2)
    blank = np.asarray(region(jax.random.key(0), images, 0.25))
    assert (blank.sum((1, 2)) == 256).all()
    assert len({row.tobytes() for row in blank}) == 16
    np.testing.assert_array_equal(blank[:3], region(jax.random.key(0), images[:3], 0.25))
    assert blank.mean(0).max() < 0.9  # no place is hidden in all images
    pieces = [ndimage.label(row)[1] for row in blank]
    assert max(pieces) <= 20  # regions, not grains: 256 scattered pixels would be some 150 pieces
    weight = np.asarray(hide(images, jnp.asarray(blank), overlap=2).weight)
    for hole, w in zip(blank, weight, strict=True):
        near = ndimage.binary_dilation(hole, np.ones((5, 5)))
        np.testing.assert_array_equal(w, np.where(hole, 1, np.where(near, 10, 0)))


@pytest.mark.parametrize("mask", ["centre", pytest.param("random", marks=pytest.mark.slow)])
def test_what_is_hidden_does_not_reach_the_network_and_only_hole_and_rim_count(mask):
    """The loss is the weighted error of what the networks make of the context, by hand."""
    method, images = make("inpainting", mask=mask, mean=(0.3,), latent_dim=8, decoder_widths=(8,)), pictures()
    variables = start(method, images)
    value, out = loss_of(method, variables, images, key=3)
    blank = (
        inpainting.centre_square(images, 2)
        if mask == "centre"
        else jax.jit(inpainting.random_region, static_argnums=2)(jax.random.key(3), images, 0.25)
    )
    images, hidden = jax.device_get((images, hide(images, blank, fill=(0.3,))))
    x = (hidden.context - np.float32(0.3)) / np.float32(0.25)
    encoder = models.make("convnet", widths=(8, 16), residual=False)
    params, state = jax.device_get((variables.params, variables.model_state))
    run = jax.jit(lambda x: models.forward(encoder, params["encoder"], state["encoder"], x, train=True)[0])
    h = np.asarray(run(x)["stage2"])
    z = h.reshape(16, -1) @ params["bottleneck"]["dense"]["kernel"] + params["bottleneck"]["dense"]["bias"][None]
    np.testing.assert_allclose(out.outputs["projections"], z, rtol=1e-3, atol=1e-4)
    decoder = ConvDecoder((4, 4, 3) if mask == "centre" else (8, 8, 3), (8,))
    paint = jax.jit(lambda z: models.forward(decoder, params["decoder"], state["decoder"], z, train=True)[0])
    painted = paint(z)
    inner = slice(2, 6) if mask == "centre" else slice(None)
    painted = np.tanh(np.asarray(painted, np.float64))
    target, weight, seen = (
        np.asarray(a, np.float64)[:, inner, inner] for a in (2 * images - 1, hidden.weight, hidden.context)
    )
    squared = (painted - target) ** 2
    per_image = (weight[..., None] * squared).sum((1, 2, 3)) / (3 * weight.sum((1, 2)))
    assert float(value) == pytest.approx(per_image.mean(), rel=1e-4)
    hole = np.asarray(blank)[:, inner, inner]
    assert float(out.metrics["psnr"]) == pytest.approx(-10 * np.log10(squared[hole].mean() / 4), rel=1e-4)
    of_filling = -10 * np.log10(((2 * seen - 1 - target) ** 2)[hole].mean() / 4)
    assert float(out.metrics["psnr"] - out.metrics["psnr_gain"]) == pytest.approx(of_filling, rel=1e-4)


def adversarial_method(a=0.2, **arguments):
    sizes = {"model": "mlp", "widths": (), "latent_dim": 8, "decoder_widths": (8,), "discriminator_widths": (8,)}
    return make("inpainting", adversarial=a, **sizes | arguments)


def adversarial(a=0.2, **arguments):
    method, images = adversarial_method(a, **arguments), pictures()
    return method, start(method, images), images


def is_zero(tree):
    return all(not np.asarray(a).any() for a in jax.tree.leaves(tree))


def test_each_role_has_no_gradient_for_the_other():
    def judge(params, state, images):
        return jnp.tanh(images.reshape(len(images), -1) @ params["w"]), state + 1

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=12), jnp.float32)}
    real, fake = (jnp.asarray(rng.normal(size=(5, 2, 2, 3)), jnp.float32) for _ in range(2))
    painter, critic, state = inpainting.roles(judge, params, jnp.int32(0), real, fake)
    assert int(state) == 2  # statistics of the real and the painted batch, each once
    on_real, on_fake = (np.asarray(judge(params, 0, a)[0], np.float64) for a in (real, fake))
    p_real, p_fake = (1 / (1 + np.exp(-a)) for a in (on_real, on_fake))
    assert float(painter) == pytest.approx(-np.log(p_fake).mean(), rel=1e-5)
    assert float(critic) == pytest.approx(-(np.log(p_real) + np.log(1 - p_fake)).mean(), rel=1e-5)
    both = jax.jacrev(lambda *a: jnp.stack(inpainting.roles(judge, a[0], jnp.int32(0), *a[1:])[:2]), (0, 1, 2))
    slopes = jax.device_get(jax.jit(both)(params, real, fake))
    grads = [jax.tree.map(lambda a, i=i: a[i], slopes) for i in range(2)]
    assert [[is_zero(g) for g in of_role] for of_role in grads] == [[True, True, False], [False, True, True]]


@pytest.mark.slow
def test_the_discriminator_learns_from_its_own_term_alone():
    _, variables, images = adversarial(0.2)  # both begin alike
    found = jax.device_get([value_and_gradient(adversarial_method(a), variables, images)[1] for a in (0.2, 0.6)])
    for one, two in zip(*(jax.tree.leaves(g["discriminator"]) for g in found), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)
    assert not is_zero(found[0]["discriminator"])
    plain, variables, images = adversarial(0.0)
    assert "discriminator" not in variables.params
    l2 = jax.device_get(value_and_gradient(plain, variables, images)[1])
    # (1 - a) L2 + a P for two values of a gives P, which L2 alone gives back at the third.
    for part, leaves in l2.items():
        for want, one, two in zip(*map(jax.tree.leaves, (leaves, found[0][part], found[1][part])), strict=True):
            np.testing.assert_allclose((0.6 * one - 0.2 * two) / 0.4, want, rtol=1e-3, atol=1e-5)


def test_a_discriminator_that_knows_nothing_has_ln_2_and_twice_that():
    method, variables, images = adversarial()
    variables.params["discriminator"]["dense"] = jax.tree.map(
        jnp.zeros_like, variables.params["discriminator"]["dense"]
    )
    _, out = loss_of(method, variables, images)
    assert float(out.metrics["painter_loss"]) == pytest.approx(np.log(2), rel=1e-5)
    assert float(out.metrics["discriminator_loss"]) == pytest.approx(2 * np.log(2), rel=1e-5)


def test_the_discriminator_has_a_rate_of_its_own():
    method, variables, images = adversarial(discriminator_rate=0.25)
    _, grads = value_and_gradient(method, variables, images)
    tx = method.wrap_tx(optax.sgd(0.5))
    updates = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])(grads, variables.params)
    for part, rate in {"encoder": 0.5, "decoder": 0.5, "discriminator": 0.125}.items():
        for update, grad in zip(jax.tree.leaves(updates[part]), jax.tree.leaves(grads[part]), strict=True):
            np.testing.assert_allclose(update, -rate * grad, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- pictures, errors


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("autoencoder", {"loss": "mse", "model": "mlp"}, ["image", "reconstruction"]),
        ("denoising_autoencoder", {"model": "mlp", "corruption": "gaussian"}, ["image", "input", "reconstruction"]),
        ("inpainting", {"decoder_widths": (8,)}, ["image", "input", "painting"]),
        ("inpainting", {"mask": "random", "model": "mlp"}, ["image", "input", "painting"]),
    ],
)
def test_the_task_can_be_looked_at(name, arguments, rows):
    method, images = make(name, **arguments), pictures(4)
    variables = start(method, images)
    shown = jax.jit(method.hooks["show"])(variables, images, jax.random.key(1))
    assert sorted(shown) == sorted(rows)
    shown["again"] = jax.jit(method.hooks["reconstruct"])(variables, images)
    for row in shown.values():
        assert row.shape == images.shape
        assert 0 <= float(row.min()) <= float(row.max()) <= 1
    if name == "inpainting":
        painted = np.asarray(shown["painting"] != images).any(-1)
        assert (painted == np.asarray(shown["input"] != images).any(-1)).all()  # the hole and nothing else
        assert 0 < painted.mean() < 0.3


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("autoencoder", {"loss": "l1"}, "loss='l1' is not one of bce, mse"),
        ("autoencoder", {"decoder_widths": (8,) * 4}, "doubles a map 4 times.*cannot give 8 pixels; use 16"),
        ("denoising_autoencoder", {"corruption": "blur"}, "corruption='blur' is not one of masking"),
        ("denoising_autoencoder", {"amount": 1.5}, "amount=1.5 is no share"),
        ("inpainting", {"mask": "left"}, "mask='left' is not one of centre, random"),
        ("inpainting", {"hole_size": 9}, "hole_size=9 .* at most data.image_size=8; use 4"),
        ("inpainting", {"overlap": 2}, "hole_size=4 must be above twice method.overlap=2"),
        ("inpainting", {"fraction": 1.0}, "fraction=1.0"),
        ("inpainting", {"overlap_weight": 0.0}, "overlap_weight=0.0"),
        ("inpainting", {"adversarial": 1.0}, "adversarial=1.0"),
        ("inpainting", {"discriminator_rate": 0.0}, "discriminator_rate=0.0"),
        ("inpainting", {"adversarial": 0.1, "discriminator_widths": (8,) * 3}, "halves 4 pixels 3 times"),
    ],
)
def test_what_cannot_be_meant_is_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        make(name, **arguments)


def test_an_mlp_has_its_bottleneck_already():
    plan = Plan(total_steps=1, steps_per_epoch=1, num_examples=8, input_shape=(8, 8, 1), global_batch_size=8)
    with pytest.raises(ValueError, match=r"method.latent_dim=5 .* use model.latent_dim=5"):
        methods.get("autoencoder")(models.make("mlp"), plan=plan, latent_dim=5)
