"""The vision transformer against NumPy in float64: positions, attention, blocks, subsets of patches, drop-path."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer

from ssl_jax import methods, models, optim
from ssl_jax.models import vit
from ssl_jax.models.norm import LayerNorm
from ssl_jax.models.positions import resize_weights
from ssl_jax.models.transformer import attention, branch_scales
from ssl_jax.parallel import row_keys
from ssl_jax.types import Plan
from tests.oracles.make_models import draw

TINY = {"patch_size": 2, "width": 8, "depth": 3, "heads": 2}
SHAPE = (3, 4, 6, 3)  # 2 x 3 patches


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def count(tree) -> int:
    return sum(a.size for a in jax.tree.leaves(tree))


def drawn(shapes):
    """A tree of these shapes, filled by name."""
    name = lambda path: "/".join(k.key for k in path)  # noqa: E731
    return jax.tree_util.tree_map_with_path(lambda path, a: draw(name(path), a.shape), shapes)


def tiny(**fields):
    """(encoder, float32 parameters, images)."""
    encoder = models.make("vit", **(TINY | fields))
    x = jnp.asarray(draw("x", SHAPE), jnp.float32)
    shapes, _ = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), x))
    return encoder, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn(shapes)), x


@partial(jax.jit, static_argnames=("encoder",))
def stem(encoder, params, x, **inputs):
    return models.forward(encoder, params, {}, x, train=False, **inputs)[0]["stem"]


@partial(jax.jit, static_argnames=("encoder", "train"))
def run(encoder, params, x, *, train=False, **inputs):
    return models.forward(encoder, params, {}, x, train=train, **inputs)[0]


# Numbers


@pytest.mark.parametrize(
    ("name", "width", "depth", "published"),
    [  # timm's models at 224 pixels: with [CLS], 197 learned positions and 1000 classes
        ("vit_ti", 192, 12, 5_717_416),
        ("vit_s", 384, 12, 22_050_664),
        ("vit_b", 768, 12, 86_567_656),
        pytest.param("vit_l", 1024, 24, 304_326_632, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts(name, width, depth, published):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    encoder = models.make(name, cls_token=True)
    params, state = jax.eval_shape(partial(models.init, encoder, x=x), jax.random.key(0))
    assert state == {}
    assert count(params) == published - 197 * width - 1000 * (width + 1)
    assert count(params) == depth * (12 * width**2 + 13 * width) + 2 * width + (16 * 16 * 3 + 1) * width + width
    assert (encoder.width, encoder.dim, encoder.stages) == (width, width, depth)


@pytest.mark.parametrize(("grid", "dim"), [((8, 8), 192), ((3, 5), 8), ((1, 2), 4)])
def test_positions_are_the_formula(grid, dim):
    table = vit.sincos_positions(grid, dim)
    np.testing.assert_allclose(table, transformer.positions(grid, dim), rtol=1e-12, atol=1e-12)
    assert len(np.unique(table.round(9), axis=0)) == grid[0] * grid[1]
    with pytest.raises(ValueError, match="a width of 6 does not hold"):
        vit.sincos_positions(grid, 6)


def test_positions_of_moco_v3_have_the_row_first():
    """Its code in NumPy: x and y of a meshgrid in matrix order, so that what it calls x is the row."""
    frequency = 1 / 10000.0 ** (np.arange(3) / 3)
    row, column = (c.reshape(-1, 1) * frequency for c in np.meshgrid(np.arange(2), np.arange(4), indexing="ij"))
    theirs = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], axis=1)
    np.testing.assert_allclose(np.roll(vit.sincos_positions((2, 4), 12), 6, axis=1), theirs, atol=1e-12)


def test_layer_norm_is_the_formula(float64):
    x, p = draw("x", (5, 7, 6)) * 3 + 2, {name: draw(name, (6,)) for name in ("scale", "bias")}
    run = jax.jit(lambda *a: jax.jvp(lambda x: LayerNorm().apply({"params": p}, x), *a))
    out, slope = run((x,), (draw("direction", x.shape),))
    np.testing.assert_allclose(out, transformer.norm(p, x), rtol=1e-12, atol=1e-12)
    step = 1e-6 * draw("direction", x.shape)
    np.testing.assert_allclose(
        slope, (transformer.norm(p, x + step) - transformer.norm(p, x - step)) / 2e-6, rtol=1e-6, atol=1e-6
    )


def test_layer_norm_in_bfloat16_has_float32_statistics():
    x = jnp.asarray(300 + draw("x", (4, 512)), jnp.bfloat16)
    out, variables = LayerNorm().init_with_output(jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    ones = {"scale": np.ones(512), "bias": np.zeros(512)}
    np.testing.assert_allclose(out.astype(jnp.float32), transformer.norm(ones, np.asarray(x, np.float64)), atol=0.02)


def test_attention_is_the_formula(float64):
    q, k, v = (draw(name, (3, 5, 2, 4)) for name in "qkv")
    present = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 1, 0, 0]], bool)
    np.testing.assert_allclose(attention(q, k, v, present), transformer.attention(q, k, v, present), rtol=1e-12)
    everyone = np.ones_like(present)
    np.testing.assert_allclose(attention(q, k, v), transformer.attention(q, k, v, everyone), rtol=1e-12)


@pytest.mark.parametrize(
    ("cls_token", "some"),
    [(True, True), *(pytest.param(*o, marks=pytest.mark.slow) for o in ((False, False), (False, True), (True, False)))],
)
def test_the_network_is_the_formula(float64, cls_token, some):
    encoder = models.make("vit", **TINY, cls_token=cls_token)
    x = draw("x", SHAPE)
    inputs = {"masked": np.array([[0, 1, 0, 0, 1, 1], [1] * 6, [0] * 6], bool)}
    if some:
        inputs["patches"] = np.array([[5, 0, 2, 2], [1, 1, 1, 1], [3, 4, 0, 5]], np.int32)
        inputs["present"] = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
        inputs["masked"] = inputs["masked"][:, :4]  # of the patches that are shown
    shapes, _ = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), jnp.asarray(x), **inputs))
    params = drawn(shapes)
    cotangent = draw("cotangent", (3, 8))

    def loss(params):
        out = run(encoder, params, jnp.asarray(x), **inputs)
        return jnp.sum(out["features"] * cotangent), out

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    expected = transformer.network(params, x, encoder, **inputs)
    assert out.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_allclose(out[name].reshape(want.shape), want, rtol=1e-9, atol=1e-9, err_msg=name)
        assert out[name].ndim == (3 if some else 4) if name.startswith("st") else 2
    direction = jax.tree.map(lambda a: draw("direction", a.shape), params)

    def at(t):
        moved = jax.tree.map(lambda a, d: a + t * d, params, direction)
        return np.sum(transformer.network(moved, x, encoder, **inputs)["features"] * cotangent)

    slope = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-5)


def test_the_class_token_after_the_last_four_blocks(float64):
    """By hand: the blocks and the last norm of the formula, one after the other."""
    encoder = models.make("vit", **(TINY | {"depth": 5}), cls_token=True)
    x = draw("x", SHAPE)
    shapes, _ = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), jnp.asarray(x)))
    params = drawn(shapes)
    out = run(encoder, params, jnp.asarray(x))
    assert out.keys() == {"stem", "stage2", "stage3", "stage4", "stage5", "features", "mean", "cls", "cls_last4"}
    tokens = np.asarray(out["stem"]).reshape(3, 6, 8)
    tokens = np.concatenate([np.broadcast_to(params["stem_cls"], (3, 1, 8)), tokens], 1)
    each = []
    for k in range(1, 6):
        tokens = transformer.block(params[f"stage{k}_block"], tokens, 2, np.ones((3, 7), bool))
        each.append(transformer.norm(params["stage5_norm"], tokens))
    np.testing.assert_allclose(out["cls_last4"], np.concatenate([a[:, 0] for a in each[1:]], 1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(out["mean"], each[-1][:, 1:].mean(1), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(out["features"], out["mean"])
    two = run(encoder.clone(last_blocks=2), params, jnp.asarray(x))
    assert two.keys() == (out.keys() - {"cls_last4"}) | {"cls_last2"}
    np.testing.assert_array_equal(two["cls_last2"], out["cls_last4"][:, -16:])
    with pytest.raises(ValueError, match=r"model\.last_blocks=0 must be 1 or more"):
        run(encoder.clone(last_blocks=0), params, jnp.asarray(x))


@pytest.mark.slow
def test_masked_patches_leave_no_trace_and_cost_no_parameter_where_none_are():
    encoder, params, x = tiny(cls_token=True)
    assert "stem_mask" not in params
    fresh, _ = models.init(encoder, jax.random.key(0), x, masked=np.zeros((3, 6), bool))
    assert fresh.keys() == params.keys() | {"stem_mask"}
    assert not np.any(fresh["stem_mask"])
    assert models.depth("encoder/stem_mask") == 0
    masked = np.array([[1, 0, 0, 1, 0, 1], [1] * 6, [0] * 6], bool)
    params = params | {"stem_mask": jnp.asarray(draw("mask", (8,)), jnp.float32)}
    moved = jax.jit(jax.grad(lambda x: jnp.sum(run(encoder, params, x, masked=masked)["cls"] ** 3)))(x)
    np.testing.assert_array_equal(np.abs(vit.patchify(moved, 2)).max(-1) > 0, ~masked)
    whole = run(encoder, params, x)
    np.testing.assert_allclose(run(encoder, params, x, masked=masked)["cls"][2], whole["cls"][2], rtol=1e-5)


SQUARE = (3, 6, 6, 3)  # 3 x 3 patches
LIKE = {  # what other people's networks are
    "learned": {"positions": "learned", "cls_token": True, "pool": "cls"},
    "moco_v3": {"positions": "moco_v3", "cls_token": True, "eps": 1e-2, "gelu": "tanh"},
    "mae_fine_tuned": {"cls_token": True, "norm_after_pool": True},
    "registers": {"positions": "learned", "cls_token": True, "registers": 2, "layer_scale": 0.1, "pool": "cls_mean"},
    "giant": {"positions": "learned", "swiglu": True, "mlp_ratio": 1.5, "layer_scale": 1e-5},
    "cls_normalised": {"positions": "learned_patches", "cls_token": True, "norm_after_pool": True, "pool": "cls"},
}


@pytest.mark.parametrize(
    ("like", "some"),
    [
        pytest.param(like, some, marks=[] if some == i % 2 and i < 5 else pytest.mark.slow)
        for i, like in enumerate(LIKE)
        for some in (0, 1)
    ],
)
def test_networks_of_others_are_the_formula(float64, like, some):
    encoder = models.make("vit", **(TINY | {"depth": 2} | LIKE[like]))
    x = draw("x", SQUARE)
    shapes, _ = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), jnp.asarray(x)))
    params, inputs = drawn(shapes), {}
    if some:
        inputs["patches"] = np.array([[5, 0, 2, 2], [1, 1, 1, 1], [8, 4, 0, 5]], np.int32)
        inputs["present"] = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    cotangent = draw("cotangent", (3, encoder.dim))

    def loss(params):
        out = run(encoder, params, jnp.asarray(x), **inputs)
        return jnp.sum(out["features"] * cotangent), out

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    expected = transformer.network(params, x, encoder, **inputs)
    assert out.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_allclose(out[name].reshape(want.shape), want, rtol=1e-9, atol=1e-9, err_msg=name)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all()
        assert np.any(grad), path
    direction = jax.tree.map(lambda a: draw("direction", a.shape), params)

    def at(t):
        moved = jax.tree.map(lambda a, d: a + t * d, params, direction)
        return np.sum(transformer.network(moved, x, encoder, **inputs)["features"] * cotangent)

    slope = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-5)


def test_patches_are_cut_row_by_row_and_put_back():
    images = draw("images", (2, 4, 6, 3))
    patches = np.asarray(vit.patchify(images, 2))
    np.testing.assert_array_equal(patches[1, 4], images[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(vit.unpatchify(patches, (2, 3), 2), images)


# Subsets of patches


def test_all_patches_by_number_are_the_whole_image():
    encoder, params, x = tiny()
    whole = run(encoder, params, x)
    order = np.stack([np.random.default_rng(i).permutation(6) for i in range(3)]).astype(np.int32)
    parts = run(encoder, params, x, patches=order, present=np.ones((3, 6), bool))
    np.testing.assert_allclose(parts["features"], whole["features"], rtol=1e-5, atol=1e-6)
    for stage in ("stem", "stage1", "stage3"):
        tokens = np.asarray(whole[stage]).reshape(3, 6, 8)
        expected = np.take_along_axis(tokens, order[..., None], axis=1)
        np.testing.assert_allclose(parts[stage], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "learned_patches", "moco_v3"])
def test_a_subset_has_the_positions_of_its_places_on_images_of_any_size(positions):
    """In the stem, where no token knows of another; the table is of 2 x 2, the images have 3 x 3 and 2 x 3 patches."""
    encoder = models.make(
        "vit", **(TINY | {"depth": 1, "cls_token": True, "positions": positions, "positions_grid": 2})
    )
    params, _ = models.init(encoder, jax.random.key(0), jnp.ones(SHAPE))
    assert ("stem_positions" in params) == (positions != "moco_v3")
    if positions != "moco_v3":
        assert params["stem_positions"].shape == (4 + (positions == "learned"), 8)
    for shape in (SHAPE, SQUARE):
        x = jnp.asarray(draw("x", shape), jnp.float32)
        whole = stem(encoder, params, x).reshape(3, -1, 8)
        patches = np.array([[5, 0], [1, 1], [3, 4]], np.int32)
        part = stem(encoder, params, x, patches=patches)
        np.testing.assert_allclose(part, np.take_along_axis(np.asarray(whole), patches[..., None], 1), atol=1e-6)


def test_a_table_of_another_size_is_taken_as_it_is_made():
    """Learned on 2 x 2 patches and run on 3 x 3: resized by the rule, the class token's row as it was."""
    encoder = models.make("vit", **TINY, cls_token=True, positions="learned", positions_rule="timm", pool="cls")
    shapes, _ = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), jnp.ones((1, 4, 4, 3))))
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn(shapes))
    table = np.asarray(params["stem_positions"], np.float64)
    down = resize_weights(2, 3, "timm")
    larger = np.concatenate([table[:1], np.kron(down, down) @ table[1:]])
    x = jnp.asarray(draw("x", SQUARE), jnp.float32)
    out = run(encoder, params, x)["features"]
    params = params | {"stem_positions": jnp.asarray(larger, jnp.float32)}
    np.testing.assert_allclose(out, run(encoder, params, x)["features"], atol=1e-4)
    moved = stem(
        encoder.clone(positions_rule="dino"), params | {"stem_positions": jnp.asarray(table, jnp.float32)}, x
    ) - stem(encoder, params, x)
    assert np.abs(moved).max() > 1e-2


def test_what_is_not_shown_has_no_influence():
    encoder, params, x = tiny(cls_token=True)
    patches = np.array([[0, 4, 5], [1, 2, 2], [3, 3, 3]], np.int32)
    present = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
    shown = np.zeros((3, 6), bool)
    for row, ids, there in zip(shown, patches, present, strict=True):
        row[ids[there]] = True
    direction = draw("direction", (3, 8)).astype(np.float32)
    out = run(encoder, params, x, patches=patches, present=present)
    names = ("features", "cls")

    def totals(x):
        seen = run(encoder, params, x, patches=patches, present=present)
        return jnp.stack([jnp.sum(seen[name] * direction) for name in names])

    for gradient in np.asarray(jax.jit(jax.jacrev(totals))(x)):
        moved = np.abs(vit.patchify(gradient, 2)).max(-1) > 0
        np.testing.assert_array_equal(moved, shown)
    # A filling token of any content: no other token sees it.
    other = np.where(present, patches, 0).astype(np.int32)
    again = run(encoder, params, x, patches=other, present=present)
    np.testing.assert_array_equal(again["features"], out["features"])
    np.testing.assert_array_equal(np.asarray(again["stage3"])[present], np.asarray(out["stage3"])[present])


# Drop-path


def test_drop_path_scales_each_branch_of_each_example():
    encoder, params, _ = tiny(depth=2, drop_path=0.5)
    x = jnp.asarray(draw("x", (400, 2, 2, 3)), jnp.float32)
    keys = jax.jit(lambda key: row_keys(key, 400, None))(jax.random.key(3))
    scale = np.asarray(jax.jit(branch_scales, static_argnums=(1, 2))(keys, 2, 0.5))
    assert set(np.unique(scale)) == {0, 2}
    np.testing.assert_allclose((scale == 0).mean(0), 0.5, atol=0.08)
    assert 60 < (scale[:, 0] != scale[:, 1]).sum() < 340  # the branches are drawn apart
    out, plain = jax.device_get((run(encoder, params, x, train=True, keys=keys), run(encoder, params, x)))
    np.testing.assert_allclose(out["stage1"], plain["stage1"], rtol=1e-5, atol=1e-5)  # the first block drops nothing
    dropped = (scale == 0).all(1)  # both branches left out: the block is the identity
    expected = transformer.norm(jax.device_get(params["stage2_norm"]), np.asarray(plain["stage1"], np.float64))
    np.testing.assert_allclose(out["stage2"][dropped], expected[dropped], rtol=1e-4, atol=1e-4)
    assert np.abs(out["stage2"] - plain["stage2"])[~dropped].max() > 0.1
    frozen = run(encoder.clone(frozen_stages=3), params, x, train=True, keys=keys)
    np.testing.assert_allclose(frozen["stage2"], plain["stage2"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_drop_path_does_not_depend_on_how_rows_are_split():
    encoder, params, _ = tiny(drop_path=0.4)
    x = jnp.asarray(draw("x", (8, 4, 4, 3)), jnp.float32)

    def features(x, axis):
        keys = row_keys(jax.random.key(1), len(x), axis)
        return models.forward(encoder, params, {}, x, train=True, axis=axis, keys=keys)[0]["features"]

    split = jax.jit(jax.vmap(partial(features, axis="data"), axis_name="data"))(x.reshape(4, 2, 4, 4, 3))
    np.testing.assert_allclose(
        split.reshape(8, -1),
        run(encoder, params, x, train=True, keys=row_keys(jax.random.key(1), 8, None))["features"],
        rtol=1e-5,
        atol=1e-5,
    )


# In the house


def test_stages_are_blocks_and_four_are_shown():
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    for depth, shown in {1: [1], 4: [1, 2, 3, 4], 6: [2, 3, 5, 6]}.items():
        encoder = models.make("vit", **(TINY | {"depth": depth}))
        params, state = jax.eval_shape(partial(models.init, encoder, x=x), jax.random.key(0))
        out, _ = jax.eval_shape(partial(models.forward, encoder, train=False), params, state, x)
        assert set(out) == {"stem", *(f"stage{k}" for k in shown), "features", "mean"}
        assert encoder.last_stage in out
        depths = {name: models.depth(f"encoder/{name}/kernel", stages=encoder.stages) for name in params}
        wanted = {"stem_patches": 0, f"stage{depth}_norm": depth} | {f"stage{k}_block": k for k in range(1, depth + 1)}
        assert depths == wanted
    encoder = models.make("vit", **(TINY | {"depth": 2}), **LIKE["registers"])
    params, _ = jax.eval_shape(partial(models.init, encoder, x=jnp.ones((1, 4, 4, 3))), jax.random.key(0))
    stem = {name for name in params if models.depth(f"encoder/{name}") == 0}
    assert stem == {"stem_patches", "stem_cls", "stem_positions", "stem_registers"}
    assert params["stage1_block"]["layer_scale1"]["scale"].shape == (8,)
    decayed = optim.not_bias_or_norm(params)
    assert not decayed["stage1_block"]["layer_scale2"]["scale"]
    assert all(jax.tree.leaves([decayed[name] for name in stem - {"stem_patches"}]))


def test_pooled_takes_maps_and_tokens():
    x = draw("x", (2, 3, 4, 5)).astype(np.float32)
    out = models.pooled({"map": jnp.asarray(x), "tokens": jnp.asarray(x.reshape(2, 12, 5)), "cls": jnp.ones((2, 5))})
    for name in ("map", "tokens"):
        np.testing.assert_allclose(out[name], x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert out["cls"].shape == (2, 5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    encoder = models.make("vit", **(TINY | {"depth": 2}), dtype="bfloat16", cls_token=True, drop_path=0.1)
    x = jnp.asarray(draw("x", SHAPE), jnp.float32)
    params, _ = models.init(encoder, jax.random.key(0), x)
    keys = row_keys(jax.random.key(1), 3, None)
    out = run(encoder, params, x, train=True, keys=keys)
    assert {out[f"stage{k}"].dtype for k in (1, 2)} == {jnp.dtype("bfloat16")}
    pooled = [out[name] for name in ("features", "mean", "cls", "cls_last2")]
    assert {a.dtype for a in (*pooled, *jax.tree.leaves(params))} == {jnp.dtype("float32")}
    exact = run(encoder.clone(dtype=None), params, x, train=True, keys=keys)
    np.testing.assert_allclose(out["features"], exact["features"], atol=0.05)


def test_initial_weights():
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    for scaled in (False, True):
        encoder = models.make("vit", patch_size=8, width=128, depth=2, heads=2, depth_scaled_init=scaled)

        @jax.jit
        def two(key, encoder=encoder):
            params, _ = models.init(encoder, key, x)
            return {name: params[name] for name in ("stem_patches", "stage2_block")}

        params = two(jax.random.key(0))
        limit = np.sqrt(6 / (8 * 8 * 3 + 128))
        assert 0.95 * limit < np.abs(params["stem_patches"]["kernel"]).max() <= limit
        block = params["stage2_block"]
        stds = {name: float(np.std(block[name]["kernel"])) for name in ("qkv", "proj", "fc1", "fc2")}
        small = 0.01 if scaled else 0.02  # .02 / sqrt(2 * 2)
        wanted = {"qkv": 0.02, "proj": small, "fc1": 0.02, "fc2": small}
        assert stds == pytest.approx(wanted, rel=0.03)
        assert not any(np.any(block[name]["bias"]) for name in stds)


@pytest.mark.slow
def test_every_weight_may_start_alike_as_in_the_training_of_ijepa():
    """Patch embedding, blocks of encoder and predictor: .02 each, whatever the depth."""
    encoder = models.make("vit", patch_size=8, width=64, depth=1, heads=2, patch_init="normal")
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    params, _ = models.init(encoder, jax.random.key(0), x)
    predictor = vit.Predictor(64, (2, 2), width=64, depth=1, heads=2)
    places = {name: np.zeros((1, 1, 2), np.int32) for name in ("targets", "wanted")}
    places |= {"context": np.zeros((1, 2), np.int32), "present": np.ones((1, 2), bool)}
    places["wanted"] = places["wanted"].astype(bool)
    tokens = jax.ShapeDtypeStruct((1, 2, 64), jnp.float32)
    more, _ = models.init(predictor, jax.random.key(1), tokens, **places)
    kernels = [a for path, a in jax.tree_util.tree_leaves_with_path((params, more)) if a.ndim == 2]
    assert len(kernels) == 1 + 4 + 4 + 2
    for kernel in kernels:  # 4,096 numbers or more: 4 deviations are 4.5 %
        np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.045)


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "supervised"])
def test_other_methods_take_it(name):
    plan = Plan(10, 5, 80, (4, 6, 3), 16, 4)
    encoder = models.make("vit", **TINY)
    method = methods.get(name)(encoder, plan=plan, **({"queue_size": 32} if name == "moco" else {}))
    rows = jax.ShapeDtypeStruct((16, 4, 6, 3), jnp.float32)
    batch = {"views": (rows, rows), "label": jax.ShapeDtypeStruct((16,), jnp.int32)}
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)
    loss = lambda v, b: method.loss(v, b, jax.random.key(0), jnp.int32(0), None)[0]  # noqa: E731
    assert jax.eval_shape(loss, variables, batch).shape == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"patch_size": 4}, "model.patch_size=4 does not cut images of 4 x 6 pixels"),
        ({"heads": 3}, "width=8, heads=3 make no transformer"),
        ({"depth": 0}, "model.depth=0"),
        ({"patch_init": "he"}, "model.patch_init='he' is not one of glorot, normal"),
        ({"drop_path": 1.0}, r"model.drop_path=1.0 must be in \[0, 1\)"),
        ({"width": 6, "heads": 2}, "a width of 6"),
        ({"positions": "rope"}, r"model.positions='rope' is not one of sincos, moco_v3, learned, learned_patches"),
        ({"positions_rule": "x"}, r"model.positions_rule='x' is not one of dino, timm, transformers, dinov2, torchvi"),
        ({"positions": "learned"}, r"want a square, and the images have 2 x 3 patches; set model.positions_grid=3"),
        ({"gelu": "erf"}, r"model.gelu='erf' is not one of exact, tanh"),
        ({"pool": "max"}, r"model.pool='max' is not one of mean, cls, cls_mean"),
        ({"pool": "cls"}, r"model.pool='cls' takes a class token; add model.cls_token=True"),
        ({"pool": "cls_mean", "cls_token": True, "norm_after_pool": True}, r"norm_after_pool=True is of pool='mean'"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    encoder = models.make("vit", **(TINY | fields))
    with pytest.raises(ValueError, match=words):
        models.init(encoder, jax.random.key(0), jnp.ones(SHAPE))


def test_drop_path_without_keys_is_refused():
    encoder, params, x = tiny(drop_path=0.1)
    with pytest.raises(ValueError, match="needs keys and this method gives none; use drop_path=0"):
        run(encoder, params, x, train=True)
    run(encoder, params, x)  # inference needs none


def test_image_size_is_checked():
    with pytest.raises(ValueError, match="too small for vit of 12 blocks with patches of 16 pixels; use at least 16"):
        models.check_input("vit_ti", (15, 15, 3))
