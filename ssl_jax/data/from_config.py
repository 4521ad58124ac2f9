"""The data that a config asks for."""

from __future__ import annotations

from ssl_jax.data import few_labels, readers, source
from ssl_jax.names import brief
from ssl_jax.online.progress import phase
from ssl_jax.types import Config


def load_splits(config: Config) -> source.Splits:
    """The data a config names."""
    keys = ("data_dir", "train_split", "test_split", "download", "val_fraction", "num_examples", "verify")
    arguments = {k: config.data[k] for k in (*keys, "max_unreadable", "memory_limit")}
    younger = ("unlabelled", "text_column", "label_column", "second_column", "image_column")  # than some stored configs
    arguments |= {k: config.data.get(k) for k in younger}
    arguments["decoding"] = decoding(config)
    with phase(f"looking through {brief(config.data.source)}"):
        return with_few_labels(config, readers.load(config.data.source, **arguments))


def with_few_labels(config: Config, splits: source.Splits) -> source.Splits:
    """The splits with as many labels as ``data.labelled`` leaves."""
    number = config.data.get("labelled")  # a key younger than some stored configs
    return splits if number is None else few_labels.hide(splits, number, config.seed)


def decoding(config: Config) -> source.Decoding:
    """How the image files of a config are decoded."""
    given = config.data.get("value_range")  # keys younger than some stored configs
    value_range = given if given is None or given == "image" else (float(given[0]), float(given[1]))
    return source.Decoding(value_range, config.data.get("max_pixels", source.DEFAULT_DECODING.max_pixels))
