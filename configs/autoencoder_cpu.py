"""Convolutional autoencoder on CIFAR-10 with a small network and a code of 4 x 4 x 64, for two CPU cores.

    make pretrain CONFIG=configs/autoencoder_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Its run can be the frozen autoencoder of configs/corrupted_images_cpu.py.
Cost: TODO
Expected: TODO
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "autoencoder", "loss": "mse", "spatial": True})
    config.method.update({"latent_dim": 64, "decoder_widths": (32, 32, 8)})
    config.data.recipe = "none"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0})
    config.train.epochs = 3
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
