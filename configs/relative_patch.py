"""Relative patch prediction on CIFAR-10 with ResNet-18: 3 x 3 patches of 8 pixels, head and guards as published.

    make pretrain CONFIG=configs/relative_patch.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 22 PFLOP (compiled step); not yet run by us. Needs an accelerator.
Expected: not yet run by us, and no published figure for CIFAR-10 is known to us. On ImageNet: 40.4 % linear with
ResNet-50 (mmselfsup), 51.4 % with the best network of Kolesnikov et al. 2019.
The head (embedding 1000, hidden 4096), the optimizer (a tenth of the rate at 15 and 25 of 35 parts of the run, weight
decay of kernels alone) and greying two images of three are those of Kolesnikov et al. 2019 on ImageNet; their warmup is
a seventh of the run, their head has dropout and five times the weight decay.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "relative_patch", "gap": 1, "jitter": 2, "colour": "grey", "colour_rate": 0.66})
    config.method.update({"colour_of": "image", "embed_dim": 1000, "hidden": 4096})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "crop_flip"})
    config.optim.update({"name": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "warmup_epochs": 5.0})
    config.optim.update({"schedule": "step", "step_at": (15 / 35, 25 / 35), "decay_bias_and_norm": False})
    config.train.update({"epochs": 200, "eval_every": 1750, "checkpoint_every": 1750})
    return config
