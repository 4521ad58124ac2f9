"""What ``experiments/gate.py`` looks at: laws that a step must keep, what augmentation does, short runs, seconds.

Each part gives figures by name. Laws and shares carry the range they must lie in, of the others the range is that of
what was recorded over seeds.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.common import base, cifar10_cpu
from ssl_jax import configs, losses, methods, parallel, train
from ssl_jax.data.images import device, published, recipes
from ssl_jax.experiment import build, make_method
from ssl_jax.run.writer import read_metrics
from ssl_jax.step import gradients, make_init
from ssl_jax.types import Plan

METHODS = ("simclr", "byol", "moco")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.5},
    "byol": {"tau": 0.97, "hidden": 128},
    "moco": {"temperature": 0.2, "momentum": 0.99, "queue_size": 512, "bn_groups": 8},
}
PARTS = 8  # devices of the law, simulated by vmap
RUNS = 8  # whose mean is a figure: from run to run BYOL's kNN has a standard deviation of more than two points


class Figure(NamedTuple):
    """A measured number, and where it must lie if that is known without a record."""

    value: float
    low: float | None = None
    high: float | None = None


Figures = Iterator[tuple[str, Figure]]


def config_of(name: str, seed: int = 0) -> configs.Config:
    """A run of some seconds on digits. Projections are as wide as features, so that nothing tells them by shape."""
    config = base()
    config.method.update({"name": name, "projector_dim": 64, **ARGUMENTS[name]})
    config.model.update({"name": "convnet", "widths": (32, 64), "strides": (2, 2), "residual": False})
    config.data.update({"source": "digits", "image_size": 16, "global_batch_size": 128, "recipe": "digits"})
    config.data.update({"val_fraction": 0.3, "mean": (0.305,), "std": (0.376,)})
    config.optim.update({"name": "adamw", "learning_rate": 2e-3, "scale": "none", "warmup_epochs": 2.0})
    config.train.update({"epochs": 20, "log_every": 1, "eval_every": 1 << 20, "checkpoint_every": 0})
    config.eval.update({"knn_k": 20})
    config.seed = seed
    return config


# ----------------------------------------------------------------------------------------------------------- laws


def laws(seed: int) -> Figures:
    """In float64, without a record: gradients are those of the loss, in one part and in eight; who moves what."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for block in (0, 8):
            yield from _loss_law(block, seed)
        for name in METHODS:
            yield from _method_laws(name, seed)


def _loss_law(block: int, seed: int) -> Figures:
    """NT-Xent by itself in eight parts, in its plain and its streaming form."""
    z = jax.random.normal(jax.random.key(seed), (2, 32, 16), jnp.float64)

    def loss(z, axis):
        return parallel.mean(losses.nt_xent(z[0], z[1], temperature=0.5, axis=axis, block=block), axis)

    def split(z):
        return z.reshape(2, PARTS, -1, z.shape[-1]).transpose(1, 0, 2, 3)

    def slopes(z):  # each part's own; together they are the gradient of the mean
        each = partial(
            jax.value_and_grad(lambda part: losses.nt_xent(*part, temperature=0.5, axis=parallel.DATA, block=block))
        )
        value, slope = jax.vmap(each, axis_name=parallel.DATA)(split(z))
        return value.mean(), slope.transpose(1, 0, 2, 3).reshape(z.shape) / PARTS

    value, slope = jax.jit(slopes)(z)
    way = jax.random.normal(jax.random.key(seed + 1), z.shape, jnp.float64)
    yield f"nt_xent block {block}: slope, 8 parts", _slope(lambda e: loss(z + e * way, None), jnp.vdot(slope, way))
    yield f"nt_xent block {block}: loss, 8 parts less 1", Figure(float(value - loss(z, None)), -1e-9, 1e-9)
    rows = _unit(np.concatenate(np.asarray(z)))
    logits = rows @ rows.T / 0.5 - np.diag([np.inf] * len(rows))
    own = np.diag(np.roll(logits, len(rows) // 2, axis=1))
    expected = np.mean(np.log(np.exp(logits).sum(1)) - own)
    yield f"nt_xent block {block}: loss less that of the equation", Figure(float(value - expected), -1e-9, 1e-9)


def _method_laws(name: str, seed: int) -> Figures:
    rows = 2 * PARTS
    config = config_of(name, seed)
    config.method.update({"queue_size": 64} if name == "moco" else {})
    method = make_method(config, Plan(100, 10, 1000, (16, 16, 1), rows, 10))
    rng = np.random.default_rng(seed)
    batch = {"views": tuple(rng.random((rows, 16, 16, 1)) for _ in range(2)), "index": np.arange(rows, dtype=np.int32)}
    narrow = {"views": tuple(np.float32(v) for v in batch["views"]), "index": batch["index"]}
    state = jax.jit(make_init(method, optax.sgd(0.1)))(jax.random.key(seed), narrow, None)
    state = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, state)
    whole = jax.jit(gradients(method))
    in_parts = jax.tree.map(lambda a: a.reshape(PARTS, -1, *a.shape[1:]), batch)
    mapped = jax.jit(jax.vmap(gradients(method, axis=parallel.DATA), (None, 0), axis_name=parallel.DATA))
    value, out, slope, _ = whole(state, batch)
    found = jax.tree.map(lambda a: a[0], mapped(state, in_parts)[:3])

    way = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), state.params)

    def moved(e):
        return whole(state.replace(params=jax.tree.map(lambda a, w: a + e * w, state.params, way)), batch)[0]

    for said, s in (("1 part", slope), ("8 parts", found[2])):
        along = sum(jnp.vdot(a, w) for a, w in zip(jax.tree.leaves(s), jax.tree.leaves(way), strict=True))
        yield f"{name}: slope, {said}", _slope(moved, along)
    yield f"{name}: loss, 8 parts less 1", Figure(float(found[0] - value), -1e-9, 1e-9)

    if "target" in state.model_state:  # whose statistics are of its own batches alone
        other = {k: v if k == "target" else jax.tree.map(lambda a: a + 1, v) for k, v in state.model_state.items()}
        again = whole(state.replace(model_state=other), batch)[1].model_state["target"]
        apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), again, out.model_state["target"])
        yield f"{name}: online statistics in the target's", Figure(float(max(jax.tree.leaves(apart))), 0.0, 0.0)
    if name == "moco":  # the equation, of the step's own queries and keys and of the queue before it
        q, k, queue = (_unit(np.asarray(a)) for a in (out.outputs["projections"], out.carry, state.aux["queue"]))
        own = (q * k).sum(1) / config.method.temperature
        others = np.exp(q @ queue.T / config.method.temperature).sum(1)
        expected = np.mean(np.log(np.exp(own) + others) - own)
        yield "moco: loss less that of the queue before it", Figure(float(value - expected), -1e-9, 1e-9)
    if name == "byol":  # the equation, of a target that is the online network still, so that it has its projections
        swapped = whole(state, batch | {"views": batch["views"][::-1]})[1]
        one, two = (np.asarray(a.outputs["projections"]) for a in (out, swapped))
        p, q = (_unit(_by_hand(state.params["predictor"], z)) for z in (one, two))
        expected = np.mean(4 - 2 * (p * _unit(two)).sum(1) - 2 * (q * _unit(one)).sum(1))
        yield "byol: loss less that of the equation", Figure(float(value - expected), -1e-9, 1e-9)


def _slope(loss, along) -> Figure:
    """A slope over that of two values of the loss: 1."""
    step = 1e-8  # so small that hardly any ReLU turns within it
    return Figure(float(along / ((loss(step) - loss(-step)) / (2 * step))), 0.999, 1.001)


def _by_hand(head: Any, z: np.ndarray) -> np.ndarray:
    """A head of two layers, with BatchNorm and ReLU between them, in train mode."""
    h = z @ head["dense0"]["kernel"] + head["dense0"].get("bias", 0)
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * head["norm0"]["scale"] + head["norm0"]["bias"]
    return np.maximum(h, 0) @ head["dense1"]["kernel"] + head["dense1"].get("bias", 0)


def _unit(a: np.ndarray) -> np.ndarray:
    return a / np.linalg.norm(a, axis=1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------- views

# How often each operation is done: what the publications say, written down once more, for the recipe may be wrong.
VIEWS: dict[tuple[str, int], dict[str, float]] = {
    ("simclr_cifar", 0): {"Flip": 0.5, "Jitter": 0.8, "Gray": 0.2},
    ("byol", 0): {"Flip": 0.5, "Jitter": 0.8, "Gray": 0.2, "Blur": 1.0, "Solarize": 0.0},
    ("byol", 1): {"Flip": 0.5, "Jitter": 0.8, "Gray": 0.2, "Blur": 0.1, "Solarize": 0.2},
    ("moco_v2", 0): {"Jitter": 0.8, "Gray": 0.2, "Blur": 0.5, "Flip": 0.5},
    ("digits", 0): {"Jitter": 0.8, "Noise": 0.5},
}
SEEN = {"Blur": 0.944}  # of sigmas between 0.1 and 2, those above 0.206: a smaller one changes nothing in float32
ROUNDED = 1e-5  # mean change of an image between two programs that do the same to it


def views(seed: int, count: int = 4096) -> Figures:
    """What each operation of a view changes: the share of images, and those by how much, all else being drawn alike.

    A share is of images of noise, where whatever is done can be seen (grey photographs stay as they are), so that it is
    the probability but for four standard errors.
    """
    for (name, number), chances in VIEWS.items():
        view = published.get(name).views[number]
        images = _digits(count) if name == "digits" else _photos(count)
        noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
        full, full_noise = _made(view, images, seed), _made(view, noise, seed)
        yield f"{name}[{number}]: mean", Figure(float(full.mean()))
        yield f"{name}[{number}]: spread", Figure(float(full.std()))
        for op in dict.fromkeys(("Crop", *(type(o).__name__ for o in view.ops), *chances)):
            left = tuple(o for o in view.ops if type(o).__name__ != op)
            other = view._replace(ops=left, crop=None if op == "Crop" else view.crop)
            rest = _made(other, images, seed)
            change = _change(full, rest)
            done = change > ROUNDED
            share = (_change(full_noise, _made(other, noise, seed)) > ROUNDED).mean()
            yield f"{name}[{number}]: {op} share", _share(float(share), chances, op, count)
            if done.any():
                yield f"{name}[{number}]: {op} size", Figure(float(change[done].mean()))
            if done.any() and op in ("Blur", "Noise"):  # whatever an image shows, blur leaves so much of its edges
                yield f"{name}[{number}]: {op} edges", Figure(_edges(full[done]) / _edges(rest[done]))


def _share(share: float, chances: Mapping[str, float], op: str, count: int) -> Figure:
    """Between what four standard errors allow; an operation that no publication names is never done."""
    if op == "Crop":  # always done, and sometimes with the whole image
        return Figure(share)
    p = chances.get(op, 0.0) * SEEN.get(op, 1.0)
    room = 4 * (p * (1 - p) / count) ** 0.5
    return Figure(share, p - room, p + room)


def _change(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each image, the mean over its pixels."""
    return np.abs(some - others).mean((1, 2, 3))


def _edges(images: np.ndarray) -> float:
    """Mean step between neighbours."""
    return float(np.abs(np.diff(images, axis=1)).mean())


def _made(view: Any, images: np.ndarray, seed: int) -> np.ndarray:
    batch = {"image": images, "index": np.arange(len(images), dtype=np.int32)}
    return np.asarray(_maker(view, images.shape[1])(batch, jax.random.key(seed)))


@functools.cache
def _maker(view: Any, size: int):
    make = device.views(recipes.Recipe((view,), published.get("none").evaluate), size)
    return jax.jit(lambda batch, key: make(batch, key, None)["views"][0])


def _photos(count: int, size: int = 32) -> np.ndarray:
    """Pieces of scikit-learn's two photographs, at half of their size, always the same."""
    from sklearn.datasets import load_sample_images

    photos = [photo[::2, ::2] for photo in load_sample_images().images]
    rng, made = np.random.default_rng(0), []
    for i in range(count):
        photo = photos[i % len(photos)]
        y, x = (rng.integers(n - size) for n in photo.shape[:2])
        made.append(photo[y : y + size, x : x + size])
    return np.stack(made)


def _digits(count: int) -> np.ndarray:
    from ssl_jax.data.readers.arrays import digits

    images = digits().columns["image"]
    return images[np.arange(count) % len(images)].repeat(2, axis=1).repeat(2, axis=2)


# ----------------------------------------------------------------------------------------------------------- runs


def runs(seed: int) -> Figures:
    """Means of eight runs on digits: last accuracies on validation examples, and the loss of each quarter."""
    for name in METHODS:
        found = [_run(config_of(name, RUNS * seed + i)) for i in range(RUNS)]
        for figure in found[0]:
            yield f"{name}: {figure}", Figure(float(np.mean([one[figure] for one in found])))


def _run(config: configs.Config) -> dict[str, float]:
    log = io.StringIO()  # of 24 runs
    quiet = contextlib.redirect_stdout(log), contextlib.redirect_stderr(log)
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        train.fit(build(config), Path(folder) / "run", test=False)
        lines = read_metrics(Path(folder) / "run" / "metrics.jsonl")
    loss = [line["train_loss"] for line in lines if "train_loss" in line]
    quarters = {f"loss, quarter {i}": float(np.mean(part)) for i, part in enumerate(np.array_split(loss, 4), 1)}
    return {score: lines[-1][f"val_{score}_top1"] for score in ("knn", "probe")} | quarters


# ----------------------------------------------------------------------------------------------------------- pace


def pace(seed: int) -> Figures:
    """Seconds of lightly's step over those of ours, of one core's processor: to be called on one core.

    Raises:
      ImportError: torch or lightly is not there.
    """
    from benchmarks import lightlies, lightly_networks

    if missing := lightlies.available():
        raise ImportError(missing)
    import torch
    from benchmark import Benchmark, turns
    from benchmarks.step import ours

    from ssl_jax import models

    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    both = tuple(rng.random((64, 32, 32, 3), np.float32) for _ in range(2))
    batch = {"views": both, "index": np.arange(64, dtype=np.int32)}
    for name in METHODS:
        config = cifar10_cpu(base())
        config.method.update({"name": name, **ARGUMENTS[name], "projector_dim": 64})
        if name == "byol":
            config.method.tau_schedule = "constant"
        if name == "moco":
            config.method.bn_groups = 1
        encoder = models.make(config.model.name, **{k: v for k, v in config.model.items() if k != "name"})
        arguments = {k: v for k, v in config.method.items() if k != "name"}
        plan = Plan(1000, 100, 50_000, (32, 32, 3), 64, 10)
        method = methods.get(name)(encoder, plan=plan, **arguments)
        given = jax.device_get(jax.jit(method.init)(jax.random.key(0), batch))
        peer = lightlies.make(name, encoder, given, arguments, plan)
        optimizer = torch.optim.SGD(peer.parts.parameters(), lr=0.03, momentum=0.9)
        tensors = [lightly_networks.tensor(view, (0.0,), (1.0,)) for view in both]

        def theirs(peer=peer, optimizer=optimizer, tensors=tensors) -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = peer.loss(*tensors)
            loss.backward()
            optimizer.step()
            peer.after(0)
            return float(loss.detach())

        calls = {"ours": ours(method, batch, None, 1), "theirs": theirs}
        for call in calls.values():
            call()
        times = turns(calls, 15, Benchmark(ours=calls["ours"], peers={}, processor=True))
        medians = {side: float(np.median(seconds)) for side, seconds in times.items()}
        yield f"{name}: lightly's step over ours", Figure(medians["theirs"] / medians["ours"])
