"""DINO on CIFAR-10 with ResNet-18: 1000 epochs at batch 256, solo-learn's recipe, two views.

    make pretrain CONFIG=configs/dino_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: about 500 PFLOP, as BYOL's; not yet run here. Needs an accelerator.
Expected: 89.5 % online linear (solo-learn, 1000 epochs); 84.8 % kNN after 800 epochs in lightly, whose head has
BatchNorm and 2048 prototypes. Published figures, not ours. DINO's paper has no CIFAR-10 recipe: rate, decay, head and
temperatures are solo-learn's, and its LARS: optim.name=larc with eta=.02, clip_rate, no decay of biases and norms.
With small views: --config.data.recipe=dino_cifar.
"""

from __future__ import annotations

from configs.common import base, solo_cifar10


def get_config():
    config = solo_cifar10(base(), 0.3, 1e-6)
    config.method.update({"name": "dino", "tau": 0.9995, "out_dim": 4096, "teacher_temperature": 0.07})
    return config
