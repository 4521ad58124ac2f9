"""In-painting of the centre on CIFAR-10: ResNet-18, a 16-pixel hole, squared error without a discriminator.

    make pretrain CONFIG=configs/inpainting.py ARGS="--config.data.data_dir=PATH/tfds"

The geometry is the paper's at a quarter of its size (hole 64 of 128 pixels, rim 4); with
``--config.method.adversarial=0.001`` a discriminator joins, with which the paper paints but does not learn features.
Cost: 100 epochs of ResNet-18; hours on one GPU.
Expected: not yet run by us; there is no published figure for CIFAR-10.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "inpainting", "mask": "centre", "hole_size": 16, "overlap": 1})
    config.method.update({"overlap_weight": 10.0, "latent_dim": 4000, "decoder_widths": (256, 128), "adversarial": 0.0})
    config.method.discriminator_widths = (64, 128)
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "flip"})
    config.optim.update({"name": "adamw", "learning_rate": 2e-3, "scale": "none", "weight_decay": 0.0})
    config.optim.update({"momentum": 0.5, "warmup_epochs": 1.0})
    config.train.update({"epochs": 100, "eval_every": 3510, "checkpoint_every": 3510})
    return config
