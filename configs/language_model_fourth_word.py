"""The fourth word from three: a language model as it is first taught, on the help texts inside Python.

    make pretrain CONFIG=configs/language_model_fourth_word.py

Windows of three words, each read for itself, of which nothing but the next word is asked for.
Cost: 71 seconds of training on two cores of an AMD EPYC that other jobs shared.
Expected: test perplexity 101, over every third word (one run, seed 0); the model with state has 76, over every word.
"""

from __future__ import annotations

from configs import language_model_demo


def get_config():
    config = language_model_demo.get_config()
    config.method.last = True
    config.model.update({"layers": 1, "dropout": 0.1, "input_dropout": 0.1})
    config.data.update({"length": 3, "global_batch_size": 128})
    config.train.update({"epochs": 4, "log_every": 50, "eval_every": 200, "checkpoint_every": 200})
    return config
