"""word2vec (skip-gram) on the help texts inside Python: no network needed, a minute on two CPU cores.

make pretrain CONFIG=configs/word2vec_demo.py
python experiments/word_vectors.py runs/word2vec_demo --words list string return --analogy int integer str

75,172 words, a vocabulary of 1,476.
Cost: 32 seconds of training on two cores of an AMD EPYC that other jobs shared.
Expected: test loss 2.42, where an untrained table has 6 ln 2 = 4.16 (one run, seed 0).
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "word2vec"})
    config.model.update({"name": "embedding", "width": 64})
    config.data.update({"source": "pydoc", "recipe": "windows", "length": 32, "global_batch_size": 32})
    config.data.tokenizer.update({"min_frequency": 5, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 5e-3, "scale": "none", "weight_decay": 0.0})
    config.train.update({"epochs": 30, "log_every": 100, "eval_every": 500, "checkpoint_every": 500})
    config.eval.update({"probe": False, "knn": False})
    return config
