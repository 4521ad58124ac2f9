"""AlexNet, VGG, SqueezeNet, DenseNet-121 and MobileNetV2 in training: sizes, first weights, dropout, devices, steps."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import methods, models, testing
from ssl_jax.models import densenet, mobilenet, squeezenet, vgg

# name -> parameters (torchvision's less its classifier of 1,000 classes), width of the features, fields that make it
# small
NETS = {
    "alexnet": (61_100_840 - 4_097_000, 4096, {"hidden": 16}),
    "vgg11": (132_863_336 - 4_097_000, 4096, {"hidden": 16, "width": 0.125}),
    "vgg11_bn": (132_868_840 - 4_097_000, 4096, {"hidden": 16, "width": 0.125}),
    "vgg16": (138_357_544 - 4_097_000, 4096, {"hidden": 16, "width": 0.125}),
    "vgg16_bn": (138_365_992 - 4_097_000, 4096, {"hidden": 16, "width": 0.125}),
    "squeezenet1_0": (1_248_424 - 513_000, 512, {}),
    "squeezenet1_1": (1_235_496 - 513_000, 512, {}),
    "densenet121": (7_978_856 - 1_025_000, 1024, {"growth": 4, "stem_width": 8}),
    "mobilenet_v2": (3_504_872 - 1_281_000, 1280, {}),
    "resnet20": (269_722 - 650, 64, {}),
    "resnet32": (464_154 - 650, 64, {}),
}
SMALL = {  # a few thousand parameters, what they are made of is all there
    "densenet": models.DenseNet(blocks=(1, 1), growth=4, stem_width=8),
    "vgg": models.VGG(blocks=(1, 1, 1, 1, 1), batch_norm=True, width=1 / 64, hidden=8),
}


FIRST = ["densenet", pytest.param("vgg", marks=pytest.mark.slow)]


def count(tree):
    return sum(a.size for a in jax.tree.leaves(tree))


def abstract(encoder, size=None):
    x = jax.ShapeDtypeStruct((2, size or encoder.min_size, size or encoder.min_size, 3), jnp.float32)
    return *jax.eval_shape(partial(models.init, encoder, x=x), jax.random.key(0)), x


def smallest_map(encoder, size):
    try:
        params, state, x = abstract(encoder, size)
        out = jax.eval_shape(partial(models.forward, encoder, train=False), params, state, x)[0]
    except (ValueError, ZeroDivisionError):  # a window that is larger than the map, the mean of no place
        return 0
    return min(a.shape[1] for k, a in out.items() if k != "features")


def images(rows, size):
    return jnp.asarray(np.random.default_rng(0).random((rows, size, size, 3)), jnp.float32)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("alexnet", "vgg16_bn", "squeezenet1_1", "resnet20")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in NETS
    ],
)
def test_sizes(name):
    """Parameters are torchvision's (and akamaster's), and the smallest image that is named is enough, and is needed."""
    encoder = models.make(name, dtype="bfloat16")
    params, state, x = abstract(encoder)
    assert (count(params), encoder.dim) == NETS[name][:2]
    out, new = jax.eval_shape(partial(models.forward, encoder, train=True), params, state, x)
    assert (out["features"].shape, out["features"].dtype) == ((2, encoder.dim), np.float32)
    assert {k for k in out} == {"stem", "features", *(f"stage{k}" for k in range(1, encoder.stages + 1))}
    assert {a.dtype for k, a in out.items() if k != "features"} == {jnp.dtype("bfloat16")}
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert min(out[f"stage{k}"].shape[1] for k in range(1, encoder.stages + 1)) >= 1
    parts = {models.depth(key, stages=encoder.stages) for key in params}
    assert parts == set(range(encoder.stages + 1))
    if name in ("alexnet", "squeezenet1_0", "squeezenet1_1"):  # of a smaller one nothing is left
        with pytest.raises(AssertionError, match="nothing is left"):
            assert smallest_map(encoder, encoder.min_size - 1) > 0, "nothing is left"
    message = (
        f"data.image_size={encoder.min_size - 1} is too small for {encoder.label}; use at least {encoder.min_size}"
    )
    with pytest.raises(ValueError, match=message):
        models.check_input(encoder, (encoder.min_size - 1, encoder.min_size - 1, 3))


def test_first_weights_are_torchvisions():
    def first(module, channels, *args):
        x = jnp.zeros((1, 4, 4, channels))
        return jax.device_get(jax.jit(lambda key: module.init(key, x, *args)["params"])(jax.random.key(0)))

    found = first(vgg.Convolutions(64, 1, None), 3, False)["conv0"]  # normal, sqrt(2 / fan_out)
    np.testing.assert_allclose(found["kernel"].std(), np.sqrt(2 / (9 * 64)), rtol=0.05)
    assert not found["bias"].any()
    found = first(squeezenet.Fire(16), 64)["expand3"]  # uniform in +-sqrt(6 / fan_in)
    assert 0.98 * np.sqrt(6 / (9 * 16)) < np.abs(found["kernel"]).max() <= np.sqrt(6 / (9 * 16))
    assert not found["bias"].any()
    found = first(densenet.DenseLayer(32, models.BatchNorm), 64, False)["conv2"]  # normal, sqrt(2 / fan_in)
    np.testing.assert_allclose(found["kernel"].std(), np.sqrt(2 / (9 * 128)), rtol=0.05)
    found = first(mobilenet.InvertedResidual(8, 1, 6, models.BatchNorm), 96, False)["conv2"]
    np.testing.assert_allclose(found["kernel"].std(), np.sqrt(2 / (9 * 576)), rtol=0.05)  # of a channel as if of all

    @jax.jit
    def wide(key):
        alexnet, last = models.AlexNet(hidden=8), SMALL["vgg"].clone(hidden=128)
        params = [models.init(net, key, images(1, net.min_size))[0] for net in (alexnet, last)]
        return params[0]["stage1_conv"], params[1]["stage6_dense"]["kernel"]  # the rest is dead code

    conv, kernel = wide(jax.random.key(0))
    for a in conv.values():  # torch's own: uniform in +-1/sqrt(fan_in)
        assert 0.9 / np.sqrt(25 * 64) < np.abs(a).max() <= 1 / np.sqrt(25 * 64)
    np.testing.assert_allclose(np.std(kernel), 0.01, rtol=0.05)


DROPS = {"squeezenet": models.SqueezeNet(version="1.1"), "alexnet": models.AlexNet(hidden=64)}
DROPS |= {"vgg": models.VGG(blocks=(1, 1, 1, 1, 1), width=1 / 64, hidden=64), "mobilenet": models.MobileNetV2()}


@pytest.mark.parametrize(
    "name", [name if name == "vgg" else pytest.param(name, marks=pytest.mark.slow) for name in DROPS]
)
def test_dropout_is_by_example_and_only_with_a_key(name):
    encoder, key = DROPS[name], jax.random.key(1)
    x = images(6, encoder.min_size)
    params, state = models.init(encoder, jax.random.key(0), x)

    def program(train, still=0, **drawn):
        net = encoder.clone(frozen_stages=still)
        return str(jax.make_jaxpr(lambda p, x: models.forward(net, p, state, x, train=train, **drawn)[0])(params, x))

    assert "random_bits" in program(True, key=key)
    assert "random_bits" not in program(True)
    assert "random_bits" not in program(False, key=key)
    assert "random_bits" not in program(True, encoder.stages + 1, key=key)

    @jax.jit
    def run(x):
        return [models.forward(encoder, params, state, x, train=True, **d)[0]["features"] for d in ({}, {"key": key})]

    plain, dropped = run(x)
    again = run(x[:3])[1]  # row i draws by itself
    if name != "mobilenet":  # whose BatchNorm sees the batch
        np.testing.assert_allclose(again, dropped[:3], rtol=1e-3, atol=1e-4 * np.abs(plain).max())
    if name in ("vgg", "mobilenet"):  # the last thing that it does
        kept = np.asarray(dropped != 0)
        if name == "mobilenet":
            np.testing.assert_allclose(dropped[kept], plain[kept] / 0.8, rtol=1e-5)
        assert abs(kept.sum() / np.count_nonzero(plain) - (1 - encoder.dropout)) < 0.1
    with pytest.raises(ValueError, match=r"model.dropout=1.0 must be in \[0, 1\)"):
        jax.eval_shape(partial(models.forward, encoder.clone(dropout=1.0), train=True), params, state, x)


@pytest.mark.parametrize("name", FIRST)
def test_frozen_stages_keep_their_statistics(name):
    encoder = SMALL[name]
    x = images(4, encoder.min_size)
    params, state = models.init(encoder, jax.random.key(0), x)

    @jax.jit
    def run(x):
        nets = [encoder.clone(frozen_stages=still) for still in (2, encoder.stages + 1)]
        return [models.forward(net, params, state, x, train=True)[1] for net in nets]

    two, everything = run(x)
    for part, tree in state["batch_stats"].items():
        frozen = part.startswith(("stem", "stage1"))
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(two["batch_stats"][part]), strict=True):
            assert np.array_equal(a, b) == frozen, part
    jax.tree.map(np.testing.assert_array_equal, everything, state)


@pytest.mark.parametrize("name", FIRST)
def test_eight_devices_are_one(name):
    """Loss, gradients by SGD and statistics, in float64, with dropout."""
    size = SMALL[name].min_size
    plan = testing.plan_of(input_shape=(size, size, 3), global_batch_size=16)
    method = methods.get("supervised")(SMALL[name], plan=plan)

    def batch(step):
        rng = np.random.default_rng(step)
        found = {"label": rng.integers(0, 4, 16).astype(np.int32), "index": np.arange(16, dtype=np.int32)}
        return found | {"views": (rng.random((16, size, size, 3)),)}

    case = testing.Case(method, None, batch)
    with testing.double():
        start = testing.initial(case)
        one, eight = (testing.run(testing.program(case, start, n, "jit"), batch, 2) for n in (1, 8))
    assert one.leaves.keys() == eight.leaves.keys()
    for leaf, a in one.leaves.items():
        b = eight.leaves[leaf]
        if np.issubdtype(a.dtype, np.floating):
            assert np.all(np.abs(a - b) <= 1e-9 * np.maximum(1, np.abs(a))), leaf
    np.testing.assert_allclose(eight.losses, one.losses, rtol=1e-10)
    assert one.losses[0] != one.losses[1]
    assert all(np.isfinite(a).all() for a in one.leaves.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "which"),
    # Of a DenseNet the small one is trained above: this one is half a minute of compilation.
    [("resnet20", "simclr"), *((name, "supervised") for name in NETS if name != "densenet121")],
)
def test_a_step_trains_every_part(name, which):
    encoder = models.make(name, **NETS[name][2])
    size, rows = max(encoder.min_size, 32), 8
    plan = testing.plan_of(input_shape=(size, size, 3), global_batch_size=rows)
    method = methods.get(which)(encoder, plan=plan)
    batch = {"views": (images(rows, size), 1 - images(rows, size)), "index": jnp.arange(rows, dtype=jnp.int32)}
    batch |= {"label": jnp.arange(rows, dtype=jnp.int32) % 4}
    variables = jax.jit(method.init)(jax.random.key(0), batch)

    @jax.jit
    def step(params):
        def loss(params):
            value, out = method.loss(variables._replace(params=params), batch, jax.random.key(1), 0, None)
            return value, out.metrics

        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, jax.tree.map(lambda w, g: w - 1e-3 * g, params, grads)

    value, grads, params = step(variables.params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    for part, tree in grads["encoder"].items():
        assert any(np.any(g) for g in jax.tree.leaves(tree)), part
    assert np.isfinite(step(params)[0])


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match=r"version='1.2' of squeezenet is unknown; use 1.0 or 1.1"):
        abstract(models.SqueezeNet(version="1.2"), 32)
    for fields, message in (
        ({"padding": "valid"}, "padding='valid' is unknown; use torch or same"),
        ({"pool_padding": "ceil"}, "pool_padding='ceil' is unknown; use torch or same"),
        ({"shortcut": "A"}, "shortcut='A' is unknown; use project or pad"),
        ({"stem_padding": 2}, "stem_padding=2 is of the cifar stem, and this one is imagenet"),
        ({"stride_first": True}, "stride_first is of bottlenecks"),
    ):
        with pytest.raises(ValueError, match=message):
            abstract(models.ResNet(blocks=(1,), **fields), 32)


def test_networks_without_their_last_layer_take_any_size():
    """Means over parts of the last map, torch's AdaptiveAvgPool2d; where it is 7 x 7 it is the map itself."""
    encoder = DROPS["vgg"]
    for size in (32, 230):
        out = jax.eval_shape(
            partial(models.forward, encoder, train=False), *abstract(encoder)[:2], jnp.zeros((1, size, size, 3))
        )[0]
        assert out["features"].shape == (1, 64)


def test_a_vgg_without_its_wide_layers_gives_the_mean_of_its_last_map():
    encoder = models.VGG(blocks=(1, 1, 1, 1, 1), width=1 / 64, hidden=0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64, 3)), jnp.float32)
    variables = encoder.init(jax.random.key(0), x, train=False, axis=None)
    outputs = encoder.apply(variables, x, train=False, axis=None)
    assert encoder.stages == 4
    assert outputs.keys() == {"stem", "stage1", "stage2", "stage3", "stage4", "features"}
    pooled = outputs["stage4"].reshape(2, 2, 2, 2, 2, 8).max((2, 4))
    np.testing.assert_allclose(outputs["features"], pooled.mean((1, 2)), rtol=1e-6)
    assert outputs["features"].shape == (2, encoder.dim)


def test_the_padding_of_a_mobilenet_is_a_word():
    with pytest.raises(ValueError, match="padding='valid' is unknown; use torch or same"):
        models.forward(models.MobileNetV2(padding="valid"), {}, {}, jnp.zeros((1, 32, 32, 3)), train=False)
