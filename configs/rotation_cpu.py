"""Rotation prediction on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/rotation_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs
Expected: not yet run by us.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "rotation"})
    config.data.recipe = "crop_flip"
    config.optim.update({"learning_rate": 0.1, "warmup_epochs": 0.5})
    config.train.epochs = 5
    return config
