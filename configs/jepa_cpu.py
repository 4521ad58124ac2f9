"""I-JEPA on CIFAR-10 with a small vision transformer, for two CPU cores.

    make pretrain CONFIG=configs/jepa_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 10 epochs.
Expected: not yet run by us.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "jepa", "tau": 0.99, "predictor_width": 48, "predictor_layers": 2})
    config.model = {"name": "vit", "patch_size": 4, "width": 96, "depth": 4, "heads": 3}
    config.data.recipe = "jepa_cifar"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "warmup_epochs": 1.0})
    config.optim.decay_bias_and_norm = None
    config.train.epochs = 10
    return config
