"""Convolutional autoencoder on CIFAR-10 with a small network and a code of 128, for two CPU cores.

    make pretrain CONFIG=configs/autoencoder_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: minutes on two idle cores.
Expected: not yet run by us to the end.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "autoencoder", "loss": "mse", "latent_dim": 128, "decoder_widths": (64, 32)})
    config.data.recipe = "none"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0})
    config.train.epochs = 3
    return config
