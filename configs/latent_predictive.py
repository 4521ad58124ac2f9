"""Latent-variable prediction on CIFAR-10 with ResNet-18: BYOL's setting for CIFAR, with 64 codes.

    make pretrain CONFIG=configs/latent_predictive.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 40 PFLOP, by count of multiplications; not yet run by us. Needs an accelerator.
Expected: not yet run by us. LeCun's paper states the energy and has no experiments; without a latent and with both
directions added this is BYOL in squared distances, see byol_cifar10.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "latent_predictive", "latent": "discrete", "latent_size": 64, "tau": 0.99})
    config.method.update({"hidden": 4096, "embed_dim": 256})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "byol_cifar"})
    config.optim.update({"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "warmup_epochs": 10.0})
    config.optim.decay_bias_and_norm = False
    config.train.update({"epochs": 200, "eval_every": 1750, "checkpoint_every": 1750})
    return config
