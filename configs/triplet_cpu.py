"""Triplets on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/triplet_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 10 epochs; about 10 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. With train.steps=400: loss 0.36 (0.47 at step 50), test kNN 0.415 on 2,000
images with a bank of 5,000, online probe 0.422 (our run, seed 0).
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "triplet", "margin": 0.5, "mining": "semihard", "projector_dim": 128})
    config.data.recipe = "triplet_cifar"
    config.optim.update({"learning_rate": 0.1, "warmup_epochs": 0.5})
    config.train.epochs = 10
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
