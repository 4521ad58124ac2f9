"""Train steps on a device: how fast, how much of it is augmentation, and how near they come to the planner's roofline.

Batches are random and made beforehand, images as uint8 that are augmented in the step.
"""

from __future__ import annotations

import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import plan
import profile_step
from benchmarks import accelerator_device

from ssl_jax import configs, parallel
from ssl_jax.configs import Config
from ssl_jax.data import recipes
from ssl_jax.data.images import device
from ssl_jax.experiment import Parts, make_modality, make_parts
from ssl_jax.plan import cost, program
from ssl_jax.plan.kernels import by, moved
from ssl_jax.step import Step, compile_step, init_state

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = 1_000_000  # that a run is taken to have, of text and files
VOCABULARY = 30_522
DISPATCHED, DISPATCHED_TOY = 10, 2
# Without LLVM's optimisations: a tenth of the time that compiling takes on a CPU, whose speed is not what is asked for.
SOON = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

BF16 = "model.dtype=bfloat16"
CONVNET = ["model.name=convnet", "model.widths=(8,16)", "model.residual=False", "data.global_batch_size=16"]
VIT = ["model.name=vit", "model.width=16", "model.depth=1", "model.heads=2", "method.predictor_width=16"]
VIT += ["method.predictor_layers=1", "data.global_batch_size=8"]
WORDS = ["data.tokenizer.size=100", "data.length=16", "data.document_length=16", "data.global_batch_size=8"]
LSTM = ["model.width=16", "model.hidden=24", "model.layers=1", *WORDS]
# Name -> (config, what is changed, what makes it small instead).
PROGRAMS = {
    "simclr_cifar": ("simclr_cifar10", [BF16], [*CONVNET, "data.image_size=16"]),
    "byol_cifar": ("byol_cifar10", [BF16], [*CONVNET, "data.image_size=16", "method.hidden=16"]),
    "moco_cifar": ("moco_cifar10", [BF16], [*CONVNET, "data.image_size=16", "method.queue_size=32"]),
    "simclr_resnet50": ("simclr_imagenet", ["data.global_batch_size=256"], [*CONVNET, "data.image_size=16"]),
    "jepa_vit_b": (
        "jepa_imagenet",
        ["model.name=vit_b", "model.patch_size=16", "model.remat=none", "data.global_batch_size=128"],
        [*VIT, "model.patch_size=4", "data.image_size=32"],
    ),
    "language_model": ("awd_lstm_wikitext2", [BF16, f"data.tokenizer.size={VOCABULARY}"], LSTM),
    "bert_base": ("bert_base", ["data.global_batch_size=64"], ["model.name=bert_tiny", *WORDS]),
}


class Made(NamedTuple):
    """A config's step and what it is given: ``batch`` as it is sent, ``prepared`` after views."""

    parts: Parts
    mesh: Any
    views: Any
    batch: dict[str, Any]
    prepared: dict[str, Any]
    unit: str

    def step(self, *, augmented: bool = True, several: bool = False) -> Step:
        views = self.views if augmented else None
        return compile_step(
            self.parts.method, self.parts.tx, self.mesh, views=views, probe=self.parts.probe, several=several
        )

    def state(self, tx: Any = None):
        placed, tx = parallel.place(self.prepared, self.mesh), tx or self.parts.tx
        return init_state(self.parts.method, tx, jax.random.key(0), placed, self.mesh, probe=self.parts.probe)


def load(name: str, words: list[str]) -> Config:
    """A config whose data need not be there."""
    config = configs.load(ROOT / "configs" / f"{name}.py", words)
    with config.unlocked():
        if not config.data.num_examples and config.data.source not in program.EXAMPLES:
            config.data.num_examples = EXAMPLES
        if not config.data.tokenizer.size:
            config.data.tokenizer.size = 1000
    configs.check(config)
    return config


def made(config: Config, devices: list[Any] | None = None, seed: int = 0) -> Made:
    """The step of a config, on these devices or the first one."""
    of_run = program.plan_of(config)
    rows, modality = of_run.global_batch_size, make_modality(config, plan=of_run)
    vocab = modality.vocab.size if modality.vocab else 0
    prepared = drawn(modality.spec(rows), vocab, np.random.default_rng(seed))
    if modality.vocab and "segment" in prepared:  # of pairs of sentences
        middle = prepared["tokens"].shape[1] // 2
        prepared["tokens"][:, 0], prepared["tokens"][:, [middle, -1]] = modality.vocab.cls, modality.vocab.sep
        prepared["views"] = (prepared["tokens"],)
    mesh = parallel.mesh_of(devices or jax.devices()[:1])
    batch, views = prepared, None
    if not vocab and "unlabelled" not in prepared:
        raw = np.random.default_rng(seed).integers(0, 256, (rows, *of_run.input_shape), np.uint8)
        batch = {"image": raw, "index": prepared["index"], "label": prepared["label"]}
        views = device.views(recipes.of(config.data), config.data.image_size)
    return Made(make_parts(config, of_run), mesh, views, batch, prepared, modality.unit)


def drawn(spec: Mapping[str, Any], vocab: int, rng: np.random.Generator) -> dict[str, Any]:
    """Random numbers that a batch of these shapes may hold."""
    found: dict[str, Any] = {}
    for name, leaf in spec.items():
        if isinstance(leaf, Mapping):
            found[name] = drawn(leaf, vocab, rng)
        elif isinstance(leaf, tuple):
            found[name] = tuple(drawn({"views": one}, vocab, rng)["views"] for one in leaf)
        elif np.issubdtype(leaf.dtype, np.floating):
            found[name] = (0.05 + 0.95 * rng.random(leaf.shape)).astype(leaf.dtype)
        elif leaf.dtype == np.bool_:
            found[name] = rng.random(leaf.shape) < 0.5
        elif name == "index":
            found[name] = np.arange(len(np.empty(leaf.shape)), dtype=leaf.dtype)
        else:
            low, high = {"label": (0, 10), "segment": (0, 2), "reach": (1, 3)}.get(name, (6, max(vocab, 7)))
            found[name] = rng.integers(low, high, leaf.shape).astype(leaf.dtype)
    return found


def measure(name: str, *, toy: bool, work: Path, known: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """A program of PROGRAMS: ``step_NAME``, or with less measured ``step_NAME+graph`` or ``step_NAME+dispatch``."""
    which, variant = f"{name.removeprefix('step_')}+".split("+")[:2]
    config_name, words, small = PROGRAMS[which]
    one = made(load(config_name, small if toy else words))
    rows, number = len(one.prepared["index"]), 1
    if variant == "dispatch":
        number = DISPATCHED_TOY if toy else DISPATCHED
    step = one.step(several=number > 1)
    batch = one.batch if number == 1 else jax.tree.map(lambda a: np.stack([a] * number), one.batch)
    state, placed = one.state(), step.place(batch)
    began = time.perf_counter()
    compiled, flags = compile(step.lower(state, placed))
    found: dict[str, Any] = {"config": config_name, "batch": rows, "unit": one.unit, "flags": flags}
    found["seconds_of_compiling"] = time.perf_counter() - began
    state, took = timed(compiled, state, placed, toy)
    took = [each / number for each in took]
    each = statistics.median(took)
    found |= {"seconds": each, "seconds_range": [min(took), max(took)], "per_second": rows / each}
    found["memory"] = accelerator_device.memory(jax.devices()[0])
    if variant:
        return found
    found |= tried("counted", lambda: compared(compiled, each, known))
    if one.views is not None:
        found |= tried("views", lambda: augmentation(one, each, toy))
    return found | tried("profile", lambda: profiled(compiled, state, placed, work / f"{which}_trace"))


def tried(what: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured; an error here does not lose the speed that is already known."""
    try:
        return measured()
    except Exception as error:
        traceback.print_exc()
        return {what: f"not measured: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"}


def compile(lowered: Any, platform: str = "") -> tuple[Any, dict[str, Any]]:
    """(the program, the flags of XLA that it took), as the planner tries them; for a CPU what is soon compiled."""
    try:
        if platform == "cpu":
            return lowered.compile(compiler_options=SOON), SOON
        return lowered.compile(), {}
    except Exception as error:  # XLA's
        if plan.UNTILED not in str(error):
            raise
        return lowered.compile(compiler_options=plan.WITHOUT_TRITON), plan.WITHOUT_TRITON


def timed(compiled: Any, state: Any, batch: Any, toy: bool) -> tuple[Any, list[float]]:
    """(the state after it, seconds of a call), five times, each over so many calls as take about a second."""
    for _ in range(2):
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
    before = time.perf_counter()
    state, metrics = compiled(state, batch)
    jax.block_until_ready(metrics)
    calls = 2 if toy else max(3, min(100, round(1 / (time.perf_counter() - before))))
    took = []
    for _ in range(5):
        before = time.perf_counter()
        for _ in range(calls):
            state, metrics = compiled(state, batch)
        jax.block_until_ready((state.step, metrics))
        took.append((time.perf_counter() - before) / calls)
    return state, took


def augmentation(one: Made, each: float, toy: bool) -> dict[str, Any]:
    """The share of a step that is gone where views are made beforehand."""
    step = one.step(augmented=False)
    state, placed = one.state(), step.place(one.prepared)
    _, took = timed(compile(step.lower(state, placed))[0], state, placed, toy)
    without = statistics.median(took)
    return {"seconds_without_views": without, "share_of_views": 1 - without / each}


def compared(compiled: Any, each: float, known: Mapping[str, Any]) -> dict[str, Any]:
    """Operations, bytes and rooflines of the program that ran, as the planner counts them, and what was reached."""
    spent = cost.of(compiled)
    flops = float(sum(kernel.number * kernel.flops for kernel in spent.kernels))
    found: dict[str, Any] = {"flops": flops, "bytes_moved": moved(spent.kernels), "temporaries": spent.temporaries}
    found["kernels"] = sum(kernel.number for kernel in spent.kernels)
    found["planned_memory"] = spent.memory
    for name, chip in accelerator_device.chips(known).items():
        kinds = by("kind", spent.kernels, lambda kernel, chip=chip: chip.seconds(kernel, 1))
        least = sum(counted.seconds for counted in kinds.values())
        found[f"mfu_{name}"] = flops / each / chip.flops
        found[f"roofline_seconds_{name}"] = least
        found[f"measured_over_roofline_{name}"] = each / least if least else None
        found[f"kinds_{name}"] = {
            kind: {"number": c.number, "bytes": c.bytes, "flops": c.flops, "seconds": c.seconds}
            for kind, c in kinds.items()
        }
    return found


def profiled(compiled: Any, state: Any, batch: Any, out: Path) -> dict[str, Any]:
    """Seconds of a step by kind of work and by kind of kernel; the trace goes, it is too large to be carried."""
    text, steps = compiled.as_text(), 3
    names = profile_step.sources(text)
    kernels = {kernel.name: kernel.kind for kernel in cost.of(compiled).kernels}
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    try:
        with jax.profiler.trace(str(out), profiler_options=options):
            for _ in range(steps):
                state, metrics = compiled(state, batch)
                jax.block_until_ready(metrics)
        spent = profile_step.recorded(out, names)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    work: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for name, seconds in spent.items():
        of_work = profile_step.kind_of(names[name]) if name else profile_step.UNKNOWN
        of_kernel = kernels.get(name, "other")
        work[of_work] = work.get(of_work, 0.0) + seconds / steps
        kinds[of_kernel] = kinds.get(of_kernel, 0.0) + seconds / steps
    by_time = sorted(work.items(), key=lambda item: -item[1])
    return {"profile": dict(by_time), "profile_kinds": dict(sorted(kinds.items(), key=lambda item: -item[1]))}
