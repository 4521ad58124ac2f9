"""Spotting artifacts on CIFAR-10 with the small network of the CPU runs; the autoencoder is trained first.

    make pretrain CONFIG=configs/corrupted_images_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

A finished run of configs/autoencoder_cpu.py fits: with ``--config.method.autoencoder=WORKDIR`` its weights are used and
all steps are the game's.
Cost: 3 epochs, 1,050 steps; not yet timed on idle cores.
Expected: the whole run not yet run by us. In a trial (rate 5e-4, method.repair_rate=8, an autoencoder of 200 steps,
PSNR 19 dB, seed 0) the discriminator tells real from repaired images in 0.66 to 0.82 of the cases from step 100 to 200,
after 0.99 at step 50; its loss for the mask on repaired images, 0.77 to 0.85, is still above 0.611, that of a constant.
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
    config.train.epochs = 3
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
