"""BYOL on ImageNet with ResNet-50: the paper's recipe, 1000 epochs at batch 4096.

    make pretrain CONFIG=configs/byol_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 83 EFLOP; the authors' took some 8 h on 512 TPU v3 (their README). Not run here.
Expected: 74.0-74.5 % linear (deepmind-research README). Published, not ours. For 100 or 300 epochs the authors' presets
are base rate 0.45 or 0.3, weight decay 1e-6 and tau 0.99.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "byol", "tau": 0.996, "hidden": 4096, "projector_dim": 256})
    config.method.head_init = "haiku"
    config.model.update({"name": "resnet50", "conv_init": "haiku", "dtype": "bfloat16"})
    config.data.recipe = "byol"
    config.optim.update({"name": "lars_byol", "learning_rate": 0.2, "weight_decay": 1.5e-6, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
