"""BERT-Tiny on the texts of IMDb's train reviews, without their labels, for two CPU cores.

    make pretrain CONFIG=configs/bert_imdb_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

configs/bert_classifier_cpu.py goes on from it. 2 blocks, 128 wide, pairs of 128 tokens, a vocabulary of 8,000.
Cost: 8,000 steps of 16 pairs; 34 minutes on one core of an AMD EPYC that other jobs shared, by its first steps 15
alone.
Expected: on a fifth of test, seed 0: masked words 4.44 nats (perplexity 85, 30.0 % right), word frequencies 6.60,
pairs of words 4.89; of 4,096 pairs 53.0 % told right, z = 3.9, by their lengths alone 51.5 %
(``experiments/ngrams.py``, docs/text/bert_imdb.json). After 12,000 steps more from its encoder
(``--config.init_from``, seed 1) 3.69 nats (40).
"""

from __future__ import annotations

from configs import bert_wikitext2_cpu


def get_config():
    config = bert_wikitext2_cpu.get_config()
    config.data.update({"source": "tfds:imdb_reviews", "test_split": "test[:20%]"})
    config.data.update({"length": 128, "global_batch_size": 16})
    config.train.update({"steps": 8000})
    return config
