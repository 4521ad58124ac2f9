"""Contrastive predictive coding on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/cpc_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not yet timed.
Expected: not yet run by us.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update(
        {"name": "cpc", "patch_size": 8, "patch_stride": 6, "steps": 4, "context_dim": 128, "context_layers": 3}
    )
    config.data.recipe = "crop_flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 0.5})
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
