"""AWD-LSTM on WikiText-2, the paper's recipe: three layers, every dropout, AR and TAR, averaged SGD.

    make pretrain CONFIG=configs/awd_lstm_wikitext2.py ARGS="--config.data.source=text:PATH/wikitext-2"

Recipe: Merity et al. 2018, section 5: 400 wide, 1,150 between, batch 80, windows of 70, SGD at 30 clipped at .25,
weight decay 1.2e-6, averaging once five checks in a row are no better (one an epoch), 750 epochs. Differs: windows
of one length, see ssl_jax/data/text/streams.py.
Cost: not run here; the paper's code takes some 180 seconds an epoch on one GPU of 2017, 37 hours in all.
Expected: the paper has perplexity 68.6 on validation and 65.8 on test, with 33 million parameters.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "language_model", "activity": 2.0, "change": 1.0})
    config.model.update({"name": "lstm", "width": 400, "hidden": 1150, "layers": 3})
    config.model.update({"dropout": 0.4, "inner_dropout": 0.2, "input_dropout": 0.65})
    config.model.update({"word_dropout": 0.1, "weight_dropout": 0.5})
    config.data.update({"source": "text:PATH/wikitext-2", "recipe": "stream", "length": 70, "global_batch_size": 80})
    config.data.tokenizer.update({"kind": "spaced", "min_frequency": 1})
    config.optim.update({"name": "sgd", "learning_rate": 30.0, "scale": "none", "schedule": "constant"})
    config.optim.update({"momentum": 0.0, "weight_decay": 1.2e-6, "clip_norm": 0.25, "average_after": 5})
    config.train.update({"epochs": 750, "log_every": 100, "eval_every": 372, "checkpoint_every": 372})
    config.eval.update({"probe": False, "knn": False})
    return config
