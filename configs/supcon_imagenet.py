"""SupCon on ImageNet with ResNet-50: the recipe of google-research's code, 350 epochs at batch 6144.

    make pretrain CONFIG=configs/supcon_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured. Not run here.
Expected: 78.7 % linear (Khosla et al. 2020, with AutoAugment, which this recipe has not). Published, not ours. The
projector is the paper's, 2048-128; the code's has one layer. The label of every image is used.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "supcon", "temperature": 0.1, "loss_scale": "google"})
    config.model.update({"name": "resnet50", "dtype": "bfloat16"})
    config.data.update({"global_batch_size": 6144, "recipe": "supcon"})
    config.optim.update({"name": "lars_simclr", "learning_rate": 0.4, "weight_decay": 1e-3, "warmup_epochs": 5.0})
    config.train.epochs = 350
    return config
