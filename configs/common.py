"""The keys every config has, with default and meaning. Experiment files start from ``base()`` and change it."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from ssl_jax.configs import Config

# key: (default, meaning). A type is the default null of a key that takes values of that type.
KEYS: dict[str, tuple[Any, str]] = {
    "seed": (0, "of everything that is drawn: parameters, order of the data, views"),
    "init_from": (
        str,
        "a workdir, or a file of weights, whose encoder this run starts from; init_from.PART: another part, "
        "init_from.all: everything that a run of the same method holds",
    ),
    "method.name": ("simclr", "ssl_jax/methods, or yours: ./w_mse.py; its arguments stand beside it"),
    "model.name": (
        "resnet18",
        "ssl_jax/models, or yours: ./net.py; its arguments stand beside it, dtype float32 or bfloat16",
    ),
    "data.source": (
        "digits",
        "digits | tfds:<name> | folder:, tar:, arrayrecord:, npz:, csv:, hf:, text:<path> | pydoc | ./mine.py",
    ),
    "data.data_dir": (str, "where datasets lie, ~ is the home; null: TFDS's own default"),
    "data.train_split": (str, "null: found by the usual names (train, Training, train2017, ...)"),
    "data.test_split": (str, "null: test, Testing, val, dev, ... with labels, else a fifth of train"),
    "data.download": (False, "let TFDS, or datasets of hf:, fetch what is not there"),
    "data.unlabelled": (int, 'an integer label that means "no label", often 255; -1 always does'),
    "data.num_examples": (int, "cap on train examples; validation and test stay whole"),
    "data.labelled": (
        int,
        "so many train examples keep their labels, as many of each class, drawn by the seed; of the others nobody sees "
        "any",
    ),
    "data.val_fraction": (0.1, "held out of train, stratified; tuning and online metrics use it"),
    "data.verify": (str, "how files are checked at first: full | header; null: full up to 100,000 files"),
    "data.max_unreadable": (0.01, "share of unreadable files above which a dataset is refused"),
    "data.max_pixels": (89_478_485, "larger images are refused, which a header can promise beyond all memory"),
    "data.value_range": (
        object,
        'what becomes black and white where pixels have more than 8 bits: two numbers (0,4095), or "image", the least '
        "and the greatest of each; null: 0 and 65535, and floating-point pixels are refused; 8 bits stay as they are",
    ),
    "data.memory_limit": (4 << 30, "bytes up to which a split of tfds: or hf: is held in memory"),
    "data.image_size": (32, "side in pixels of the views and of what evaluation sees"),
    "data.global_batch_size": (256, "examples in a batch, over all devices"),
    "data.recipe": (
        "simclr_cifar",
        "how examples become views: a name (pretrain.py --recipes), ./mine.py, or a recipe itself as a value",
    ),
    "data.views": (
        {},
        "changes of the recipe: data.views.crop.area=0.5,1 data.views.1.solarize.p=0 (of view 1) data.views.gray=null",
    ),
    "data.ratio": (int, "unlabelled rows per labelled one, of recipes of two parts; null: the recipe's"),
    "data.augment": ("device", "device: JAX, in the step | host: TensorFlow, before it"),
    "data.table_limit": (
        1 << 30,
        "of device: bytes up to which images in memory, or a stream's text, lie on the device",
    ),
    "data.mean": ((0.0,), "of the channels, subtracted from pixels in [0, 1]"),
    "data.std": ((1.0,), "of the channels, by which pixels are divided then"),
    "data.length": (70, "of text: tokens in a row of a batch"),
    "data.document_length": (256, "of text: tokens of a document that a classifier and evaluation see"),
    "data.text_column": (str, "of tables of text; null: found by the usual names (text, sentence, review, ...)"),
    "data.label_column": (str, "of tables of text or images; null: found by the usual names"),
    "data.image_column": (str, "of csv: and hf:; null: found by the usual names (image, path, file, image_id, ...)"),
    "data.second_column": (str, "another form of the text, as a translation there and back; null: text_2"),
    "data.tokenizer.kind": ("words", "spaced (as the text is) | words | wordpiece | bpe"),
    "data.tokenizer.size": (int, "of the vocabulary; null: all words that are frequent enough"),
    "data.tokenizer.min_frequency": (2, "of a word or piece that gets a token"),
    "data.tokenizer.lowercase": (False, "make all letters small"),
    "data.tokenizer.file": (str, "a tokenizer.json to be used in place of one that is learned"),
    "optim.name": ("sgd", "sgd | adamw | lars_simclr | lars_byol | larc"),
    "optim.learning_rate": (0.03, "the base rate; optim.scale makes the peak of it"),
    "optim.scale": ("linear", "linear: base * N / 256 | sqrt: base * sqrt(N) | none"),
    "optim.schedule": ("cosine", "cosine | cosine_by_epoch | step | constant | linear | slanted"),
    "optim.step_at": (tuple, "of step: shares of the run at which the rate drops to a tenth; null: .6 and .8"),
    "optim.warmup_epochs": (0.0, "of cosine, linear and step"),
    "optim.start": (float, "where the warmup begins, as a share of the peak; null: 0"),
    "optim.end": (float, "where cosine, cosine_by_epoch and linear end, as a share of the peak; null: 0"),
    "optim.momentum": (0.9, "of adamw: b1"),
    "optim.b2": (float, "of adamw; null: 0.999"),
    "optim.nesterov": (False, "of sgd"),
    "optim.eta": (float, "trust coefficient of lars_simclr, lars_byol and larc; null: .001"),
    "optim.clip_rate": (bool, "of larc: no parameter's own rate is above the rate, as in solo-learn's LARS; null: no"),
    "optim.weight_decay": (1e-4, "decoupled in adamw, else part of the gradient"),
    "optim.weight_decay_end": (float, "reached at the end along half a cosine; null: constant"),
    "optim.decay_bias_and_norm": (bool, "null: the optimizer's convention (sgd, larc: true, others: false)"),
    "optim.clip_norm": (float, "of the whole gradient; null: it is not clipped"),
    "optim.clip_each": (float, "of the gradient of every parameter by itself, as DINO has it; null: not clipped"),
    "optim.layer_decay": (
        float,
        "factor of the rate from one stage of the encoder to the one below (block of a ViT; DINOv2: .9), the rest has "
        "the rate itself; null: 1",
    ),
    "optim.patch_rate": (float, "a further factor of the rate of a ViT's patch embedding (DINOv2: .2); null: 1"),
    "optim.rates": (str, "factors by the start of a path: encoder/stem=0,projector=10; 0: it stays as it is; null: 1"),
    "optim.average_after": (
        int,
        "checks on validation that are not better than all those before the last so many, after which the mean of the "
        "parameters is what counts (NT-ASGD: 5); null: never",
    ),
    "train.epochs": (100, "of the data, or of its unlabelled part"),
    "train.steps": (int, "wins over epochs when set"),
    "train.steps_per_dispatch": (
        1,
        "steps in one program, without the host; where all images, or the text of a stream, lie on the device",
    ),
    "train.log_every": (50, "steps between lines of metrics.jsonl"),
    "train.grad_norms": ((), "starts of paths whose gradients' norms are logged, too: predictor,encoder/stem"),
    "train.eval_every": (1000, "steps between measurements on validation; 0: none"),
    "train.checkpoint_every": (1000, "steps between checkpoints; 0: the last alone"),
    "train.keep_checkpoints": (3, "the last so many are kept, and the best"),
    "train.on_nonfinite": ("stop", "what a loss or gradient that is not finite does: stop | skip"),
    "train.loggers": ((), "beside metrics.jsonl: tensorboard | wandb | mlflow, several with commas between"),
    "eval.probe": (True, "a linear classifier trained beside the method, from which nothing reaches it"),
    "eval.knn": (True, "during the run, on validation data; the test at the end always has it"),
    "eval.knn_k": (200, "neighbours"),
    "eval.knn_temperature": (0.1, "of their votes"),
    "eval.knn_centre": (True, "subtract the bank's mean feature before the cosine"),
    "eval.max_bank": (int, "of the final test; null: all"),
    "eval.max_queries": (int, "of the final test; null: all"),
    "eval.online_bank": (10_000, "examples of the measurements during the run, on validation data"),
    "eval.online_queries": (5_000, "examples of the measurements during the run"),
    "eval.during": ((), "evaluators that measure during the run, too, on validation data: geometry,./mine.py"),
    "eval.label_efficiency": (False, "at the end, accuracy by the number of labels"),
    "parallel.mode": ("jit", "jit: one program over all devices | pmap: the same function on each"),
    "parallel.devices": (int, "of all processes; null: 1 on a CPU, elsewhere all"),
    "parallel.deterministic": (False, "XLA's deterministic GPU kernels"),
    "parallel.xla_flags": (str, "added to XLA_FLAGS, which keeps what it says of the same ones"),
    "parallel.matmul_precision": (
        str,
        "of float32 products and convolutions; null: the backend's own, on GPUs since Ampere TF32, which has 10 bits "
        'of the 23 behind the point; "highest": all of float32; on a CPU they are one',
    ),
    "parallel.fsdp": (1, "devices of a group that shares parameters, optimizer state and EMA target; jit only"),
    "parallel.heartbeat_timeout": (100, "seconds until a process that does not answer ends the run of all"),
}


def base() -> Config:
    """The config of all defaults."""
    config: Config = ConfigDict()
    for key, (default, _) in KEYS.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            if parent not in node:
                node[parent] = ConfigDict()
            node = node[parent]
        node[last] = placeholder(default) if isinstance(default, type) else default
    config.data.recipe = FieldReference(config.data.recipe, field_type=object)  # a name, or a recipe itself
    return config


def cifar10(config: Config) -> Config:
    """CIFAR-10 from TFDS, its channel statistics, and measurements every 10 epochs at batch 512."""
    config.data.update({"source": "tfds:cifar10", "image_size": 32})
    config.data.update({"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
    config.train.update({"log_every": 50, "eval_every": 880, "checkpoint_every": 880})
    return config


def solo_cifar10(config: Config, learning_rate: float, weight_decay: float) -> Config:
    """CIFAR-10 as solo-learn trains ResNet-18 on it: 1000 epochs at batch 256 with its LARS, rates from 3e-5 on.

    Its stem pads by 2, so that maps are 34, 17, 9 and 5 pixels wide.
    """
    config = cifar10(config)
    config.model.update({"name": "resnet18", "stem": "cifar", "stem_padding": 2})
    config.data.update({"global_batch_size": 256, "recipe": "byol_cifar"})
    config.optim.update({"name": "larc", "eta": 0.02, "clip_rate": True, "decay_bias_and_norm": False})
    config.optim.update({"learning_rate": learning_rate, "weight_decay": weight_decay})
    config.optim.update({"warmup_epochs": 10.0, "start": 3e-5 / learning_rate})
    config.train.epochs = 1000
    return config


def imagenet(config: Config) -> Config:
    """ImageNet from TFDS at 224 pixels and batch 4096; 1 % of train is held out for validation."""
    config.data.update({"source": "tfds:imagenet2012", "test_split": "validation", "val_fraction": 0.01})
    config.data.update({"image_size": 224, "global_batch_size": 4096})
    config.data.update({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    config.train.update({"log_every": 100, "eval_every": 3100, "checkpoint_every": 1000})
    config.eval.update({"online_bank": 50_000, "max_bank": 200_000})
    return config


def cifar10_cpu(config: Config) -> Config:
    """What the CIFAR-10 runs for two CPU cores share: a 278,000-parameter network, batch 128, one device per core."""
    config = cifar10(config)
    config.model.update({"name": "convnet", "widths": (64, 128), "blocks": 2, "strides": (2, 2), "residual": False})
    config.model.update({"stem_width": 32, "stem_stride": 2})
    config.data.update({"global_batch_size": 128})
    config.optim.update({"name": "sgd", "learning_rate": 0.2, "scale": "none", "weight_decay": 5e-4})
    config.optim.decay_bias_and_norm = False
    config.train.update({"log_every": 50, "eval_every": 1000, "checkpoint_every": 1000})
    config.eval.update({"online_bank": 10_000, "online_queries": 5_000})
    config.parallel.devices = 2
    return config
