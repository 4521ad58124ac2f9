"""MoCo v2 on ImageNet with ResNet-50: the paper's recipe, 200 epochs at batch 256.

    make pretrain CONFIG=configs/moco_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 8.3 EFLOP; the authors' took 53 h on 8 V100 (their README). Not run here.
Expected: 67.5 % linear, +-0.1 over 5 runs (facebookresearch/moco README). Published, not ours.
v1 is temperature=0.07, projector_version=1, recipe moco_v1 and optim.schedule=step: 60.8 %.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "moco", "temperature": 0.2, "momentum": 0.999, "queue_size": 65536, "bn_groups": 8})
    config.model.update({"name": "resnet50"})
    config.data.update({"global_batch_size": 256, "recipe": "moco_v2"})
    config.optim.update({"name": "sgd", "learning_rate": 0.03, "weight_decay": 1e-4, "schedule": "cosine_by_epoch"})
    config.train.epochs = 200
    return config
