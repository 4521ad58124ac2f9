"""Deep InfoMax on CIFAR-10 with ResNet-18: places of 16 x 16, the form with InfoNCE, 200 epochs.

    make pretrain CONFIG=configs/deep_infomax_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: unknown, the paper has a small network of its own. The places are those of stage2, each of which sees 25
pixels: higher ones see the whole image. Weights of the terms are the paper's for the local objective; network,
augmentation, rate and epochs are ours.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "deep_infomax", "form": "info_nce", "stage": "stage2", "score_dim": 512})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "crop_flip"})
    config.optim.update({"name": "adamw", "learning_rate": 2e-4, "scale": "none", "weight_decay": 0.0})
    config.train.epochs = 200
    return config
