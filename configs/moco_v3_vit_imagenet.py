"""MoCo v3 on ImageNet with a ViT-S of 12 heads: the paper's recipe, 300 epochs at batch 4096.

    make pretrain CONFIG=configs/moco_v3_vit_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; the authors had 16 to 64 V100. Not run here.
Expected: 73.2 % linear (facebookresearch/moco-v3 README). Published, not ours. ViT-B (model.name=vit_b): 76.7 %.
Weight decay is of all parameters, biases and norms too; the patch projection stays as it was drawn.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "moco_v3", "temperature": 0.2, "tau": 0.99})
    config.model.update({"name": "vit", "width": 384, "depth": 12, "heads": 12, "cls_token": True, "pool": "cls"})
    config.model.positions = "moco_v3"
    config.data.recipe = "moco_v3_vit"
    config.optim.update({"name": "adamw", "learning_rate": 1.5e-4, "weight_decay": 0.1, "warmup_epochs": 40.0})
    config.optim.decay_bias_and_norm = True
    config.train.epochs = 300
    return config
