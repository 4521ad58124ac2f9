"""In-painting of the centre on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/inpainting_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 20 epochs; 16 minutes of a core of an AMD EPYC.
Expected: test kNN 0.348 ± 0.009, linear 0.420 ± 0.002 on the features (our runs, seeds 0 to 2), 0.039 ± 0.010 and
0.046 ± 0.007 above the same network before training. After 5 epochs in their own schedule 0.321 and 0.407, and PSNR of
the hole on 500 test images 16.2 dB, against 12.5 of the mean colour and 15.4 of biharmonic filling
(experiments/inpainting_psnr.py).
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
