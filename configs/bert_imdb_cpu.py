"""BERT-Tiny on the texts of IMDb's train reviews, without their labels, for two CPU cores.

    make pretrain CONFIG=configs/bert_imdb_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

configs/bert_classifier_cpu.py goes on from it. 2 blocks, 128 wide, pairs of 128 tokens, a vocabulary of 8,000.
Cost: not run to its end yet; 8,000 steps of 16 pairs.
Expected: no figure of ours yet.
"""

from __future__ import annotations

from configs import bert_wikitext2_cpu


def get_config():
    config = bert_wikitext2_cpu.get_config()
    config.data.update({"source": "tfds:imdb_reviews", "test_split": "test[:20%]"})
    config.data.update({"length": 128, "global_batch_size": 16})
    config.train.update({"steps": 8000})
    return config
