"""Spotting artifacts on CIFAR-10 with the small network of the CPU runs; the autoencoder is trained first.

    make pretrain CONFIG=configs/corrupted_images_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

A finished run of configs/autoencoder_cpu.py fits: with ``--config.init_from.autoencoder=WORKDIR
--config.method.autoencoder_steps=0`` its weights are used and all steps are the game's.
Cost: 12 epochs; 53 minutes of a core of an AMD EPYC, shared.
Expected: test kNN 0.359, linear 0.434 after the first stage and as much at the stem (our three seeds), before training
0.325 and 0.405; 0.288 and 0.407 on the features, the last map, below the 0.333 and 0.421 before training: that map is
the discriminator's own. Its accuracy on the last training batch is 0.75 to 0.89.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "corrupted_images", "latent_dim": 32, "decoder_widths": (32, 16), "drop": 0.7})
    config.model.strides = (2, 1)  # the last map has 8 x 8 places
    config.data.recipe = "flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "schedule": "constant", "weight_decay": 1e-4})
    config.optim.momentum = 0.5
    config.train.epochs = 12
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
