"""MAE on CIFAR-10 with a small vision transformer, for two CPU cores.

    make pretrain CONFIG=configs/mae_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 10 epochs; 67 minutes of processor with measuring, on one slow core of an AMD EPYC that other jobs shared.
Expected: test kNN 0.401, linear 0.549 on the mean of the patches (our run, seed 0), before training 0.282 and 0.394; on
the class token 0.375 and 0.502. The loss ends at 0.43.
The encoder sees 16 of the 64 patches, so that its steps cost a quarter of another method's.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "mae", "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4})
    config.model = {"name": "vit", "patch_size": 4, "width": 128, "depth": 6, "heads": 4, "cls_token": True}
    config.data.recipe = "mae_cifar"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "b2": 0.95, "weight_decay": 0.05})
    config.optim.update({"warmup_epochs": 1.0, "decay_bias_and_norm": None})
    config.train.epochs = 10
    return config
