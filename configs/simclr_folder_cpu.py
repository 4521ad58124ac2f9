"""SimCLR on a folder of your own images with a small network, for a CPU; 64 pixels.

    make pretrain CONFIG=configs/simclr_folder_cpu.py ARGS="--config.data.source=folder:PATH --workdir=runs/mine"

Cost: 9 ms of processor time an image (3,000 photos of 96 pixels, two AMD EPYC cores that twenty other jobs shared: 35
images/s), so about 220 images/s on two idle cores, 40 minutes for 200 epochs of 3,000 images; 1.5 GB.
Expected: no figure, the images are yours. Watch val_knn_top1 (with labels) and the collapse alarm (without).
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "simclr", "temperature": 0.2, "projector_hidden": 256, "projector_dim": 128})
    config.model.update({"name": "convnet", "widths": (64, 128), "blocks": 2, "strides": (2, 2), "residual": False})
    config.model.update({"stem_width": 32, "stem_kernel": 4, "stem_stride": 4})
    config.data.update({"source": "folder:PATH", "image_size": 64, "global_batch_size": 128, "recipe": "moco_v2"})
    config.data.update({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    config.optim.update({"name": "sgd", "learning_rate": 0.4, "scale": "none", "weight_decay": 5e-4})
    config.optim.warmup_epochs = 5.0
    config.train.update({"epochs": 200, "log_every": 10, "eval_every": 200, "checkpoint_every": 200})
    config.eval.knn_k = 20
    return config
