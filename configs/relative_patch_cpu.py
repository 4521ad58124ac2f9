"""Relative patch prediction on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/relative_patch_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 12 epochs; about 13 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. With train.steps=400 and a bank of 5,000 images: task accuracy 0.24 to 0.30
in the last training batches (chance 0.125), test kNN 0.298 on 2,000 images. With method.control=True as well: 0.21 to
0.25, so at first most of it is read off single patches, as photographs have a top and a middle (our runs, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "relative_patch", "embed_dim": 128, "hidden": 256})
    config.data.recipe = "crop_flip"
    config.optim.update({"learning_rate": 0.1, "warmup_epochs": 1.0})
    config.train.epochs = 12
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
