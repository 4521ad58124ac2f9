"""Denoising autoencoder on Fashion-MNIST: a quarter of the pixels masked, a code wider than the image.

    make pretrain CONFIG=configs/denoising_autoencoder.py ARGS="--config.data.data_dir=PATH/tfds"

The kind and the amount of noise are among the paper's; its networks are trained layer by layer and on MNIST variants.
Cost: 20 epochs; 12 minutes at 1,580 images/s on two cores that other jobs shared.
Expected: reconstructions 9.4 dB nearer to the clean image than the input is, on the last training batch; test kNN
0.867, online probe 0.867 (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "denoising_autoencoder", "corruption": "masking", "amount": 0.25})
    config.model.update({"name": "mlp", "widths": (1000,), "latent_dim": 1000})
    config.data.update({"source": "tfds:fashion_mnist", "image_size": 28, "global_batch_size": 128, "recipe": "none"})
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 0.0})
    config.train.update({"epochs": 20, "log_every": 50, "eval_every": 842, "checkpoint_every": 842})
    return config
