"""Vision transformers of other libraries: outputs, names in both directions, positions, and what is refused."""

from __future__ import annotations

import json
import re
import zlib
from functools import cache, partial
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import models
from ssl_jax.interop import resnet, vit
from ssl_jax.interop.pairs import Missing, read, write
from ssl_jax.models.positions import RULES, resize_weights, resized
from tests.oracles.make_vits import CASES, DEPTH, HEADS, PATCH, SIZES, WIDTH, draw

ORACLES = np.load(Path(__file__).with_name("oracles") / "vits.npz")
PREFIXES = r"(vit|dinov2|dinov2_with_registers)\."  # of transformers, before all but the classifier
WANTED = {"name": "vit", "patch_size": PATCH, "width": WIDTH, "depth": DEPTH, "mlp_ratio": 2.0, "cls_token": True}
WANTED |= {"positions": "learned", "positions_grid": SIZES[0] // PATCH}


@cache
def files() -> dict[str, dict[str, tuple[int, ...]]]:
    """Names in the file of every network and their shapes, by case."""
    return json.loads(zlib.decompress(ORACLES["names"].tobytes()))


def drawn(case) -> dict[str, np.ndarray]:
    """The arrays of a case by the names of the network, without what hides patches."""
    arrays = {name: draw(name, tuple(shape)) for name, shape in files()[case].items()}
    return {re.sub(f"^{PREFIXES}", "", name): a for name, a in arrays.items() if not name.endswith("mask_token")}


def shapes_of(arrays):
    return {name: a.shape for name, a in arrays.items()}


def made(model):
    return models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})


def outputs_of(model, tree, x):
    run = jax.jit(partial(models.forward, made(model), train=False))
    return jax.device_get(run(tree["params"], {}, jnp.asarray(x))[0])


def near(found, want, tolerance=2e-5):
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * max(1, np.abs(want).max()))


def there_and_back(table, arrays):
    """What is read, after it was written again with the same bits."""
    tree, used = read(table, arrays)
    assert used == set(arrays)
    again = write(table, tree)
    assert again.keys() == arrays.keys()
    for name, a in arrays.items():
        assert again[name].shape == a.shape, name
        np.testing.assert_array_equal(again[name], a, err_msg=name)
    return tree


# Outputs


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_torch_at_two_sizes(case):
    arrays, fields = drawn(case), CASES[case][2]
    found = vit.recognise(shapes_of(arrays))
    extra = {"layer_scale": 1e-5} if "dinov2" in case or case in ("timm_registers", "timm_giant") else {}
    extra |= {"timm_registers": {"registers": 4, "positions": "learned_patches"}}.get(case, {})
    extra |= {"swiglu": True} if case.endswith("giant") else {}
    narrower = {"timm_giant": 1.0, "hf_dinov2_giant": 32 / 24}  # the two halves together, two thirds in eights
    extra |= {"mlp_ratio": narrower[case]} if case in narrower else {}
    extra |= {"registers": 3} if case == "hf_dinov2_registers" else {}
    extra |= {"pool": "cls_mean"} if case.startswith("hf_dinov2") else {}
    extra |= {"norm_after_pool": True, "pool": "mean"} if case == "timm_mean" else {}
    assert found == WANTED | extra
    model = found | fields | {"heads": HEADS}
    tree = there_and_back(vit.pairs(model, vit.library(shapes_of(arrays)), classifier=True), arrays)
    for size in SIZES:
        want = {k: ORACLES[f"{case}|{size}|{k}"] for k in ("cls", "mean", "patch", "logits")}
        out = outputs_of(model, tree, draw("input", (2, size, size, 3)))
        tokens = np.asarray(out[f"stage{DEPTH}"]).reshape(2, -1, WIDTH)
        near(out["cls"], want["cls"])
        near(tokens[:, 1], want["patch"])
        near(tokens.mean(1), want["mean"])
        near(out["features"] @ tree["classifier"]["kernel"] + tree["classifier"]["bias"], want["logits"])
        if model["pool"] == "cls_mean":
            near(out["features"], np.concatenate([want["cls"], want["mean"]], 1))


def test_what_shapes_do_not_say_matters():
    """Heads, the norm's eps, the form of the GELU, the rule for positions: each moves the outputs."""
    arrays = drawn("dino")
    model = vit.recognise(shapes_of(arrays)) | {"heads": HEADS, "pool": "cls"}
    tree, _ = read(vit.pairs(model, classifier=True), arrays)
    want = ORACLES[f"dino|{SIZES[1]}|cls"]
    for field in ({"heads": 6}, {"eps": 1e-3}, {"gelu": "tanh"}, {"positions_rule": "timm"}):
        out = outputs_of(model | field, tree, draw("input", (2, SIZES[1], SIZES[1], 3)))
        assert np.abs(out["cls"] - want).max() > 1e-4, field
    assert vit.HEADS[384] == 6
    assert {width // heads for width, heads in vit.HEADS.items()} == {64, 72, 80, 88, 104}


# big_vision


def flax_file(style, *, cls=True):
    """Arrays in float32 as a checkpoint of big_vision has them, flattened: "new", "old", "scan"."""
    head, hidden = WIDTH // HEADS, 2 * WIDTH
    old = style == "old"
    attention, second, mlp = (
        ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
        if old
        else ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    )
    block = {f"{norm}/{part}": (WIDTH,) for norm in ("LayerNorm_0", second) for part in ("scale", "bias")}
    for part in ("query", "key", "value"):
        block |= {f"{attention}/{part}/kernel": (WIDTH, HEADS, head), f"{attention}/{part}/bias": (HEADS, head)}
    block |= {f"{attention}/out/kernel": (HEADS, head, WIDTH), f"{attention}/out/bias": (WIDTH,)}
    block |= {f"{mlp}/Dense_0/kernel": (WIDTH, hidden), f"{mlp}/Dense_0/bias": (hidden,)}
    block |= {f"{mlp}/Dense_1/kernel": (hidden, WIDTH), f"{mlp}/Dense_1/bias": (WIDTH,)}
    shapes = {"embedding/kernel": (PATCH, PATCH, 3, WIDTH), "embedding/bias": (WIDTH,)}
    shapes |= {"cls": (1, 1, WIDTH)} if cls else {}
    patches = (SIZES[0] // PATCH) ** 2
    shapes |= (
        {"Transformer/posembed_input/pos_embedding": (1, patches + cls, WIDTH)}
        if old
        else {"pos_embedding": (1, patches, WIDTH)}
    )
    shapes |= {f"Transformer/encoder_norm/{part}": (WIDTH,) for part in ("scale", "bias")}
    shapes |= {"head/kernel": (WIDTH, 5), "head/bias": (5,)}
    if style == "scan":
        shapes |= {f"Transformer/encoderblock/{name}": (DEPTH, *shape) for name, shape in block.items()}
    else:
        shapes |= {f"Transformer/encoderblock_{k}/{n}": shape for k in range(DEPTH) for n, shape in block.items()}
    rng = np.random.default_rng(3)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def big_vision(w, style, x):
    """Class token of big_vision's network in NumPy and float64, block by block and head by head."""
    w = {name: a.astype(np.float64) for name, a in w.items()}
    if style == "scan":
        for name in [n for n in w if "encoderblock/" in n]:
            w |= {name.replace("encoderblock", f"encoderblock_{k}"): w[name][k] for k in range(DEPTH)}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}/scale"] + w[f"{name}/bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    b, side = len(x), x.shape[1] // PATCH
    tokens = np.zeros((b, side, side, WIDTH))
    for i in range(side):
        for j in range(side):
            cut = x[:, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]
            tokens[:, i, j] = np.tensordot(cut, w["embedding/kernel"], 3) + w["embedding/bias"]
    tokens, cls = tokens.reshape(b, -1, WIDTH), np.broadcast_to(w["cls"], (b, 1, WIDTH))
    if style == "old":
        tokens = np.concatenate([cls, tokens], 1) + w["Transformer/posembed_input/pos_embedding"]
    else:
        tokens = np.concatenate([cls, tokens + w["pos_embedding"]], 1)
    names = ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    names = names if style == "old" else ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    for k in range(DEPTH):
        block = f"Transformer/encoderblock_{k}"
        attention, second, mlp = (f"{block}/{name}" for name in names)
        y = norm(tokens, f"{block}/LayerNorm_0")
        out = np.zeros_like(tokens) + w[f"{attention}/out/bias"]
        for h in range(HEADS):
            q, key, v = (
                y @ w[f"{attention}/{part}/kernel"][:, h] + w[f"{attention}/{part}/bias"][h]
                for part in ("query", "key", "value")
            )
            a = np.exp(q @ key.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
            out += a / a.sum(-1, keepdims=True) @ v @ w[f"{attention}/out/kernel"][h]
        tokens = tokens + out
        y = gelu(norm(tokens, second) @ w[f"{mlp}/Dense_0/kernel"] + w[f"{mlp}/Dense_0/bias"])
        tokens = tokens + y @ w[f"{mlp}/Dense_1/kernel"] + w[f"{mlp}/Dense_1/bias"]
    return norm(tokens, "Transformer/encoder_norm")[:, 0]


@pytest.mark.parametrize(
    ("style", "name"), [("new", "big_vision"), ("old", "vision_transformer"), ("scan", "big_vision_scan")]
)
def test_checkpoints_of_big_vision(style, name):
    arrays = flax_file(style)
    model = vit.recognise(shapes_of(arrays))
    positions = {"positions": "learned" if style == "old" else "learned_patches"}
    assert model == WANTED | positions | {"heads": HEADS, "gelu": "tanh"}
    assert vit.library(shapes_of(arrays)) == name
    tree = there_and_back(vit.pairs(model, name, classifier=True), arrays)
    assert tree["classifier"]["kernel"].shape == (WIDTH, 5)
    x = draw("input", (2, SIZES[0], SIZES[0], 3))
    near(outputs_of(model | {"pool": "cls"}, tree, x)["features"], big_vision(arrays, style, x))
    arrays = flax_file(style, cls=False)
    model = vit.recognise(shapes_of(arrays))
    assert (model.get("cls_token"), model["positions"]) == (None, "learned")
    there_and_back(vit.pairs(model, name, classifier=True), arrays)


# Names


def renamed(arrays, *rules):
    for pattern, new in rules:
        arrays = {re.sub(pattern, new, name): a for name, a in arrays.items()}
    return arrays


def chunked(arrays):
    """As FSDP's chunks are called, of a block each."""
    return renamed(arrays, (r"^blocks\.(\d+)\.", r"blocks.\1.\1."))


VARIANTS = {
    "timm": ("dinov2", lambda a: a),
    "dinov2": ("timm_registers", lambda a: renamed(a, ("^reg_token", "register_tokens"))),
    "dinov2_giant": (
        "timm_giant",
        lambda a: renamed(a, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")),
    ),
    "dinov2_chunks:2": ("dinov2", chunked),
    "ibot": ("dinov2", lambda a: renamed(a, (r"ls(\d)\.gamma", r"gamma_\1"))),
    "torchvision_old": ("torchvision", lambda a: renamed(a, (r"mlp\.0", "mlp.linear_1"), (r"mlp\.3", "mlp.linear_2"))),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_names_of_the_same_network(name):
    case, change = VARIANTS[name]
    arrays = drawn(case)
    model = vit.recognise(shapes_of(arrays))
    table = vit.pairs(model | {"heads": HEADS}, vit.library(shapes_of(arrays)), classifier=True)
    other = change(arrays)
    assert vit.recognise(shapes_of(other)) == model
    theirs = vit.library(shapes_of(other))
    assert theirs == name.removesuffix("_giant")
    tree = there_and_back(vit.pairs(model | {"heads": HEADS}, theirs, classifier=True), other)
    jax.tree.map(np.testing.assert_array_equal, tree, read(table, arrays)[0])


def test_every_library_is_tried():
    cases = {vit.library(shapes_of(drawn(case))) for case in CASES}
    flax = {vit.library(shapes_of(flax_file(style))) for style in ("new", "old", "scan")}
    other = {name.partition(":")[0].removesuffix("_giant") for name in VARIANTS}
    assert cases | flax | other == set(vit.LIBRARIES)
    assert resnet.recognise(files()["timm"]) is None
    assert vit.recognise({"layer1.0.conv1.weight": (64, 64, 3, 3), "conv1.weight": (64, 3, 7, 7)}) is None
    assert vit.recognise({"encoder.layer.0.attention.self.query.weight": (8, 8)}) is None
    assert vit.recognise({}) is None


def test_a_network_of_ours_has_a_place_for_every_array():
    for case in CASES:
        shapes = shapes_of(drawn(case))
        model = vit.recognise(shapes) | {"heads": HEADS}
        spec = jax.eval_shape(
            lambda model=model: models.init(made(model), jax.random.key(0), jnp.zeros((1, 20, 20, 3)))[0]
        )
        ours = {f"params/{k}" for k in flax.traverse_util.flatten_dict(spec, sep="/")}
        assert {pair.ours for pair in vit.pairs(model, vit.library(shapes))} == ours


# Positions


@pytest.mark.parametrize("rule", ["dino", "timm", "transformers", "torchvision", "big_vision"])
def test_tables_are_resized_as_torch_and_scipy_do(rule):
    checked = 0
    for name in ORACLES.files:
        if name.startswith(f"resize|{rule}|"):
            source, target = map(int, name.split("|")[2:])
            np.testing.assert_allclose(resize_weights(source, target, rule), ORACLES[name], atol=1e-6)
            np.testing.assert_allclose(resize_weights(source, target, rule).sum(1), 1, atol=1e-12)
            checked += 1
    assert checked == 5


def test_rules_of_networks_with_registers():
    for rule, plain in (("dinov2", "dino"), ("transformers", "transformers"), ("dino", "dino"), ("timm", "timm")):
        np.testing.assert_array_equal(resize_weights(14, 6, rule), resize_weights(14, 6, plain))
        there = "timm" if rule in ("dinov2", "transformers") else plain
        np.testing.assert_array_equal(resize_weights(14, 6, rule, registers=True), resize_weights(14, 6, there))
    assert not np.allclose(resize_weights(14, 6, "timm"), resize_weights(14, 6, "dino"), atol=1e-2)
    assert not np.allclose(resize_weights(4, 6, "dino"), resize_weights(4, 6, "transformers"), atol=1e-2)


@pytest.mark.parametrize("rule", RULES)
def test_a_grid_is_resized_along_both_axes_and_kept_where_it_fits(rule):
    table = draw("table", (16, 3))
    out = jax.jit(resized, static_argnums=(1, 2))(jnp.asarray(table), (2, 6), rule)
    down, across = resize_weights(4, 2, rule), resize_weights(4, 6, rule)
    want = np.stack([np.kron(down, across) @ table[:, c] for c in range(3)], 1)
    np.testing.assert_allclose(out, want, atol=1e-5)
    assert resized(table, (4, 4), rule) is table


@pytest.mark.parametrize(("positions", "cls"), [("sincos", True), ("sincos", False), ("moco_v3", True)])
def test_fixed_tables_are_known_and_left_out(positions, cls):
    """By MAE's and MoCo v3's formulas; I-JEPA has no class token."""
    y, x = np.divmod(np.arange(16), 4)
    first, second = (y, x) if positions == "moco_v3" else (x, y)
    frequency = 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH / 4))
    table = np.concatenate([f(c[:, None] * frequency) for c in (first, second) for f in (np.sin, np.cos)], 1)
    arrays = drawn("timm") | {"pos_embed": np.pad(table, ((int(cls), 0), (0, 0)))[None].astype(np.float32)}
    arrays = arrays if cls else {k: a for k, a in arrays.items() if k != "cls_token"}
    model = vit.recognise(shapes_of(arrays)) | {"heads": HEADS, "positions": positions}
    assert model["positions_grid"] == 4
    assert vit.check_fixed(model, "timm", arrays) == {"pos_embed"}
    parameters = {k: a for k, a in arrays.items() if k != "pos_embed"}
    tree = there_and_back(vit.pairs(model, classifier=True), parameters)
    assert "stem_positions" not in tree["params"]
    np.testing.assert_allclose(vit.fixed(model)["pos_embed"], arrays["pos_embed"], atol=1e-6)
    x = draw("input", (2, 16, 16, 3))
    learned = model | {"positions": "learned"}
    same = read(vit.pairs(learned), arrays)[0]
    near(outputs_of(model, tree, x)["features"], outputs_of(learned, same, x)["features"])
    other = {"sincos": "moco_v3", "moco_v3": "sincos"}[positions]
    with pytest.raises(
        ValueError, match=rf"pos_embed is not the fixed table of model.positions='{other}' \(off by [12]"
    ):
        vit.check_fixed(model | {"positions": other}, "timm", arrays)
    if cls:
        arrays["pos_embed"][0, 0, 3] = 0.1
        with pytest.raises(ValueError, match=r"off by 0.1.; if it was trained, add --model.positions=learned"):
            vit.check_fixed(model, "timm", arrays)
    assert vit.check_fixed(learned, "timm", arrays) == set()
    assert vit.fixed(learned) == {}


def test_a_fixed_table_wants_a_size():
    with pytest.raises(ValueError, match="fixed positions of how many patches"):
        vit.fixed({"name": "vit"})


# What is refused


def changed(case, *left_out, **new):
    """Shapes of a case without some and with others: dots are written as two underscores."""
    kept = {k: a.shape for k, a in drawn(case).items() if not any(re.match(p, k) for p in left_out)}
    return kept | {k.replace("__", "."): v for k, v in new.items()}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (lambda: changed("timm", blocks__0__attn__q_bias=(24,)), "BEiT's attention, by blocks.0.attn.q_bias"),
        (
            lambda: changed("hf_vit", encoder__layer__0__lambda_1=(24,)),
            "BEiT's attention, by encoder.layer.0.lambda_1",
        ),
        (lambda: changed("timm", norm_pre__weight=(24,)), "a norm before the blocks .CLIP., by norm_pre.weight"),
        (lambda: changed("timm", attn_pool__latent=(1, 1, 24)), "pooling by attention .SigLIP., by attn_pool.latent"),
        (
            lambda: shapes_of(flax_file("new")) | {"MAPHead_0/probe": (1, 1, 24)},
            "pooling by attention .SigLIP., by MAPHead_0/probe",
        ),
        (lambda: changed("timm", "pos_embed", rope_embed__periods=(4,)), "rotary positions .DINOv3., by rope_embed"),
        (lambda: changed("timm", "pos_embed"), "a ViT without pos_embed: positions that turn .DINOv3."),
        (lambda: changed("timm", dist_token=(1, 1, 24), pos_embed=(1, 18, 24)), "a token of distillation .DeiT's"),
        (
            lambda: changed("timm", patch_embed__proj__0__weight=(3, 3, 3, 3)),
            "a stem of several convolutions, by patch",
        ),
        (lambda: changed("timm", blocks__0__attn__q_norm__weight=(8,)), "normalised queries and keys"),
        (
            lambda: changed("timm", r"blocks\.\d\.attn\.qkv\.bias"),
            "a ViT of 2 blocks that lacks 2 arrays: blocks.0.attn.qkv.bias",
        ),
        (
            lambda: changed("timm", r"blocks\.0\.norm2"),
            "a ViT of 2 blocks that lacks 2 arrays: blocks.0.norm2.weight, ",
        ),
        (lambda: changed("timm", blocks__1__attn__rel=(8,)), "more than a ViT of 2 blocks, by blocks.1.attn.rel"),
        (lambda: changed("timm", pos_embed=(1, 19, 24)), "with 19 positions, which are no square of patches"),
        (lambda: changed("timm", patch_embed__proj__weight=(24, 1, 4, 4)), "a ViT of images of 1 channels"),
    ],
)
def test_other_networks_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message) as error:
        vit.recognise(shapes())
    assert "\n" not in str(error.value)


def test_tables_that_there_are_not():
    with pytest.raises(ValueError, match=r"theirs='keras' names no ViTs; known: timm, dinov2, dinov2_chunks:4, ibot"):
        vit.pairs({"name": "vit"}, "keras")
    with pytest.raises(ValueError, match="theirs='dinov2_chunks' names no ViTs"):
        vit.pairs({"name": "vit"}, "dinov2_chunks")
    with pytest.raises(ValueError, match="ViTs by the names of 'torchvision' have no registers; use those of 'timm'"):
        vit.pairs({"name": "vit_ti", "registers": 4}, "torchvision")
    with pytest.raises(ValueError, match="'big_vision' have no swiglu"):
        vit.pairs({"name": "vit_ti", "swiglu": True}, "big_vision")
    with pytest.raises(ValueError, match=r"model.name='resnet18' is no ViT"):
        vit.pairs({"name": "resnet18"})
    arrays = {k: a for k, a in drawn("timm").items() if not k.startswith("norm.")}
    table = vit.pairs(WANTED | {"heads": HEADS})
    with pytest.raises(Missing, match=r"it lacks 2 arrays: norm.weight, norm.bias;"):
        read(table, arrays)
