"""Deep InfoMax on ImageNet with ResNet-50: places of 28 x 28, the form with InfoNCE, 100 epochs at batch 256.

    make pretrain CONFIG=configs/deep_infomax_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured. Not run here.
Expected: unknown, the paper's largest images are of 64 pixels. All but the weights of the terms is ours.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "deep_infomax", "form": "info_nce", "stage": "stage2", "score_dim": 512})
    config.model.update({"name": "resnet50", "dtype": "bfloat16"})
    config.data.update({"global_batch_size": 256, "recipe": "supervised"})
    config.optim.update({"name": "adamw", "learning_rate": 2e-4, "scale": "none", "weight_decay": 0.0})
    config.train.epochs = 100
    return config
