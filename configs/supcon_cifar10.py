"""SupCon on CIFAR-10 with ResNet-50: the recipe of the authors' PyTorch code, 1000 epochs at batch 1024.

    make pretrain CONFIG=configs/supcon_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 96.0 % linear, cross-entropy 95.0 (HobbitLong/SupContrast README); with ResNet-18 93.8 in solo-learn, whose
loss is another form (L_in). Published, not ours. The label of every image is used.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update(
        {"name": "supcon", "temperature": 0.1, "loss_scale": "supcontrast", "normalize_features": False}
    )
    config.model.update({"name": "resnet50", "stem": "cifar"})
    config.data.update({"global_batch_size": 1024, "recipe": "supcon_cifar"})
    config.optim.update({"name": "sgd", "learning_rate": 0.5, "scale": "none", "weight_decay": 1e-4})
    config.optim.update({"warmup_epochs": 10.0, "start": 0.02, "end": 1e-3})
    config.train.epochs = 1000
    return config
