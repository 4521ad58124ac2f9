"""Convolutional autoencoder on CIFAR-10 with a small network and a code of 128, for two CPU cores.

    make pretrain CONFIG=configs/autoencoder_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 3 epochs; 33 minutes at 70 images/s on two cores that many other jobs shared.
Expected: PSNR of the last training batches about 19 dB; test kNN 0.339, online probe 0.368 (our run, seed 0).
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
