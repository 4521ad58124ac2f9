"""SimCLR on CIFAR-10 with ResNet-18: the official README's recipe, 1000 epochs at batch 512.

    make pretrain CONFIG=configs/simclr_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 300 PFLOP, by count of multiplications; not yet run here. Needs an accelerator.
Expected: about 91 % linear (google-research/simclr README); 90.7 % in solo-learn (1000 epochs, batch 256);
84.8 % kNN after 200 epochs in lightly. Published figures, not ours. LARS as SimCLR's code means it; the loss is the
official sum over both views (``loss_scale="official"``), which matters to parameters that LARS does not adapt.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "simclr", "temperature": 0.5, "projector_layers": 3, "loss_scale": "official"})
    config.model.update({"name": "resnet18", "stem": "cifar", "conv_init": "simclr", "zero_init_residual": True})
    config.model.project_first = True  # the official code projects the shortcut of stage 1, too
    # The official code does not normalise.
    config.data.update({"global_batch_size": 512, "recipe": "simclr_cifar", "mean": (0.0,), "std": (1.0,)})
    config.optim.update({"name": "lars_simclr", "learning_rate": 1.0, "weight_decay": 1e-4, "warmup_epochs": 10.0})
    config.train.epochs = 1000
    return config
