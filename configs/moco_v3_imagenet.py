"""MoCo v3 on ImageNet with ResNet-50: the paper's recipe, 1000 epochs at batch 4096.

    make pretrain CONFIG=configs/moco_v3_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; the authors had 16 to 64 V100. Not run here.
Expected: 74.6 % linear (facebookresearch/moco-v3 README). Published, not ours. For 100 or 300 epochs, 68.9 and 72.8 %,
the base rate is 0.6 or 0.3, weight decay 1e-6 and tau 0.99.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "moco_v3", "temperature": 1.0, "tau": 0.996})
    config.model.update({"name": "resnet50"})
    config.data.recipe = "moco_v3"
    config.optim.update({"name": "lars_byol", "learning_rate": 0.3, "weight_decay": 1.5e-6, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
