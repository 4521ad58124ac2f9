"""Rematerialisation changes what is kept, and nothing else."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from ssl_jax import models

ENCODERS = {
    "resnet18": {"width": 0.125, "stem": "cifar"},
    "convnet": {"widths": (8, 16), "blocks": 2},
    "grouped": {"widths": (8, 16), "blocks": 2},
    "vit": {"patch_size": 4, "width": 32, "depth": 3, "heads": 2},
}


def loss_of(name, remat):
    """(function of params, state and images giving a loss and new statistics; arguments of it)."""
    encoder = models.make("convnet" if name == "grouped" else name, remat=remat, **ENCODERS[name])
    if name == "grouped":
        encoder = encoder.clone(norm=partial(encoder.norm, groups=2))
    images = jnp.asarray(np.random.default_rng(0).random((8, 16, 16, 3)))
    params, state = models.init(encoder, jax.random.key(0), images.astype(jnp.float32))

    def loss(params, state, images):
        out, state = models.forward(encoder, params, state, images, train=True)
        return jnp.square(out["features"]).sum(), state

    return loss, (params, state, images)


def as_double(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("resnet18", "blocks"),
        ("convnet", "blocks"),
        ("grouped", "blocks"),
        ("vit", "blocks"),
        ("vit", "dots"),
    ],
)
def test_same_parameters_gradients_and_statistics(name, policy):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        results = []
        for remat in (None, policy):
            loss, arguments = loss_of(name, remat)
            results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(*as_double(arguments)))
        assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(a).max()))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at_most"), [("resnet18", 0.5), ("vit", 0.5)])
def test_less_is_kept(name, at_most, capsys):
    """By JAX's own list of what is kept for the backward pass; XLA on a CPU undoes it, so memory does not tell."""
    kept = {}
    for remat in (None, "blocks"):
        loss, arguments = loss_of(name, remat)
        print_saved_residuals(lambda *a, loss=loss: loss(*a)[0], *arguments)
        kept[remat] = sum(
            np.prod([int(n) for n in sizes.split(",") if n])
            for sizes, source in re.findall(r"^f32\[([\d,]*)\] (.*)$", capsys.readouterr().out, re.M)
            if "argument" not in source
        )
    assert 0 < kept["blocks"] < at_most * kept[None]


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match=r"model\.remat='all' is unknown; use blocks, dots or none"):
        loss_of("vit", "all")
