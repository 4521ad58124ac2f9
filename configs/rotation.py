"""Rotation prediction on CIFAR-10 with ResNet-18: the optimizer of the RotNet paper, 200 epochs.

    make pretrain CONFIG=configs/rotation.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 104 PFLOP (compiled step), four rotations of every image; not yet run by us. Needs an accelerator.
Expected: not yet run by us. With a network in network of four blocks, the paper's features of the second block give
89.06 % to a classifier of three layers, 91.16 % to one with convolutions, both trained on all labels (as cited by later
papers; 92.80 % supervised). The deepest block is too much the task's own: look at every stage.
Differs from the reference code: ResNet-18; a cosine schedule instead of a fifth of the rate at epochs 60, 120 and 160;
crops of 60 % of the area or more instead of shifts by 4 pixels.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "rotation"})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"global_batch_size": 128, "recipe": "crop_flip"})
    config.optim.update({"name": "sgd", "learning_rate": 0.1, "scale": "none", "nesterov": True, "weight_decay": 5e-4})
    config.train.update({"epochs": 200, "eval_every": 3510, "checkpoint_every": 3510})
    return config
