"""The code that README and pages show does what they say."""

from __future__ import annotations

import re
from types import SimpleNamespace

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
import runs

from ssl_jax import methods, models
from ssl_jax.data import readers
from ssl_jax.data.images import published
from ssl_jax.run.hooks import call_hooks, check_hooks, due_hooks
from ssl_jax.types import Plan


def test_the_method_of_the_pages_is_none_of_ours_and_short():
    assert "dcl" not in methods.names()
    lines = pages.file("dcl.py").splitlines()
    assert len(lines) <= 30
    assert f"in {len(lines)} lines" in pages.README.read_text()


@pytest.mark.slow
def test_the_method_of_the_pages_trains():
    make = pages.names_in("dcl.py")["make"]
    plan = Plan(20, 4, 256, (8, 8, 3), contract.ROWS, 4)
    method = make(models.make("convnet", widths=(8, 16)), plan=plan, dim=16, temperature=0.5)
    batch = contract.batch_of(0)
    variables = method.init(jax.random.key(0), batch)

    def loss(params, batch=batch):
        return method.loss(variables._replace(params=params), batch, jax.random.key(1), jnp.int32(0), None)

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
    other = loss(variables.params, {"views": batch["views"][::-1]})[1]
    z = np.stack([np.asarray(o.outputs["projections"], np.float64) for o in (out, other)], 1)  # [b, 2, d]
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    terms = [
        np.log(sum(np.exp(z[i, v] @ z[k, w] / 0.5) for k in range(len(z)) for w in range(2) if k != i))
        - z[i, 0] @ z[i, 1] / 0.5
        for i in range(len(z))
        for v in range(2)
    ]
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-4)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, variables.params, gradient)
    assert float(loss(moved)[0]) < float(value)
    assert method.encode(variables, jnp.asarray(batch["views"][0]))["features"].shape == (contract.ROWS, 16)


@pytest.mark.slow
def test_the_method_of_the_pages_keeps_the_contract_as_they_say(tmp_path, monkeypatch):
    for name in ("dcl.py", "test_dcl.py"):
        (tmp_path / name).write_text(pages.file(name))
    monkeypatch.chdir(tmp_path)
    pages.names_in("test_dcl.py")["test_dcl"]()


def test_the_encoder_of_the_pages():
    encoder = pages.names_in("net.py")["make"](8)
    models.check_encoder(encoder, "net.py", jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32))
    assert encoder.dim == 8
    encoder = pages.names_in("stages.py")["Encoder"](4, frozen_stages=2)
    models.check_encoder(encoder, "stages.py", jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32))
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
    params, state = models.init(encoder, jax.random.key(0), x)
    out, new = models.forward(encoder, params, state, x, train=True)
    assert {name: a.shape for name, a in out.items()} == {
        "stage1": (6, 4, 4, 4),
        "stage2": (6, 2, 2, 8),
        "features": (6, 8),
    }
    moved = {
        name: not np.array_equal(a["mean"], state["batch_stats"][name]["mean"])
        for name, a in new["batch_stats"].items()
    }
    assert moved == {"stage1_norm": False, "stage2_norm": True}  # the first is frozen
    assert {models.depth(f"encoder/{name}", stages=2) for name in params} == {1, 2}

    def mapped(x):
        return models.forward(encoder.clone(frozen_stages=0), params, state, x, train=True, axis="data")[0]["features"]

    whole, _ = models.forward(encoder.clone(frozen_stages=0), params, state, x, train=True)
    parts = jax.vmap(mapped, axis_name="data")(x.reshape(2, 3, 8, 8, 3))
    np.testing.assert_allclose(parts.reshape(6, 8), whole["features"], rtol=1e-4, atol=1e-5)


def test_the_source_and_the_recipe_of_the_pages(tmp_path):
    for name in ("circles.py", "views.py"):
        (tmp_path / name).write_text(pages.file(name))
    splits = readers.load(str(tmp_path / "circles.py"))
    assert [len(part) for part in splits] == [900, 100, 200]
    shares = [splits.test.columns["image"][splits.test.labels == k].mean() / 255 for k in (0, 1)]
    assert shares == pytest.approx([np.pi * 25 / 1024, np.pi * 81 / 1024], rel=0.05)
    recipe = published.get(str(tmp_path / "views.py"))
    assert (len(recipe.views), recipe.views[0].crop.area) == (2, (0.3, 1.0))


def test_the_operation_of_the_pages():
    stripe = pages.names_in("ops.py")["stripe"]
    rows = [np.asarray(stripe(jnp.zeros((20, 8, 3)), jax.random.key(i), width=0.2))[:, 0, 0] for i in range(3)]
    assert [row.sum() for row in rows] == pytest.approx([4, 4, 4], abs=1)
    assert len({tuple(row) for row in rows}) > 1


def test_the_evaluator_of_the_pages():
    evaluator = pages.names_in("centroid.py")["Evaluator"]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    features = np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))
    data = {
        "train": {"features": features[:40], "label": labels[:40]},
        "right": {"features": features[40:], "label": labels[40:]},
        "wrong": {"features": features[40:], "label": (labels[40:] + 1) % 3},
    }

    def top1(test):
        return dict(evaluator(lambda _, source: data[source], train="train", test=test).run(None))

    assert top1("right") == {"centroid_top1": 1.0}
    assert top1("wrong") == {"centroid_top1": 0.0}


def test_the_hooks_of_the_pages(capsys):
    found = pages.names_in("hooks.py")
    hooks = check_hooks(found["hooks"])
    line = {"train_loss": 0.5, "train_grad_norm": 2.0}
    for step, logged in ((50, True), (100, False), (200, True)):
        assert call_hooks(due_hooks(hooks, step, logged), step, line, None)[1] is None
    assert found["norms"] == {100: 2.0, 200: 2.0}
    assert capsys.readouterr().out == "50 0.5\n200 0.5\n"
    hooks = check_hooks(pages.names_in("weights.py")["weights"])
    state = SimpleNamespace(params={"a": jnp.asarray([1.0, -3.0]), "b": jnp.asarray([[2.0]])})
    assert call_hooks(hooks, 1, line, state) == ({"largest_weight": 3.0}, None)


def test_the_table_of_configs_is_complete():
    named = set(re.findall(r"`(\w+)`", (pages.DOCS / "reference" / "configs.md").read_text()))
    assert {p.stem for p in (runs.ROOT / "configs").glob("*.py")} - {"common"} <= named


def test_nothing_is_left_to_be_filled_in():
    for path in (pages.README, *pages.pages(), *(runs.ROOT / "configs").glob("*.py")):
        assert "@@" not in path.read_text(), path


def test_the_files_they_name_exist():
    named = r"`((?:ssl_jax|experiments|configs|tests|docs)/(?!_build)[\w/]+\.\w+)"
    for page in (pages.README, *pages.pages()):
        for path in re.findall(named, page.read_text()):
            assert (runs.ROOT / path).exists(), f"{page}: {path}"


def test_methods_are_found_by_file_name():
    assert set(methods.names()) >= {"simclr", "byol", "moco", "supervised"}
