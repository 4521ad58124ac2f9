"""Barlow Twins on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, the recipe of solo-learn.

    make pretrain CONFIG=configs/barlow_twins_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 92.1 % online linear (solo-learn, 1000 epochs); .842 kNN after 200 epochs at batch 128 with lightly's recipe.
Published, not ours. The paper has no CIFAR-10 recipe. solo-learn's LARS is optim.name=larc with eta=.02, clip_rate and
no decay of biases and norms, which have the rate of the others.
"""

from __future__ import annotations

from configs.common import base, solo_cifar10


def get_config():
    config = solo_cifar10(base(), 0.3, 1e-4)
    config.method.update({"name": "barlow_twins", "projector_dim": 2048, "scale": 0.1})
    return config
