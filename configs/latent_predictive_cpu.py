"""Latent-variable prediction on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/latent_predictive_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not yet timed.
Expected: not yet run by us.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "latent_predictive", "hidden": 256, "embed_dim": 64, "latent_size": 16})
    config.data.recipe = "byol_cifar"
    config.optim.update({"learning_rate": 0.2, "warmup_epochs": 0.5})
    config.train.epochs = 10
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
