"""BYOL on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, with the augmentations of solo-learn.

    make pretrain CONFIG=configs/byol_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 500 PFLOP, by count of multiplications; not yet run here. Needs an accelerator.
Expected: 92.6 % online linear (solo-learn, 1000 epochs, batch 256); 86.8 % kNN after 200 epochs, 91.0 % after 800 in
lightly. Published figures, not ours. BYOL's paper has no CIFAR-10 recipe: optimizer, decay, widths and tau are
solo-learn's, and the encoder starts as torchvision's does.
"""

from __future__ import annotations

from configs.common import base, solo_cifar10


def get_config():
    config = solo_cifar10(base(), 1.0, 1e-5)
    config.method.update({"name": "byol", "tau": 0.99, "hidden": 4096, "projector_dim": 256})
    return config
