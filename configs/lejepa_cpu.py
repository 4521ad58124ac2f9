"""LeJEPA on CIFAR-10 with a small network, for two CPU cores: two views and four of 16 pixels.

    make pretrain CONFIG=configs/lejepa_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 8 epochs; 22 minutes on a core of an AMD EPYC, with measuring.
Expected: test kNN 0.526, linear 0.571 on the features (our run, seed 0); before training 0.310 and 0.370.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "lejepa", "sigreg_weight": 0.05, "slices": 128})
    config.method.update({"projector_hidden": 512, "projector_dim": 32})
    config.data.recipe = "lejepa_cifar"
    config.optim.update(
        {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 5e-4, "warmup_epochs": 0.5, "end": 1e-3}
    )
    config.train.epochs = 8
    return config
