"""Instance discrimination (NPID) on CIFAR-10 with ResNet-18: the authors' CIFAR-10 script, 200 epochs.

    make pretrain CONFIG=configs/instance_discrimination.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not yet measured; 200 epochs. Needs an accelerator.
Expected: not yet run by us. Published for this setting: kNN 80.8 %, linear SVM 75.4 % (softmax over the whole bank;
with 4096 draws 80.4 and 70.2), figures of the best epoch on test data; kNN there is on the 128-d features, ours on the
encoder's.
The rate falls to a tenth at 120 and at 160 epochs: so does the authors' script, whose power of .1 is (epoch - 80) // 40
from epoch 80 on, so that nothing changes at 80. Weights start as torch makes convolutions.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "instance_discrimination", "temperature": 0.1, "momentum": 0.5, "projector_dim": 128})
    config.model.update({"name": "resnet18", "stem": "cifar", "conv_init": "torch"})
    config.data.update({"global_batch_size": 128, "recipe": "npid_cifar", "std": (0.2023, 0.1994, 0.2010)})
    config.optim.update({"name": "sgd", "learning_rate": 0.03, "scale": "none", "weight_decay": 5e-4})
    config.optim.schedule = "step"
    config.train.update({"epochs": 200, "eval_every": 3510, "checkpoint_every": 3510})
    return config
