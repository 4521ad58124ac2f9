"""Rotation prediction on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/rotation_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs; about 9 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. With train.steps=400 and a bank of 5,000 images: task accuracy of the last
training batch 0.67 (chance 0.25), test kNN 0.370 on 2,000 images (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "rotation"})
    config.data.recipe = "crop_flip"
    config.optim.update({"learning_rate": 0.1, "warmup_epochs": 0.5})
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
