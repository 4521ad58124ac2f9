"""In-painting of the centre on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/inpainting_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 20 epochs; 24 minutes on a core of an AMD EPYC by four times those of 5 epochs, an hour on a slower kind, shared.
Expected: test kNN 0.338, linear 0.422 on the features (our run, seed 0, interrupted once), before training 0.310 and
0.370. After 5 epochs in their own schedule 0.321 and 0.407, and PSNR of the hole on 500 test images 16.2 dB, against
12.5 of the mean colour and 15.4 of biharmonic filling (experiments/inpainting_psnr.py).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "inpainting", "hole_size": 16, "latent_dim": 512, "decoder_widths": (64, 32)})
    config.data.recipe = "flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.5})
    config.train.epochs = 20
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
