"""SimCLR on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/simclr_cifar10_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 20 epochs; 12 minutes at 1,340 images/s on two idle cores (AMD EPYC), 33 minutes on two cores that other jobs
shared.
Expected: test kNN 0.608, online probe 0.592 (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "simclr", "temperature": 0.2, "projector_hidden": 256, "projector_dim": 128})
    config.data.recipe = "simclr_cifar"
    config.optim.update({"learning_rate": 0.4, "warmup_epochs": 1.0})
    config.optim.decay_bias_and_norm = None
    config.train.epochs = 20
    return config
