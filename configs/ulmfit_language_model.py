"""ULMFiT's language model (stages 1 and 2): AWD-LSTM of three layers, 400 wide and 1,150 between, on text of words.

    python experiments/ulmfit.py --out runs/ulmfit --general text:PATH/wikitext-103 --target tfds:imdb_reviews

Stage 1 alone: make pretrain CONFIG=configs/ulmfit_language_model.py ARGS="--config.data.source=text:PATH".
Recipe: Howard and Ruder 2018, section 4.1: batch 64, windows of 70, dropouts .4 of layers, .3 between, .4 of inputs,
.05 of words, .5 of weights, Adam with betas .7 and .99, slanted triangular rates up to .004; AR and TAR of AWD-LSTM.
Cost: 103 million words of WikiText-103 an epoch; not run here (the paper has a day or so on one GPU).
Expected: the paper gives no perplexity; its code reports 67 or so on validation, words of another list.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "language_model", "activity": 2.0, "change": 1.0})
    config.model.update({"name": "lstm", "width": 400, "hidden": 1150, "layers": 3})
    config.model.update({"dropout": 0.4, "inner_dropout": 0.3, "input_dropout": 0.4})
    config.model.update({"word_dropout": 0.05, "weight_dropout": 0.5})
    config.data.update({"source": "text:PATH", "recipe": "stream_shuffled", "length": 70, "global_batch_size": 64})
    config.data.tokenizer.update({"kind": "words", "size": 30_000, "min_frequency": 2, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 4e-3, "scale": "none", "schedule": "slanted"})
    config.optim.update({"momentum": 0.7, "b2": 0.99, "weight_decay": 0.0, "clip_norm": 0.25})
    config.train.update({"epochs": 14, "log_every": 100, "eval_every": 2000, "checkpoint_every": 2000})
    config.eval.update({"probe": False, "knn": False})
    return config
