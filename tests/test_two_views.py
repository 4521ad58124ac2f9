"""SimSiam, Barlow Twins, VICReg and SupCon: losses and heads by their papers, and what a dead run of each shows."""

from __future__ import annotations

import doctest
import importlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from numeric import numeric_gradient
from sklearn.datasets import load_digits

from ssl_jax import configs, experiment, methods, models, optim, parallel, testing
from ssl_jax.losses import barlow_twins, byol_regression, nt_xent, sup_con, vicreg
from ssl_jax.methods import spread
from ssl_jax.models.heads import MLP
from ssl_jax.online.collapse import alarm, collapse_report
from ssl_jax.step import gradients, make_init, make_train_step

ORACLE = np.load(Path(__file__).parent / "oracles" / "two_views.npz")
ALL_ONE = np.array([[1.0, 1.0], [-1.0, -1.0]])


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def close(a, b, tol=1e-12):
    np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=tol, atol=tol)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ------------------------------------------------------------------------------------------------ losses


def simsiam(z1, z2):
    return (byol_regression(z1, z2) + byol_regression(z2, z1)) / 4 - 1


LOSSES = {
    "simsiam": simsiam,
    "barlow_twins": lambda a, b: barlow_twins(a, b)[0],
    "barlow_twins/0.3": lambda a, b: barlow_twins(a, b, off_diagonal=0.3)[0],
    "vicreg": lambda a, b: vicreg(a, b)[0],
    "vicreg/3,7,2": lambda a, b: vicreg(a, b, invariance=3.0, variance=7.0, covariance=2.0)[0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_lightlys(x64, name):
    loss, grads = jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 1)))(ORACLE["z1"], ORACLE["z2"])
    close(loss, ORACLE[f"{name}/loss"])
    for found, wanted in zip(grads, (ORACLE[f"{name}/grad1"], ORACLE[f"{name}/grad2"]), strict=True):
        close(found, wanted, 1e-11)


def barlow_numpy(z1, z2):
    """Pair of dimensions by pair of dimensions."""
    u1, u2 = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z1, z2))
    c = [[np.mean(u1[:, i] * u2[:, j]) for j in range(z1.shape[1])] for i in range(z1.shape[1])]
    return sum((v - 1) ** 2 if i == j else 0.0051 * v**2 for i, row in enumerate(c) for j, v in enumerate(row))


def vicreg_numpy(z1, z2, halves=0.5):
    total = 25 * np.mean((z1 - z2) ** 2)
    for z in (z1, z2):
        cov = np.cov(z.T)
        total += halves * 25 * np.mean(np.maximum(0, 1 - np.sqrt(np.diag(cov) + 1e-4)))
        total += sum(cov[i, j] ** 2 for i in range(len(cov)) for j in range(len(cov)) if i != j) / len(cov)
    return total


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (LOSSES["barlow_twins"], barlow_numpy),
        (LOSSES["vicreg"], vicreg_numpy),
        (lambda a, b: vicreg(a, b, variance_of_views="sum")[0], partial(vicreg_numpy, halves=1.0)),
    ],
    ids=["barlow_twins", "vicreg", "vicreg-sum"],
)
def test_losses_are_their_formulas(x64, loss, formula):
    z1, z2 = normal(2, 5, 3)
    value, (g1, g2) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(z1, z2)
    close(value, formula(z1, z2))
    close(g1, numeric_gradient(lambda z: formula(z, z2), z1), 1e-6)
    close(g2, numeric_gradient(lambda z: formula(z1, z), z2), 1e-6)


def test_values_known_in_advance(x64):
    one_point = np.full((6, 4), 0.3)
    value, seen = barlow_twins(one_point, one_point)
    close(value, 4.0)  # d
    close([seen["diagonal"], seen["off_diagonal"]], [0, 0])
    value, seen = barlow_twins(ALL_ONE, ALL_ONE)
    close(value, 0.0102, 1e-4)
    close([seen["diagonal"], seen["off_diagonal"]], [1, 1], 1e-4)
    value, seen = vicreg(one_point, one_point)
    close([value, seen["variance"], seen["below_one"]], [24.75, 0.99, 1])
    close(vicreg(one_point, one_point, variance_of_views="sum")[0], 49.5)
    dead = np.array([[1.0, 0.0], [-1.0, 0.0]])
    value, seen = vicreg(dead, dead)
    close([value, seen["below_one"]], [12.375, 0.5])
    close(vicreg(ALL_ONE, ALL_ONE)[0], 8.0)
    z1, z2 = normal(2, 6, 4)
    close(simsiam(z1, 2 * z1), -1)
    close(simsiam(z1, z2), simsiam(z2, z1))
    close([spread(one_point, None), spread(ALL_ONE[:1].repeat(3, 0), None)], [0, 0], 1e-6)
    close(spread(ALL_ONE, None), 1)  # both numbers of the unit vectors are +-sqrt(1/2)


SHARED = {
    "barlow_twins": lambda a, b, axis: barlow_twins(a, b, axis=axis)[0],
    "vicreg": lambda a, b, axis: vicreg(a, b, axis=axis)[0],
    "spread": lambda a, b, axis: spread(a, axis),
}


@pytest.mark.parametrize("name", SHARED)
def test_on_four_devices_a_loss_is_that_of_one_big_batch(x64, name):
    """Value, and gradient as a step takes it: the mean over devices of those of a shared matrix."""
    w, (x1, x2) = normal(6, 5), normal(2, 16, 6, seed=1) + 0.3

    def loss(w, x1, x2, axis=None):
        return SHARED[name](x1 @ w, x2 @ w, axis)

    def device(w, *rows):
        return parallel.mean(jax.value_and_grad(loss)(w, *rows, parallel.DATA), parallel.DATA)

    value, grad = jax.jit(jax.value_and_grad(loss))(w, x1, x2)
    rows = [a.reshape(4, 4, *a.shape[1:]) for a in (x1, x2)]
    got = jax.jit(jax.vmap(device, (None, 0, 0), axis_name=parallel.DATA))(w, *rows)
    close(got[0], np.full(4, value))
    for each in got[1]:
        close(each, grad, 1e-11)
    alone = np.mean([loss(w, *(a[i] for a in rows)) for i in range(4)])
    assert abs(alone - value) > 1e-3  # a loss of each device's own rows is another one


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_low_precision_is_computed_in_float32(name):
    loss = LOSSES[name]
    a, b = jnp.asarray(normal(2, 8, 4), jnp.bfloat16)
    value, grad = jax.jit(jax.value_and_grad(loss))(a, b)
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)
    close(value, loss(a.astype(jnp.float32), b.astype(jnp.float32)), 1e-5)


def test_what_losses_refuse():
    z = jnp.zeros((6, 4))
    for loss in (barlow_twins, vicreg):
        with pytest.raises(ValueError, match=r"one shape \[b, d\]; got z1 \(6, 4\) and z2 \(5, 4\)"):
            loss(z, z[:5])
    with pytest.raises(ValueError, match="variance_of_views of mean, sum, got 'half'"):
        vicreg(z, z, variance_of_views="half")
    with pytest.raises(ValueError, match=r"two rows or more for a covariance, got z1 \(1, 4\)"):
        vicreg(z[:1], z[:1])
    with pytest.raises(ValueError, match=r"two rows or more for a correlation, got z1 \(1, 4\)"):
        barlow_twins(z[:1], z[:1])
    for loss, weight in (
        (barlow_twins, "off_diagonal"),
        *((vicreg, name) for name in ("invariance", "variance", "covariance")),
    ):
        with pytest.raises(ValueError, match=f"needs {weight} of 0 or more, got -1") as error:
            loss(z, z, **{weight: -1})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"ssl_jax.losses.{name}"))
    assert (result.attempted > 0, result.failed) == (True, 0)


# ----------------------------------------------------------------------------------------------- methods

OTHERS = ("barlow_twins", "vicreg", "supcon")
DRAWING = ("simsiam", "deep_infomax", "barlow_twins", "supcon")


def with_case(name, **arguments):
    """(method, variables, batch) of a method's case in the contract, with other arguments."""
    encoder = contract.convnet()
    found = contract.CASES[name] | {"mean": (0.5,), "std": (0.25,)} | arguments
    method, batch = methods.get(name)(encoder, plan=testing.plan_of(), **found), contract.batch_of(0)
    return method, jax.jit(method.init)(jax.random.key(1), batch), batch


def run_loss(method, variables, batch):
    """(value, LossOut); ``outputs`` are those of the first view."""
    loss = jax.jit(lambda *arguments: method.loss(*arguments, jax.random.key(2), jnp.int32(0), None))
    value, out = loss(variables, batch)
    return float(value), out


@pytest.mark.parametrize("name", ["vicreg", *(pytest.param(n, marks=pytest.mark.slow) for n in DRAWING)])
def test_each_draws_drop_path_for_its_vit(name):
    """Other keys, other losses: traced with one, or a ViT with drop-path would refuse to run."""
    encoder = models.make("vit", **contract.VIT)
    method = methods.get(name)(encoder, plan=testing.plan_of(), **contract.CASES[name])
    batch = contract.batch_of(0)
    variables = jax.jit(method.init)(jax.random.key(1), batch)
    loss = jax.jit(lambda key: method.loss(variables, batch, key, jnp.int32(0), None)[0])
    assert float(loss(jax.random.key(0))) != float(loss(jax.random.key(1)))


@pytest.mark.parametrize(("name", "notes"), [("deep_infomax", 1), ("vicreg", 0)])
def test_views_that_nobody_looks_at_are_said(name, notes):
    config = runs.config("supervised", data__recipe="simclr_cifar")
    config.method.update({"name": name} | contract.CASES[name])
    built = experiment.build(config)
    assert built.notes.count(f"method.name='{name}' looks at 1 of the 2 views that the recipe makes") == notes


def test_norms_of_the_gradients_of_parts_are_logged():
    """Of those that the method names, and of those that the config does: the norm of the part's gradient."""
    config = runs.config("supervised", data__recipe="simclr_cifar", method__name="simsiam")
    config.train.grad_norms = ("encoder/stem", "predictor/dense1")
    built, batch = experiment.build(config), testing.batch_of(0)
    method = methods.get("simsiam")(models.make("convnet", widths=(8, 16), residual=False), plan=testing.plan_of())
    state = jax.jit(make_init(method, built.tx))(jax.random.key(0), batch, None)
    grads = jax.jit(gradients(method))(state, batch)[2]
    _, found = jax.jit(make_train_step(method, built.tx, grad_norms=config.train.grad_norms))(state, batch)
    wanted = {
        "predictor": grads["predictor"],
        "predictor/dense1": grads["predictor"]["dense1"],
        "encoder/stem": [part for name, part in grads["encoder"].items() if name.startswith("stem")],
    }
    for start, part in wanted.items():
        assert found[f"{start}_grad_norm"] == pytest.approx(float(optax.tree.norm(part)), rel=1e-5)
    for start, hint in (("prdictor", "did you mean 'predictor'"), ("encoder/steem", "did you mean 'encoder/stem")):
        with pytest.raises(ValueError, match=f"train.grad_norms={start}: no parameter begins with '{start}'; {hint}"):
            experiment.build(configs.change(config, [f"train.grad_norms={start}"]))


NEWER = ("simsiam", "barlow_twins", "vicreg", "swav", "dino", "moco_v3", "mae", "nnclr", "ibot", "supcon", "lejepa")


@pytest.mark.parametrize("name", [*NEWER, "deep_infomax"])
def test_a_file_of_a_method_can_be_read_at_a_sitting(name):
    assert len(Path(methods.__path__[0], f"{name}.py").read_text().splitlines()) <= 150


def test_a_head_without_width_is_refused():
    with pytest.raises(ValueError, match="a head of widths 8, 0: each must be 1 or more"):
        jax.eval_shape(MLP((8, 0)).init, jax.random.key(0), jnp.ones((2, 4)), train=False)


@pytest.mark.parametrize("name", ["swav", "lejepa", "nnclr", "supcon"])
def test_heads_start_as_torchs_do(name):
    """Uniform in +-1/sqrt(fan_in), biases too."""
    widths = {"nnclr": "projector_hidden", "lejepa": "projector_hidden"}
    arguments = {widths.get(name, "hidden"): 400} if name != "supcon" else {}
    arguments |= {"queue_size": testing.plan_of().global_batch_size} if name == "nnclr" else {}
    method = methods.get(name)(contract.convnet(), plan=testing.plan_of(), **arguments)
    params = jax.jit(method.init)(jax.random.key(0), testing.batch_of(0, 4, np.float32)).params
    layers = [layer for part in ("projector", "predictor") for layer in params.get(part, {}).values()]
    dense = [layer for layer in layers if "kernel" in layer]
    assert len(dense) >= 2
    for layer in dense:
        limit = len(layer["kernel"]) ** -0.5
        for weights in (layer["kernel"], *([layer["bias"]] if "bias" in layer else [])):
            assert 0.9 * limit < np.abs(weights).max() <= limit
            assert np.std(weights) == pytest.approx(limit / 3**0.5, rel=0.2)
    assert any("bias" in layer for layer in dense)


@pytest.mark.parametrize("name", ["simsiam", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def test_the_loss_is_that_of_the_projections_of_both_views(name):
    method, variables, batch = with_case(name)
    value, one = run_loss(method, variables, batch)
    swapped, two = run_loss(method, variables, batch | {"views": batch["views"][::-1]})
    assert value == pytest.approx(swapped, rel=1e-5)
    z1, z2 = (out.outputs["projections"] for out in (one, two))
    assert np.abs(z1 - z2).max() > 1e-3
    if name == "simsiam":
        predictor = MLP((8, 16), hidden_bias=False)
        p1, p2 = (
            models.forward(predictor, variables.params["predictor"], variables.model_state["predictor"], z, train=True)[
                0
            ]
            for z in (z1, z2)
        )
        wanted = -(cosine(p1, z2) + cosine(p2, z1)) / 2
        assert abs(wanted + (cosine(p1, z1) + cosine(p2, z2)) / 2) > 1e-3
    else:
        wanted = {
            "barlow_twins": lambda: 0.1 * barlow_twins(z1, z2)[0],
            "vicreg": lambda: vicreg(z1, z2)[0],
            "supcon": lambda: sup_con(z1, z2, batch["label"], temperature=0.1),
        }[name]()
    assert value == pytest.approx(float(wanted), rel=1e-4)
    shown = {
        "simsiam": {"feature_spread"},
        "barlow_twins": {"diagonal", "off_diagonal"},
        "vicreg": {"invariance", "variance", "covariance", "below_one"},
        "supcon": {"similarity", "labelled"},
    }
    assert set(one.metrics) == shown[name]


def cosine(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def shapes(params):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves(params)}


def leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


@pytest.mark.slow
def test_heads_have_the_layers_of_the_papers():
    params = with_case("simsiam")[1].params
    norm = {f"norm{i}/{part}": (16,) for i in range(2) for part in ("bias", "scale")}
    dense = {"dense0/kernel": (8, 16), "dense1/kernel": (16, 16), "dense2/kernel": (16, 16)}
    assert shapes(params["projector"]) == dense | norm  # the last norm has neither scale nor bias
    wanted = {"dense0/kernel": (16, 8), "norm0/bias": (8,), "norm0/scale": (8,), "dense1/kernel": (8, 16)}
    assert shapes(params["predictor"]) == wanted | {"dense1/bias": (16,)}
    for name in ("barlow_twins", "vicreg"):
        found = shapes(with_case(name, projector_dim=4, projector_hidden=6, projector_layers=3)[1].params["projector"])
        dense = {"dense0/kernel": (8, 6), "dense1/kernel": (6, 6), "dense2/kernel": (6, 4)}
        assert found == dense | {f"norm{i}/{part}": (6,) for i in range(2) for part in ("bias", "scale")}


def moved(name, step, schedule, **arguments):
    """How far update ``step`` of a decaying rate takes each parameter, over its gradient of 1."""
    method, variables, _ = with_case(name, **arguments)
    tx = method.wrap_tx(optim.make("sgd", learning_rate=schedule, momentum=0.0, peak=0.1))
    ones = jax.tree.map(jnp.ones_like, variables.params)
    state = tx.init(variables.params)
    for _ in range(step + 1):
        updates, state = tx.update(ones, state, variables.params)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves(updates)}
    return {path: -float(leaf.ravel()[0]) for path, leaf in paths.items()}


@pytest.mark.slow
def test_the_predictor_of_simsiam_keeps_the_peak_of_the_rate():
    schedule = optim.warmup_cosine(0.1, 0, 4)
    for path, rate in moved("simsiam", 2, schedule).items():
        assert rate == pytest.approx(0.1 if path.startswith("predictor/") else 0.05, rel=1e-5), path
    for path, rate in moved("simsiam", 2, schedule, predictor_rate="scheduled").items():
        assert rate == pytest.approx(0.05, rel=1e-5), path


def test_biases_and_norms_of_barlow_twins_have_a_rate_of_their_own():
    schedule = optim.warmup_cosine(0.1, 0, 4)
    for path, rate in moved("barlow_twins", 2, schedule).items():
        assert rate == pytest.approx(0.05, rel=1e-5), path
    found = moved("barlow_twins", 2, schedule, bias_rate=0.024)
    small = {path for path, rate in found.items() if rate == pytest.approx(0.05 * 0.024, rel=1e-5)}
    assert small == {path for path in found if path.endswith(("/bias", "/scale"))}
    assert len(small) > 2
    assert all(found[path] == pytest.approx(0.05, rel=1e-5) for path in set(found) - small)


SCALES = {"mean": 1.0, "supcontrast": 0.2 / 0.07, "google": 0.2}


@pytest.mark.slow
def test_supcon_scales_and_what_it_makes_of_missing_labels():
    values = {s: run_loss(*with_case("supcon", temperature=0.2, loss_scale=s))[0] for s in SCALES}
    for scale, factor in SCALES.items():
        assert values[scale] == pytest.approx(factor * values["mean"], rel=1e-5)
    method, variables, batch = with_case("supcon", temperature=0.2)
    none = np.full_like(batch["label"], -1)
    value, out = run_loss(method, variables, batch | {"label": none})
    z1 = out.outputs["projections"]
    z2 = run_loss(method, variables, batch | {"views": batch["views"][::-1]})[1].outputs["projections"]
    assert value == pytest.approx(float(nt_xent(z1, z2, temperature=0.2)), rel=1e-5)
    assert float(out.metrics["labelled"]) == 0
    close(run_loss(method, variables, batch)[1].metrics["labelled"], np.mean(batch["label"] >= 0), 1e-6)


def test_supcon_feeds_its_projector_unit_features_where_asked():
    for normalize in (True, False):
        method, variables, batch = with_case("supcon", normalize_features=normalize)
        out = method.encode(variables, jnp.asarray(batch["views"][0]))
        h = out["features"]
        h = h / jnp.linalg.norm(h, axis=1, keepdims=True) if normalize else h
        dense = variables.params["projector"]
        z = jax.nn.relu(h @ dense["dense0"]["kernel"] + dense["dense0"]["bias"][None])
        close(out["projections"], z @ dense["dense1"]["kernel"] + dense["dense1"]["bias"][None], 1e-4)


def test_supcon_without_labels_is_refused():
    plan = testing.plan_of(num_classes=None)
    with pytest.raises(ValueError, match=r"method.name='supcon' needs labels and data.source has none"):
        methods.get("supcon")(contract.convnet(), plan=plan)
    assert "supcon" in methods.FROM_LABELS


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("simsiam", {"predictor_rate": "fixed"}, "predictor_rate='fixed' is not one of constant, scheduled"),
        ("simsiam", {"projector_layers": 0}, "method.projector_layers=0 must be 1 or more"),
        ("barlow_twins", {"off_diagonal": -1.0}, "method.off_diagonal=-1.0 must not be negative"),
        ("barlow_twins", {"scale": 0.0}, "method.scale=0.0 must be positive"),
        ("barlow_twins", {"bias_rate": 0.0}, "method.bias_rate=0.0 must be positive"),
        ("barlow_twins", {"projector_layers": 0}, "method.projector_layers=0 must be 1 or more"),
        ("vicreg", {"variance": -25.0}, "method.variance=-25.0 must not be negative"),
        ("vicreg", {"variance_of_views": "half"}, "variance_of_views='half' is not one of mean, sum"),
        ("supcon", {"temperature": 0.0}, "method.temperature=0.0 must be positive"),
        ("supcon", {"loss_scale": "sum"}, "loss_scale='sum' is not one of mean, supcontrast, google"),
    ],
)
def test_wrong_arguments_are_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        methods.get(name)(contract.convnet(), plan=testing.plan_of(), **arguments)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------- planted dead runs


def digits(step, rows=128, noise=0.3):
    """Two views of handwritten digits: shifted by a pixel, paler, noisy."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(step)
    chosen = rng.integers(0, len(images), rows)

    def view():
        shifts = rng.integers(-1, 2, (rows, 2))
        rolled = [np.roll(images[i].reshape(8, 8, 1) / 16, s, (0, 1)) for i, s in zip(chosen, shifts, strict=True)]
        pale = np.stack(rolled) * rng.uniform(0.5, 1, (rows, 1, 1, 1)) + noise * rng.normal(size=(rows, 8, 8, 1))
        return pale.repeat(3, -1).astype(np.float32)

    views, index = (view(), view()), chosen.astype(np.int32)
    return {"views": views, "label": labels[chosen].astype(np.int32), "index": index}


def train(name, rate, *, batch=testing.batch_of, steps=60, **arguments):
    """(What the alarm says of two reports, the metrics of the last step)."""
    encoder, plan = models.make("convnet", widths=(8, 16), residual=False), testing.plan_of()
    method = methods.get(name)(encoder, plan=plan, mean=(0.5,), std=(0.25,), **arguments)
    tx = optim.make("sgd", learning_rate=rate, weight_decay=1e-3)
    state = jax.jit(make_init(method, tx))(jax.random.key(0), batch(0), None)
    train_step, history, said, metrics = jax.jit(make_train_step(method, tx)), 0, None, {}
    for step in range(1, steps + 1):
        state, metrics = train_step(state, batch(step))
        if step % (steps // 2) == 0:
            report = collapse_report(metrics["moments"])
            own = method.hooks.get("collapse", lambda metrics: None)
            history, words = alarm(history, report, step=step, warmup_steps=0, own=own(metrics))
            said = said or words
    return said, {k: float(v) for k, v in metrics.items() if k != "moments"}


@pytest.mark.slow
def test_simsiam_whose_gradient_goes_through_both_branches_is_named(monkeypatch):
    small = {"projector_dim": 64, "predictor_hidden": 16, "projector_layers": 2}
    assert train("simsiam", 1.0, batch=digits, **small)[0] is None
    module = importlib.import_module("ssl_jax.losses.byol_regression")
    monkeypatch.setattr(module, "lax", SimpleNamespace(stop_gradient=lambda x: x))
    said, seen = train("simsiam", 1.0, batch=digits, **small)
    assert "looks collapsed" in said
    assert seen["loss"] < -0.9


@pytest.mark.slow
def test_barlow_twins_without_its_second_term_is_named():
    small = {"projector_dim": 16, "projector_layers": 2}
    said, alive = train("barlow_twins", 0.05, **small, off_diagonal=0.05)
    assert said is None
    said, dead = train("barlow_twins", 0.05, **small, off_diagonal=0.0)
    assert "looks collapsed" in said
    assert alive["off_diagonal"] < 0.5 < 0.7 < dead["off_diagonal"]


@pytest.mark.slow
def test_vicreg_without_its_variance_is_named():
    """By a number of its own: directions of what is left still differ."""
    small = {"projector_dim": 16, "projector_layers": 2}
    said, alive = train("vicreg", 0.01, **small)
    assert said is None
    said, dead = train("vicreg", 0.01, **small, variance=0.0)
    assert "looks collapsed: dimensions deviate by 0." in said
    assert "raise method.variance" in said
    assert alive["variance"] < 0.4 < 0.8 < dead["variance"]
    assert dead["below_one"] == 1


clean = partial(digits, noise=0.05)


@pytest.mark.slow
def test_supcon_that_is_told_one_class_is_named():
    small = {"projector_hidden": 64, "projector_dim": 16, "normalize_features": False}
    alive = train("supcon", 0.02, batch=clean, steps=100, **small)[1]

    def one_class(step):
        batch = clean(step)
        return batch | {"label": np.zeros_like(batch["label"])}

    said, dead = train("supcon", 0.02, batch=one_class, steps=100, **small)
    assert "looks collapsed" in said
    assert alive["similarity"] < 0.9 < 0.99 < dead["similarity"]
    assert dead["loss"] == pytest.approx(np.log(2 * 128 - 1), abs=0.01)
