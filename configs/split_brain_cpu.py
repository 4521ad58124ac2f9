"""Split-brain autoencoder on CIFAR-10 with the small network of the CPU runs, cut into two of half the width.

    make pretrain CONFIG=configs/split_brain_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs; about 4 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. With train.steps=350: test kNN 0.306 on 2,000 images with a bank of 5,000,
online probe 0.353 (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "split_brain", "grid": 10})
    config.data.recipe = "crop_flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 0.2})
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
