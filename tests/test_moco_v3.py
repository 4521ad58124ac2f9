"""MoCo v3: its heads, its two networks, what stays frozen; the loss is in test_streaming_losses.py."""

from __future__ import annotations

import importlib
from functools import partial

import contract
import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

from ssl_jax import methods, models, optim, testing
from ssl_jax.losses import moco_v3


def method_of(case="moco_v3", **changes):
    name, arguments = contract.ALL[case]
    found = contract.ENCODERS.get(case)
    encoder = models.make(found[0], **found[1]) if found else contract.convnet((8, 16))
    arguments = arguments | {"mean": (0.5,), "std": (0.25,)} | changes
    return methods.get(name)(encoder, plan=testing.plan_of(), **arguments)


def shapes(tree):
    return {"/".join(str(k.key) for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("case", ["moco_v3", "moco_v3-vit"])
def test_heads_are_those_of_the_encoder(case):
    """Linear layers without bias; the last BatchNorm has neither scale nor bias, and a ResNet's predictor has none."""
    vit = case.endswith("vit")
    variables = jax.eval_shape(method_of(case).init, jax.random.key(0), contract.batch_of(0))
    d = 32 if vit else 16
    hidden = {f"norm{i}/{k}": (32,) for i in range(2 if vit else 1) for k in ("scale", "bias")}
    layers = [(d, 32), (32, 32), (32, 16)] if vit else [(d, 32), (32, 16)]
    assert shapes(variables.params["projector"]) == hidden | {f"dense{i}/kernel": s for i, s in enumerate(layers)}
    predictor = {"norm0/scale": (32,), "norm0/bias": (32,), "dense0/kernel": (16, 32), "dense1/kernel": (32, 16)}
    assert shapes(variables.params["predictor"]) == predictor
    norms = {name for name in variables.model_state["predictor"]["batch_stats"]}
    assert norms == ({"norm0", "norm1"} if vit else {"norm0"})
    assert f"norm{len(layers) - 1}" in variables.model_state["projector"]["batch_stats"]
    assert set(variables.aux["target"]) == {"encoder", "projector"}
    other = jax.eval_shape(
        method_of(case, heads="resnet" if vit else "vit").init, jax.random.key(0), contract.batch_of(0)
    )
    assert shapes(other.params["projector"]) != shapes(variables.params["projector"])


def test_the_loss_is_that_of_both_networks_each_view_alone():
    method, batch = method_of(), contract.batch_of(0)
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    moved = jax.tree.map(lambda a: a * 1.1 + 0.01, variables.aux["target"])
    variables = variables._replace(aux={"target": moved})
    value, out = jax.jit(lambda v: method.loss(v, batch, jax.random.key(2), jnp.int32(3), None))(variables)

    head = partial(models.heads.moco_v3_mlp, 2, hidden=32, out_dim=16)
    heads = {"projector": head(), "predictor": head(out_norm=False)}

    @jax.jit
    def run(params, state, view):
        x, _ = models.forward(contract.convnet((8, 16)), params["encoder"], state["encoder"], view, train=True)
        x, outputs = x["features"], []
        for name in ("projector", "predictor"):
            if name in params:
                x, _ = models.forward(heads[name], params[name], state[name], x, train=True)
                outputs.append(x)
        return outputs

    views = [jnp.asarray((view - 0.5) / 0.25) for view in batch["views"]]
    q1, q2 = (run(variables.params, variables.model_state, view)[1] for view in views)
    k1, k2 = (run(moved, variables.model_state["target"], view)[0] for view in views)
    assert float(value) == pytest.approx(float(moco_v3(q1, q2, k1, k2, temperature=0.2)), rel=1e-5)
    unit_q, unit_k = (np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (q1, k2))
    right = (unit_q @ unit_k.T).argmax(1) == np.arange(64)
    assert float(out.metrics["accuracy"]) == pytest.approx(right.mean())
    # the running statistics of both views went into both networks
    assert jax.tree.structure(out.model_state) == jax.tree.structure(variables.model_state)
    assert float(out.metrics["tau"]) == pytest.approx(1 - 0.1 * (1 + np.cos(np.pi * 3 / 20)) / 2, rel=1e-5)


def test_constant_vectors_give_four_t_log_n():
    q = jnp.ones((64, 16))
    assert float(moco_v3(q, q, q, q, temperature=0.2)) == pytest.approx(0.8 * np.log(64), rel=1e-5)


@pytest.mark.slow
def test_the_patch_projection_never_moves_and_its_decay_neither():
    tx = optim.make("adamw", learning_rate=lambda step: 0.1, momentum=0.9, weight_decay=0.1)
    for freeze in (True, False):
        method = method_of("moco_v3-vit", freeze_patches=freeze)
        variables = jax.jit(method.init)(jax.random.key(0), contract.batch_of(0))
        wrapped = method.wrap_tx(tx)
        ones = jax.tree.map(jnp.ones_like, variables.params)
        updates, _ = jax.jit(lambda g, p, tx=wrapped: tx.update(g, tx.init(p), p))(ones, variables.params)
        moved = {k: bool(np.any(v)) for k, v in updates["encoder"]["stem_patches"].items()}
        assert moved == dict.fromkeys(("kernel", "bias"), not freeze)
        assert np.any(updates["encoder"]["stem_cls"])
    convnet = method_of()
    assert convnet.wrap_tx(tx) is tx


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": -1.0}, "method.temperature=-1.0 must be positive"),
        ({"tau": 1.1}, "method.tau=1.1 must be between 0 and 1"),
        ({"tau_schedule": "linear"}, "method.tau_schedule='linear' is not one of cosine, constant"),
        ({"heads": "mlp"}, "method.heads='mlp' is not one of resnet, vit"),
    ],
)
def test_wrong_arguments_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        method_of(**changes)


@pytest.mark.slow
def test_keys_of_other_images_teach_nothing_and_the_log_says_so(monkeypatch):
    """Planted: the keys are those of the row before. The alarm is silent, as the vectors are spread."""
    module = importlib.import_module("ssl_jax.methods.moco_v3")
    _, well, _ = planted.train(method_of(), 60, batches=2)

    def shifted(q1, q2, k1, k2, **options):
        return moco_v3(q1, q2, jnp.roll(k1, 1, 0), jnp.roll(k2, 1, 0), **options)

    monkeypatch.setattr(module, "moco_v3", shifted)
    _, dead, _ = planted.train(method_of(), 60, batches=2)
    assert well["accuracy"] > 0.4
    assert dead["accuracy"] < 0.1
