"""A language model of words on the help texts inside Python, on any machine without a network, in minutes.

make pretrain CONFIG=configs/language_model_demo.py
"""

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
