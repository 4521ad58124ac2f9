"""TFDS datasets as sources. Reads what lies on disk and never writes there, unless told to download.

Images of one known shape are decoded once, by TFDS (tf.image), into one uint8 array; others keep the bytes of their
files, which are decoded as :mod:`ssl_jax.data.decode` says.
"""

from __future__ import annotations

import difflib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import decode, tensorflow
from ssl_jax.data.source import Source, check_labels, sha256

READ_BATCH = 512


def load(
    name: str,
    *,
    data_dir: str | None,
    train_split: str | None,
    test_split: str | None,
    download: bool,
    cache_dir: Path,
    memory_limit: int,
) -> tuple[Source, Source | None]:
    """Train and test of a TFDS dataset; see :func:`ssl_jax.data.source.load`. Test is None if there is none."""
    tfds = _import()
    root = Path(data_dir).expanduser() if data_dir else Path(tfds.core.constants.DATA_DIR).expanduser()
    folder = _find(root, name)
    if folder is None and download:
        folder = _download(tfds, name, root)
    if folder is None:
        raise ValueError(_missing(root, name))
    builder = tfds.builder_from_directory(str(folder))
    splits = builder.info.splits
    train_split = train_split or "train"
    test_split = test_split or next((s for s in ("test", "validation") if s in splits), None)
    sources = [_read(tfds, builder, s, memory_limit) for s in (train_split, test_split) if s is not None]
    return sources[0], sources[1] if len(sources) == 2 else None


def _import():
    tensorflow()
    os.environ.setdefault("NO_GCE_CHECK", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ValueError(f"tfds: needs tensorflow-datasets ({error}); `pip install tensorflow-datasets`") from error
    return tfds


def _find(root: Path, name: str) -> Path | None:
    """The folder of ``name[/config][:version]``, newest version; None if it is not on disk."""
    base, _, version = name.partition(":")
    found = [p.parent for pattern in ("*", "*/*") for p in sorted((root / base).glob(f"{pattern}/dataset_info.json"))]
    if version:
        found = [p for p in found if p.name == version]
    configs = sorted({p.parent for p in found})
    if len(configs) > 1:
        names = ", ".join(f"tfds:{c.relative_to(root)}" for c in configs)
        raise ValueError(f"tfds:{name} has several configurations on disk; choose one of {names}")
    return max(found, key=lambda p: _version(p.name), default=None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _missing(root: Path, name: str) -> str:
    here = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    close = difflib.get_close_matches(name.partition(":")[0], here, n=1)
    hint = f" (did you mean tfds:{close[0]}?)" if close else f" (there: {', '.join(here) or 'nothing'})"
    return (
        f"dataset {name!r} is not in {root}{hint}; nothing is downloaded unless asked: "
        "--config.data.download=True would fetch it, --config.data.data_dir=<path> says where it lies"
    )


def _download(tfds, name: str, root: Path) -> Path:
    try:
        builder = tfds.builder(name, data_dir=str(root))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        close = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=1)
        hint = f"; did you mean tfds:{close[0]}?" if close else ""
        raise ValueError(f"TFDS knows no dataset {name!r}{hint}") from error
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _read(tfds, builder, split: str, memory_limit: int) -> Source:
    info = builder.info
    full_name = f"tfds:{info.full_name}"
    try:
        n = info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(f"{full_name} has no split {split!r}; it has {', '.join(info.splits)}") from error
    image, label = _features(tfds, info.features, full_name)
    shape = info.features[image].shape
    channels = shape[-1] or 3
    if channels not in (1, 3):
        raise ValueError(f"{full_name}: images have {channels} channels; 1 or 3 can be used")
    in_memory = None not in shape and n * int(np.prod(shape)) <= memory_limit
    if not in_memory and info.splits[split].num_bytes > memory_limit:
        raise ValueError(
            f"{full_name}:{split} has {info.splits[split].num_bytes / 2**30:.1f} GiB, more than data.memory_limit "
            f"({memory_limit / 2**30:.1f} GiB), and is not read from disk yet; raise it, use a slice or folder:<path>"
        )
    decoders: Any = {image: tfds.decode.SkipDecoding()}
    wanted = {image: True} | ({label: True} if label else {})
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(wanted, decoders=None if in_memory else decoders),
        # One file after the other: the order of the records, whatever the number of files.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, add_tfds_id=False),
    )
    labels = np.full(n, -1, np.int64)
    images = np.empty((n, *shape), np.uint8) if in_memory else np.empty(n, object)
    start = 0
    for batch in dataset.batch(READ_BATCH).prefetch(2).as_numpy_iterator():
        stop = start + len(batch[image])
        images[start:stop] = batch[image]
        if label:
            labels[start:stop] = batch[label]
        start = stop
    if start != n:
        raise ValueError(f"{full_name}:{split} has {start} examples on disk, its info says {n}; prepare it again")
    names = tuple(info.features[label].names) if label else None
    labels, names = check_labels(labels, n, names) if label and (labels >= 0).any() else (None, None)
    columns = {"image": images}
    if not in_memory:
        columns = {"encoded": images, "plain": np.array([decode.is_plain(data) for data in images], bool)}
    return Source(columns, labels, names, sha256(full_name, split, str(n)), channels)


def _features(tfds, features, full_name: str) -> tuple[str, str | None]:
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise ValueError(f"{full_name} has no image feature, only {', '.join(features)}; choose an image dataset")
    image = "image" if "image" in images else images[0]
    if features[image].np_dtype != np.uint8:
        raise ValueError(f"{full_name}: images are {np.dtype(features[image].np_dtype)}; uint8 can be used")
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    return image, "label" if "label" in labels else next(iter(labels), None)
