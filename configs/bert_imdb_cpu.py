"""BERT-Tiny on the texts of IMDb's train reviews, without their labels, for two CPU cores.

    make pretrain CONFIG=configs/bert_imdb_cpu.py ARGS="--config.data.data_dir=PATH/tfds"

configs/bert_classifier_cpu.py goes on from it. 2 blocks, 128 wide, pairs of 128 tokens, a vocabulary of 8,000.
Cost: 8,000 steps of 16 pairs; 34 minutes on one core of an AMD EPYC that other jobs shared, by its first steps 15
alone.
Expected: on a fifth of test, seed 0: masked words 4.44 nats (perplexity 85, 30.0 % right), word frequencies 6.60,
pairs of words 4.89; of 4,096 pairs 53.0 % told right, z = 3.9, by their lengths alone 51.5 %
(``experiments/ngrams.py``, docs/text/bert_imdb.json). The encoder of docs/few_labels/bert_imdb.json learned longer,
each time from the one before (``--config.init_from``, a warmup of .1 epochs, the first tokenizer): 12,000 steps more
(seed 1) 3.69 nats, perplexity 40; then 16,000 steps of 32 pairs (seed 2; 68 minutes on one to two shared cores) 3.32
nats, perplexity 27.6, 41.4 % of the masked words and 61.3 % of the pairs right.
"""

from __future__ import annotations

from configs import bert_wikitext2_cpu


def get_config():
    config = bert_wikitext2_cpu.get_config()
    config.data.update({"source": "tfds:imdb_reviews", "test_split": "test[:20%]"})
    config.data.update({"length": 128, "global_batch_size": 16})
    config.train.update({"steps": 8000})
    return config
