"""BERT-Tiny on WikiText-2, for two CPU cores.

    make pretrain CONFIG=configs/bert_wikitext2_cpu.py ARGS="--config.data.source=text:PATH/text/wikitext-2"

PATH holds train.txt, valid.txt and test.txt. 2 blocks, 128 wide, pairs of 64 tokens, a WordPiece vocabulary of 8,000,
lower case.
Cost: not run to its end; 20,000 steps of 32 pairs, two to four hours on two cores, by the
.35 seconds that a step of configs/bert_demo.py took on two shared cores, with a decoder a quarter as wide.
Expected: no published figure is known; masked words below the entropy of word frequencies, next sentences above chance.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "bert"})
    config.model.update({"name": "bert_tiny", "positions": 128, "dropout": 0.0})
    config.data.update({"source": "text:wikitext-2", "recipe": "pairs", "length": 64, "document_length": 128})
    config.data.update({"global_batch_size": 32})
    config.data.tokenizer.update({"kind": "wordpiece", "size": 8000, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 0.01})
    config.optim.update({"clip_norm": 1.0, "warmup_epochs": 1.0})
    config.train.update({"steps": 20_000, "log_every": 100, "eval_every": 2000, "checkpoint_every": 2000})
    config.eval.update({"probe": False, "knn": False})
    return config
