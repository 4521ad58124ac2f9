"""iBOT on CIFAR-10 with ViT-Ti and patches of 4 pixels: the paper's recipe, at the size of the images.

    make pretrain CONFIG=configs/ibot_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run by us. Needs an accelerator.
Expected: unknown, the paper has ImageNet only. On Imagenette it reaches 57.9 % linear in
stable-pretraining (ViT-S, 200 epochs), where DINO has 86.1 %: masked networks want more data.
From the paper: masks, loss, head, temperatures, AdamW, decay and clipping. Ours: the small network, four small views of
16 pixels, 600 epochs.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "ibot", "tau": 0.996, "out_dim": 8192})
    config.model.update({"name": "vit_ti", "patch_size": 4, "cls_token": True, "pool": "cls"})
    config.model.update({"positions": "learned", "patch_init": "normal", "drop_path": 0.1})
    config.data.update({"global_batch_size": 512, "recipe": "ibot_cifar"})
    config.optim.update({"name": "adamw", "learning_rate": 5e-4, "scale": "linear", "warmup_epochs": 10.0})
    config.optim.update({"end": 1e-3, "weight_decay": 0.04, "weight_decay_end": 0.4, "clip_each": 3.0})
    config.train.epochs = 600
    return config
