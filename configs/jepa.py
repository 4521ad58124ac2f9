"""I-JEPA on CIFAR-10 with ViT-Ti and patches of 4 pixels: the paper's recipe, at the size of the images.

    make pretrain CONFIG=configs/jepa.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 70 PFLOP, by count of multiplications; not yet run by us. Needs an accelerator.
Expected: unknown, the paper has ImageNet only (ViT-H/14, 300 epochs: 79.3 % linear). Masked vision transformers are
weak at this scale; read the linear probe rather than kNN.
From the paper: blocks, crops without flip or colour, AdamW with weight decay .04 to .4, EMA .996 to 1, 1e-3 at batch
2048 scaled linearly; from its code: all weights start at a deviation of .02, patch embedding included. Ours: the small
network, its predictor of half the width, 600 epochs.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "jepa", "tau": 0.996, "predictor_width": 96, "predictor_layers": 6})
    config.model.update({"name": "vit_ti", "patch_size": 4, "patch_init": "normal"})
    config.data.update({"global_batch_size": 1024, "recipe": "jepa_cifar"})
    config.optim.update({"name": "adamw", "learning_rate": 1.25e-4, "scale": "linear", "warmup_epochs": 40.0})
    config.optim.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    config.train.epochs = 600
    return config
