"""iBOT on ImageNet with ViT-S/16, two views and ten small ones: the paper's recipe, 800 epochs at batch 1024.

    make pretrain CONFIG=configs/ibot_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not run here.
Expected: 77.9 % linear on the class tokens of the last four blocks (--eval.linear_probe.layers=cls_last4), 75.2 % kNN
on the last, of the teacher (bytedance/ibot README). Published, not ours.
DINOv2 (facebookresearch/dinov2) is this config with
- its default, ViT-L/16 on ImageNet-1k: method.koleo=0.1 koleo_group=64 (a device's images) out_dim=65536 tau=0.992
  mask_choice=stratified block_least=4 block_most=0.5, data.recipe=dino_v2 global_batch_size=2048, optim.layer_decay=0.9
  patch_rate=0.2 scale=sqrt learning_rate=1.25e-4 (.004 at batch 1024) end=1.8e-4, model.name=vit_l layer_scale=1e-5
  drop_path=0.3; 100 of its epochs of 1250 steps, 2 of ours: train.epochs=200 and twice all that counts in epochs;
- of ViT-L/14 and g/14 besides: method.teacher=sinkhorn shared_head=False out_dim=131072 bottleneck=384
  patch_bottleneck=256 tau=0.994, model.patch_size=14 drop_path=0.4, data.views.local.size=98, optim.layer_decay=null
  learning_rate=6.25e-6 end=3.5e-3 weight_decay_end=0.2 warmup_epochs=80 (of its epochs), 500 of its epochs.
Its gradient is clipped network by network, here that of each parameter, and its drop-path is the same in all blocks.
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
