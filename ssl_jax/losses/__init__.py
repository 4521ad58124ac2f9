"""Losses: arrays in, scalar out, hyper-parameters by keyword; usable without the rest of the package."""

from __future__ import annotations

from ssl_jax.losses.byol_regression import byol_regression
from ssl_jax.losses.consistency import consistency
from ssl_jax.losses.info_nce import info_nce
from ssl_jax.losses.info_nce_queue import info_nce_queue
from ssl_jax.losses.instance import estimate_log_z, instance_nce, instance_softmax
from ssl_jax.losses.masked_pixels import masked_mse, standardized_patches
from ssl_jax.losses.moco_v3 import moco_v3
from ssl_jax.losses.nt_xent import nt_xent
from ssl_jax.losses.pixels import pixel_bce, pixel_entropy, psnr
from ssl_jax.losses.sup_con import sup_con
from ssl_jax.losses.triplet import triplet_all, triplet_margin

__all__ = [
    "byol_regression",
    "consistency",
    "estimate_log_z",
    "info_nce",
    "info_nce_queue",
    "instance_nce",
    "instance_softmax",
    "masked_mse",
    "moco_v3",
    "nt_xent",
    "pixel_bce",
    "pixel_entropy",
    "psnr",
    "standardized_patches",
    "sup_con",
    "triplet_all",
    "triplet_margin",
]
