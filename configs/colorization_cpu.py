"""Colorization of CIFAR-10 with the small network of the CPU runs: 8 x 8 colours for 32 x 32 pixels.

    make pretrain CONFIG=configs/colorization_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs; about 5 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: the whole run not yet run by us. With train.steps=350 (our run, seed 0), on 2,000 test images: weighted
cross-entropy 4.03, 4.30 for the weighted prior of the training images; weighted accuracy 0.076, 0.041 for the best
constant answer; test kNN 0.337 with a bank of 5,000. With method.rebalance=0 as well: cross-entropy 3.03, 3.17 for the
prior (whose own entropy is 3.16); accuracy 0.287, 0.274 for the commonest bin; test kNN 0.332.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "colorization", "grid": 10, "neighbours": 5, "rebalance": 0.5})
    config.data.recipe = "crop_flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 0.2})
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
