"""NNCLR on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/nnclr_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 10 epochs; not measured.
Expected: not measured in full. After 200 steps on 8,000 images (seed 0) test kNN is .318 on 1,000 images with a bank of
5,000, untrained .263, and the online probe .303.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "nnclr", "temperature": 0.2, "queue_size": 8192})
    config.method.update({"projector_hidden": 512, "projector_dim": 128, "predictor_hidden": 512})
    config.data.recipe = "byol_cifar"
    config.optim.warmup_epochs = 1.0
    config.train.epochs = 10
    return config
