"""Jigsaw puzzles on CIFAR-10 with ResNet-18: 3 x 3 tiles of 8 pixels, the 72 permutations that are 8 apart.

    make pretrain CONFIG=configs/jigsaw.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 35 PFLOP (compiled step); not yet run by us. Needs an accelerator.
Expected: not yet run by us, and no published figure for CIFAR-10 is known to us. On ImageNet with ResNet-50: 48.57 %
linear with 100 permutations (VISSL).
Eight permutations of every image, greying two images of three, a tenth of the rate at 15 and 25 of 35 parts of the run
and weight decay of kernels alone, as Kolesnikov et al. 2019 have it on ImageNet.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "jigsaw", "grid": 3, "permutations": 72, "per_image": 8, "gap": 1, "jitter": 2})
    config.method.update({"colour": "grey", "colour_of": "image", "colour_rate": 0.66})
    config.method.update({"embed_dim": 1000, "hidden": 4096})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "crop_flip"})
    config.optim.update({"name": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "warmup_epochs": 5.0})
    config.optim.update({"schedule": "step", "step_at": (15 / 35, 25 / 35), "decay_bias_and_norm": False})
    config.train.update({"epochs": 200, "eval_every": 1750, "checkpoint_every": 1750})
    return config
