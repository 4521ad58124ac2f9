"""UDA on CIFAR-10 with 4,000 labels, near the paper's recipe; for an accelerator.

    make pretrain CONFIG=configs/uda_cifar10.py ARGS="--config.data.data_dir=PATH/tfds"
    python experiments/few_labels.py --config configs/uda_cifar10.py --out runs/few_cifar --labelled 400 4000 \
        --set data.data_dir=PATH/tfds

Cost: 50,000 steps of 64 labelled and 448 unlabelled images, twice each; not run: we estimate hours on one GPU.
Expected: the paper has 4.3 % errors at 4,000 labels after 500,000 steps (Xie et al. 2020, table 4); none of ours yet.
Differs from the paper: a random box instead of a shift by 4 pixels; a tenth of the steps. WRN-28-2 is as
its own paper has it, and was not compared with UDA's code.
"""

from __future__ import annotations

from configs.common import base, cifar10


def get_config():
    config = cifar10(base())
    config.method.update({"name": "uda", "temperature": 0.4, "threshold": 0.8, "ema": 0.9999})
    config.model.update({"name": "wide_resnet", "depth": 28, "widen": 2})
    config.data.update({"labelled": 4000, "ratio": 7, "global_batch_size": 64, "recipe": "uda_cifar"})
    config.optim.update({"name": "sgd", "learning_rate": 0.03, "scale": "none", "nesterov": True})
    config.optim.update({"weight_decay": 5e-4, "decay_bias_and_norm": False})
    config.train.update({"steps": 50_000, "log_every": 100, "eval_every": 2_500, "checkpoint_every": 2_500})
    return config
