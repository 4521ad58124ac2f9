"""Colorization of CIFAR-10 with ResNet-18: bins and rebalancing of the paper, Adam, 100 epochs.

    make pretrain CONFIG=configs/colorization.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not yet run by us. Needs an accelerator.
Expected: not yet run by us; there is no published figure for CIFAR-10. On ImageNet a linear classifier on ResNet-50's
features reaches 40.1 % (Goyal et al. 2019).
Differs from the reference code: ResNet-18 instead of a dilated VGG; rate 1e-3 with a cosine instead of 3.2e-5 in steps.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "colorization", "grid": 10, "neighbours": 5, "sigma": 5.0, "rebalance": 0.5})
    config.method.update({"temperature": 0.38, "subsample": "stride"})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "crop_flip"})
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 1e-3})
    config.optim.update({"momentum": 0.9, "warmup_epochs": 1.0})
    config.train.update({"epochs": 100, "eval_every": 3510, "checkpoint_every": 3510})
    return config
