"""Losses: arrays in, scalar out, hyper-parameters by keyword; usable without the rest of the package."""

from __future__ import annotations

from ssl_jax.losses.barlow_twins import barlow_twins
from ssl_jax.losses.byol_regression import byol_regression
from ssl_jax.losses.consistency import consistency
from ssl_jax.losses.deep_infomax import deep_infomax
from ssl_jax.losses.distillation import (
    assigned,
    cross_entropies,
    distillation,
    entropy,
    mean_over_pairs,
    next_centre,
    patch_distillation,
    perplexity,
    sharpened,
)
from ssl_jax.losses.info_nce import info_nce
from ssl_jax.losses.info_nce_queue import info_nce_queue
from ssl_jax.losses.instance import estimate_log_z, instance_nce, instance_softmax
from ssl_jax.losses.koleo import koleo, koleo_and_nearest
from ssl_jax.losses.masked_pixels import masked_mse, standardized_patches
from ssl_jax.losses.moco_v3 import moco_v3
from ssl_jax.losses.nnclr import nnclr
from ssl_jax.losses.nt_xent import nt_xent
from ssl_jax.losses.pixels import pixel_bce, pixel_entropy, psnr
from ssl_jax.losses.sigreg import sigreg
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.losses.sup_con import sup_con
from ssl_jax.losses.triplet import triplet_all, triplet_margin
from ssl_jax.losses.vicreg import vicreg

__all__ = [
    "assigned",
    "barlow_twins",
    "byol_regression",
    "consistency",
    "cross_entropies",
    "deep_infomax",
    "distillation",
    "entropy",
    "estimate_log_z",
    "info_nce",
    "info_nce_queue",
    "instance_nce",
    "instance_softmax",
    "koleo",
    "koleo_and_nearest",
    "masked_mse",
    "mean_over_pairs",
    "moco_v3",
    "next_centre",
    "nnclr",
    "nt_xent",
    "patch_distillation",
    "perplexity",
    "pixel_bce",
    "pixel_entropy",
    "psnr",
    "sharpened",
    "sigreg",
    "sinkhorn",
    "standardized_patches",
    "sup_con",
    "triplet_all",
    "triplet_margin",
    "vicreg",
]
