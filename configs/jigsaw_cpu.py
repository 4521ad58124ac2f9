"""Jigsaw puzzles of 2 x 2 tiles on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/jigsaw_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 12 epochs
Expected: not yet run by us.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "jigsaw", "grid": 2, "permutations": 24, "per_image": 4, "gap": 2, "jitter": 3})
    config.method.update({"embed_dim": 128, "hidden": 256})
    config.data.recipe = "crop_flip"
    config.optim.update({"learning_rate": 0.1, "warmup_epochs": 1.0})
    config.train.epochs = 12
    return config
