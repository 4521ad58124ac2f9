"""I-JEPA on CIFAR-10 with a small vision transformer, for two CPU cores.

    make pretrain CONFIG=configs/jepa_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 5 epochs; about 12 minutes on two idle cores, by the processor time of the runs in docs/pretext_table.
Expected: not yet run by us in full. After 500 steps (seed 0) test kNN is 0.225 and the online probe 0.281; logistic
regression on 5,000 images reaches 0.343 with these features and 0.318 with those of a random encoder.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "jepa", "tau": 0.99, "predictor_width": 48, "predictor_layers": 2})
    config.model = {"name": "vit", "patch_size": 4, "width": 96, "depth": 4, "heads": 3}
    config.data.recipe = "jepa_cifar"
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "warmup_epochs": 0.5})
    config.optim.decay_bias_and_norm = None
    config.train.epochs = 5
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
