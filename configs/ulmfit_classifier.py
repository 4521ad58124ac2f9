"""ULMFiT's classifier (stage 3) on IMDb: the fine-tuned language model's encoder under a new head.

    python experiments/ulmfit.py --out runs/ulmfit --general text:PATH/wikitext-103 --target tfds:imdb_reviews

By itself, from scratch: make pretrain CONFIG=configs/ulmfit_classifier.py ARGS="--config.data.data_dir=PATH".
Recipe: Howard and Ruder 2018, sections 3.3 and 4.1: pooling of the last, greatest and mean output, BatchNorm, dropout
.4, 50 ReLU, BatchNorm, dropout .1, rates up to .01 that fall by 2.6 from layer to layer, one more part learning after
every epoch, gradients over 70 tokens of a document of up to 1,400.
Cost: not run here; some 25 minutes an epoch of 25,000 reviews on one GPU in the authors' code.
Expected: the paper has 5.0 % errors on IMDb's validation, 9.93 % from scratch, 5.63 % without stage 1.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "supervised", "layer_decay": 1 / 2.6, "unfreeze_every": 1.0})
    config.method.update({"head_hidden": 50, "head_dropout": (0.4, 0.1)})
    config.model.update({"name": "lstm", "width": 400, "hidden": 1150, "layers": 3, "bptt": 70})
    config.model.update({"dropout": 0.4, "inner_dropout": 0.3, "input_dropout": 0.4})
    config.model.update({"word_dropout": 0.05, "weight_dropout": 0.5})
    config.data.update({"source": "tfds:imdb_reviews", "recipe": "documents", "document_length": 1400})
    config.data.global_batch_size = 64
    config.data.tokenizer.update({"kind": "words", "size": 30_000, "min_frequency": 2, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 1e-2, "scale": "none", "schedule": "slanted"})
    config.optim.update({"momentum": 0.7, "b2": 0.99, "weight_decay": 0.0})
    config.train.update({"epochs": 15, "log_every": 50, "eval_every": 350, "checkpoint_every": 350})
    config.eval.update({"probe": False, "knn": False, "online_queries": 2500})
    return config
