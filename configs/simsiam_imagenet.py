"""SimSiam on ImageNet with ResNet-50: the paper's recipe, 100 epochs at batch 512.

    make pretrain CONFIG=configs/simsiam_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; the authors had 8 V100. Not run here.
Expected: 68.1 % linear, 68.3 at batch 256 (facebookresearch/simsiam README). Published, not ours.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "simsiam", "projector_dim": 2048, "projector_layers": 3, "predictor_hidden": 512})
    config.model.update({"name": "resnet50", "zero_init_residual": True})
    config.data.update({"global_batch_size": 512, "recipe": "moco_v2"})
    config.optim.update({"name": "sgd", "learning_rate": 0.05, "weight_decay": 1e-4, "schedule": "cosine_by_epoch"})
    config.train.epochs = 100
    return config
