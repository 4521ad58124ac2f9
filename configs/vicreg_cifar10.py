"""VICReg on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, the recipe of solo-learn.

    make pretrain CONFIG=configs/vicreg_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 92.1 % online linear (solo-learn, 1000 epochs). Published, not ours. The paper has no CIFAR-10 recipe.
solo-learn adds the variances of both views; its LARS is optim.name=larc with eta=.02, clip_rate and no decay of biases
and norms.
"""

from __future__ import annotations

from configs.common import base, solo_cifar10


def get_config():
    config = solo_cifar10(base(), 0.3, 1e-4)
    config.method.update({"name": "vicreg", "projector_dim": 2048, "variance_of_views": "sum"})
    config.data.recipe = "vicreg_cifar"
    return config
