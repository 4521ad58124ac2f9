"""Losses: arrays in, scalar out, hyper-parameters by keyword; usable without the rest of the package."""

from __future__ import annotations

from ssl_jax.losses.byol_regression import byol_regression
from ssl_jax.losses.info_nce_queue import info_nce_queue
from ssl_jax.losses.nt_xent import nt_xent
from ssl_jax.losses.pixels import pixel_bce, pixel_entropy, psnr

__all__ = ["byol_regression", "info_nce_queue", "nt_xent", "pixel_bce", "pixel_entropy", "psnr"]
