"""ULMFiT's classifier on IMDb for two CPU cores: 128 wide, reviews cut at 192 words.

    python experiments/ulmfit.py --size cpu --out runs/ulmfit --general text:PATH/wikitext-2 --target tfds:imdb_reviews

Differs from the paper: all parts learn at once and at one rate. With 1,000 labels, seed 0, that reached 76 % of 5,000
validation reviews, and 76 % with a rate that falls by 0.7 from layer to layer; unfreezing part by part over ten short
epochs had come to 63 % of the test reviews. ``--without unfreezing discriminative`` changes nothing here.

By itself, from scratch: make pretrain CONFIG=configs/ulmfit_classifier_cpu.py ARGS="--config.data.data_dir=PATH".
Cost: on a core that other jobs shared 16 minutes for the language model of WikiText-2 and 99 for that of all reviews
(2,350 and 1,570 words a second); a classifier of 400 steps with its test some 4 minutes.
Expected: with 10, 100 and 1,000 labels 54.0 +- 1.4, 63.7 +- 0.5 and 75.8 +- 1.0 % of a fifth of the test reviews, from
scratch 52.1 +- 1.8, 61.3 +- 3.4 and 72.9 +- 3.5 (3 seeds, 100, 200 and 400 steps, docs/few_labels/ulmfit_imdb.json).
"""

from __future__ import annotations

from configs import ulmfit_classifier


def get_config():
    config = ulmfit_classifier.get_config()
    config.method.update({"layer_decay": 1.0, "unfreeze_every": 0.0})
    config.model.update({"width": 128, "hidden": 128, "layers": 1})
    config.model.update({"dropout": 0.2, "inner_dropout": 0.0, "input_dropout": 0.2})
    config.model.update({"word_dropout": 0.02, "weight_dropout": 0.2})
    config.data.update({"document_length": 192, "global_batch_size": 32})
    config.data.tokenizer.size = 8000
    config.train.update({"epochs": 4, "log_every": 20, "eval_every": 350, "checkpoint_every": 350})
    config.eval.online_queries = 1000
    return config
