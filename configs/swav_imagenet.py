"""SwAV on ImageNet with ResNet-50: the paper's recipe, 800 epochs at batch 4096, 2 views and 6 of 96 pixels.

    make pretrain CONFIG=configs/swav_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured; the authors' took 3 minutes 40 an epoch on 64 V100. Not run here.
Expected: 75.3 % linear after 800 epochs, 72.1 after 100 (facebookresearch/swav README). Published, not ours; statistics
of BatchNorm are those of the whole batch, theirs of groups of 8 devices.
At batch 256 the authors have method.queue_size=3840, optim.learning_rate=.6 warmup_epochs=0 start=0: 74.3 % after 400
epochs. Without small views: data.recipe=swav_two, 70.1 %.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "swav", "prototypes": 3000})
    config.model.update({"name": "resnet50", "dtype": "bfloat16"})
    config.data.update({"global_batch_size": 4096, "recipe": "swav"})
    config.optim.update({"name": "larc", "learning_rate": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0})
    config.optim.update({"start": 0.0625, "end": 1e-3})
    config.train.epochs = 800
    return config
