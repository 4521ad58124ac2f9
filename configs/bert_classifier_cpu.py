"""A classifier of IMDb's reviews on BERT-Tiny, for two CPU cores: from scratch, or from a BERT with ``init_from``.

    make pretrain CONFIG=configs/bert_classifier_cpu.py ARGS="--config.data.data_dir=PATH/tfds"
    python experiments/few_labels.py --config configs/bert_classifier_cpu.py --start runs/bert_imdb_cpu \
        --out runs/few_bert --labelled 100 1000 --set data.data_dir=PATH/tfds

The first 128 tokens of a review; accuracy on a fifth of the test reviews.
Cost: one to four minutes for each run of 300 steps on one core of an AMD EPYC that other jobs shared.
Expected: no gain yet. With 1,000 labels, 3 seeds, on test: from scratch 72.0 ± 0.4 %, from BERT-Tiny after 20,000 steps
on IMDb 69.6 ± 0.7, paired -2.4 ± 1.0; with 100 labels and 8,000 steps 62.2 and 56.7 (one seed), where of the rates
5e-4, 1e-4 and 3e-5 the first was the best on validation.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "supervised"})
    config.model.update({"name": "bert_tiny", "positions": 128, "dropout": 0.1, "pool": "mean"})
    config.data.update({"source": "tfds:imdb_reviews", "recipe": "documents_enclosed", "document_length": 128})
    config.data.update({"test_split": "test[:20%]", "global_batch_size": 32})
    config.data.tokenizer.update({"kind": "wordpiece", "size": 8000, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 5e-4, "scale": "none", "weight_decay": 0.01})
    config.optim.update({"clip_norm": 1.0, "warmup_epochs": 0.0})
    config.train.update({"steps": 300, "log_every": 20, "eval_every": 100, "checkpoint_every": 100})
    config.eval.update({"probe": False, "knn": False, "online_queries": 1000})
    return config
