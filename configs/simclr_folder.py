"""SimCLR on a folder of your own images, labelled by sub-folder or not at all; ResNet-18 at 64 pixels.

    make pretrain CONFIG=configs/simclr_folder.py ARGS="--config.data.source=folder:PATH --workdir=runs/mine"

Cost: on one accelerator minutes for some thousand images; on two CPU cores days (5 images/s, 6 GB): there take
configs/simclr_folder_cpu.py.
Expected: no figure, the images are yours. Watch val_knn_top1 (with labels) and the collapse alarm (without).
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "simclr", "temperature": 0.2})
    config.model.update({"name": "resnet18", "stem": "cifar"})
    config.data.update({"source": "folder:PATH", "image_size": 64, "global_batch_size": 128, "recipe": "moco_v2"})
    config.data.update({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    config.optim.update({"name": "sgd", "learning_rate": 0.06, "weight_decay": 5e-4, "warmup_epochs": 5.0})
    config.train.update({"epochs": 200, "log_every": 10, "eval_every": 200, "checkpoint_every": 200})
    config.eval.knn_k = 20
    return config
