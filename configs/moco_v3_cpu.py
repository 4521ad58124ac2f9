"""MoCo v3 on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/moco_v3_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 10 epochs; not measured.
Expected: not measured in full. After 200 steps on 8,000 images (seed 0) test kNN is .344 on 1,000 images with a bank of
5,000, untrained .263, and the online probe .355.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "moco_v3", "temperature": 0.2, "tau": 0.99, "hidden": 512, "projector_dim": 128})
    config.data.recipe = "byol_cifar"
    config.optim.warmup_epochs = 1.0
    config.train.epochs = 10
    return config
