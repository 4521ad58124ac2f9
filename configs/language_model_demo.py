"""A language model of words on the help texts inside Python: no network needed, minutes on two CPU cores.

    make pretrain CONFIG=configs/language_model_demo.py

LSTM of two layers, 128 wide, its decoder tied to the embedding; 90,000 tokens, a vocabulary of 3,206.
Cost: 204 seconds of training on two cores of an AMD EPYC that other jobs shared.
Expected: test perplexity 76, validation 113 (one run, seed 0). On test, word frequencies of train have 263, and pairs
of words (Witten-Bell) 41: the texts repeat themselves, and eight epochs do not reach that.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "language_model"})
    config.model.update({"name": "lstm", "width": 128, "layers": 2, "dropout": 0.3, "input_dropout": 0.3})
    config.data.update({"source": "pydoc", "recipe": "stream", "length": 35, "global_batch_size": 16})
    config.optim.update({"name": "adamw", "learning_rate": 3e-3, "scale": "none", "weight_decay": 0.0})
    config.optim.update({"clip_norm": 0.25})
    config.train.update({"epochs": 8, "log_every": 50, "eval_every": 200, "checkpoint_every": 200})
    config.eval.update({"probe": False, "knn": False})
    return config
