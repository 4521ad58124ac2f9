"""What every method is put through: one small case each, run for a few SGD steps in any layout of devices.

Also a script: ``python tests/contract.py RANK COUNT PORT OUT CASE...`` runs the cases as one of COUNT processes.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from ssl_jax import testing
from ssl_jax.testing import CLASSES, ROWS, STEPS, TX, double, leaves_of, local_value

__all__ = ["CLASSES", "ROWS", "STEPS", "TX", "double", "leaves_of", "local_value"]

TOKENS, LENGTH = 50, 12  # of text
OF_TEXT = {"language_model", "bert", "word2vec", "glove"}
WINDOW, NEGATIVES, CELLS = 2, 32, 200  # of word2vec and GloVe; with fewer their tables outweigh what rows cost
FROM_LABELS = {"supervised", "supcon", "uda"}  # methods that see them
MULTI_CROP = {"dino-crops", "ibot-v2", "lejepa-crops", "swav-crops"}  # cases with views of two sizes
RATIO = 1  # unlabelled rows for each labelled one; of more XLA counts some convolutions otherwise under pmap

# The arguments of each method's small case; its data are random views and labels.
CASES = {
    "simclr": {"temperature": 0.2, "projector_layers": 3, "projector_dim": 16},
    "byol": {"tau": 0.9, "hidden": 32, "projector_dim": 16},
    "moco": {"queue_size": 256, "projector_dim": 16, "momentum": 0.9, "temperature": 0.2},
    "simsiam": {"projector_dim": 16, "predictor_hidden": 8},
    "barlow_twins": {"projector_dim": 16, "projector_layers": 2, "scale": 0.1},
    "vicreg": {"projector_dim": 16, "projector_layers": 2},
    "supcon": {"projector_hidden": 16, "projector_dim": 16},
    "supervised": {"label_smoothing": 0.1},
    "rotation": {},
    "relative_patch": {"gap": 1, "jitter": 0, "embed_dim": 16, "hidden": 32},
    "jigsaw": {"grid": 2, "jitter": 1, "embed_dim": 16, "hidden": 32, "per_image": 2},
    "autoencoder": {"latent_dim": 16, "decoder_widths": (8, 4)},
    "denoising_autoencoder": {
        "latent_dim": 16,
        "decoder_widths": (8, 4),
        "loss": "mse",
        "corruption": "salt_and_pepper",
    },
    "inpainting": {"latent_dim": 16, "decoder_widths": (8, 4)},
    "colorization": {"grid": 20, "head_width": 16},
    "split_brain": {"grid": 20, "head_width": 16},
    "corrupted_images": {"autoencoder_steps": 2, "latent_dim": 16, "decoder_widths": (8,), "repair_layers": 1},
    "instance_discrimination": {"projector_dim": 16, "temperature": 0.2, "proximal": 0.5},
    "triplet": {"projector_dim": 16},
    "cpc": {"patch_size": 4, "patch_jitter": 2, "steps": 2, "context_dim": 16, "context_layers": 1, "temperature": 1.0},
    "latent_predictive": {"tau": 0.9, "hidden": 32, "embed_dim": 16, "latent_size": 4},
    "jepa": {"tau": 0.9, "max_context": 1.0, "predictor_width": 16, "predictor_layers": 1},
    "dino": {"tau": 0.9, "out_dim": 32, "hidden": 16, "bottleneck": 8, "freeze_last_layer": 0.5, "head_bn": True},
    "ibot": {"tau": 0.9, "out_dim": 16, "hidden": 16, "bottleneck": 8, "freeze_last_layer": 0.5},
    "swav": {
        "prototypes": 16,
        "hidden": 16,
        "projector_dim": 8,
        "freeze_prototypes": 0.25,
        "queue_size": 128,
        "queue_from": 0,
    },
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "moco_v3": {"tau": 0.9, "hidden": 32, "projector_dim": 16},
    "nnclr": {"queue_size": 256, "projector_hidden": 32, "projector_dim": 16, "predictor_hidden": 32},
    "lejepa": {"slices": 16, "projector_hidden": 32, "projector_dim": 8},
    "deep_infomax": {"projector_hidden": 32, "projector_dim": 16, "score_dim": 32},
    "language_model": {"activity": 2.0, "change": 1.0},
    "word2vec": {"negatives": 3},
    "glove": {"x_max": 1.0},
    "bert": {"mask_rate": 0.3},
    "uda": {"temperature": 0.5, "threshold": 0.3, "tsa": "linear", "ema": 0.9},
}
VARIANTS = {
    "language_model-transformer": ("language_model", {}),
    "cpc-sequence": (
        "cpc",
        {"form": "sequence", "patch_size": 2, "steps": 2, "context_dim": 16, "negatives": 8, "temperature": 1.0},
    ),
    "latent_predictive-pixels": (
        "latent_predictive",
        {"target": "pixels", "latent": "sparse", "hidden": 32, "latent_size": 4, "latent_updates": 5},
    ),
    "swav-crops": ("swav", {"prototypes": 16, "hidden": 16, "projector_dim": 8, "freeze_prototypes": 0.5}),
    "dino-crops": (
        "dino",
        {
            "tau": 0.9,
            "out_dim": 16,
            "hidden": 16,
            "bottleneck": 8,
            "warmup_teacher_epochs": 2,
            "norm_last_layer": False,
        },
    ),
    "ibot-v2": (
        "ibot",
        {
            **{"tau": 0.9, "out_dim": 16, "hidden": 16, "bottleneck": 8, "shared_head": False, "teacher": "sinkhorn"},
            **{"koleo": 0.1, "koleo_group": 4, "norm_last_layer": True, "patch_out_dim": 8, "patch_bottleneck": 6},
            **{"head_bn": True, "patch_temperature": 0.05, "mask_choice": "stratified", "block_most": 0.5},
        },
    ),
    "simclr-v1": ("simclr", {"projector_layers": 2, "loss_scale": "official"}),
    "supervised-frozen": ("supervised", {"frozen": "stage1", "layer_decay": 0.5, "head_rate": 4.0}),
    "supervised-unfreezing": ("supervised", {"unfreeze_every": 0.25, "layer_decay": 0.8, "head_init": 0.01}),
    "relative_patch-control": (
        "relative_patch",
        {"jitter": 0, "embed_dim": 16, "hidden": 32, "colour": "drop", "blur_rate": 0.5, "control": True},
    ),
    "byol-joint": ("byol", {"hidden": 32, "projector_dim": 16, "per_view_bn": False, "target_init": "fresh"}),
    "moco-symmetric": (
        "moco",
        {"queue_size": 256, "projector_dim": 16, "symmetric": True, "bn_strided": True, "projector_version": 1},
    ),
    "moco_v3-vit": ("moco_v3", {"tau": 0.9, "hidden": 32, "projector_dim": 16, "tau_schedule": "constant"}),
    "lejepa-crops": ("lejepa", {"slices": 16, "projector_hidden": 32, "projector_dim": 8, "centre": "global"}),
    "deep_infomax-info_nce": (
        "deep_infomax",
        {
            **{"form": "info_nce", "stage": "stage1", "global_weight": 1.0, "prior_weight": 0.0},
            **{"projector_hidden": 32, "projector_dim": 16, "score_dim": 32},
        },
    ),
    "bert-whole_word": ("bert", {"mask_rate": 0.3, "whole_word": True, "nsp": False}),
    "instance_discrimination-nce": ("instance_discrimination", {"projector_dim": 16, "negatives": 8}),
    "word2vec-cbow": ("word2vec", {"form": "cbow"}),
    "triplet-all": ("triplet", {"projector_dim": 16, "mining": "all"}),
    "triplet-random": ("triplet", {"projector_dim": 16, "mining": "random", "normalize": False, "margin": 1.0}),
    "inpainting-adversarial": (
        "inpainting",
        {
            **{"mask": "random", "latent_dim": 16, "decoder_widths": (8, 4)},
            **{"adversarial": 0.1, "discriminator_widths": (8, 16)},
        },
    ),
}
VIT = {"patch_size": 2, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.2}
ENCODERS = {  # of the methods that need another than the small convolutional network
    **dict.fromkeys(  # whose heads or bank would outweigh a narrower one, on each of eight devices
        ("colorization", "split_brain", "instance_discrimination"), ("convnet", {"widths": (8, 16), "residual": False})
    ),
    "dino-crops": ("vit", VIT | {"cls_token": True, "pool": "cls", "positions": "learned"}),
    "ibot": ("vit", VIT | {"cls_token": True, "pool": "cls"}),
    "jepa": ("vit", VIT),
    "mae": ("vit", VIT | {"cls_token": True}),
    **dict.fromkeys(("moco_v3-vit", "lejepa-crops"), ("vit", VIT | {"cls_token": True})),
    "word2vec": ("embedding", {"vocab": TOKENS, "width": 8, "init_scale": 4.0}),
    "glove": ("embedding", {"vocab": TOKENS, "width": 32, "init_scale": 1.0}),
    "bert": (  # XLA computes products of narrower layers again where it needs them, which it counts
        "text_transformer",
        {"vocab": TOKENS, "width": 64, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "positions": 16, "dropout": 0.1},
    ),
    "language_model-transformer": (
        "text_transformer",
        {"vocab": TOKENS, "width": 16, "depth": 2, "heads": 2, "positions": LENGTH, "causal": True, "norm_first": True},
    ),
    "language_model": (
        "lstm",
        {
            **{"vocab": TOKENS, "width": 8, "hidden": 12, "layers": 2, "dropout": 0.2, "inner_dropout": 0.2},
            **{"input_dropout": 0.2, "word_dropout": 0.1, "weight_dropout": 0.3},
        },
    ),
}
ALL = {name: (name, arguments) for name, arguments in CASES.items()} | VARIANTS


def make(case: str, **plan):
    """(method, probe) of a case, around a small encoder."""
    from ssl_jax import methods, models
    from ssl_jax.online.probe import online_probe
    from ssl_jax.types import Vocab

    name, arguments = ALL[case]
    if name in OF_TEXT:
        plan = {"input_shape": (LENGTH,), "vocab": Vocab(TOKENS, unk=1, eos=2, cls=3, sep=4, mask=5)} | plan
    plan = testing.plan_of(**plan)
    if found := ENCODERS.get(case) or ENCODERS.get(name):
        encoder = models.make(found[0], **found[1])
    else:  # what a variant adds on each of eight devices would outweigh a narrower network
        encoder = convnet((8, 16) if case in VARIANTS else (4, 8))
    images = {} if name in OF_TEXT else {"mean": (0.5,), "std": (0.25,)}
    return methods.get(name)(encoder, plan=plan, **images, **arguments), online_probe(CLASSES)


def convnet(widths=(4, 8)):
    """The encoder of most cases; convolutions in float64 are slow."""
    from ssl_jax import models

    return models.make("convnet", widths=widths, residual=False)


def byol_predictor():
    """The predictor of the "byol" case."""
    from ssl_jax.models.heads import byol_mlp

    return byol_mlp(hidden=CASES["byol"]["hidden"], out_dim=CASES["byol"]["projector_dim"])


def batch_of(step: int, rows: int = ROWS, dtype=np.float32, case: str = "") -> dict:
    """Batch ``step`` of random views that share their low frequencies, with labels, one row unlabelled.

    Of a case of text: tokens that often come two by two, with padding at the end of some rows; some rows begin anew.
    """
    rng = np.random.default_rng(step)
    if case and ALL[case][0] in OF_TEXT:
        tokens = rng.integers(1, TOKENS, (rows, LENGTH + 1)).astype(np.int32)
        tokens[:, 1::2] = np.where(rng.random((rows, 1)) < 0.8, tokens[:, :-1:2] % (TOKENS - 1) + 1, tokens[:, 1::2])
        tokens[::5, -2:] = 0
        label = rng.integers(0, CLASSES, rows).astype(np.int32)
        known = {"label": label, "index": np.arange(rows, dtype=np.int32)}
        if ALL[case][0] == "bert":
            pair = tokens[:, :LENGTH]
            pair[:, 0], pair[:, LENGTH // 2] = 3, 4
            segment = np.broadcast_to(np.arange(LENGTH) > LENGTH // 2, pair.shape).astype(np.int32)
            known |= {"segment": segment, "continues": pair % 3 == 0, "random_next": rng.random(rows) < 0.5}
            return {"tokens": pair, "views": (pair,)} | known
        first = rng.random(rows) < (1 if step == 0 else 0.2)
        known |= leaves_of_words(ALL[case][0], tokens, rng, dtype)
        return {"tokens": tokens, "views": (tokens[:, :-1],), "first": first} | known
    batch = testing.batch_of(step, rows, dtype)
    if case in MULTI_CROP:  # two small views more
        more = testing.batch_of(1000 + step, rows, dtype)["views"]
        return batch | {"views": (*batch["views"], *(view[:, :4, :4] for view in more))}
    if case.partition("-")[0] != "uda":
        return batch
    more = batch_of(1000 + step, RATIO * rows, dtype)
    return batch | {"views": batch["views"][:1], "unlabelled": {"views": more["views"], "index": more["index"]}}


def leaves_of_words(name: str, tokens: np.ndarray, rng: np.random.Generator, dtype) -> dict:
    """What a batch of word2vec or GloVe has besides."""
    rows, length = len(tokens), LENGTH - 2 * WINDOW
    if name == "word2vec":
        reach = rng.integers(0, WINDOW + 1, (rows, length)).astype(np.int32)
        return {"reach": reach, "negatives": rng.integers(1, TOKENS, (rows, NEGATIVES)).astype(np.int32)}
    if name == "glove":
        words, contexts = rng.integers(1, TOKENS, (2, rows, CELLS)).astype(np.int32)
        return {"views": (words,), "context": contexts, "count": rng.uniform(0.1, 3, words.shape).astype(dtype)}
    return {}


def tried(case: str, with_probe: bool = True) -> testing.Case:
    """What :mod:`ssl_jax.testing` trains of a case."""
    method, probe = make(case)
    batch = functools.partial(batch_of, dtype=np.float64, case=case)
    return testing.Case(method, probe if with_probe else None, batch)


@functools.cache
def initial(case: str):
    """The state before the first step, on the host."""
    return testing.initial(tried(case))


@functools.lru_cache(maxsize=5)  # what the tests of one case share; all at once would be too many memory mappings
def program(case: str, devices: int, mode: str, with_probe: bool = True) -> testing.Program:
    """(step, its compiled program, begin() -> a state on those devices): one compilation for all tests."""
    return testing.program(tried(case, with_probe), initial(case), devices, mode)


@functools.cache
def run(case: str, devices: int, mode: str, *, permuted: bool = False, with_probe: bool = True) -> testing.Trained:
    """Train a case for STEPS steps, maybe on labels in reverse order."""

    def batch(step):
        found = batch_of(step, dtype=np.float64, case=case)
        return found | ({"label": found["label"][::-1].copy()} if permuted else {})

    with double():
        return testing.run(program(case, devices, mode, with_probe), batch)


def main(rank: int, count: int, port: int, out: str, *cases: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)
    results = {}
    for case in cases:
        leaves, losses, _ = run(case, 8, "jit")
        results |= {f"{case}|{name}": leaf for name, leaf in leaves.items()} | {f"{case}|losses": np.array(losses)}
    if rank == 0:
        np.savez(out, **results)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
