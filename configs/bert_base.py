"""BERT-Base as its paper has it: 12 blocks, 768 wide, 1,000,000 steps of 256 pairs of 512 tokens.

    make pretrain CONFIG=configs/bert_base.py ARGS="--config.data.source=text:PATH --config.train.steps=1000000"

PATH is a folder of documents (the paper's are BooksCorpus and Wikipedia); its 90 % of the steps at 128 tokens are a run
of this with ``data.length=128``, and the others one that starts from it with ``init_from``.
Cost: not run; the paper's took 4 days on 16 TPU v2 chips. 110 million parameters of 16 bytes and activations: by
its plan (docs/plans.md) 5.8 of 16 GiB on each of 16 TPU v5e chips; ``model.remat=dots`` or ``parallel.fsdp`` where they
do not fit.
Expected: in the paper a perplexity of masked words of 3.99, GLUE 79.6.

Reference: Devlin et al. 2019 (arXiv:1810.04805), appendix A.2. Differs from it: Adam corrects its bias; its warmup of
10,000 steps is 1 % of the run, to be set in epochs.
"""

from __future__ import annotations

from configs.common import base


def get_config():
    config = base()
    config.method.update({"name": "bert"})
    config.model.update({"name": "bert_base", "positions": 512, "dropout": 0.1, "dtype": "bfloat16"})
    config.data.update({"source": "text:corpus", "recipe": "pairs", "length": 512, "document_length": 512})
    config.data.update({"global_batch_size": 256})
    config.data.tokenizer.update({"kind": "wordpiece", "size": 30_522, "lowercase": True})
    config.optim.update({"name": "adamw", "learning_rate": 1e-4, "scale": "none", "weight_decay": 0.01})
    config.optim.update({"clip_norm": 1.0, "warmup_epochs": 0.4})
    config.train.update({"epochs": 40, "log_every": 100, "eval_every": 10_000, "checkpoint_every": 10_000})
    config.eval.update({"probe": False, "knn": False})
    return config
