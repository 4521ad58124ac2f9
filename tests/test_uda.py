"""UDA: the consistency loss, training signal annealing, the average that is evaluated, against NumPy in float64."""

from __future__ import annotations

from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from scipy.special import kl_div

from ssl_jax import methods, models, train
from ssl_jax.experiment import build
from ssl_jax.losses import consistency
from ssl_jax.types import Plan

RATIO, CLASSES = 2, contract.CLASSES


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def reference(plain, augmented, temperature, threshold):
    """(Loss, share of the confident, its gradient by the augmented logits)."""
    confident = softmax(plain).max(-1) > threshold
    target, q = softmax(plain / temperature), softmax(augmented)
    value = (kl_div(target, q).sum(-1) * confident).mean()
    return value, confident.mean(), confident[:, None] * (q - target) / len(plain)


@pytest.mark.parametrize(("temperature", "threshold"), [(1.0, 0.0), (0.4, 0.8), (0.4, 0.5), (2.0, 0.3)])
def test_consistency(temperature, threshold):
    rng = np.random.default_rng(0)
    plain, augmented = rng.normal(0, 2, (2, 50, 5))
    how = {"temperature": temperature, "threshold": threshold}
    with contract.double():
        value, share = consistency(jnp.asarray(plain), jnp.asarray(augmented), **how)
        gradients = jax.grad(lambda u, v: consistency(u, v, **how)[0], argnums=(0, 1))(plain, augmented)
    want, confident, gradient = reference(plain, augmented, temperature, threshold)
    assert threshold == 0 or 0 < confident < 1
    assert float(value) == pytest.approx(want, rel=1e-12)
    assert float(share) == pytest.approx(confident, rel=1e-12)
    assert not np.asarray(gradients[0]).any()
    np.testing.assert_allclose(gradients[1], gradient, atol=1e-14)


def test_consistency_is_torchs_kl_div():
    with np.load(Path(__file__).parent / "oracles" / "consistency.npz") as found:
        oracle = dict(found)
    for i, (temperature, threshold) in enumerate(oracle["cases"]):

        def loss(v, temperature=temperature, threshold=threshold):
            return consistency(oracle["plain"], v, temperature=temperature, threshold=threshold)

        with contract.double():
            (value, share), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(oracle["augmented"]))
        assert float(value) == pytest.approx(oracle[f"loss/{i}"], rel=1e-12)
        assert float(share) == pytest.approx(oracle[f"share/{i}"], rel=1e-12)
        np.testing.assert_allclose(gradient, oracle[f"gradient/{i}"], atol=1e-14)


def test_a_sure_and_equal_prediction_costs_nothing():
    logits = jnp.array([[200.0, -200.0], [0.0, 90.0]])
    value, share = consistency(logits, logits, temperature=1.0, threshold=0.9)
    assert (float(value), float(share)) == (0, 1)


def eta(tsa, t):
    return {"linear": t, "exp": np.exp(5 * (t - 1)), "log": 1 - np.exp(-5 * t)}[tsa] * (1 - 1 / CLASSES) + 1 / CLASSES


def made(**arguments):
    plan = Plan(20, 4, 256, (8, 8, 3), contract.ROWS, CLASSES)
    method = methods.get("uda")(contract.convnet((8,)), plan=plan, mean=(0.5,), std=(0.25,), **arguments)
    batch = contract.batch_of(0, dtype=np.float64, case="uda")
    more = contract.batch_of(1, RATIO * contract.ROWS, np.float64)
    batch["unlabelled"] = {"views": more["views"], "index": more["index"]}
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    # Answers that are neither all alike nor all sure.
    variables.params["classifier"]["dense0"]["kernel"] *= 8
    aux = {"average": variables.params} if variables.aux else None
    return method, variables._replace(aux=aux), batch


def run(method, variables, batch, step=0):
    """(value, LossOut, gradients)."""
    keys = (jax.random.key(1), jnp.int32(step))

    def loss(params):
        return method.loss(variables._replace(params=params), batch, *keys, None)

    (value, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    return float(value), out, gradients


def logits_of(variables, batch):
    """All three parts in one pass, in another order of rows, as one BatchNorm sees them."""
    x = np.concatenate([batch["views"][0], *batch["unlabelled"]["views"]])
    parts = {"encoder": contract.convnet((8,)), "classifier": models.heads.linear(CLASSES)}
    out, _ = methods.run_parts(parts, variables.params, variables.model_state, (x - 0.5) / 0.25, train=True)
    found = np.asarray(out["classifier"], np.float64)
    return np.split(found, np.cumsum([contract.ROWS, RATIO * contract.ROWS])), np.asarray(out["encoder"]["features"])


@pytest.mark.parametrize(
    ("tsa", "step"),
    [
        ("linear", 10),
        *(pytest.param(*o, marks=pytest.mark.slow) for o in (("", 0), ("linear", 0), ("exp", 17), ("log", 3))),
    ],
)
def test_the_loss(tsa, step):
    with contract.double():
        method, variables, batch = made(temperature=0.5, threshold=0.6, weight=2.0, tsa=tsa)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
        value, out, _ = run(method, variables, batch, step)
        (labelled, plain, augmented), features = logits_of(variables, batch)
    label = batch["label"]
    known = label >= 0
    p = softmax(labelled)[np.arange(len(label)), np.maximum(label, 0)]
    kept = known & (p <= eta(tsa, step / 20)) if tsa else known
    supervised = -np.log(p[kept]).mean()
    change, confident, _ = reference(plain, augmented, 0.5, 0.6)
    assert 0.02 < confident < 0.98
    assert not tsa or 0 < kept.sum() < known.sum()
    assert value == pytest.approx(supervised + 2 * change, rel=1e-9)
    found = {name: float(v) for name, v in out.metrics.items()}
    want = {"supervised": supervised, "consistency": change, "confident": confident}
    want["top1"] = (labelled.argmax(-1) == label)[known].mean()
    want |= {"kept": kept.sum() / known.sum()} if tsa else {}
    assert found == pytest.approx(want, rel=1e-9)
    np.testing.assert_allclose(out.outputs["features"], features[: contract.ROWS], atol=1e-9)


@pytest.mark.slow
def test_annealing_reaches_all_and_nothing_kept_is_no_division_by_zero():
    method, variables, batch = made(tsa="linear", threshold=0.99)
    assert float(run(method, variables, batch, 20)[1].metrics["kept"]) == 1
    variables.params["classifier"]["dense0"]["kernel"] *= 0
    sure = batch | {"label": np.zeros(contract.ROWS, np.int32)}
    variables.params["classifier"]["dense0"]["bias"] = jnp.array([9.0, 0, 0, 0])
    value, out, gradients = run(method, variables, sure)
    assert float(out.metrics["kept"]) == 0
    assert value == pytest.approx(float(out.metrics["consistency"]), abs=1e-6)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))


def test_the_first_loss_of_no_opinion_is_that_of_chance():
    method, variables, batch = made()
    variables.params["classifier"]["dense0"]["kernel"] *= 0
    assert run(method, variables, batch)[0] == pytest.approx(np.log(CLASSES), rel=1e-6)


def test_the_average_is_what_is_evaluated():
    method, variables, batch = made(ema=0.9)
    moved = variables._replace(params=jax.tree.map(lambda a: a + 1, variables.params))
    for step, decay in ((0, 0.1), (5, 0.4), (1000, 0.9)):
        average = method.update_aux(moved, None, jnp.int32(step))["average"]
        change = jax.tree.map(lambda new, old: np.asarray(new - old), average, variables.aux["average"])
        for leaf in jax.tree.leaves(change):
            np.testing.assert_allclose(leaf, 1 - decay, atol=1e-4)
    view = jnp.asarray(batch["views"][0], jnp.float32)
    plain = made()[0]
    for ask in (plain.hooks["classify"], lambda v, x: plain.encode(v, x)["features"]):
        of_average, of_moved = (ask(v._replace(aux=None), view) for v in (variables, moved))
        assert np.abs(np.asarray(of_average) - np.asarray(of_moved)).max() > 0.1
    np.testing.assert_array_equal(method.hooks["classify"](moved, view), plain.hooks["classify"](variables, view))
    np.testing.assert_array_equal(method.encode(moved, view)["features"], plain.encode(variables, view)["features"])
    jax.tree.map(np.testing.assert_array_equal, method.trunk(moved)[0], variables.aux["average"]["encoder"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"temperature": 0.0}, r"method.temperature=0.0 must be positive"),
        ({"threshold": 1.0}, r"method.threshold=1.0 must be in"),
        ({"weight": -1.0}, r"method.weight=-1.0 must not be negative"),
        ({"tsa": "cosine"}, r"method.tsa='cosine' is not one of linear, exp, log"),
        ({"ema": 1.0}, r"method.ema=1.0 must be in"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        made(**arguments)


def test_recipes_that_do_not_suit_are_refused():
    method, variables, batch = made()
    one_part = {name: value for name, value in batch.items() if name != "unlabelled"}
    with pytest.raises(ValueError, match=r"needs labelled examples and two forms of unlabelled ones; use data.recipe="):
        run(method, variables, one_part)
    small = batch | {"views": (batch["views"][0][:, :4, :4],)}
    with pytest.raises(ValueError, match=r"needs views of one size and data.recipe makes \(4, 4, 3\), \(8, 8, 3\)"):
        run(method, variables, small)


def config(**overrides):
    found = runs.config("supervised", **{"data__augment": "device", "data__recipe": "runs:TWO_PARTS"} | overrides)
    found.method.update({"name": "uda", "tsa": "linear", "ema": 0.9})
    found.data.update({"labelled": 40, "ratio": 2, "global_batch_size": 16})
    return found


def test_a_recipe_of_one_part_is_refused_before_compilation():
    found = config(data__recipe="crop_flip")
    found.data.ratio = None
    with pytest.raises(ValueError, match="needs labelled examples and two forms of unlabelled ones"):
        build(found)


@pytest.mark.slow
def test_a_run_interrupted_ends_in_the_same_bits(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with runs.no_pictures():
        whole = train.fit(build(config()), tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(train, "open_writer", runs.ending_after(11, kill))
            with pytest.raises(Killed):
                train.fit(build(config()), tmp_path / "run")
        again = train.fit(build(config()), tmp_path / "run")
    assert again["params_fingerprint"] == whole["params_fingerprint"]
    assert 0 <= whole["test_top1"] <= 1
    assert whole["eval"]["bank"] == 40
