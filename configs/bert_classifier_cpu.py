"""A classifier of IMDb's reviews on BERT-Tiny, for two CPU cores: from scratch, or from a BERT with ``init_from``.

    make pretrain CONFIG=configs/bert_classifier_cpu.py ARGS="--config.data.data_dir=PATH/tfds"
    python experiments/few_labels.py --config configs/bert_classifier_cpu.py --start runs/bert_imdb_cpu \
        --out runs/few_bert --labelled 10 100 1000 --set data.data_dir=PATH/tfds

The first 128 tokens of a review; accuracy on a fifth of the test reviews.
Cost: one to four minutes for each run of 300 steps on one core of an AMD EPYC that other jobs shared.
Expected: in % on test, 3 seeds: 10 labels 51.3 ± 2.0 from scratch, 52.5 ± 0.7 from BERT-Tiny, paired +1.2 ± 2.3; 100
labels 58.2 ± 3.7 from scratch, 63.8 ± 1.3 from BERT-Tiny, paired +5.6 ± 3.4; 1,000 labels 71.0 ± 0.8 from scratch, 73.5
± 1.7 from BERT-Tiny, paired +2.5 ± 1.8 (docs/few_labels/bert_imdb.json). The start is the longer of
configs/bert_imdb_cpu.py; after 20,000 steps of 16 pairs it gave no gain. Of the rates 5e-4, 1e-3 and 2e-3 the second
was the best of both rows on validation (1,000 labels, one seed).
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
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 0.01})
    config.optim.update({"clip_norm": 1.0, "warmup_epochs": 0.0})
    config.train.update({"steps": 300, "log_every": 20, "eval_every": 100, "checkpoint_every": 100})
    config.eval.update({"probe": False, "knn": False, "online_queries": 1000})
    return config
