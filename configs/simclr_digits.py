"""SimCLR on the 1,797 handwritten digits of scikit-learn: the default, some minutes on two CPU cores.

    make pretrain

Cost: 221 to 229 seconds on one core of an AMD EPYC.
Expected: test accuracy of logistic regression on raw pixels / untrained / pretrained encoder, in %:
58.9 ± 5.6 / 39.5 ± 2.7 / 70.5 ± 0.4 with one label per class, 97.2 ± 0.0 / 91.0 ± 1.1 / 97.6 ± 0.5 with all
(our runs, seeds 0 to 2).
Augmentation, temperature and network were chosen on validation digits (held out of train); nothing was chosen on test.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "simclr", "temperature": 0.5, "projector_layers": 2, "projector_dim": 64})
    config.model.update({"name": "convnet", "widths": (32, 64), "strides": (2, 2), "residual": False})
    config.data.update({"source": "digits", "image_size": 16, "global_batch_size": 128, "recipe": "digits"})
    config.data.update({"mean": (0.305,), "std": (0.376,)})
    config.optim.update({"name": "adamw", "learning_rate": 2e-3, "scale": "none", "weight_decay": 1e-4})
    config.optim.update({"warmup_epochs": 5.0})
    config.train.update({"epochs": 150, "log_every": 20, "eval_every": 250, "checkpoint_every": 500})
    config.eval.update({"knn_k": 20, "label_efficiency": True})
    return config
