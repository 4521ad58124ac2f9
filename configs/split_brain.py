"""Split-brain autoencoder on CIFAR-10: two ResNet-18 of half the width, Adam, 100 epochs.

    make pretrain CONFIG=configs/split_brain.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not yet run by us. Needs an accelerator.
Expected: not yet run by us; there is no published figure for CIFAR-10. On ImageNet a linear classifier on AlexNet's
third layer reaches 35.4 %, and 31.0 % after colorization.
Differs from the reference code: halves of ResNet-18 instead of AlexNet; rate 1e-3 with a cosine.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "split_brain", "grid": 10})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "crop_flip"})
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 1e-3})
    config.optim.update({"momentum": 0.9, "warmup_epochs": 1.0})
    config.train.update({"epochs": 100, "eval_every": 3510, "checkpoint_every": 3510})
    return config
