"""SupCon on CIFAR-10 with a small network, for two CPU cores; it learns from labels.

    make pretrain CONFIG=configs/supcon_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 15 epochs; 14 minutes on a core of an AMD EPYC, with measuring.
Expected: test kNN 0.740, linear 0.765 on the features (our run, seed 0); before training 0.310 and 0.370.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "supcon", "temperature": 0.1, "projector_dim": 128, "normalize_features": False})
    config.data.recipe = "supcon_cifar"
    config.optim.update({"learning_rate": 0.2, "warmup_epochs": 1.0})
    config.train.epochs = 15
    return config
