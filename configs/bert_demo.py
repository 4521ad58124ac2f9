"""BERT on the help texts inside Python: no network needed, minutes on two CPU cores.

    make pretrain CONFIG=configs/bert_demo.py

BERT-Tiny (2 blocks, 128 wide), pairs of 64 tokens, a WordPiece vocabulary of 2,000.
Cost: 846 seconds of training on two cores of an AMD EPYC that other jobs shared; fewer on cores of one's own.
Expected: on test masked words at 4.32 nats, 26.6 % right (one run, seed 0); the same tokens have 5.56 by their
frequencies in train and 3.53 by pairs of words (Witten-Bell), which this budget does not reach: the texts repeat
themselves. Next sentences: 58.6 % of 1,536 pairs of test, z = 6.7 were they independent (they are cut from 814 places);
of the 161 pairs that "test_nsp_top1" counts 55.9 %, z = 1.5. Lengths alone are at chance (tests/test_pairs.py).
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "bert"})
    config.model.update({"name": "bert_tiny", "positions": 128, "dropout": 0.0})
    config.data.update({"source": "pydoc", "recipe": "pairs", "length": 64, "document_length": 128})
    config.data.update({"global_batch_size": 32})
    config.data.tokenizer.update({"kind": "wordpiece", "size": 2000, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 0.01})
    config.optim.update({"clip_norm": 1.0, "warmup_epochs": 2.0})
    config.train.update({"epochs": 24, "log_every": 100, "eval_every": 400, "checkpoint_every": 400})
    config.eval.update({"probe": False, "knn": False})
    return config
