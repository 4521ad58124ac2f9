"""SwAV on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, two views and a queue, the recipe of solo-learn.

    make pretrain CONFIG=configs/swav_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 89.2 % online linear (solo-learn, 1000 epochs); .812 kNN after 200 epochs at batch 128 with lightly's recipe.
Published, not ours. The paper has no CIFAR-10 recipe. solo-learn's LARS has another trust coefficient (.02 against our
.001). Four small views besides: data.recipe=swav_cifar.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "swav", "prototypes": 3000, "hidden": 2048, "projector_dim": 128})
    config.method.update({"queue_size": 3840, "queue_from": 50.0, "freeze_prototypes": 2})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "symmetric_cifar"})
    config.optim.update({"name": "lars_byol", "learning_rate": 0.6, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
