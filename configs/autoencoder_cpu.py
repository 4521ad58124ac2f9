"""Convolutional autoencoder on CIFAR-10 with a small network and a code of 8 x 8 x 32, for two CPU cores.

    make pretrain CONFIG=configs/autoencoder_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Its run can be the frozen autoencoder of configs/corrupted_images_cpu.py.
Cost: 3 epochs; 10 minutes at the 225 images/s of two cores that other jobs shared.
Expected: the whole run not yet run by us. With train.steps=200: PSNR of the last training batch 19.0 dB, test kNN 0.260
on 2,000 images and a bank of 5,000, as good as this encoder untrained (0.259), online probe 0.304 (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "autoencoder", "loss": "mse", "spatial": True})
    config.method.update({"latent_dim": 32, "decoder_widths": (32, 16)})
    config.model.strides = (2, 1)  # the last map has 8 x 8 places
    config.data.recipe = "none"
    config.optim.update({"name": "adamw", "learning_rate": 5e-3, "weight_decay": 0.0})
    config.train.epochs = 3
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
