"""Spotting artifacts on CIFAR-10 with ResNet-18: the paper's STL-10 recipe, after 50 epochs of the autoencoder.

    make pretrain CONFIG=configs/corrupted_images.py ARGS="--config.data.data_dir=PATH/tfds"

A code of 4 x 4 places and 128 channels holds two thirds of the image's numbers, as the paper's on STL-10 does; Adam at
3e-4 with b1 = 0.5, batches of 128 and 500 epochs are the authors' demo's. In every step of a run without
``method.autoencoder`` both stages are computed, so with a finished run's folder there the game is cheaper.
Cost: not yet run by us. Needs an accelerator.
Expected: not yet run by us; there is no published figure for CIFAR-10.
Differs from the reference code: ResNet-18 instead of AlexNet; a cosine instead of a linear schedule, which each role
begins when it begins to move; decoupled weight decay; no colour augmentation.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "corrupted_images", "latent_dim": 128, "decoder_widths": (256, 128, 64)})
    config.method.update({"drop": 0.7, "mask_weight": 0.1, "reconstruction_weight": 30.0, "autoencoder_steps": 17_550})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "crop_flip"})
    config.optim.update({"name": "adamw", "learning_rate": 3e-4, "scale": "none", "weight_decay": 5e-5})
    config.optim.momentum = 0.5
    config.train.update({"epochs": 500, "eval_every": 3510, "checkpoint_every": 3510})
    return config
