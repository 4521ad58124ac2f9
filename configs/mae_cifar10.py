"""MAE on CIFAR-10 with ViT-S and patches of 4 pixels: solo-learn's recipe, 1000 epochs at batch 256.

    make pretrain CONFIG=configs/mae_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; needs an accelerator.
Expected: unknown, solo-learn prints no figure of it. Read the linear probe of "cls" and "mean" rather than kNN:
``--eval.linear_probe.layers=cls,mean``.
From solo-learn (scripts/pretrain/cifar/mae.yaml): network, decoder, AdamW with b2 .95, rate and warm-up from
3e-5, weight decay, crops from 8 % of the image. Differs from it: the decoder's norms have an eps of 1e-6.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "mae", "mask_ratio": 0.75, "decoder_width": 512, "decoder_depth": 8})
    config.model.update({"name": "vit_s", "patch_size": 4, "cls_token": True, "pool": "cls"})
    config.data.update({"global_batch_size": 256, "recipe": "mae_cifar"})
    config.optim.update({"name": "adamw", "learning_rate": 2e-4, "b2": 0.95, "weight_decay": 0.05})
    config.optim.update({"warmup_epochs": 10.0, "start": 0.15})
    config.train.epochs = 1000
    return config
