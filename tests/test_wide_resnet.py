"""Wide residual networks against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import models
from tests.test_models import count, drawn, float64  # noqa: F401


def conv(x, kernel, stride=1):
    """Taps one by one; a border of half the kernel on both sides."""
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = 1 + (x.shape[1] - kernel.shape[0]) // stride
    out = 0.0
    for i, j in np.ndindex(kernel.shape[:2]):
        out = out + x[:, i : i + stride * rows : stride, j : j + stride * rows : stride][:, :rows, :rows] @ kernel[i, j]
    return out


def norm(x, params, stats):
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if stats is None else (stats["mean"], stats["var"])
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"], 0)


def network(params, stats, x, blocks):
    """Stages and features; with ``stats`` None those of the batch."""

    def of(*names):
        return None if stats is None else stats[names[0]] if len(names) == 1 else stats[names[0]][names[1]]

    x = conv(x, params["stem_conv"]["kernel"])
    found = {"stem": x}
    for k in (1, 2, 3):
        for i in range(blocks):
            name, stride = f"stage{k}_block{i}", 2 if k > 1 and i == 0 else 1
            block = params[name]
            y = norm(x, block["norm1"], of(name, "norm1"))
            # The first block of stage 1 widens too unless widen is 1.
            if "shortcut_conv" in block:
                x = conv(y, block["shortcut_conv"]["kernel"], stride)
            y = norm(conv(y, block["conv1"]["kernel"], stride), block["norm2"], of(name, "norm2"))
            x = x + conv(y, block["conv2"]["kernel"])
        found[f"stage{k}"] = x
    found["stage3"] = norm(x, params["stage3_norm"], of("stage3_norm"))
    return found | {"features": found["stage3"].mean((1, 2))}


@pytest.mark.parametrize(
    ("depth", "widen", "projected"),
    [(10, 2, {"stage1_block0", "stage2_block0", "stage3_block0"}), (16, 1, {"stage2_block0", "stage3_block0"})],
)
def test_the_network_is_the_formula(float64, depth, widen, projected):  # noqa: F811
    encoder = models.make("wide_resnet", depth=depth, widen=widen)
    x = np.random.default_rng(0).random((3, 8, 8, 3))
    params, state = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), jnp.asarray(x)))
    params, state = drawn(params), {"batch_stats": jax.tree.map(jnp.abs, drawn(state["batch_stats"]))}
    numbers = jax.tree.map(np.asarray, (params, state["batch_stats"]))
    assert {name for name, block in params.items() if "shortcut_conv" in block} == projected
    for train, stats in ((True, None), (False, numbers[1])):
        out, _ = jax.jit(lambda p, train=train: models.forward(encoder, p, state, jnp.asarray(x), train=train))(params)
        want = network(numbers[0], stats, x, (depth - 4) // 6)
        assert set(out) == set(want)
        for name, value in want.items():
            np.testing.assert_allclose(out[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    assert out["features"].shape == (3, encoder.dim) == (3, 64 * widen)


def test_wrn_28_2_has_the_papers_parameters():
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, _ = jax.eval_shape(lambda x: models.init(models.make("wide_resnet"), jax.random.key(0), x), x)
    # 1,467,610 with a classifier of ten classes, as FixMatch's and its followers' tables have it.
    assert count(params) == 1_467_610 - 10 * 129


@pytest.mark.slow
def test_what_is_frozen_keeps_its_statistics():
    encoder = models.make("wide_resnet", depth=10, widen=1, frozen_stages=3)
    x = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    params, state = models.init(encoder, jax.random.key(0), jnp.asarray(x))
    _, new = models.forward(encoder, params, state, jnp.asarray(x), train=True)
    moved = {
        name
        for name, old in state["batch_stats"].items()
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, old, new["batch_stats"][name])))
    }
    assert moved == {"stage3_block0", "stage3_norm"}


@pytest.mark.parametrize("fields", [{"depth": 27}, {"depth": 4}, {"widen": 0}])
def test_sizes_that_make_no_network(fields):
    encoder = models.make("wide_resnet", **fields)
    with pytest.raises(ValueError, match="4 more than a multiple of 6"):
        models.init(encoder, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
