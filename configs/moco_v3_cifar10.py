"""MoCo v3 on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, the recipe of solo-learn.

    make pretrain CONFIG=configs/moco_v3_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 93.1 % online linear (solo-learn, 1000 epochs). Published, not ours. The paper has no CIFAR-10 recipe.
solo-learn's LARS has another trust coefficient (.02 against our .001).
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "moco_v3", "temperature": 0.2, "tau": 0.99, "hidden": 4096, "projector_dim": 256})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "byol_cifar"})
    config.optim.update({"name": "lars_byol", "learning_rate": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
