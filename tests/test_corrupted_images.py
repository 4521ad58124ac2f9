"""Spotting artifacts: damage, repair, roles and stages against NumPy, SciPy and a decoder written out by hand."""

from __future__ import annotations

import itertools
import shutil
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from ml_collections import ConfigDict
from scipy import ndimage

import ssl_jax
from ssl_jax import configs, methods, models, train
from ssl_jax.configs import to_json
from ssl_jax.experiment import build
from ssl_jax.methods import corrupted_images as spot
from ssl_jax.models.repair import RepairLayer, enlarge
from ssl_jax.step import make_init, make_train_step
from ssl_jax.types import Plan, Variables

KEY = jax.random.key(7)
ROLES = {"autoencoder": ("autoencoder",), "repair": ("repair",), "discriminator": ("encoder", "classifier", "mask")}


SMALL = {"widths": (8,), "strides": (2,), "residual": False}


def make(name="corrupted_images", *, model="convnet", dtype=None, size=8, total_steps=30, **arguments):
    """A method on a network that makes 4 x 4 maps of 8 x 8 images."""
    fields = SMALL if model == "convnet" else {}
    plan = Plan(total_steps, 4, 64, (size, size, 3), 16)
    known = {"latent_dim": 6, "decoder_widths": (8,)} if model != "mlp" else {}
    encoder = models.make(model, **fields, **({} if dtype is None else {"dtype": dtype}))
    return methods.get(name)(encoder, plan=plan, mean=(0.5,), std=(0.25,), **known | arguments)


def pictures(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.random((rows, 2, 2, 3)).repeat(4, 1).repeat(4, 2)
    return jnp.asarray((coarse + rng.random((rows, 8, 8, 3))) / 2, jnp.float32)


def batch_of(seed=0):
    return {"views": (pictures(seed=seed),)}


@pytest.fixture(scope="module")
def started():
    """(method, variables) at the beginning; its autoencoder learns for 3 steps."""
    method = make(autoencoder_steps=3)
    return method, jax.jit(method.init)(jax.random.key(0), batch_of())


@pytest.fixture(scope="module")
def loss(started):
    """The loss of that method, compiled once: (variables, batch, step) -> (value, LossOut)."""
    return jax.jit(lambda v, batch, step: started[0].loss(v, batch, KEY, step, None))


@pytest.fixture(scope="module")
def shown(started):
    """What that method shows of its task."""
    method, variables = started
    return jax.jit(method.hooks["show"])(variables, pictures(), KEY)


def assert_same(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def moved(a, b):
    """Whether every leaf differs, and whether any does."""
    changed = [bool((np.asarray(x) != np.asarray(y)).any()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return all(changed), any(changed)


# -------------------------------------------------------------------------------------------------------------- damage


damage = jax.jit(spot.damage)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (1, 1)])
def test_dropped_places_hold_the_mean_of_those_around_them(shape):
    code = np.random.default_rng(0).normal(size=(3, *shape, 2)).astype(np.float32)
    damaged, kept = map(np.asarray, damage(KEY, code, 0.7))
    window: Any = (1, 3, 3, 1)
    total, number = (
        ndimage.uniform_filter(a.astype(np.float64), window, mode="constant") for a in (code, np.ones_like(code))
    )
    around = total / number
    np.testing.assert_allclose(damaged, np.where(kept[..., None], code, around), atol=1e-6)
    np.testing.assert_array_equal(damaged[kept], code[kept])


def test_places_are_dropped_by_draws_of_their_own():
    code = np.ones((2000, 4, 4, 1), np.float32)
    kept = np.asarray(damage(KEY, code, 0.7)[1])
    share = kept.mean(0)
    assert kept.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / kept.size))
    assert np.abs(share - 0.3).max() < 4.5 * np.sqrt(0.21 / 2000)
    correlation = np.corrcoef(kept.reshape(2000, 16).T)[np.triu_indices(16, 1)]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(2000)
    np.testing.assert_array_equal(kept[:5], damage(KEY, code[:5], 0.7)[1])  # row i has a key of its own
    assert (kept != np.asarray(damage(jax.random.key(8), code, 0.7)[1])).any()


def test_a_layer_repairs_where_something_was_dropped_and_nowhere_else():
    rng = np.random.default_rng(0)
    x, kept = jnp.asarray(rng.normal(size=(4, 8, 8, 5)), jnp.float32), jnp.asarray(rng.random((4, 4, 4)) < 0.5)
    layer = RepairLayer()
    params, state = models.init(layer, jax.random.key(0), x, kept=kept)
    y, _ = jax.jit(lambda x: models.forward(layer, params, state, x, kept=kept, train=True))(x)
    same = np.asarray(kept).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(enlarge(kept, 2), same)
    np.testing.assert_array_equal(np.asarray(y)[same], np.asarray(x)[same])
    assert (np.asarray(y) != np.asarray(x)).all(-1)[~same].all()


def test_the_error_of_kept_places_is_its_formula_and_a_mean_over_devices():
    rng = np.random.default_rng(0)
    images, target = rng.random((2, 8, 8, 8, 3))
    kept = rng.random((8, 4, 4)) < 0.3
    kept[0] = False  # an image of which nothing was kept
    weight = kept.repeat(2, 1).repeat(2, 2)[..., None]
    want = (weight * (2 * images - 2 * target) ** 2).sum() / (3 * weight.sum())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        given = [jnp.asarray(a) for a in (images, target, kept)]
        value, gradient = jax.jit(jax.value_and_grad(spot.kept_error))(*given)
        split = [np.reshape(a, (4, 2, *a.shape[1:])) for a in map(np.asarray, given)]
        parts = jax.jit(jax.vmap(lambda *a: spot.kept_error(*a, axis="data"), axis_name="data"))(*split)
        parts = np.asarray(parts)
        nothing = jax.jit(spot.kept_error)(given[0], given[1], np.zeros_like(given[2]))
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(gradient, 8 * weight * (images - target) / (3 * weight.sum()), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(parts.mean(), want, rtol=1e-12)
    assert parts.std() > 0
    assert float(nothing) == 0


@pytest.mark.slow
def test_where_everything_is_kept_the_repaired_image_is_the_autoencoders(started, shown, monkeypatch):
    method, variables = started
    plain = make("autoencoder", loss="mse", spatial=True)
    own = Variables(variables.params["autoencoder"], variables.model_state["autoencoder"])
    want = jax.jit(plain.hooks["reconstruct"])(own, pictures())
    monkeypatch.setattr(spot, "damage", lambda key, code, drop: (code, jnp.full(code.shape[:3], True)))
    undamaged = jax.jit(lambda *a: method.hooks["show"](*a))(variables, pictures(), KEY)
    for rows in (undamaged, shown):
        np.testing.assert_array_equal(rows["autoencoder"], want)
        assert bool((np.asarray(rows["repaired"]) == np.asarray(want)).all()) == (rows is undamaged)


# ------------------------------------------------------------------------------------------------------- spatial codes


def test_a_code_with_places_is_local():
    """A 1 x 1 layer at every place; a decoder without stages is one 3 x 3 convolution of the map."""
    method = make("autoencoder", loss="mse", spatial=True, size=8)
    variables = jax.jit(method.init)(jax.random.key(0), batch_of())
    assert variables.params["bottleneck"]["dense"]["kernel"].shape == (8, 6)
    assert set(variables.params["decoder"]) == {"stage1_conv", "stage1_norm", "out_conv"}
    _, out = jax.eval_shape(lambda v: method.loss(v, batch_of(), KEY, jnp.int32(0), None), variables)
    assert out.outputs["projections"].shape == (16, 6)


# ------------------------------------------------------------------------------------------------------ values by hand


def conv(x, p):
    """A 3 x 3 convolution as nine products, float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel, (h, w) = np.asarray(p["kernel"], np.float64), (x.shape[1] - 2, x.shape[2] - 2)
    y = sum(x[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
    return y + np.asarray(p.get("bias", 0.0), np.float64)


def norm(x, p, statistics=None):
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if statistics is None else statistics.values()
    return (x - np.asarray(mean)) / np.sqrt(np.asarray(var) + 1e-5) * np.asarray(p["scale"]) + np.asarray(p["bias"])


def decode(params, state, x, between=lambda k, x: x):
    """The decoder in inference mode with one stage."""
    x = conv(between(0, x), params["stage1_conv"])
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
    x = np.maximum(norm(x, params["stage1_norm"], state["batch_stats"]["stage1_norm"]), 0)
    return conv(between(1, x), params["out_conv"])


def game_by_hand(variables, images):
    """The terms of the game, in float64 from the code on."""
    variables, images = jax.device_get((variables, images))
    encoder = models.make("convnet", **SMALL)
    own, state = variables.params["autoencoder"], variables.model_state["autoencoder"]
    look = jax.jit(partial(models.forward, encoder), static_argnames="train")
    seen, _ = look(own["encoder"], state["encoder"], (images - 0.5) / np.float32(0.25), train=False)
    dense = own["bottleneck"]["dense"]
    code = np.asarray(seen["stage1"]) @ dense["kernel"] + dense["bias"][None, None, None]
    damaged, kept = map(np.asarray, damage(KEY, code, 0.7))

    def repair(k, x):
        p, mask = variables.params["repair"][f"layer{k}"], kept.repeat(k + 1, 1).repeat(k + 1, 2)[..., None]
        y = np.maximum(norm(conv(np.concatenate([x, mask], -1), p["conv1"]), p["norm"]), 0)
        return np.where(mask, x, x + conv(y, p["conv2"]))

    real = decode(own["decoder"], state["decoder"], np.asarray(code, np.float64))
    fake = decode(own["decoder"], state["decoder"], np.asarray(damaged, np.float64), repair)
    both = np.asarray((np.concatenate([real, fake]) - 0.5) / 0.25, np.float32)
    params = variables.params
    out, _ = look(params["encoder"], variables.model_state["encoder"], both, train=True)
    head = jax.tree.map(np.asarray, params["classifier"]["dense0"])
    logits = np.asarray(out["features"], np.float64) @ head["kernel"] + head["bias"]
    surprise = np.log(np.exp(logits).sum(1, keepdims=True)) - logits  # of "real" and of "repaired"
    mask = conv(out["stage1"], params["mask"]["conv"])[..., 0]
    truth = np.concatenate([np.ones_like(kept), kept])
    bce = np.where(truth, np.log1p(np.exp(-mask)), np.log1p(np.exp(mask)))
    weight = kept.repeat(2, 1).repeat(2, 2)[..., None]
    n = len(images)
    return {
        "discriminator_loss": (surprise[:n, 0].mean() + surprise[n:, 1].mean()) / 2,
        "task_accuracy": np.mean(logits.argmax(1) == np.arange(2).repeat(n)),
        "mask_bce": bce[n:].mean(),
        "fool_loss": surprise[n:, 0].mean(),
        "kept_error": (weight * (2 * fake - 2 * np.asarray(images)) ** 2).sum() / (3 * weight.sum()),
        "psnr": -10 * np.log10(((real - np.asarray(images)) ** 2).mean()),
        "all_mask_bce": bce.mean(),
    }


def test_the_game_is_its_formula(started, loss):
    value, out = loss(started[1], batch_of(), jnp.int32(3))
    want = game_by_hand(started[1], pictures())
    both = want.pop("all_mask_bce")
    assert set(out.metrics) == {*want, "stage"}
    for name, expected in want.items():
        assert float(out.metrics[name]) == pytest.approx(expected, rel=2e-3), name
    total = want["discriminator_loss"] + 0.1 * both + want["fool_loss"] + 30 * want["kept_error"]
    assert float(value) == pytest.approx(total, rel=1e-3)


def test_before_the_game_the_loss_is_the_autoencoders(started, loss):
    variables = started[1]
    own = Variables(variables.params["autoencoder"], variables.model_state["autoencoder"])
    plain = make("autoencoder", loss="mse", spatial=True)
    want, reference = jax.jit(lambda v: plain.loss(v, batch_of(), KEY, jnp.int32(0), None))(own)
    value, out = loss(variables, batch_of(), jnp.int32(2))
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    assert float(out.metrics["psnr"]) == pytest.approx(float(reference.metrics["psnr"]), rel=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (out.model_state["autoencoder"], reference.model_state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_heads_that_know_nothing_have_the_entropy_of_what_they_do_not_know(started, loss):
    """ln 2 for a coin; for places H(0.3), less what this batch's share of kept ones differs."""
    variables = jax.tree.map(lambda a: a, started[1])
    variables.params["classifier"] = jax.tree.map(jnp.zeros_like, variables.params["classifier"])
    variables.params["mask"] = jax.tree.map(jnp.zeros_like, variables.params["mask"])
    _, out = loss(variables, batch_of(), jnp.int32(3))
    for name in ("discriminator_loss", "fool_loss", "mask_bce"):
        assert float(out.metrics[name]) == pytest.approx(np.log(2), rel=1e-5)
    assert float(out.metrics["task_accuracy"]) == 0.5
    conv_bias = variables.params["mask"]["conv"]["bias"]
    variables.params["mask"]["conv"]["bias"] = jnp.full_like(conv_bias, np.log(0.3 / 0.7))
    _, out = loss(variables, batch_of(), jnp.int32(3))
    assert float(out.metrics["mask_bce"]) == pytest.approx(0.611, abs=4 * 0.847 * np.sqrt(0.21 / 256))


# ----------------------------------------------------------------------------------------------------- roles and stages


def test_each_role_has_no_gradient_for_another(started, loss):
    variables = started[1]
    names = ("discriminator_loss", "mask_bce", "fool_loss", "kept_error")

    def terms(params, step):
        value, out = loss(variables._replace(params=params), batch_of(), step)
        return jnp.stack([*(out.metrics[name] for name in names), value])

    run = jax.jit(jax.jacrev(terms))
    game, early = (jax.device_get(run(variables.params, jnp.int32(step))) for step in (3, 2))
    judges = {"encoder", "classifier"}
    expected = [judges, {"encoder", "mask"}, {"repair"}, {"repair"}, judges | {"mask", "repair"}]
    for i, parts in enumerate(expected):
        found = {part for part, tree in game.items() if any(np.asarray(a[i]).any() for a in jax.tree.leaves(tree))}
        assert found == parts, (*names, "value")[i]
    assert all(np.asarray(a[-1]).any() for a in jax.tree.leaves(game["repair"]["layer1"]["conv2"]))
    assert {p for p, tree in early.items() if any(np.asarray(a[-1]).any() for a in jax.tree.leaves(tree))} == {
        "autoencoder"
    }


def parts_of(state, role):
    """Parameters, statistics and optimizer of one role."""
    trees = [{part: tree[part] for part in ROLES[role]} for tree in (state.params, state.model_state)]
    return (*trees, state.opt_state.inner_states[role])


@pytest.mark.slow
def test_one_stage_moves_the_autoencoder_alone_and_the_other_everything_else(started):
    """Bit for bit, with momentum and weight decay, and also where a step was skipped for a not-a-number."""
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-0.01))
    method = started[0]
    state = jax.jit(make_init(method, tx))(KEY, batch_of(), None)
    step = jax.jit(make_train_step(method, tx, on_nonfinite="skip"))
    states = [state]
    for t in range(6):
        images = pictures(seed=t) * (jnp.nan if t == 1 else 1.0)
        states.append(step(states[-1], {"views": (images,)})[0])
    assert [int(s.step) for s in states] == list(range(7))
    assert int(states[-1].bad) == 1
    for t, (before, after) in enumerate(itertools.pairwise(states)):
        active = () if t == 1 else ("autoencoder",) if t < 3 else ("repair", "discriminator")
        for role in ROLES:
            if role in active:
                params, statistics, opt_state = map(moved, parts_of(before, role), parts_of(after, role))
                assert params[0], (t, role)
                assert statistics[0], (t, role)
                assert opt_state[0], (t, role)
            else:
                assert_same(parts_of(before, role), parts_of(after, role))


def test_the_repair_layers_have_a_rate_of_their_own():
    method = make(repair_rate=0.5)
    shapes = jax.eval_shape(method.init, KEY, batch_of()).params
    params = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
    tx = method.wrap_tx(optax.sgd(0.25))
    updates = jax.jit(lambda params: tx.update(params, tx.init(params), params)[0])(params)
    for part, tree in updates.items():
        for leaf in jax.tree.leaves(tree):
            np.testing.assert_array_equal(leaf, -0.125 if part == "repair" else -0.25)


@pytest.mark.parametrize(
    ("steps", "total", "last"), [(None, 30, 9), (None, 1, 0), pytest.param(4, 30, 3, marks=pytest.mark.slow)]
)
def test_the_autoencoder_has_a_third_of_the_run_unless_told_otherwise(steps, total, last, started):
    method = make(autoencoder_steps=steps, total_steps=total)
    run = jax.jit(lambda step: method.loss(started[1], batch_of(), KEY, step, None))
    (own, first), (game, second) = (run(jnp.int32(step)) for step in (last, last + 1))
    assert own < 5 < game  # a squared error of pixels, and thirty times one
    assert (first.metrics["stage"], second.metrics["stage"]) == (0, 1)


def test_low_precision_networks_have_float32_losses():
    method = make(dtype="bfloat16")
    value, out = jax.eval_shape(
        lambda key: method.loss(method.init(key, batch_of()), batch_of(), key, jnp.int32(0), None), KEY
    )
    assert {a.dtype for a in (value, out.outputs["features"], *out.metrics.values())} == {jnp.dtype("float32")}


def test_the_task_can_be_looked_at(shown):
    names = ["image", "autoencoder", "damaged", "repaired", "kept", "kept, as predicted"]
    assert sorted(shown) == sorted(names)
    for name, row in shown.items():
        assert row.shape == (16, 8, 8, 1 if "kept" in name else 3)
        assert 0 <= float(row.min()) < float(row.max()) <= 1
    kept = np.asarray(shown["kept"])
    assert set(np.unique(kept)) == {0, 1}
    assert 0.2 < kept.mean() < 0.4


# --------------------------------------------------------------------------------------------- weights of another run


def config(method="corrupted_images", steps=2, **arguments):
    short = {"train__steps": steps, "train__eval_every": 0, "train__checkpoint_every": 0, "eval__probe": False}
    small = {f"model__{field}": value for field, value in SMALL.items()}
    found = runs.config(**short, **small, data__recipe="none", data__augment="device")
    found.method = ConfigDict({"name": method, "latent_dim": 4, "decoder_widths": (8,)} | arguments)
    return found


def given(there):
    """A config that takes the autoencoder of a run."""
    found = config(autoencoder_steps=0)
    configs.change(found, [f"init_from.autoencoder={there}"])
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of ``autoencoder`` of two steps."""
    folder = tmp_path_factory.mktemp("finished") / "autoencoder"
    with runs.no_pictures():
        train.fit(build(config("autoencoder", loss="mse", spatial=True)), folder, test=False)
    return folder


@pytest.mark.slow
def test_weights_of_a_finished_run_come_in_bit_for_bit_and_stay(finished, tmp_path):
    """And once it has begun, the new run needs the old one's folder no more."""
    there = tmp_path / "autoencoder"
    shutil.copytree(finished, there)
    source, _, _ = ssl_jax.load(there)
    train.fit(build(given(there)), tmp_path / "spot", test=False)
    shutil.rmtree(there)
    variables, encode, stored = ssl_jax.load(tmp_path / "spot")
    assert_same(variables.params["autoencoder"], source.params)
    assert_same(variables.model_state["autoencoder"], source.model_state)
    assert stored.init_from.autoencoder == str(there)
    features = encode(variables, np.zeros((2, 8, 8, 1), np.uint8))["features"]
    assert features.shape == (2, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"method.latent_dim": 5},
            r"another architecture: params/bottleneck/dense/bias is float32\[4\] there and float32\[5\] here; use its",
        ),
        pytest.param(
            {"model.blocks": 2}, r"another architecture: params/encoder/.* is nothing there and", marks=pytest.mark.slow
        ),
        ({"data.mean": (0.5,)}, r"had data.mean=\(0.0,\) and this run has \(0.5,\); use the same"),
        ({"init_from.autoencoder": "/nowhere"}, r"init_from.autoencoder: /nowhere holds no run"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(finished, change, words, tmp_path):
    wrong = given(finished)
    for key, value in change.items():
        part, name = key.split(".")
        with wrong.unlocked():
            wrong[part][name] = value
    with pytest.raises(train.Refused, match=words) as error:
        train.fit(build(wrong), tmp_path / "spot")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "spot").exists()


def test_the_key_of_older_runs_means_the_same(finished):
    """``method.autoencoder=RUN`` in a stored config or a command."""
    now = given(finished)
    then = config(autoencoder=str(finished))
    assert configs.differences(to_json(then), now) == ({}, {})
    said = config(autoencoder_steps=0)
    configs.change(said, [f"method.autoencoder={finished}"])
    assert configs.starts(said) == {"autoencoder": str(finished)}


def test_what_is_not_given_or_not_there_is_refused():
    with pytest.raises(ValueError, match=r"needs init_from.autoencoder, the folder of a run"):
        build(config(autoencoder_steps=0))
    wrong = config()
    configs.change(wrong, ["init_from.autoencodr=runs/x"])
    with pytest.raises(ValueError, match=r"init_from.autoencodr is no part of corrupted_images; did you mean 'autoen"):
        build(wrong)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "simclr"}, r"is a run of 'simclr' with spatial=None and loss=None; use one of 'autoencoder' with"),
        ({"name": "autoencoder", "loss": "bce", "spatial": True}, "loss='bce'; use one of"),
        ({"name": "autoencoder", "loss": "mse"}, "spatial=None"),
    ],
)
def test_a_run_of_another_kind_is_refused(method, words):
    stored = {"method": method, "data": {"mean": [0.5], "std": [0.25]}}
    with pytest.raises(ValueError, match=words) as error:
        make().parts["autoencoder"].check(stored)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"autoencoder_steps": -1}, "autoencoder_steps=-1 must not be negative; 0 takes init_from.autoencoder"),
        ({"drop": 0.0}, "drop=0.0 must be between 0 and 1"),
        ({"drop": 1.0}, "drop=1.0 must be between 0 and 1"),
        ({"mask_weight": -0.1}, "mask_weight=-0.1 must not be negative"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight=-1.0 must not be negative"),
        ({"repair_rate": 0.0}, "repair_rate=0.0 must be positive"),
        ({"repair_layers": 0}, "repair_layers=0 but the decoder has 2 maps; use 1 to 2"),
        ({"repair_layers": 3}, "repair_layers=3 but the decoder has 2 maps; use 1 to 2"),
        ({"decoder_widths": (8, 8)}, r"doubles the 4 x 4 map of convnet .* 2 times.* not give 8 pixels; use 16 pixels"),
        ({"model": "mlp"}, "needs an encoder whose last stage is a map"),
        ({"name": "autoencoder", "spatial": True, "decoder_widths": (8, 8)}, "doubles the 4 x 4 map"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


def test_fewer_repair_layers_stand_at_the_first_maps():
    variables = jax.eval_shape(make(repair_layers=1).init, KEY, batch_of())
    assert set(variables.params["repair"]) == {"layer0"}
    assert variables.params["repair"]["layer0"]["conv2"]["kernel"].shape == (3, 3, 6, 6)
