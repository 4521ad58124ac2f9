"""Optimizers, schedules, and rates by depth."""

from ssl_jax.optim.by_depth import by_path, from_update, rates_by_depth
from ssl_jax.optim.optimizers import OPTIMIZERS, adamw, ema, larc, lars_byol, lars_simclr, make, not_bias_or_norm, sgd
from ssl_jax.optim.schedules import (
    constant,
    cosine,
    cosine_by_epoch,
    cut_warmup,
    linear,
    peak_rate,
    slanted_triangular,
    step_decay,
    tau_schedule,
    warmup_cosine,
    warmup_linear,
)

__all__ = [
    "OPTIMIZERS",
    "adamw",
    "by_path",
    "constant",
    "cosine",
    "cosine_by_epoch",
    "cut_warmup",
    "ema",
    "from_update",
    "larc",
    "lars_byol",
    "lars_simclr",
    "linear",
    "make",
    "not_bias_or_norm",
    "peak_rate",
    "rates_by_depth",
    "sgd",
    "slanted_triangular",
    "step_decay",
    "tau_schedule",
    "warmup_cosine",
    "warmup_linear",
]
