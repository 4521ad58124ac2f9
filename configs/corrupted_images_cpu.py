"""Spotting artifacts on CIFAR-10 with the small network of the CPU runs; the autoencoder is trained first.

    make pretrain CONFIG=configs/corrupted_images_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

A finished run of configs/autoencoder_cpu.py fits: with ``--config.init_from.autoencoder=WORKDIR
--config.method.autoencoder_steps=0`` its weights are used and all steps are the game's.
Cost: 3 epochs; about 10 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. After 182 steps of the game on an autoencoder of 200 steps (19 dB): accuracy
of the discriminator 0.85 on test images and 0.94 to 1.00 on the training batches before; test kNN 0.22 on 2,000 images
and a bank of 5,000, below the 0.26 of this encoder untrained (our run, seed 0). That it learns features is not shown.
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
