"""Spotting artifacts on CIFAR-10 with the small network of the CPU runs; the autoencoder is trained first.

    make pretrain CONFIG=configs/corrupted_images_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

A finished run of configs/autoencoder_cpu.py fits: with ``--config.method.autoencoder=WORKDIR`` its weights are used and
all steps are the game's.
Cost: TODO
Expected: TODO
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "corrupted_images", "latent_dim": 64, "decoder_widths": (32, 32, 8), "drop": 0.7})
    config.data.recipe = "flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "schedule": "constant", "weight_decay": 1e-4})
    config.optim.momentum = 0.5
    config.train.epochs = 3
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
