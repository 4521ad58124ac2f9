"""LeJEPA on CIFAR-10 with ResNet-18: two views and four of 16 pixels, 400 epochs at batch 256.

    make pretrain CONFIG=configs/lejepa_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: unknown, there is no published CIFAR-10 figure. lambda, slices, rate, decay for ResNets and the end of the
rate are the authors' (rbalestr-lab/lejepa README); epochs, warmup and sizes of views are ours.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "lejepa", "sigreg_weight": 0.05, "slices": 1024, "projector_dim": 64})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 256, "recipe": "lejepa_cifar"})
    config.optim.update({"name": "adamw", "learning_rate": 5e-4, "scale": "none", "weight_decay": 5e-4})
    config.optim.update({"decay_bias_and_norm": True, "warmup_epochs": 5.0, "end": 1e-3})
    config.train.epochs = 400
    return config
