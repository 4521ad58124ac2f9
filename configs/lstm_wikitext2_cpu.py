"""A plain LSTM of two layers, 200 wide, on WikiText-2: the smallest published row, on two CPU cores.

    make pretrain CONFIG=configs/lstm_wikitext2_cpu.py ARGS="--config.data.source=text:PATH/wikitext-2"

Sizes of GluonNLP's standard_lstm_lm_200: dropout .2, windows of 35, batch 20. That row has 750 epochs of SGD at 20,
clipped at .2, and here are two of Adam, half a cosine, without its first moment as in Melis et al. 2018
(arXiv:1707.05589): over the first 100 steps that came to a loss of 6.66, Adam with .9 to 7.15 and SGD to 7.22.
The row itself: ``--config.train.epochs=750 --config.optim.name=sgd --config.optim.learning_rate=20
--config.optim.clip_norm=0.2`` on an accelerator.
Cost: 3.5 hours on one core of an AMD EPYC that other jobs shared; 2.1 million tokens an epoch,
and a softmax over 33,282 words.
Expected: perplexity 156.0 on test (seed 0; word frequencies 914, pairs of words 288, by ``experiments/ngrams.py``), on
validation 277, 201, 177, 168 after a half, one, one and a half and two epochs. The published row, of 750 epochs, has
107.6 on validation and 101.6 on test.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "language_model"})
    config.model.update({"name": "lstm", "width": 200, "layers": 2})
    config.model.update({"dropout": 0.2, "inner_dropout": 0.2, "input_dropout": 0.2})
    config.data.update({"source": "text:PATH/wikitext-2", "recipe": "stream", "length": 35, "global_batch_size": 20})
    config.data.tokenizer.update({"kind": "spaced", "min_frequency": 1})
    config.optim.update({"name": "adamw", "learning_rate": 3e-3, "scale": "none", "schedule": "cosine"})
    config.optim.update({"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.2})
    config.train.update({"epochs": 2, "log_every": 100, "eval_every": 1490, "checkpoint_every": 745})
    config.eval.update({"probe": False, "knn": False})
    return config
