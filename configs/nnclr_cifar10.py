"""NNCLR on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, the recipe of solo-learn.

    make pretrain CONFIG=configs/nnclr_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 91.9 % online linear (solo-learn, 1000 epochs). Published, not ours. The paper has no CIFAR-10 recipe.
The queue of 65,536 is longer than the data, so that an image may find itself as it was: see nn_same_image. solo-learn's
LARS is optim.name=larc with eta=.02, clip_rate and no decay of biases and norms.
"""

from __future__ import annotations

from configs.common import base, solo_cifar10


def get_config():
    config = solo_cifar10(base(), 0.4, 1e-5)
    config.method.update({"name": "nnclr", "temperature": 0.2, "queue_size": 65536})
    return config
