"""I-JEPA on ImageNet with ViT-H/14: the paper's recipe, 300 epochs at batch 2048.

    make pretrain CONFIG=configs/jepa_imagenet.py ARGS="--config.data.data_dir=PATH/tfds --config.parallel.fsdp=8"

Cost: the authors' took less than 72 h on 16 A100 (their paper). Not run here. Parameters, AdamW and the EMA target are
10 GB in float32: with parallel.fsdp=8 a device holds an eighth (docs/plans.md).
Expected: 79.3 % linear (the paper's table 1). Published, not ours.
All weights start at a deviation of .02, patch embedding included: the networks of the authors' code scale some down by
depth when they are made, but its training script draws every Linear again.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "jepa", "tau": 0.996, "predictor_width": 384, "predictor_layers": 12})
    config.model.update({"name": "vit_h", "patch_init": "normal", "dtype": "bfloat16", "remat": "blocks"})
    config.data.update({"global_batch_size": 2048, "recipe": "jepa"})
    config.optim.update({"name": "adamw", "learning_rate": 1.25e-4, "scale": "linear", "warmup_epochs": 40.0})
    config.optim.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    config.train.epochs = 300
    return config
