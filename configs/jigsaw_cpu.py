"""Jigsaw puzzles of 2 x 2 tiles on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/jigsaw_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 12 epochs; about 12 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. With train.steps=400 and a bank of 5,000 images: task accuracy of the last
training batch 0.42 (chance 0.042), test kNN 0.301 on 2,000 images (our run, seed 0).
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
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
