"""UDA on CIFAR-10 with 4,000 labels for two CPU cores, with the small network of the other CPU runs.

    make pretrain CONFIG=configs/uda_cifar10_cpu.py ARGS="--config.data.data_dir=PATH/tfds"
    python experiments/few_labels.py --config configs/uda_cifar10_cpu.py --out runs/few_cifar --labelled 400 4000 \
        --set data.data_dir=PATH/tfds

Cost: 4,000 steps of 32 labelled and 96 unlabelled images, twice each; not run: some 30 minutes by the rate of the
supervised run, RandAugment aside.
Expected: no figure of ours yet.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "uda", "temperature": 0.4, "threshold": 0.8, "ema": 0.999})
    config.data.update({"labelled": 4000, "ratio": 3, "global_batch_size": 32, "recipe": "uda_cifar"})
    config.optim.update({"learning_rate": 0.05, "nesterov": True})
    config.train.update({"steps": 4000, "log_every": 50, "eval_every": 500, "checkpoint_every": 500})
    return config
