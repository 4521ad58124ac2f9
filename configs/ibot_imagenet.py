"""iBOT on ImageNet with ViT-S/16, two views and ten small ones: the paper's recipe, 800 epochs at batch 1024.

    make pretrain CONFIG=configs/ibot_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not run here.
Expected: 77.9 % linear, 75.2 % kNN, of the teacher (bytedance/ibot README). Published, not ours.
DINOv2's loss is method.teacher=sinkhorn, shared_head=False, koleo=0.1, out_dim=65536, with recipe dino_v2; its
optimizer has rates by depth, too.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "ibot", "tau": 0.996, "out_dim": 8192})
    config.model.update({"name": "vit_s", "cls_token": True, "pool": "cls", "positions": "learned"})
    config.model.update({"patch_init": "normal", "drop_path": 0.1, "dtype": "bfloat16"})
    config.data.update({"global_batch_size": 1024, "recipe": "ibot"})
    config.optim.update({"name": "adamw", "learning_rate": 5e-4, "scale": "linear", "warmup_epochs": 10.0})
    config.optim.update({"end": 5e-4, "weight_decay": 0.04, "weight_decay_end": 0.4, "clip_each": 3.0})
    config.train.epochs = 800
    return config
