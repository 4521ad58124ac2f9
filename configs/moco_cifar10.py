"""MoCo on CIFAR-10 with ResNet-18: the authors' CIFAR-10 demo, 200 epochs at batch 512.

    make pretrain CONFIG=configs/moco_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 40 PFLOP (200 epochs), by count of multiplications. Needs an accelerator; the first 5 epochs were run on a
CPU, beside the demo's log: docs/results/cifar10.md.
Expected: kNN 82.6 / 86.3 / 88.7 % after 200 / 400 / 800 epochs, symmetric 85.3 / 88.5 / 89.7 % (the demo's log).
Published figures, not ours; the demo's kNN reads the 128-d head output, ours the encoder's features. The demo
counts its epochs from 1 in the schedule, so its first epoch already has the second rate of ours.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "moco", "temperature": 0.1, "momentum": 0.99, "queue_size": 4096})
    config.method.update({"projector_version": 1, "symmetric": False, "bn_groups": 8, "bn_strided": True})
    # The demo replaces the stem of torchvision's network by a convolution as torch makes it.
    config.model.update({"name": "resnet18", "stem": "cifar", "stem_init": "torch"})
    # The demo divides by the mean over images of each image's own deviation.
    config.data.update({"global_batch_size": 512, "recipe": "moco_cifar", "std": (0.2023, 0.1994, 0.2010)})
    config.optim.update({"name": "sgd", "learning_rate": 0.03, "weight_decay": 5e-4, "schedule": "cosine_by_epoch"})
    config.train.epochs = 200
    return config
