"""NNCLR on ImageNet with ResNet-50: the paper's recipe, 1000 epochs at batch 4096.

    make pretrain CONFIG=configs/nnclr_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured. Not run here.
Expected: 75.4 % linear (Dwibedi et al. 2021). Published, not ours; there is no official code, and these values are the
paper's as others give them.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "nnclr", "temperature": 0.1, "queue_size": 98304})
    config.model.update({"name": "resnet50"})
    config.data.recipe = "byol"
    config.optim.update({"name": "lars_byol", "learning_rate": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
