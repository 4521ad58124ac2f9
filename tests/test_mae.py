"""MAE: networks and loss of transformers' with given noise, what enters the loss, and what a dead run shows."""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import methods, models
from ssl_jax.losses import masked_mse, standardized_patches
from ssl_jax.methods import mae
from ssl_jax.models.vit import patchify
from ssl_jax.parallel import named_key
from ssl_jax.tasks import masks
from ssl_jax.types import Plan, Variables
from tests.oracles.make_mae import DECODER, ENCODER, IMAGES, RATIO, inputs
from tests.oracles.make_vits import draw

ORACLES = np.load(Path(__file__).with_name("oracles") / "mae.npz")
PLAN = Plan(20, 4, 256, IMAGES[1:], 3)


def made(**changes):
    encoder = models.make("vit", **ENCODER, cls_token=True)
    arguments = {f"decoder_{k}": v for k, v in DECODER.items()} | {"mask_ratio": RATIO} | changes
    return mae.make(encoder, plan=PLAN, **arguments)


def of_transformers() -> dict:
    """Our parameters from theirs, by the names of a network in memory."""
    names = json.loads(zlib.decompress(ORACLES["names"].tobytes()))
    theirs = {name: draw(name, tuple(shape)).astype(np.float64) for name, shape in names.items()}

    def dense(*names):
        return {
            "kernel": np.concatenate([theirs[f"{name}.weight"].T for name in names], 1),
            "bias": np.concatenate([theirs[f"{name}.bias"] for name in names]),
        }

    def norm(name):
        return {"scale": theirs[f"{name}.weight"], "bias": theirs[f"{name}.bias"]}

    def block(name):
        return {
            "norm1": norm(f"{name}.layernorm_before"),
            "qkv": dense(*(f"{name}.attention.{x}_proj" for x in "qkv")),
            "proj": dense(f"{name}.attention.o_proj"),
            "norm2": norm(f"{name}.layernorm_after"),
            **{fc: dense(f"{name}.mlp.{fc}") for fc in ("fc1", "fc2")},
        }

    kernel = theirs["vit.embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0)
    bias = theirs["vit.embeddings.patch_embeddings.projection.bias"]
    return {
        "encoder": {
            "stem_patches": {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": bias},
            "stem_cls": theirs["vit.embeddings.cls_token"].reshape(-1),
            "stage2_norm": norm("vit.layernorm"),
            **{f"stage{k}_block": block(f"vit.layers.{k - 1}") for k in (1, 2)},
        },
        "decoder": {
            "embed": dense("decoder.decoder_embed"),
            "mask_token": theirs["decoder.mask_token"].reshape(-1),
            "norm": norm("decoder.decoder_norm"),
            "out": dense("decoder.decoder_pred"),
            **{f"block{k}": block(f"decoder.decoder_layers.{k - 1}") for k in (1, 2)},
        },
    }


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def test_networks_loss_and_gradient_are_those_of_transformers(float64, monkeypatch):
    images, noise = inputs()
    shown = jax.jit(partial(masks.shown_by, keep=4))(noise)
    np.testing.assert_array_equal(shown.masked, ORACLES["mask"])
    np.testing.assert_array_equal(shown.restore, ORACLES["restore"])
    params = of_transformers()
    encoder = models.make("vit", **ENCODER, cls_token=True)
    forward = jax.jit(partial(models.forward, encoder, train=False))
    out, _ = forward(params["encoder"], {}, images, patches=shown.kept)
    encoded = np.concatenate([out["cls"][:, None], out["stage2"]], 1)
    np.testing.assert_allclose(encoded, ORACLES["encoded"], rtol=1e-9, atol=1e-9)
    state = {"encoder": {}, "decoder": {}}
    ours = jax.eval_shape(made().init, jax.random.key(0), {"views": (jnp.asarray(images),)})
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, Variables(params, state))
    monkeypatch.setattr(mae, "random_shown", lambda *_: shown)
    for norm_pix in (False, True):
        method = made(norm_pix=norm_pix)

        def loss(x, method=method):
            return method.loss(Variables(params, state), {"views": (x,)}, jax.random.key(0), jnp.int32(0), None)[0]

        value, slope = jax.jit(jax.value_and_grad(loss))(images)
        np.testing.assert_allclose(value, ORACLES[f"{norm_pix}|loss"], rtol=1e-10)
    np.testing.assert_allclose(slope, ORACLES["gradient"], rtol=1e-8, atol=1e-10)


# The loss


@pytest.mark.parametrize(("p", "want"), [(48, 0.97917), (768, 0.99870)])
def test_zero_predictions_of_standardised_patches(p, want):
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, 9, p)), jnp.float32)
    targets, mean, deviation = standardized_patches(x)
    np.testing.assert_allclose(targets * deviation + mean, x, atol=1e-4)
    np.testing.assert_allclose(deviation[..., 0], np.asarray(x).std(-1, ddof=1), rtol=1e-5)
    masked = jnp.asarray(np.random.default_rng(1).random((4, 9)) < 0.7)
    np.testing.assert_allclose(masked_mse(jnp.zeros_like(x), targets, masked), want, atol=1e-5)
    assert (p - 1) / p == pytest.approx(want, abs=1e-5)
    flat = standardized_patches(jnp.ones((1, 1, p)))[0]
    np.testing.assert_array_equal(flat, 0.0)


def test_only_hidden_patches_count_and_all_pixels_of_them_alike():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal((2, 5, 3)), jnp.float32) for _ in range(2))
    masked = jnp.asarray([[1, 0, 0, 1, 1], [0, 1, 1, 1, 0]], bool)
    slope = jax.grad(masked_mse)(x, y, masked)
    want = 2 * (x - y) / 3 / 6 * masked[:, :, None].astype(jnp.float32)
    np.testing.assert_allclose(slope, want, rtol=1e-5, atol=1e-7)
    errors = [float(((x[i, j] - y[i, j]) ** 2).mean()) for i, j in zip(*np.nonzero(masked), strict=True)]
    assert float(masked_mse(x, y, masked)) == pytest.approx(np.mean(errors), rel=1e-5)
    with pytest.raises(
        ValueError, match=r"of one shape and masked \[b, n\]; got \(2, 5, 3\), \(2, 5, 3\) and \(2, 4\)"
    ):
        masked_mse(x, y, masked[:, :4])


# The method


@pytest.fixture(scope="module")
def case():
    """(method, variables, images)."""
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), of_transformers())
    images = jnp.asarray(np.random.default_rng(0).random(IMAGES), jnp.float32)
    return made(norm_pix=False), Variables(params, {"encoder": {}, "decoder": {}}), images


KEY = jax.random.key(3)


def run(method, variables, images):
    return jax.jit(lambda v, x: method.loss(v, {"views": (x,)}, KEY, jnp.int32(0), None))(variables, images)


def test_what_the_hidden_pixels_may_move(case):
    """The target only: of squared errors the gradient in a hidden pixel is -2 (x^ - x) / P / count, and no more."""
    method, variables, images = case
    hidden = np.asarray(masks.random_shown(named_key(KEY, "mask"), 3, 16, 4).masked)
    value, slope = jax.jit(
        jax.value_and_grad(lambda x: method.loss(variables, {"views": (x,)}, KEY, jnp.int32(0), None)[0])
    )(images)
    errors = np.asarray(patchify(slope, 4))[hidden] * hidden.sum() * 48 / 2
    np.testing.assert_allclose(np.square(errors).mean(), value, rtol=1e-4)


def test_metrics_of_a_live_and_of_a_dead_network(case):
    """Dead: the decoder gets nothing from the encoder. Then all paintings of a place are alike, whatever the image."""
    method, variables, images = case
    value, out = run(method, variables, images)
    shown = masks.random_shown(named_key(KEY, "mask"), 3, 16, 4)
    hidden = np.asarray(shown.masked)
    of_nothing = np.square(np.asarray(patchify(images, 4)))[hidden].mean()
    assert float(out.metrics["explained"]) == pytest.approx(1 - float(value) / of_nothing, rel=1e-4)
    assert float(out.metrics["prediction_std"]) > 0.01
    embed = jax.tree.map(jnp.zeros_like, variables.params["decoder"]["embed"])
    decoder = variables.params["decoder"] | {"embed": embed}
    dead = variables._replace(params=variables.params | {"decoder": decoder | {"mask_token": embed["bias"]}})
    _, out = run(method, dead, images)
    assert float(out.metrics["prediction_std"]) < 1e-5


def test_the_picture(case):
    method, variables, images = case
    rows = {k: np.asarray(v) for k, v in jax.jit(method.hooks["show"])(variables, images, KEY).items()}
    assert list(rows) == ["input", "kept", "reconstruction", "with what was kept"]
    seen = np.asarray(masks.random_shown(KEY, 3, 16, 4).masked).reshape(3, 4, 4).repeat(4, 1).repeat(4, 2)
    np.testing.assert_array_equal(rows["input"], images)
    np.testing.assert_array_equal(rows["kept"], np.where(seen[..., None], np.float32(0.5), images))
    whole = np.where(seen[..., None], rows["reconstruction"], images)
    np.testing.assert_array_equal(rows["with what was kept"], whole)
    titles = jax.eval_shape(made().hooks["show"], variables, images, KEY)
    assert "reconstruction (true mean and contrast)" in titles


def test_encode_gives_whole_images_by_name(case):
    method, variables, images = case
    found = jax.jit(method.encode)(variables, images)
    assert found.keys() == {"stem", "stage1", "stage2", "features", "mean", "cls", "cls_last2"}
    encoder = models.make("vit", **ENCODER, cls_token=True)
    out, _ = models.forward(encoder, variables.params["encoder"], {}, images, train=False)
    np.testing.assert_allclose(found["cls"], out["cls"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask_ratio": 0.95}, r"method.mask_ratio=0.95 of 4 x 4 patches leaves none to see or none to paint"),
        ({"mask_ratio": 0.0}, r"method.mask_ratio=0.0 of"),
        ({"mask_ratio": 75}, r"method.mask_ratio=75 of"),
        ({"decoder_heads": 3}, r"method.decoder_width=16, decoder_depth=2 and decoder_heads=3 make no decoder"),
        ({"decoder_depth": 0}, r"make no decoder"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        made(**arguments)


def test_a_convnet_is_refused():
    with pytest.raises(ValueError, match=r"method.name='mae' shows .* takes a ViT and no .*; use model.name=vit_ti"):
        methods.get("mae")(contract.convnet(), plan=PLAN)
