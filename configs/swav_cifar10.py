"""SwAV on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, two views and a queue, the recipe of solo-learn.

    make pretrain CONFIG=configs/swav_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 89.2 % online linear (solo-learn, 1000 epochs); .812 kNN after 200 epochs at batch 128 with lightly's recipe.
Published, not ours. The paper has no CIFAR-10 recipe. solo-learn's LARS is optim.name=larc with eta=.02, clip_rate and
no decay of biases and norms. Four small views besides: data.recipe=swav_cifar.
"""

from __future__ import annotations

from configs.common import base, solo_cifar10


def get_config():
    config = solo_cifar10(base(), 0.6, 1e-6)
    config.method.update({"name": "swav", "prototypes": 3000, "hidden": 2048, "projector_dim": 128})
    config.method.update({"queue_size": 3840, "queue_from": 50.0, "freeze_prototypes": 2})
    config.data.recipe = "symmetric_cifar"
    return config
