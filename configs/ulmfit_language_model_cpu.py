"""ULMFiT's language model for two CPU cores: one LSTM of 128, a vocabulary of 8,000.

    python experiments/ulmfit.py --size cpu --out runs/ulmfit --general text:PATH/wikitext-2 --target tfds:imdb_reviews

Stage 1 alone: make pretrain CONFIG=configs/ulmfit_language_model_cpu.py ARGS="--config.data.source=text:PATH".
Cost: minutes for each million words: see configs/ulmfit_classifier_cpu.py.
Expected: see configs/ulmfit_classifier_cpu.py.
"""

from __future__ import annotations

from configs import ulmfit_language_model


def get_config():
    config = ulmfit_language_model.get_config()
    config.method.update({"activity": 0.0, "change": 0.0})
    config.model.update({"width": 128, "hidden": 128, "layers": 1})
    config.model.update({"dropout": 0.2, "inner_dropout": 0.0, "input_dropout": 0.2})
    config.model.update({"word_dropout": 0.02, "weight_dropout": 0.2})
    config.data.update({"length": 35, "global_batch_size": 16})
    config.data.tokenizer.size = 8000
    config.optim.learning_rate = 4e-3
    config.train.update({"epochs": 1, "log_every": 50, "eval_every": 500, "checkpoint_every": 500})
    return config
