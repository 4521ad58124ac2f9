"""SimCLR on ImageNet with ResNet-50: the paper's recipe, 100 epochs at batch 4096.

    make pretrain CONFIG=configs/simclr_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 6.2 EFLOP; the official code took some 6 h on 32 TPU v3 (its README). Not run here.
Expected: about 64.5 % linear after 100 epochs, 69.1 % after 1000 (google-research/simclr README, whose command has
weight decay 1e-4 and, by the code's default, a head of 3 layers; the paper, and this file, 1e-6 and 2). Not ours.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "simclr", "temperature": 0.1, "projector_layers": 2, "loss_scale": "official"})
    config.model.update({"name": "resnet50", "conv_init": "simclr", "zero_init_residual": True, "dtype": "bfloat16"})
    config.data.update({"recipe": "simclr", "mean": (0.0,), "std": (1.0,)})
    config.optim.update({"name": "lars_simclr", "learning_rate": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.train.epochs = 100
    return config
