"""DINO on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, solo-learn's recipe, two views.

    make pretrain CONFIG=configs/dino_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 270 PFLOP, as BYOL's; not yet run here. Needs an accelerator.
Expected: 89.5 % online linear (solo-learn, 1000 epochs); 84.8 % kNN after 800 epochs in lightly, whose head has
BatchNorm and 2048 prototypes. Published figures, not ours. DINO's paper has no CIFAR-10 recipe: rate, decay, head and
temperatures are solo-learn's, with the LARS of BYOL (solo-learn's has another trust coefficient).
With small views: --config.data.recipe=dino_cifar.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "dino", "tau": 0.9995, "out_dim": 4096, "teacher_temperature": 0.07})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "byol_cifar"})
    config.optim.update({"name": "lars_byol", "learning_rate": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
