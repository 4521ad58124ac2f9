"""word2vec (skip-gram) on WikiText-2, with the sizes that gensim has by default: 100 wide, windows of 5, 5 negatives.

    make pretrain CONFIG=configs/word2vec_wikitext2.py ARGS="--config.data.source=text:PATH/wikitext-2"
    python experiments/word_vectors.py runs/word2vec_wikitext2 --words king city played

Words that occur five times or more; a vocabulary of 20,492.
Cost: some 50 seconds for an epoch of 685 steps on two cores of an AMD EPYC that other jobs shared, 5 minutes in all.
Expected: test loss 2.54 after one epoch (one run, seed 0, --config.train.epochs=1), where an untrained table has
6 ln 2 = 4.16; near "king" are then henry, emperor, george, edward, william. All five epochs: not yet run by us.
"""

from __future__ import annotations

from configs import word2vec_demo


def get_config():
    config = word2vec_demo.get_config()
    config.model.width = 100
    config.data.update({"source": "text:wikitext-2", "global_batch_size": 64})
    config.data.tokenizer.kind = "spaced"
    config.optim.learning_rate = 1e-2
    config.train.update({"epochs": 5, "log_every": 100, "eval_every": 700, "checkpoint_every": 700})
    return config
