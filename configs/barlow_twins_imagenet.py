"""Barlow Twins on ImageNet with ResNet-50: the authors' recipe, 1000 epochs at batch 2048.

    make pretrain CONFIG=configs/barlow_twins_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; the authors' took about 7 days on 16 V100. Not run here.
Expected: 73.5 % linear (facebookresearch/barlowtwins README). Published, not ours, and with the gradient of their code,
a sixteenth of the true one on 16 devices: method.bias_rate=.0015 and optim.weight_decay=1.6e-5 imitate it.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "barlow_twins", "projector_dim": 8192, "off_diagonal": 0.0051, "bias_rate": 0.024})
    config.model.update({"name": "resnet50", "dtype": "bfloat16"})
    config.data.update({"global_batch_size": 2048, "recipe": "barlow_twins"})
    config.optim.update({"name": "lars_byol", "learning_rate": 0.2, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.optim.end = 1e-3
    config.train.epochs = 1000
    return config
