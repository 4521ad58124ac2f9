"""VICReg on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/vicreg_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 15 epochs; not measured.
Expected: not measured at this length; after 150 steps on 5,000 images test kNN 0.343, untrained
0.252 (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "vicreg", "projector_dim": 512, "projector_layers": 2})
    config.data.recipe = "vicreg_cifar"
    config.optim.update({"learning_rate": 0.02, "warmup_epochs": 1.0})
    config.train.epochs = 15
    return config
