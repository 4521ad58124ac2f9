"""Instance discrimination (NPID) on CIFAR-10 with a small network, for two CPU cores.

    make pretrain CONFIG=configs/instance_discrimination_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: 80 epochs of 5,000 images; about 6 minutes on two idle cores, by the processor time of the runs in
docs/pretext_table.
Expected: the whole run not yet run by us. It starts slowly: the rows of the bank are random in the first epoch and old
ever after. With train.steps=400, 10 epochs, the loss falls from 12.63 at step 50 to 7.87; kNN is 0.290 on validation
images and 0.265 on 2,000 test images with a bank of 5,000 (our run, seed 0), not above an untrained encoder. At a rate
of 0.1 it was 0.243; 0.03 is the paper's.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "instance_discrimination", "temperature": 0.1, "momentum": 0.5, "projector_dim": 128})
    config.data.update({"recipe": "npid_cifar", "num_examples": 5_000})
    config.optim.update({"learning_rate": 0.03, "warmup_epochs": 0.5})
    config.train.epochs = 80
    config.eval.update({"max_bank": 5_000, "max_queries": 2_000})
    return config
