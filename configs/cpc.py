"""Contrastive predictive coding on CIFAR-10 with ResNet-18: 7 x 7 patches that overlap by half, five rows ahead.

    make pretrain CONFIG=configs/cpc.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 110 PFLOP, by count of multiplications, 49 patches of 8 pixels from every image; not yet run by us. Needs an
accelerator.
Expected: not yet run by us, and not in the paper, which has ImageNet only (256 pixels, 48.7 % linear). On STL-10 (crops
of 64 pixels, patches of 16, grey) the authors of Greedy InfoNCE report 80.5 % for CPC as they rebuilt it, 27.0 % for a
random encoder and 71.4 % with supervision.
From there: the grid, the skipped row, Adam at 2e-4. Ours: ResNet-18 on patches of 8 pixels, all other encodings of the
batch as negatives instead of 16 drawn ones, colour images, 200 epochs.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "cpc", "patch_size": 8, "patch_stride": 4, "steps": 5, "context_dim": 256})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "crop_flip"})
    config.optim.update({"name": "adamw", "learning_rate": 2e-4, "scale": "none", "weight_decay": 0.0})
    config.train.update({"epochs": 200, "eval_every": 3510, "checkpoint_every": 3510})
    return config
