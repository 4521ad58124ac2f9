"""GloVe on the help texts inside Python: no network needed, a minute on two CPU cores.

make pretrain CONFIG=configs/glove_demo.py
python experiments/word_vectors.py runs/glove_demo --words list string return

234,996 pairs of words, a vocabulary of 1,476.
Cost: 13 seconds of training on two cores of an AMD EPYC that other jobs shared.
Expected: training loss 0.024 after 30 epochs (one run, seed 0).
"""

from __future__ import annotations

from configs import word2vec_demo


def get_config():
    config = word2vec_demo.get_config()
    config.method.update({"name": "glove", "x_max": 10.0})
    config.data.update({"recipe": "cooccurrences", "length": 128, "global_batch_size": 32})
    config.optim.learning_rate = 1e-2
    config.train.update({"epochs": 30})
    return config
