"""Barlow Twins on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, the recipe of solo-learn.

    make pretrain CONFIG=configs/barlow_twins_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 92.1 % online linear (solo-learn, 1000 epochs); .842 kNN after 200 epochs at batch 128 with lightly's recipe.
Published, not ours. The paper has no CIFAR-10 recipe. solo-learn's LARS has another trust coefficient (.02 against our
.001) and leaves biases and norms at the rate of the others, as here.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "barlow_twins", "projector_dim": 2048, "scale": 0.1, "bias_rate": 1.0})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "byol_cifar"})
    config.optim.update({"name": "lars_byol", "learning_rate": 0.3, "weight_decay": 1e-4, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
