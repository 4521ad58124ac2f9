"""Programs for GPUs, without one: what every config's step is lowered to, and what XLA's CUDA compiler makes of it."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from ssl_jax import configs, parallel, step
from ssl_jax.plan import cost, devices, hlo, program

CONFIGS = sorted(file.stem for file in (runs.ROOT / "configs").glob("*.py") if file.stem != "common")
# Configs for CPUs that have a twin for accelerators are compiled (below) and need not be lowered besides.
TWINS = {f"{name.removesuffix('_cifar10')}_cpu" for name in CONFIGS} | {f"{name}_cpu" for name in CONFIGS}
CONVNET = ["model.name=convnet", "model.widths=(4,8)", "data.image_size=8", "data.global_batch_size=32"]
SMALL = {
    "simclr_cifar10": [*CONVNET, "method.projector_dim=16"],
    "byol_cifar10": [*CONVNET, "method.projector_dim=16", "method.hidden=16", "data.augment=host"],
    "moco_cifar10": [*CONVNET, "method.projector_dim=16", "method.queue_size=64", "data.augment=host"],
    "jepa_cpu": [
        "data.augment=host",
        "model.width=12",
        "model.depth=1",
        "method.predictor_layers=1",
        "data.global_batch_size=8",
    ],
    "bert_base": ["model.name=bert_tiny", "data.length=16", "data.document_length=16", "data.global_batch_size=8"],
}
QUICK = ("simclr_cifar10", "byol_cifar10", "moco_cifar10", "jepa_cpu", "supervised_cifar10_cpu", "bert_base")
ALL = [
    pytest.param(name, SMALL.get(name, []), marks=[] if name in QUICK else pytest.mark.slow)
    for name in CONFIGS
    if name in QUICK or name not in TWINS
]
LARGE = 1 << 16  # bytes of a constant
COPIED = 1 << 12  # elements of what a step may copy of its state: sums of the probe, hidden rows
BANKED = {"instance_discrimination_cpu"}  # whose bank is scattered to, and selected from with what it was
# Those whose positions are constants.
MEANT = {"jepa", "jepa_imagenet", "lejepa_imagenet", "mae_cifar10", "mae_imagenet", "mae_imagenet_finetune"}
MEANT |= {"moco_v3_vit_imagenet"}
# Parts of the state are chosen by the step: an optimizer that waits, layers that are frozen until then.
PHASES = ("corrupted_images", "ulmfit_classifier")
WIDE = re.compile(r"(?:^|x)(?:f64|i64|complex<f64>)$")  # counters of random bits are ui64 until XLA has split them
MOVES = ("infeed", "outfeed", "send", "recv", "host_compute")


def of_shapes(name, words, *, shallow=False):
    """A config whose data need not be there; maybe with fewer of the blocks, which repeat each other."""
    config = configs.load(str(runs.ROOT / "configs" / f"{name}.py"), words)
    with config.unlocked():
        if shallow:
            config.model.name = {"resnet50": "resnet18"}.get(config.model.name, config.model.name)
            if config.model.name.startswith("vit"):
                config.model.update({"width": 384, "heads": 6} | config.model.to_dict() | {"name": "vit", "depth": 2})
                for key in {"decoder_depth", "predictor_layers"} & set(config.method):
                    config.method[key] = 2
        if not config.data.num_examples and config.data.source not in program.EXAMPLES:
            config.data.num_examples = 1_000_000
        if "tokenizer" in config.data and not config.data.tokenizer.size:
            config.data.tokenizer.size = 1000
    return config


def operations(operation):
    """An operation of MLIR and all inside it."""
    yield operation
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield from operations(inner.operation)


@pytest.mark.parametrize(("name", "words"), ALL)
def test_lowered_for_cuda(name, words):
    """No way out to the host, no float64 or int64, nothing large that is not an argument, and the state is given up.

    No conditional gives parts of the state: it would copy them. What is not finite is kept out by selects.
    """
    with jax.numpy_dtype_promotion("strict"):
        lowered = program.lower_ahead(of_shapes(name, words, shallow=True), parallel.make_mesh(1), "gpu")
    state, _ = lowered.args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    held = {leaf.shape for leaf in jax.tree.leaves(state) if len(leaf.shape) > 1}
    found, large, wide, chosen = Counter(), [], set(), set()
    for operation in operations(lowered.compiler_ir("stablehlo").operation):
        kind = operation.name
        found[kind] += 1
        if kind == "stablehlo.custom_call":
            found[str(operation.attributes["call_target_name"])] += 1
        for result in operation.results:
            if match := re.match(r"tensor<(.*)>$", str(result.type)):
                wide |= {match[1]} if WIDE.search(match[1]) else set()
        if kind in ("stablehlo.case", "stablehlo.if"):
            chosen |= held & {tuple(result.type.shape) for result in operation.results}
        if kind == "stablehlo.constant" and not operation.attributes["value"].is_splat:
            shape = operation.results[0].type.shape
            large += [shape] if 4 * math.prod(shape) > LARGE else []
    assert not wide
    assert not large or name in MEANT
    assert not chosen or name.startswith(PHASES)
    assert not [kind for kind in found if "callback" in kind or any(f".{move}" in kind for move in MOVES)]
    calls = {kind.strip('"') for kind in found if kind.startswith('"')}
    assert {call for call in calls if not call.startswith("__cudnn$")} <= {"LayoutConstraint", "Sharding", "mhlo.topk"}
    # A gradient of a convolution lies as its weights do, which are then updated in place.
    assert found['"LayoutConstraint"'] == sum(len(leaf.shape) == 4 for leaf in jax.tree.leaves(state.params))
    (signature,) = re.findall(r"func\.func public @main\((.*)", lowered.as_text())
    reused = signature.count("tf.aliasing_output") + signature.count("jax.buffer_donor")
    assert reused == len(jax.tree.leaves(state))


@pytest.mark.parametrize(("platform", "laid_out"), [("cpu", 0), ("gpu", 1)])
def test_gradients_keep_their_values_where_they_are_laid_out(platform, laid_out):
    grads = {"kernel": jnp.arange(144.0).reshape(3, 3, 4, 4), "bias": jnp.arange(4.0)}

    def turned(grads):  # a function of its own, as JAX keeps what it traced
        return step._as_weights_lie(grads)

    with parallel.compiling_for(platform):
        assert str(jax.make_jaxpr(turned)(grads)).count("layout_constraint") == laid_out
        got = jax.jit(turned)(grads)
    for name, grad in grads.items():
        np.testing.assert_array_equal(got[name], grad)


NO_CUDA = importlib.util.find_spec("jax_cuda13_plugin") is None
if not NO_CUDA:  # else it complains of the missing driver when the first device is used, in whichever test
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


@pytest.fixture
def h100():
    """A mesh of one; what is compiled for it must not be kept."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    devices.prepare("h100:1")
    yield devices.topology("h100:1")
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.slow
@pytest.mark.skipif(NO_CUDA, reason="the extra plan-cuda is not installed")
def test_the_max_pool_moves_a_third_of_what_xlas_does(h100):
    sys.path.insert(0, str(runs.ROOT / "experiments"))
    from benchmarks import gpu_parts

    small = (8, 112, 112, 64)
    xlas, ours = (gpu_parts.measured(f, 1, small, "h100:1") for f in (gpu_parts.xlas_max_pool, gpu_parts.max_pool))
    assert ours[0] < xlas[0]
    assert 3 * ours[1] < xlas[1]
    assert 3 * ours[2] < xlas[2]


# Ranks, a permutation, classes in their order; a recurrence, blocks of a matrix, updates of a latent, taps of a filter,
# blocks of patches.
SORTED = {"tasks/masked_words", "tasks/colours", "methods/inpainting", "methods/denoising_autoencoder", "methods/moco"}
SORTED |= {"tasks/masks", "losses/sup_con"}
LOOPED = {"models/lstm", "models/context", "losses/streaming", "methods/latent_predictive", "data/images/device_ops"}
LOOPED |= {"tasks/masks"}


@pytest.mark.slow
@pytest.mark.skipif(NO_CUDA, reason="the extra plan-cuda is not installed")
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith("_cpu")])
def test_compiled_for_an_h100(name, h100):
    """Nothing goes to the host inside a step, no sort or loop is there that is not meant, all the state is reused.

    And written where it lies: nothing of the state's form is copied but what is small.
    """
    config = of_shapes(name, [])
    flags = {"xla_gpu_enable_triton_gemm": False} if config.method.name == "jepa" else {}
    state, _ = program.lower_ahead(config, h100).args_info[0]
    compiled = program.compile_ahead(config, h100, **flags)
    text, spent = compiled.as_text(), cost.of(compiled)
    parsed = hlo.parse(text)
    run = [i for body in parsed.computations.values() for i in body.values()]
    held = {leaf.shape for leaf in jax.tree.leaves(state) if math.prod(leaf.shape) > COPIED}
    main = parsed.computations[parsed.entry]
    (new,) = (i.operands for i in main.values() if i.root)
    for i in run:
        copied = i.op == "copy" and (i.name in new or main.get(i.operands[0], i).op == "parameter")
        if (copied and name not in BANKED) or (i.op == "conditional" and not name.startswith(PHASES)):
            assert held.isdisjoint(dims for _, dims in hlo.shapes(i.shape)), i
    assert not [i.name for i in run if i.op == "constant" and hlo.size(i.shape) > LARGE]
    assert not [i.name for i in run if i.op.removesuffix("-done") in MOVES]
    assert not [i.name for i in run if any(kind in ("f64", "s64") for kind, _ in hlo.shapes(i.shape))]
    assert "callback" not in text
    for op, meant in (("sort", SORTED), ("while", LOOPED)):
        files = {parsed.line(i).removeprefix("ssl_jax/").partition(".py")[0] for i in run if i.op == op}
        assert files <= meant
    assert spent.unknown_turns == 0
    assert spent.donated == sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
