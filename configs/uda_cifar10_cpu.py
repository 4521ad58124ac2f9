"""UDA on CIFAR-10 with 4,000 labels for two CPU cores, with the small network of the other CPU runs.

    make pretrain CONFIG=configs/uda_cifar10_cpu.py ARGS="--config.data.data_dir=PATH/tfds"
    python experiments/few_labels.py --config configs/uda_cifar10_cpu.py --out runs/few_cifar --labelled 400 4000 \
        --set data.data_dir=PATH/tfds

Cost: 2,000 steps of 32 labelled and 96 unlabelled images, the latter twice; 6 to 12 minutes on one core of an AMD
EPYC that other jobs shared, the supervised row about one.
Expected: on test, over three seeds of labels, network and order (``--set parallel.devices=1``): 44.8 ± 0.6 % with 400
labels, supervised on the same 41.6 ± 0.3, paired +3.2 ± 0.6; with 4,000 labels 61.6 ± 0.2 and 61.1 ± 0.6, paired +0.6
± 0.4 (docs/few_labels/uda_cifar10.json). Four epochs of the unlabelled images are few: the paper has 500,000 steps of
larger batches.
"""

from __future__ import annotations

from configs.common import base, cifar10_cpu


def get_config():
    config = cifar10_cpu(base())
    config.method.update({"name": "uda", "temperature": 0.4, "threshold": 0.8, "ema": 0.999})
    config.data.update({"labelled": 4000, "ratio": 3, "global_batch_size": 32, "recipe": "uda_cifar"})
    config.optim.update({"learning_rate": 0.05, "nesterov": True})
    config.train.update({"steps": 2000, "log_every": 50, "eval_every": 500, "checkpoint_every": 500})
    return config
