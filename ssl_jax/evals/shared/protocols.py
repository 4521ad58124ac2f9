"""The papers' linear evaluation protocols as data: a frozen encoder, a linear classifier, SGD on augmented crops.

| | optimizer | rate | schedule | epochs | N | weight decay | classifier starts from |
|---|---|---|---|---|---|---|---|
| ``simclr`` | SGD, Nesterov | 0.1 N/256 | cosine | 90 | 4096 | 1e-6 | zeros |
| ``simclr_cifar`` | SGD, Nesterov | 0.1 N/256 | cosine | 100 | 512 | 0 | zeros |
| ``byol`` | SGD, Nesterov | best of 0.4, 0.3, 0.2, 0.1, 0.05 N/256 | cosine | 80 | 1024 | 0 | haiku's default |
| ``moco`` | SGD | 30 N/256 | 0.1 at 60 % and 80 % | 100 | 256 | 0 | N(0, 0.01^2) |
| ``simsiam`` | LARC, SGD | 0.1 N/256 | cosine by epoch | 90 | 4096 | 0 | N(0, 0.01^2) |

All: momentum 0.9, no warmup, weight decay on biases too, BatchNorm in inference mode, features after average pooling.
Images: a crop of (8 %, 100 %) of the area, flipped half of the time; who trains picks the recipe that suits the data.

Reference: Chen et al. 2020 (SimCLR), appendix B.6, and google-research/simclr, README; Grill et al. 2020 (BYOL),
appendix (the five rates), and google-deepmind/deepmind-research, byol/configs/eval.py (0.2 alone); He et al. 2020
(MoCo), section 4.1, and facebookresearch/moco, main_lincls.py; Chen and He 2021 (SimSiam), appendix A, and
facebookresearch/simsiam, main_lincls.py.

Differs from the reference code: MoCo's rate of 30 is scaled with N, so that another batch size keeps its meaning;
SimSiam's base rate is the code's 0.1, not the paper's 0.02, which gave its reproducers 1.8 points less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_jax.names import refuse_unknown

_COMMON = {
    "method.name": "supervised",
    "method.frozen": "encoder",
    "optim.name": "sgd",
    "optim.scale": "linear",
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 0.0,
    "optim.momentum": 0.9,
    "optim.nesterov": False,
    "optim.weight_decay": 0.0,
    "optim.decay_bias_and_norm": True,
    "optim.clip_norm": None,
    "train.steps": None,
}
_SIMCLR = _COMMON | {"optim.learning_rate": 0.1, "optim.nesterov": True, "method.head_init": 0.0}

# Config overrides by dotted key; a tuple of rates holds candidates.
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "simclr": _SIMCLR | {"optim.weight_decay": 1e-6, "train.epochs": 90, "data.global_batch_size": 4096},
    "simclr_cifar": _SIMCLR | {"train.epochs": 100, "data.global_batch_size": 512},
    "byol": _COMMON
    | {
        "optim.learning_rate": (0.4, 0.3, 0.2, 0.1, 0.05),
        "optim.nesterov": True,
        "train.epochs": 80,
        "data.global_batch_size": 1024,
    },
    "moco": _COMMON
    | {
        "optim.learning_rate": 30.0,
        "optim.schedule": "step",
        "method.head_init": 0.01,
        "train.epochs": 100,
        "data.global_batch_size": 256,
    },
    "simsiam": _COMMON
    | {
        "optim.name": "larc",
        "optim.learning_rate": 0.1,
        "optim.schedule": "cosine_by_epoch",
        "method.head_init": 0.01,
        "train.epochs": 90,
        "data.global_batch_size": 4096,
    },
}


def overrides(name: str, *, epochs: int | None = None, batch_size: int | None = None) -> list[dict[str, Any]]:
    """What a protocol changes in a config, once for each of its learning rates.

    Args:
      name: a key of ``PROTOCOLS``.
      epochs: instead of the paper's; the schedule shrinks with it, its steps are fractions of the run.
      batch_size: instead of the paper's; the rate is scaled with it.

    Returns:
      Overrides by dotted key. Of several the best on validation data counts.

    Raises:
      ValueError: there is no such protocol; the message lists those there are.
    """
    refuse_unknown(name, PROTOCOLS, "linear_probe.protocol=")
    for argument, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{argument}={value} must be positive; leave it out for that of the paper")
    chosen = dict(PROTOCOLS[name])
    chosen["train.epochs"] = epochs or chosen["train.epochs"]
    chosen["data.global_batch_size"] = batch_size or chosen["data.global_batch_size"]
    rates = chosen["optim.learning_rate"]
    return [chosen | {"optim.learning_rate": rate} for rate in (rates if isinstance(rates, tuple) else (rates,))]
