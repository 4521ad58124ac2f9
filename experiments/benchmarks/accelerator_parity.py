"""Every method's step on a device against the CPU's: three steps of SGD in float32 at highest precision.

Both begin with the device's state, and have the same keys.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import accelerator_steps

from ssl_jax import parallel
from ssl_jax.data.images import device, published
from ssl_jax.interop.leaves import by_name
from ssl_jax.testing import TX
from ssl_jax.types import TrainState

STEPS = 3
THREADS = min(8, os.cpu_count() or 1)  # of methods at once: they are small, and most of the time goes into compiling

IMAGES = ["model.name=convnet", "model.widths=(8,16)", "model.residual=False", "data.image_size=16"]
IMAGES += ["data.global_batch_size=32", "data.augment=host"]
HEAD = ["method.projector_dim=16"]
SMALL_VIT = ["data.augment=host", "model.width=24", "model.depth=1", "data.global_batch_size=16"]
SMALL_VIEWS = ["data.views.local.size=8"]
TEXT = ["data.tokenizer.size=100", "data.length=16", "data.document_length=16", "data.global_batch_size=16"]
DECODER = ["method.latent_dim=16", "method.decoder_widths=(8,4)"]
# Group -> method -> (config, what makes it small).
GROUPS: dict[str, dict[str, tuple[str, list[str]]]] = {
    "contrastive": {
        "simclr": ("simclr_cifar10_cpu", [*IMAGES, *HEAD]),
        "byol": ("byol_cifar10_cpu", [*IMAGES, *HEAD, "method.hidden=32"]),
        "moco": ("moco_cifar10_cpu", [*IMAGES, *HEAD, "method.queue_size=64"]),
        "instance_discrimination": ("instance_discrimination_cpu", [*IMAGES, *HEAD, "data.num_examples=256"]),
        "triplet": ("triplet_cpu", [*IMAGES, *HEAD]),
        "supervised": ("supervised_cifar10_cpu", IMAGES),
        "uda": ("uda_cifar10_cpu", IMAGES),
    },
    "pretext": {
        "rotation": ("rotation_cpu", IMAGES),
        "relative_patch": ("relative_patch_cpu", [*IMAGES, "data.image_size=32", "method.gap=1", "method.jitter=0"]),
        "jigsaw": ("jigsaw_cpu", [*IMAGES, "data.image_size=32", "method.grid=2", "method.jitter=1"]),
        "colorization": ("colorization_cpu", IMAGES),
        "split_brain": ("split_brain_cpu", IMAGES),
    },
    "predictive": {
        "autoencoder": ("autoencoder_cpu", [*IMAGES, *DECODER]),
        "denoising_autoencoder": ("denoising_autoencoder_cpu", [*IMAGES, *DECODER]),
        "inpainting": ("inpainting_cpu", [*IMAGES, *DECODER]),
        "corrupted_images": ("corrupted_images_cpu", [*IMAGES, *DECODER, "method.repair_layers=1"]),
        "cpc": ("cpc_cpu", [*IMAGES, "data.image_size=32"]),
        "latent_predictive": ("latent_predictive_cpu", [*IMAGES, "method.hidden=32"]),
        "jepa": ("jepa_cpu", SMALL_VIT),
    },
    "modern": {
        "simsiam": ("simsiam_cpu", [*IMAGES, *HEAD]),
        "barlow_twins": ("barlow_twins_cpu", [*IMAGES, *HEAD]),
        "vicreg": ("vicreg_cpu", [*IMAGES, *HEAD]),
        "supcon": ("supcon_cpu", [*IMAGES, *HEAD]),
        "moco_v3": ("moco_v3_cpu", [*IMAGES, *HEAD, "method.hidden=32"]),
        "nnclr": ("nnclr_cpu", [*IMAGES, *HEAD, "method.queue_size=64"]),
        "swav": ("swav_cpu", [*IMAGES, *HEAD, *SMALL_VIEWS, "method.prototypes=16"]),
        "lejepa": ("lejepa_cpu", [*IMAGES, *HEAD, *SMALL_VIEWS, "method.slices=16"]),
        "deep_infomax": ("deep_infomax_cpu", [*IMAGES, "method.score_dim=16"]),
        "dino": ("dino_cpu", [*SMALL_VIT, *SMALL_VIEWS, "method.out_dim=32"]),
        "ibot": ("ibot_cpu", [*SMALL_VIT, *SMALL_VIEWS, "method.out_dim=32"]),
        "mae": ("mae_cpu", [*SMALL_VIT, "method.decoder_width=16"]),
    },
    "text": {
        "language_model": ("language_model_demo", [*TEXT, "model.width=16"]),
        "bert": ("bert_demo", TEXT),
        "word2vec": ("word2vec_demo", [*TEXT, "model.width=16"]),
        "glove": ("glove_demo", [*TEXT, "model.width=16"]),
    },
}


def compare(name: str, **_: Any) -> dict[str, Any]:
    """Method -> differences, or the error of one that could not be compared."""
    jax.config.update("jax_default_matmul_precision", "highest")
    there, here = jax.devices()[0], jax.devices("cpu")[0]
    group = GROUPS[name.removeprefix("parity_")]
    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(lambda case: one_of(case, there, here), group.values())
        found: dict[str, Any] = dict(zip(group, results, strict=True))
    if name == "parity_contrastive":
        views = [seen(place) for place in (there, here)]
        found["views of simclr_cifar"] = {"largest": float(np.abs(views[0] - views[1]).max())}
    return found


def one_of(case: tuple[str, list[str]], there: Any, here: Any) -> dict[str, Any]:
    """How far the two are apart after STEPS steps; an error ends no other method's."""
    config, words = case
    try:
        print(config, flush=True)  # in the log, should the process die
        made = [accelerator_steps.made(accelerator_steps.load(config, words), [place]) for place in (there, here)]
        with jax.default_device(there), parallel.compiling_for(there.platform):
            start = made[0].state(TX)
        one, other = (ran(case, start) for case in made)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"}
    return {
        "params": apart(one["params"], other["params"]),
        "model_state": apart(one["model_state"], other["model_state"]),
        "losses": one["losses"],
        "losses_cpu": other["losses"],
        "nan_leaves_state": one["kept"],
    }


def ran(case: accelerator_steps.Made, start: TrainState) -> dict[str, Any]:
    """Parameters, statistics and losses after STEPS steps on its device, and what a step that is not finite leaves."""
    case = case._replace(parts=case.parts._replace(tx=TX))
    place = case.mesh.devices.flat[0]
    with jax.default_device(place), parallel.compiling_for(place.platform):
        step = case.step(augmented=False)
        # A copy, which may be given away.
        state = jax.device_put(start, parallel.state_shardings(start, case.mesh), may_alias=False)
        batch, losses = step.place(case.prepared), []
        compiled, _ = accelerator_steps.compile(step.lower(state, batch), place.platform)
        for _ in range(STEPS):
            state, metrics = compiled(state, batch)
            losses.append(float(metrics["loss"]))
        leaves = {part: numbers(getattr(state, part)) for part in ("params", "model_state")}
        return leaves | {"losses": losses, "kept": kept(compiled, state, batch)}


def kept(compiled: Any, state: TrainState, batch: Any) -> bool:
    """Whether parameters that are not finite leave all of the state but its counters as it was, bit by bit."""
    encoder = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), state.params["encoder"])
    encoder = jax.device_put(encoder, jax.tree.map(lambda a: a.sharding, state.params["encoder"]))
    state = state.replace(params={**state.params, "encoder": encoder})
    parts = ("params", "model_state", "opt_state", "aux", "rows", "probe")
    before = {part: numbers(getattr(state, part)) for part in parts}
    after, _ = compiled(state, batch)
    same = [
        leaf.tobytes() == before[part][name].tobytes()
        for part in parts
        for name, leaf in numbers(getattr(after, part)).items()
    ]
    return all(same) and int(after.bad) >= 0


def numbers(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by name, on the host, in their own memory: the state is donated."""
    return {name: np.array(leaf) for name, leaf in by_name(tree).items()}


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference in a leaf, over the leaf's largest number, or over a thousandth of that of all leaves."""
    largest = max((float(np.abs(leaf).max()) for leaf in other.values() if leaf.size), default=0.0)
    found = 0.0
    for name, leaf in other.items():
        if leaf.size and np.issubdtype(leaf.dtype, np.inexact):
            scale = max(float(np.abs(leaf).max()), 1e-3 * largest) or 1.0
            found = max(found, float(np.abs(one[name] - leaf).max()) / scale)
    return found


def seen(place: Any) -> np.ndarray:
    """The first view of SimCLR's recipe of random images."""
    raw = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    views = device.views(published.get("simclr_cifar"), 32)
    with jax.default_device(place), parallel.compiling_for(place.platform):
        batch = {"image": jnp.asarray(raw), "index": jnp.arange(64, dtype=jnp.int32)}
        return np.asarray(jax.jit(lambda batch, key: views(batch, key, None))(batch, jax.random.key(0))["views"][0])
