"""The keys every config has, with their defaults. Experiment files start from ``base()`` and change what they mean."""

from __future__ import annotations

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from ssl_jax.config import Config


def base() -> Config:
    config: Config = ConfigDict()
    config.seed = 0
    config.init_from = placeholder(str)  # a workdir, or a file of weights, whose encoder this run starts from

    config.method = ConfigDict({"name": "simclr"})  # and its arguments, see ssl_jax/methods; yours: ./vicreg.py
    config.model = ConfigDict({"name": "resnet18"})  # and its arguments, dtype "float32" or "bfloat16"; yours: ./net.py

    data: Config = ConfigDict()
    config.data = data
    data.source = "digits"  # digits | tfds:<name> | folder:, tar:, arrayrecord:, npz:, text:<path> | pydoc | ./mine.py
    data.data_dir = placeholder(str)  # where datasets lie, ~ is the home; null: TFDS's own default
    data.train_split = placeholder(str)  # null: found by the usual names (train, Training, train2017, ...)
    data.test_split = placeholder(str)  # null: test, Testing, val, dev, ... with labels, else a fifth of train
    data.download = False
    data.unlabelled = placeholder(int)  # an integer label that means "no label", often 255; -1 always does
    data.num_examples = placeholder(int)  # cap on train examples; validation and test stay whole
    # So many train examples keep their labels, as many of each class, drawn by the seed; of the others nobody sees any.
    data.labelled = placeholder(int)
    data.val_fraction = 0.1  # held out of train, stratified; tuning and online metrics use it
    data.verify = placeholder(str)  # full | header; null: full up to 100,000 files
    data.max_unreadable = 0.01
    data.max_pixels = 89_478_485  # larger images are refused, which a header can promise beyond all memory
    # What becomes black and white where pixels have more than 8 bits: two numbers (0, 4095), or "image", the least and
    # the greatest of each; null: 0 and 65535, and floating-point pixels are refused. 8 bits are taken as they are.
    data.value_range = placeholder(object)
    data.memory_limit = 4 << 30  # bytes up to which a TFDS split is held in memory
    data.image_size = 32
    data.global_batch_size = 256
    # A name (pretrain.py --recipes), ./mine.py, or a recipe itself, see ssl_jax/data/images/values.py.
    data.recipe = FieldReference("simclr_cifar", field_type=object)
    # Changes of it: crop.area=0.5,1 jitter.strength=0.5 1.solarize.p=0 (of view 1) gray=null ops=...,./mine.py:cutout
    data.views = ConfigDict()
    data.ratio = placeholder(int)  # unlabelled rows per labelled one, of recipes of two parts; null: the recipe's
    data.augment = "device"  # device: JAX, in the step | host: TensorFlow, before it
    data.table_limit = 1 << 30  # device: bytes up to which images in memory, or a stream's text, lie on the device
    data.mean = (0.0,)
    data.std = (1.0,)
    # Of text.
    data.length = 70  # tokens in a row of a batch
    data.document_length = 256  # tokens of a document that a classifier and evaluation see
    data.text_column = placeholder(str)  # of tables; null: found by the usual names (text, sentence, review, ...)
    data.label_column = placeholder(str)
    data.second_column = placeholder(str)  # another form of the text, as a translation there and back; null: text_2
    data.tokenizer = ConfigDict({"kind": "words"})  # spaced (as the text is) | words | wordpiece | bpe
    data.tokenizer.size = placeholder(int)  # of the vocabulary; null: all words that are frequent enough
    data.tokenizer.min_frequency = 2
    data.tokenizer.lowercase = False
    data.tokenizer.file = placeholder(str)  # a tokenizer.json to be used in place of one that is learned

    optim: Config = ConfigDict()
    config.optim = optim
    optim.name = "sgd"  # sgd | adamw | lars_simclr | lars_byol | larc
    optim.learning_rate = 0.03  # the base rate; optim.scale makes the peak of it
    optim.scale = "linear"  # linear: base * N / 256 | sqrt: base * sqrt(N) | none
    optim.schedule = "cosine"  # cosine | cosine_by_epoch | step | constant | linear | slanted
    optim.step_at = placeholder(tuple)  # of step: shares of the run at which the rate drops to a tenth; null: .6 and .8
    optim.warmup_epochs = 0.0  # of cosine, linear and step
    optim.momentum = 0.9  # of adamw: b1
    optim.b2 = placeholder(float)  # of adamw; null: 0.999
    optim.nesterov = False  # of sgd
    optim.weight_decay = 1e-4
    optim.weight_decay_end = placeholder(float)  # reached at the end along half a cosine; null: constant
    optim.decay_bias_and_norm = placeholder(bool)  # null: the optimizer's convention (sgd, larc: true, others: false)
    optim.clip_norm = placeholder(float)
    # Checks on validation that are not better than all those before the last so many, after which the mean of the
    # parameters is what counts (NT-ASGD: 5); null: never.
    optim.average_after = placeholder(int)

    train: Config = ConfigDict()
    config.train = train
    train.epochs = 100
    train.steps = placeholder(int)  # wins over epochs when set
    train.steps_per_dispatch = (
        1  # steps in one program, without the host; where all images, or the text of a stream, lie on the device
    )
    train.log_every = 50
    train.eval_every = 1000
    train.checkpoint_every = 1000
    train.keep_checkpoints = 3
    train.on_nonfinite = "stop"  # stop | skip
    train.tensorboard = False

    evaluation: Config = ConfigDict()
    config.eval = evaluation
    evaluation.probe = True
    evaluation.knn = True  # during the run, on validation data; the test at the end always has it
    evaluation.knn_k = 200
    evaluation.knn_temperature = 0.1
    evaluation.knn_centre = True  # subtract the bank's mean feature before the cosine
    evaluation.max_bank = placeholder(int)  # of the final test; null: all
    evaluation.max_queries = placeholder(int)
    evaluation.online_bank = 10_000  # of the measurements during the run, on validation data
    evaluation.online_queries = 5_000
    evaluation.label_efficiency = False

    config.parallel = ConfigDict({"mode": "jit", "devices": placeholder(int), "deterministic": False})
    config.parallel.xla_flags = placeholder(str)  # added to XLA_FLAGS, which keeps what it says of the same ones
    # Of float32 products and convolutions. null: the backend's own, on GPUs since Ampere TF32, which has 10 bits of the
    # 23 behind the point; "highest": all of float32. On a CPU they are one.
    config.parallel.matmul_precision = placeholder(str)
    config.parallel.fsdp = 1  # devices of a group that shares parameters, optimizer state and EMA target; jit only
    config.parallel.heartbeat_timeout = 100  # seconds until a process that does not answer ends the run of all
    return config


def cifar10(config: Config) -> Config:
    """CIFAR-10 from TFDS, its channel statistics, and measurements every 10 epochs at batch 512."""
    config.data.update({"source": "tfds:cifar10", "image_size": 32})
    config.data.update({"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})
    config.train.update({"log_every": 50, "eval_every": 880, "checkpoint_every": 880})
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
