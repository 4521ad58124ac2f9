"""Colorization of CIFAR-10 with the small network of the CPU runs: 8 x 8 colours for 32 x 32 pixels.

    make pretrain CONFIG=configs/colorization_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs; not yet timed on idle cores.
Expected: not yet run by us.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "colorization", "grid": 10, "neighbours": 5, "rebalance": 0.5})
    config.data.recipe = "crop_flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 0.2})
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
