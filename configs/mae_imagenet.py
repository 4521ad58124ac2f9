"""MAE on ImageNet with ViT-B: the paper's recipe, 1600 epochs at batch 4096.

    make pretrain CONFIG=configs/mae_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not run here. The authors' ViT-L took 42 hours for 800 epochs on 64 V100 (README of facebookresearch/mae).
Expected: 67.8 % linear on the class token, 83.66 % fine-tuned (the same README and the paper's table 3). Published, not
ours.
Rates by depth .65, drop-path .1 and the mean of the patches with a norm behind it are of fine-tuning
(configs/mae_imagenet_finetune.py), not of this.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "mae", "mask_ratio": 0.75, "decoder_width": 512, "decoder_depth": 8})
    config.model.update({"name": "vit_b", "cls_token": True, "pool": "cls", "dtype": "bfloat16"})
    config.data.update({"global_batch_size": 4096, "recipe": "mae"})
    config.optim.update({"name": "adamw", "learning_rate": 1.5e-4, "b2": 0.95, "weight_decay": 0.05})
    config.optim.warmup_epochs = 40.0
    config.train.epochs = 1600
    return config
