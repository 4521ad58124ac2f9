"""Convolutional autoencoder on CIFAR-10 with a small network and a code of 8 x 8 x 32, for two CPU cores.

    make pretrain CONFIG=configs/autoencoder_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Its run can be the frozen autoencoder of configs/corrupted_images_cpu.py.
Cost: 12 epochs; 15 minutes of a core of an AMD EPYC, with measuring.
Expected: test kNN 0.351 ± 0.005, linear 0.479 ± 0.009 on the features (our runs, seeds 0 to 2), 0.018 ± 0.002 and
0.058 ± 0.012 above the same network before training.
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
    config.train.epochs = 12
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
