"""Contrastive predictive coding on CIFAR-10 with the small network of the CPU runs.

    make pretrain CONFIG=configs/cpc_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs; about 17 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: not yet run by us in full. After 300 steps with a warmup of 0.1 epochs (seed 0) the loss has fallen from 7.1,
that of guessing, to 6.3, and test kNN is 0.284 on 2,000 images with a bank of 5,000; 0.257 with the patches of a random
encoder.
5 x 5 patches that overlap by 2 pixels cost half of the 7 x 7 of configs/cpc.py.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update(
        {"name": "cpc", "patch_size": 8, "patch_stride": 6, "steps": 4, "context_dim": 128, "context_layers": 3}
    )
    config.data.recipe = "crop_flip"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_epochs": 0.5})
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
