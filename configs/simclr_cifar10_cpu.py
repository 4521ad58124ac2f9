"""SimCLR on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/simclr_cifar10_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 20 epochs; 33 minutes at 460 images/s on two cores that other jobs shared, and 860 to 890 images/s
in the first steps of a run on idle cores (that would be some 17 minutes of training).
Expected: test kNN 0.607, online probe 0.598 (our run, seed 0).
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
