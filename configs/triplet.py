"""Triplets on CIFAR-10 with ResNet-18: an image against its augmentation and the semi-hard of the other images.

    make pretrain CONFIG=configs/triplet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not yet measured; 200 epochs of two views. Needs an accelerator.
Expected: not yet run by us, and nothing is published for it. Margin, embedding, mining, base rate, warmup and weight
decay of kernels alone are those of Kolesnikov et al. 2019 ("exemplar", 46.0 % linear top-1 on ImageNet with a ResNet-50
three times as wide and eight crops per image).
Differs from the reference code: batch 512 of two views; 200 epochs instead of 35, with a tenth of the rate at the same
parts of the run, 15 and 25 of 35; two images of three are not made grey first.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "triplet", "margin": 0.5, "mining": "semihard", "projector_dim": 1000})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 512, "recipe": "triplet_cifar"})
    config.optim.update({"name": "sgd", "learning_rate": 0.1, "warmup_epochs": 5.0, "weight_decay": 1e-4})
    config.optim.update({"schedule": "step", "step_at": (15 / 35, 25 / 35), "decay_bias_and_norm": False})
    config.train.epochs = 200
    return config
