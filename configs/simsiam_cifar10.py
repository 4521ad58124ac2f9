"""SimSiam on CIFAR-10 with ResNet-18: the paper's recipe, 800 epochs at batch 512.

    make pretrain CONFIG=configs/simsiam_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; not yet run here. Needs an accelerator.
Expected: 91.8 % linear (Chen and He 2021, appendix D). Published, not ours; solo-learn has 90.5 after 1000 epochs
with a recipe of its own.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "simsiam", "projector_dim": 2048, "projector_layers": 2, "predictor_hidden": 512})
    config.model.update({"name": "resnet18", "stem": "cifar", "zero_init_residual": True})
    config.data.update({"global_batch_size": 512, "recipe": "simsiam_cifar"})
    config.optim.update({"name": "sgd", "learning_rate": 0.03, "weight_decay": 5e-4, "schedule": "cosine_by_epoch"})
    config.train.epochs = 800
    return config
