"""Encoders, heads and BatchNorm against NumPy in float64 and against values of torch and torchvision."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import models, parallel
from ssl_jax.models import heads
from ssl_jax.models.norm import BatchNorm
from tests.oracles.make_models import NETS, draw

ORACLES = np.load(Path(__file__).with_name("oracles") / "models.npz")


@pytest.fixture
def float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def path_name(path) -> str:
    return "/".join(k.key for k in path)


def drawn(tree):
    """A tree of the same shapes, filled by name."""
    return jax.tree_util.tree_map_with_path(lambda path, a: jnp.asarray(draw(path_name(path), a.shape)), tree)


def count(tree) -> int:
    return sum(a.size for a in jax.tree.leaves(tree))


# BatchNorm


def members(rows: int, groups: int, strided: bool) -> list[np.ndarray]:
    """Row indices of every group, by hand."""
    size = rows // groups
    return [np.arange(g, rows, groups) if strided else np.arange(g * size, (g + 1) * size) for g in range(groups)]


def batchnorm_numpy(x, scale, bias, mean, var, cotangent, groups, strided, momentum=0.9, eps=1e-5):
    """Output, gradients of sum(y * cotangent) and running statistics, by the closed formulas, one group at a time."""
    y, dx, dscale, dbias = np.empty_like(x), np.empty_like(x), 0.0, 0.0
    means, variances = [], []
    for ids in members(len(x), groups, strided):
        v, g = x[ids].reshape(-1, x.shape[-1]), cotangent[ids].reshape(-1, x.shape[-1])
        m, s2 = v.mean(0), v.var(0)
        normal = (v - m) / np.sqrt(s2 + eps)
        y[ids] = (normal * scale + bias).reshape(x[ids].shape)
        dx[ids] = (scale / np.sqrt(s2 + eps) * (g - g.mean(0) - normal * (g * normal).mean(0))).reshape(x[ids].shape)
        dscale, dbias = dscale + (g * normal).sum(0), dbias + g.sum(0)
        means.append(m)
        variances.append(s2)
    running = (
        momentum * mean + (1 - momentum) * np.mean(means, 0),
        momentum * var + (1 - momentum) * np.mean(variances, 0),
    )
    return y, dx, dscale, dbias, *running


@pytest.mark.parametrize("world", ["jit-1", "jit-8", "vmap-8"])
@pytest.mark.parametrize(
    ("groups", "strided"),  # the two others: more groups than devices, and as many, both ways of dealing rows out
    [(1, False), (8, False), (16, True), *(pytest.param(*o, marks=pytest.mark.slow) for o in ((8, True), (16, False)))],
)
def test_batchnorm_is_the_formula_in_every_world(float64, world, groups, strided):
    x, cotangent = draw("x", (32, 2, 3, 5)) * 2 + 1, draw("cotangent", (32, 2, 3, 5))
    names = {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}
    variables = {part: {name: draw(name, (5,)) for name in keys} for part, keys in names.items()}
    module = BatchNorm(groups=groups, strided=strided)

    def run(variables, x, cotangent, axis):
        def loss(params, x):
            y, state = models.forward(
                module, params, {"batch_stats": variables["batch_stats"]}, x, train=True, axis=axis
            )
            return jnp.sum(y * cotangent), (y, state["batch_stats"])

        (_, aux), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
        return *aux, *grads

    if world == "vmap-8":  # what pmap runs, on one device
        shards = [a.reshape(8, 4, *a.shape[1:]) for a in (x, cotangent)]
        mapped = jax.vmap(partial(run, axis="data"), in_axes=(None, 0, 0), axis_name="data")
        y, stats, dparams, dx = jax.jit(mapped)(variables, *shards)
        np.testing.assert_array_equal(stats["mean"], np.broadcast_to(stats["mean"][:1], stats["mean"].shape))
        y, dx, stats = y.reshape(x.shape), dx.reshape(x.shape), jax.tree.map(lambda a: a[0], stats)
        dparams = jax.tree.map(lambda a: a.sum(0), dparams)
    else:
        mesh = parallel.make_mesh(int(world[-1]))
        rows = jax.device_put((x, cotangent), NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            y, stats, dparams, dx = jax.jit(partial(run, axis=None))(variables, *rows)
    params, state = variables["params"], variables["batch_stats"]
    expected = batchnorm_numpy(
        x, params["scale"], params["bias"], state["mean"], state["var"], cotangent, groups, strided
    )
    for got, want in zip(
        (y, dx, dparams["scale"], dparams["bias"], stats["mean"], stats["var"]), expected, strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_batchnorm_keeps_its_digits_far_from_zero():
    x = 300 + 0.05 * draw("x", (256, 4))
    module = BatchNorm()
    x32 = x.astype(np.float32)
    params, state = models.init(module, jax.random.key(0), jnp.asarray(x32))
    y, state = models.forward(module, params, state, jnp.asarray(x32), train=True)
    exact = x32.astype(np.float64)
    np.testing.assert_allclose(y, (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5), atol=2e-3)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * exact.var(0), rtol=1e-6)


def test_batchnorm_in_bfloat16_has_float32_statistics():
    x = jnp.asarray(1000 + draw("x", (512, 4)), jnp.bfloat16)  # adding 512 of these in bfloat16 stalls at 2^18
    module = BatchNorm(momentum=0.0)
    params, state = models.init(module, jax.random.key(0), x)
    y, state = models.forward(module, params, state, x, train=True)
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(state["batch_stats"]["mean"], np.asarray(x, np.float64).mean(0), rtol=1e-6)


def test_batchnorm_outside_training_reads_what_it_recorded():
    module, x = BatchNorm(groups=8), jnp.asarray(draw("x", (16, 3)), jnp.float32)
    variables = jax.tree.map(
        lambda a: a.astype(np.float32),
        {
            "params": {"scale": draw("scale", (3,)), "bias": draw("bias", (3,))},
            "batch_stats": {"mean": draw("mean", (3,)), "var": draw("var", (3,))},
        },
    )
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    y, same = models.forward(module, params, state, x, train=False)
    assert same is state
    expected = (x - draw("mean", (1, 3))) / np.sqrt(draw("var", (1, 3)) + 1e-5) * draw("scale", (1, 3)) + draw(
        "bias", (1, 3)
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    _, new = module.apply(variables, x, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, dict(new), state)  # frozen even where it could be written
    y = module.apply(variables, x, train=True)  # nothing mutable: batch statistics (groups of two), nothing recorded
    weights = (draw(name, (3,)) for name in ("scale", "bias", "mean", "var"))
    expected = batchnorm_numpy(draw("x", (16, 3)), *weights, draw("cotangent", (16, 3)), groups=8, strided=False)
    np.testing.assert_allclose(y, expected[0], rtol=1e-3, atol=1e-3)


def test_batchnorm_refuses_groups_that_do_not_fit():
    x = jnp.ones((8, 4, 3))
    run = lambda groups, x, axis: BatchNorm(groups=groups).init_with_output(  # noqa: E731
        jax.random.key(0), x, train=True, axis=axis
    )
    with pytest.raises(ValueError, match="groups=3 does not divide the global batch of 8 rows"):
        run(3, x, None)
    with pytest.raises(ValueError, match="groups=12 is not a multiple of 8 devices; use 16"):
        jax.vmap(partial(run, 12, axis="data"), axis_name="data")(x)


@pytest.mark.parametrize("strided", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_grouped_batchnorm_does_not_replicate_the_batch(strided):
    encoder = models.make("convnet", widths=(8,), norm=partial(BatchNorm, groups=16, strided=strided))
    x = jnp.ones((64, 8, 8, 3))
    params, state = models.init(encoder, jax.random.key(0), x)

    def loss(params, x):
        return models.forward(encoder, params, state, x, train=True)[0]["features"].sum()

    flops = {}
    for devices in (1, 8):
        mesh = parallel.make_mesh(devices)
        placed = jax.device_put(x, NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            flops[devices] = jax.jit(jax.grad(loss)).lower(params, placed).compile().cost_analysis()["flops"]
    assert flops[8] <= 1.15 / 8 * flops[1]


# Encoders


@pytest.mark.parametrize("net", ["bottleneck_imagenet", pytest.param("basic_cifar", marks=pytest.mark.slow)])
def test_resnet_is_torchvisions(float64, net):
    bottleneck, blocks, stem, size, width = NETS[net]
    encoder = models.ResNet(blocks=blocks, bottleneck=bottleneck, stem=stem, width=width / 64)
    x = jnp.asarray(draw("input", (4, size, size, 3)))
    params, state = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), x))
    params, state = drawn(params), {"batch_stats": drawn(state["batch_stats"])}
    cotangent = draw("cotangent", (4, encoder.dim))

    @jax.jit
    def run(params, state, x):
        def loss(params):
            out, new_state = models.forward(encoder, params, state, x, train=True)
            return jnp.sum(out["features"] * cotangent), (models.pooled(out), new_state)

        grads, (train, new_state) = jax.grad(loss, has_aux=True)(params)
        return models.pooled(models.forward(encoder, params, state, x, train=False)[0]), train, new_state, grads

    outputs = dict(zip(("eval", "train", "running", "grad"), jax.device_get(run(params, state, x)), strict=True))
    outputs["running"] = outputs["running"]["batch_stats"]
    seen = set()
    for mode, tree in outputs.items():
        for path, a in jax.tree_util.tree_leaves_with_path(tree):
            name = path_name(path)
            if mode in ("running", "grad"):
                a = np.sum(a * draw(name + "/probe", a.shape))
            np.testing.assert_allclose(
                a, ORACLES[f"{net}|{mode}|{name}"], rtol=1e-9, atol=1e-9, err_msg=f"{mode} {name}"
            )
            seen.add(f"{net}|{mode}|{name}")
    assert seen == {key for key in ORACLES.files if key.startswith(net)}


@pytest.mark.parametrize(
    ("name", "stem", "size"),
    [
        ("resnet18", "cifar", 11_168_832),
        pytest.param("resnet50", "cifar", 23_500_352, marks=pytest.mark.slow),
        # torchvision's counts less its classifier
        ("resnet18", "imagenet", 11_689_512 - 513_000),
        ("resnet34", "imagenet", 21_797_672 - 513_000),
        ("resnet50", "imagenet", 25_557_032 - 2_049_000),
        pytest.param("resnet101", "imagenet", 44_549_160 - 2_049_000, marks=pytest.mark.slow),
        pytest.param("resnet152", "imagenet", 60_192_808 - 2_049_000, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts(name, stem, size):
    encoder = models.make(name, stem=stem)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, _ = jax.eval_shape(partial(models.init, encoder, x=x), jax.random.key(0))
    assert count(params) == size


@pytest.mark.parametrize(
    ("name", "kwargs", "shape", "maps"),
    [
        (
            "resnet18",
            {"stem": "cifar", "width": 2},
            (2, 32, 32, 3),
            {"stem": (32, 128), "stage1": (32, 128), "stage4": (4, 1024)},
        ),
        pytest.param(
            *("resnet50", {}, (2, 224, 224, 3), {"stem": (112, 64), "stage1": (56, 256), "stage4": (7, 2048)}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("resnet200", {"width": 0.125}, (2, 64, 64, 3)),
            {"stem": (32, 8), "stage1": (16, 32), "stage4": (2, 256)},
            marks=pytest.mark.slow,
        ),
        ("convnet", {}, (2, 8, 8, 1), {"stem": (8, 64), "stage1": (8, 64), "stage3": (2, 256)}),
        (
            "convnet",
            {
                "widths": [16, 32],
                "blocks": [2, 1],
                "strides": [2, 2],
                "stem_stride": 2,
                "stem_kernel": 2,
                "residual": False,
            },
            (2, 32, 32, 3),
            {"stem": (16, 16), "stage1": (8, 16), "stage2": (4, 32)},
        ),
    ],
)
def test_feature_maps(name, kwargs, shape, maps):
    encoder = models.make(name, dtype="bfloat16", **kwargs)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params, state = jax.eval_shape(partial(models.init, encoder, x=x), jax.random.key(0))
    out, new_state = jax.eval_shape(partial(models.forward, encoder, train=True), params, state, x)
    for stage, (size, channels) in maps.items():
        assert out[stage].shape == (2, size, size, channels)
        assert out[stage].dtype == jnp.bfloat16
    assert out["features"].shape == (2, encoder.dim)
    assert {a.dtype for a in (out["features"], *jax.tree.leaves((params, new_state)))} == {jnp.dtype("float32")}
    assert jax.tree.structure(state) == jax.tree.structure(new_state)


def test_depths_of_the_resnets():
    """He et al. 2016a, table 1, and 2016b for 200."""
    depths = {
        "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3),
        "resnet152": (3, 8, 36, 3), "resnet200": (3, 24, 36, 3),
    }  # fmt: skip
    made = {name: models.make(name) for name in depths}
    assert {name: tuple(encoder.blocks) for name, encoder in made.items()} == depths
    assert [name for name, encoder in made.items() if not encoder.bottleneck] == ["resnet18", "resnet34"]


def test_initial_weights():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    make = partial(models.ResNet, blocks=(1, 1), stem="cifar")
    init = lambda encoder: jax.jit(  # noqa: E731
        lambda key: {k: models.init(encoder, key, x)[0]["stage2_block0"][k] for k in ("conv1", "norm1", "norm2")}
    )(jax.random.key(0))
    torchvision, simclr = init(make()), init(make(conv_init="simclr", zero_init_residual=True))
    kernel = np.asarray(torchvision["conv1"]["kernel"])  # [3, 3, 64, 128]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.01)
    assert np.abs(kernel).max() > 4 * kernel.std()  # not truncated
    kernel = np.asarray(simclr["conv1"]["kernel"])
    np.testing.assert_allclose(kernel.std(), np.sqrt(1 / (9 * 64)), rtol=0.01)
    assert np.abs(kernel).max() < 2.3 * kernel.std()
    assert not np.any(simclr["norm2"]["scale"])
    assert np.all(torchvision["norm2"]["scale"] == 1)
    assert np.all(simclr["norm1"]["scale"] == 1)
    kernel = np.asarray(init(make(conv_init="haiku"))["conv1"]["kernel"])  # truncated, and not corrected for it
    np.testing.assert_allclose(kernel.std(), 0.8796 / np.sqrt(9 * 64), rtol=0.01)
    limit = 2 / np.sqrt(9 * 64)
    assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
    kernel = np.asarray(init(make(conv_init="torch"))["conv1"]["kernel"])  # uniform
    np.testing.assert_allclose(kernel.std(), np.sqrt(1 / (3 * 9 * 64)), rtol=0.01)
    assert 0.99 / np.sqrt(9 * 64) < np.abs(kernel).max() <= 1 / np.sqrt(9 * 64)


def test_stems_start_as_the_authors_do():
    """BYOL's, .073 where torchvision's has .025; and that of MoCo's CIFAR-10 demo, alone in torchvision's network."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    def started(**fields):
        """The stem and one convolution, the rest of the network left out by the compiler."""

        @jax.jit
        def two(key):
            params = models.init(models.ResNet(blocks=(1,), **fields), key, x)[0]
            return {"stem_conv": params["stem_conv"], "stage1_block0": {"conv1": params["stage1_block0"]["conv1"]}}

        return two(jax.random.key(0))

    for conv_init, std in {"haiku": 0.0725, "torchvision": 0.0253}.items():
        kernel = started(conv_init=conv_init)["stem_conv"]["kernel"]  # 9,408 numbers: 4 deviations are 3 %
        np.testing.assert_allclose(np.std(kernel), std, rtol=0.03)
    demo, plain = started(stem="cifar", stem_init="torch"), started(stem="cifar")
    assert 0.97 / np.sqrt(27) < np.abs(demo["stem_conv"]["kernel"]).max() <= 1 / np.sqrt(27)
    np.testing.assert_array_equal(demo["stage1_block0"]["conv1"]["kernel"], plain["stage1_block0"]["conv1"]["kernel"])


@pytest.mark.parametrize(
    ("name", "more"), [("resnet18", 64 * 64 + 2 * 64), pytest.param("resnet50", 0, marks=pytest.mark.slow)]
)
def test_the_first_shortcut_may_be_projected(name, more):
    """As in SimCLR's TensorFlow code, where every first block projects; stage 1 of ResNet-50 does so anyway."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    plain, projected = (
        jax.eval_shape(partial(models.init, models.make(name, stem="cifar", **fields), x=x), jax.random.key(0))[0]
        for fields in ({}, {"project_first": True})
    )
    assert count(projected) == count(plain) + more
    assert ("shortcut_conv" in plain["stage1_block0"]) == (more == 0)
    for stage in range(1, 5):
        assert "shortcut_conv" in projected[f"stage{stage}_block0"]
        assert "shortcut_conv" not in projected[f"stage{stage}_block1"]


def test_grouped_encoder_is_the_same_under_a_mapped_axis(float64):
    encoder = models.make("convnet", widths=(4, 6), stem_stride=2)
    encoder = encoder.clone(norm=partial(encoder.norm, groups=8, strided=True))
    x = jnp.asarray(draw("x", (16, 8, 8, 1)))
    params, state = jax.tree.map(lambda a: np.asarray(a, np.float64), models.init(encoder, jax.random.key(0), x))
    run = partial(models.forward, encoder, train=True)
    one = jax.jit(run)(params, state, x)
    mapped = jax.vmap(partial(run, axis="data"), in_axes=(None, None, 0), axis_name="data")
    eight = jax.jit(mapped)(params, state, x.reshape(8, 2, 8, 8, 1))
    np.testing.assert_allclose(eight[0]["features"].reshape(16, 6), one[0]["features"], rtol=1e-12, atol=1e-12)
    for a, b in zip(jax.tree.leaves(eight[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-12, atol=1e-12)


# Names and sizes


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet19", {}, "model 'resnet19' is unknown; did you mean 'resnet1.'"),
        ("resnet18", {"widht": 2}, "resnet18 has no argument 'widht'; did you mean 'width'"),
        ("resnet18", {"blocks": (1,)}, "resnet18 has no argument 'blocks'"),
    ],
)
def test_make_names_what_is_wrong(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        models.make(name, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "resnet18", "stem": "tiny"}, "stem='tiny' is unknown; use imagenet or cifar"),
        (
            {"name": "convnet", "conv_init": "he"},
            "conv_init='he' is unknown; use one of torchvision, simclr, haiku, torch",
        ),
        ({"name": "resnet18", "stem_init": "he"}, "conv_init='he' is unknown"),
        ({"name": "convnet", "blocks": (1, 1)}, "different numbers of stages"),
    ],
)
def test_encoders_refuse_wrong_fields(kwargs, message):
    encoder = models.make(**kwargs)
    with pytest.raises(ValueError, match=message):
        models.init(encoder, jax.random.key(0), jnp.ones((1, 8, 8, 1)))


def test_image_size_is_checked():
    cifar = models.make("resnet18", stem="cifar")
    models.check_input(cifar, (8, 8, 3))
    models.check_input("convnet", (8, 8, 3))
    with pytest.raises(
        ValueError, match=r"data.image_size=4 is too small for resnet18 with the cifar stem; use at least 8"
    ):
        models.check_input(cifar, (4, 4, 3))
    with pytest.raises(ValueError, match="resnet50 with the imagenet stem; use at least 32"):
        models.check_input("resnet50", (31, 31, 3))


def test_depth_follows_the_stages():
    encoder = models.make("convnet", widths=(4, 8))
    params, _ = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), jnp.ones((1, 8, 8, 1))))
    paths = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path({"encoder": params, "projector": {"dense0": jnp.ones(1)}})
    ]
    depths = {path_name(path): models.depth(path, stages=2) for path in paths}
    assert {name.split("/")[1]: d for name, d in depths.items()} == {
        "stem_conv": 0,
        "stem_norm": 0,
        "stage1_block0": 1,
        "stage2_block0": 2,
        "dense0": 3,
    }
    assert models.depth("encoder/stage3_block0/conv1/kernel") == 3
    assert models.depth("predictor/dense0/kernel") == 5


def test_pooled_is_the_spatial_mean():
    x = draw("x", (2, 3, 4, 5))
    out = models.pooled({"stage1": jnp.asarray(x, jnp.float32), "features": jnp.ones((2, 7))})
    np.testing.assert_allclose(out["stage1"], x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert out["features"].shape == (2, 7)


@pytest.mark.parametrize(("size", "max_dim", "cells"), [(6, 45, 3), (7, 46, 3), (4, 9600, 4), (4, 19, 1), (5, None, 1)])
def test_pooled_on_a_grid_averages_cells(size, max_dim, cells):
    """Cell i of c covers positions floor(i s / c) to ceil((i + 1) s / c), as torch's adaptive pooling has it."""
    x = draw("x", (2, size, size, 5))
    edges = [
        (np.floor(i * size / cells).astype(int), np.ceil((i + 1) * size / cells).astype(int)) for i in range(cells)
    ]
    by_hand = [x[:, a:b, c:d].mean((1, 2)) for a, b in edges for c, d in edges]
    found = models.pooled({"stage1": jnp.asarray(x, jnp.float32)}, max_dim)["stage1"]
    np.testing.assert_allclose(found, np.concatenate(by_hand, axis=1), rtol=1e-5, atol=1e-6)


# Heads


def normal_numpy(x, scale, bias):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias


def simclr_numpy(p, x):
    for i in range(2):
        x = np.maximum(normal_numpy(x @ p[f"dense{i}"]["kernel"], p[f"norm{i}"]["scale"], p[f"norm{i}"]["bias"]), 0)
    return normal_numpy(x @ p["dense2"]["kernel"], p["norm2"]["scale"], 0)


def byol_numpy(p, x):
    h = x @ p["dense0"]["kernel"] + p["dense0"]["bias"]
    return np.maximum(normal_numpy(h, p["norm0"]["scale"], p["norm0"]["bias"]), 0) @ p["dense1"]["kernel"]


def moco2_numpy(p, x):
    h = np.maximum(x @ p["dense0"]["kernel"] + p["dense0"]["bias"], 0)
    return h @ p["dense1"]["kernel"] + p["dense1"]["bias"]


def linear_numpy(p, x):
    return x @ p["dense0"]["kernel"] + p["dense0"]["bias"]


@pytest.mark.parametrize(
    ("head", "by_hand", "size"),
    [
        (heads.simclr_projector(6, num_layers=3, out_dim=4), simclr_numpy, 2 * (36 + 12) + 24 + 4),
        (heads.byol_mlp(hidden=5, out_dim=4), byol_numpy, 30 + 5 + 10 + 20),
        (heads.moco_projector(6, out_dim=4), moco2_numpy, 36 + 6 + 24 + 4),
        (heads.moco_projector(6, version=1, out_dim=4), linear_numpy, 24 + 4),
        (heads.linear(4), linear_numpy, 24 + 4),
    ],
)
def test_heads_are_the_papers(float64, head, by_hand, size):
    x = draw("x", (8, 6))
    shapes = jax.eval_shape(lambda: models.init(head, jax.random.key(0), jnp.asarray(x)))
    params, state = drawn(shapes[0]), jax.tree.map(lambda a: jnp.ones(a.shape), shapes[1])
    assert count(params) == size
    cotangent = draw("cotangent", (8, 4))

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def run(params):
        out, new_state = models.forward(head, params, state, jnp.asarray(x), train=True)
        return jnp.sum(out * cotangent), (out, new_state)

    params, (grads, (out, new_state)) = jax.device_get((params, run(params)))
    np.testing.assert_allclose(out, by_hand(params, x), rtol=1e-12, atol=1e-12)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    direction = jax.tree_util.tree_map_with_path(lambda path, a: draw(path_name(path) + "/probe", a.shape), params)

    def at(t):
        return np.sum(by_hand(jax.tree.map(lambda a, d: a + t * d, params, direction), x) * cotangent)

    slope = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-6)


def test_heads_start_as_the_papers_say():
    x = jnp.ones((2, 256))
    first = lambda head: jax.jit(lambda key: models.init(head, key, x)[0]["dense0"])(jax.random.key(0))  # noqa: E731
    weights = lambda head: np.asarray(first(head)["kernel"])  # noqa: E731
    np.testing.assert_allclose(weights(heads.simclr_projector(256)).std(), 0.01, rtol=0.02)
    np.testing.assert_allclose(weights(heads.byol_mlp(hidden=256)).std(), 1 / 16, rtol=0.02)
    np.testing.assert_allclose(weights(heads.byol_mlp(hidden=256, init="haiku")).std(), 0.8796 / 16, rtol=0.02)
    moco = first(heads.moco_projector(256))
    for a in moco.values():  # uniform: standard deviation is the limit over sqrt(3)
        assert 0.95 / 16 < np.abs(a).max() <= 1 / 16
        np.testing.assert_allclose(np.std(a), 1 / 16 / np.sqrt(3), rtol=0.1)
    assert heads.simclr_projector(256).sizes == (256, 128)
    with pytest.raises(ValueError, match="version=3 is unknown; use 1 or 2"):
        heads.moco_projector(256, version=3)
