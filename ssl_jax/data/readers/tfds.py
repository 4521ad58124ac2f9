"""TFDS datasets as sources. Reads what lies on disk and never writes there, unless told to download.

Images of one known shape that fit in memory are decoded once, by TFDS (tf.image), into one uint8 array. Others are
decoded as :mod:`ssl_jax.data.images.decode` says, from their bytes in memory or, where those do not fit either, from
where they lie in the TFRecord or ArrayRecord files (:mod:`ssl_jax.data.readers.records`).

A dataset without images and with a text is one of text, which lies in memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import tensorflow
from ssl_jax.data.cache import of_file
from ssl_jax.data.images import decode
from ssl_jax.data.readers import records, split_names
from ssl_jax.data.readers.tables import TEXTS
from ssl_jax.data.readers.text import MAX_UNREADABLE, of_texts
from ssl_jax.data.source import Decoding, Source, sha256
from ssl_jax.names import hint, nearest
from ssl_jax.online.progress import counted

READ_BATCH = 512
HASH_UP_TO = 16 << 30  # bytes of a split's files that are read whole; of more names, sizes and times are looked at
LABELS = ("label", "labels", "class", "class_id", "category", "target", "fine_label")  # an integer so called is a label


def load(
    name: str,
    *,
    data_dir: str | None,
    train_split: str | None,
    test_split: str | None,
    download: bool,
    decoding: Decoding,
    cache_dir: Path,
    memory_limit: int,
    text_column: str | None = None,
    label_column: str | None = None,
) -> tuple[Source, Source | None, Source | None]:
    """Train, test and unlabelled examples of a TFDS dataset; see :func:`ssl_jax.data.readers.load`.

    Test is None where there is none. A split without labels counts where a dataset is of text ("unsupervised"): it is
    what language models read.
    """
    tfds = _import()
    if Path(name).is_absolute() or ".." in Path(name.partition(":")[0]).parts:
        raise ValueError(f"tfds:{name} names no dataset; give name[/config][:version], and data.data_dir=<path>")
    try:
        root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
        folder = _find(root, name)
    except (OSError, RuntimeError) as error:  # too long, not ours to see, or below the home of nobody
        raise ValueError(f"tfds:{name} cannot be looked for in {data_dir} ({error}); give another") from error
    if folder is None and download:
        folder = _download(tfds, name, root)
    if folder is None:
        raise ValueError(_missing(root, name))
    builder = tfds.builder_from_directory(str(folder))
    splits = builder.info.splits
    train_split = train_split or "train"
    test_split = test_split or next((s for s in ("test", "validation") if s in splits), None)
    names = [s for s in (train_split, test_split) if s is not None]
    chosen = [_chosen(builder.info, s) for s in names]
    if len(names) == 2:
        _refuse_shared(f"tfds:{builder.info.full_name}", names, chosen, cache_dir)
    if _is_text(tfds, builder.info.features):
        more = [s for s in splits if split_names.role(s) == "unlabelled" and train_split == "train"][:1]
        chosen += [_chosen(builder.info, s) for s in more]
        asked = {"text": text_column, "label": label_column}
        with _undamaged(builder, chosen):
            read = [
                _read_texts(tfds, builder, s, c, cache_dir, asked) for s, c in zip(names + more, chosen, strict=True)
            ]
        return read[0], read[1] if len(names) == 2 else None, read[-1] if more else None
    with _undamaged(builder, chosen):
        sources = [
            _read(tfds, builder, s, c, memory_limit, cache_dir, decoding) for s, c in zip(names, chosen, strict=True)
        ]
    return sources[0], sources[1] if len(sources) == 2 else None, None


@contextlib.contextmanager
def _undamaged(builder: Any, chosen: list[Any]) -> Iterator[None]:
    """One line, with the file, for a record whose checksum is wrong, which TensorFlow tells without it."""
    tf = tensorflow()
    try:
        yield
    except tf.errors.DataLossError as error:
        said, file = str(error.message), "one of its files"
        for part in (part for c in chosen for part in c.file_instructions):
            try:
                for _ in tf.data.TFRecordDataset(part.filename):
                    pass
            except tf.errors.DataLossError as found:
                said, file = str(found.message), part.filename
                break
        where = re.search(r"corrupted record at \d+|truncated record at \d+", said)
        raise ValueError(
            f"tfds:{builder.info.full_name}: {file} is damaged ({where[0] if where else said.splitlines()[0]}); put a "
            "copy of it back, or prepare the dataset again"
        ) from error


def _import() -> Any:
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
    close = nearest(name.partition(":")[0], here)
    hint = f" (did you mean tfds:{close}?)" if close else f" (there: {', '.join(here) or 'nothing'})"
    return (
        f"dataset {name!r} is not in {root}{hint}; nothing is downloaded unless asked: "
        "--config.data.download=True would fetch it, --config.data.data_dir=<path> says where it lies"
    )


def _download(tfds, name: str, root: Path) -> Path:
    try:
        builder = tfds.builder(name, data_dir=str(root))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        close = nearest(name, tfds.list_builders(with_community_datasets=False))
        hint = f"; did you mean tfds:{close}?" if close else ""
        raise ValueError(f"TFDS knows no dataset {name!r}{hint}") from error
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _chosen(info: Any, split: str) -> Any:
    try:
        chosen = info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(f"tfds:{info.full_name} has no split {split!r}; it has {', '.join(info.splits)}") from error
    if not chosen.num_examples:
        raise ValueError(f"tfds:{info.full_name}: the split {split!r} holds no example; name one that does")
    gone = [part.filename for part in chosen.file_instructions if not os.path.isfile(part.filename)]
    if gone:
        raise ValueError(f"tfds:{info.full_name}:{split}: {gone[0]} is not there; prepare it again")
    return chosen


def _refuse_shared(where: str, names: list[str], chosen: list[Any], cache_dir: Path) -> None:
    """Refuse train and test that have records in common; a copy of a file under another name is the same records."""
    hashed, files = zip(*(_files(c, cache_dir) for c in chosen), strict=True)
    if not all(hashed):
        files = [[part.filename for part in c.file_instructions] for c in chosen]
    train, test = (
        [(file, *_rows(part)) for file, part in zip(of, c.file_instructions, strict=True)]
        for of, c in zip(files, chosen, strict=True)
    )
    shared = sum(
        max(0, min(stop, last) - max(start, first))
        for file, start, stop in test
        for other, first, last in train
        if file == other
    )
    if shared:
        raise ValueError(
            f"{where}: {shared} of the {chosen[1].num_examples} examples of the test split {names[1]!r} are in the "
            f"train split {names[0]!r}, too; test examples must not be trained on: give data.train_split and "
            "data.test_split that have none in common, such as 'train[:80%]' and 'train[80%:]'"
        )


def _rows(part: Any) -> tuple[int, int]:
    """First and last + 1 of the records of a file that a split reads."""
    return part.skip, part.skip + part.take if part.take >= 0 else part.examples_in_shard


def _read(tfds, builder, split: str, chosen: Any, memory_limit: int, cache_dir: Path, decoding: Decoding) -> Source:
    info = builder.info
    full_name = f"tfds:{info.full_name}"
    n = chosen.num_examples
    image, label, why = _image_and_label(tfds, info.features, full_name)
    shape = info.features[image].shape
    channels = shape[-1] or 3
    if channels not in (1, 3):
        raise ValueError(f"{full_name}: images have {channels} channels; 1 or 3 can be used")
    if None not in shape and n * int(np.prod(shape)) <= memory_limit:
        if builder.info.file_format.value == "array_record":  # of which TFDS makes no tf.data.Dataset
            columns, labels = _encoded(builder, chosen, image, label, 0, cache_dir, f"{full_name}:{split}", decoding)
            columns = _decoded_records(columns, shape)
        else:
            columns, labels = _decoded(tfds, builder, split, image, label, n)
    else:
        columns, labels = _encoded(
            builder, chosen, image, label, memory_limit, cache_dir, f"{full_name}:{split}", decoding
        )
    if len(labels) != n:
        raise ValueError(f"{full_name}:{split} has {len(labels)} examples on disk, its info says {n}; prepare it again")
    named = label and isinstance(info.features[label], tfds.features.ClassLabel)
    names = tuple(info.features[label].names) if named else None
    hashed, files = _files(chosen, cache_dir)
    within = [f"{file} {_rows(part)}" for file, part in zip(files, chosen.file_instructions, strict=True)]
    return Source(
        columns,
        labels if label else None,
        names,
        sha256(full_name, *within, labels, *(names or ())),
        channels,
        decoding,
        why_unlabelled=why,
        by_content=hashed,
        before=sha256(full_name, split, str(n)),
    )


def _files(chosen: Any, cache_dir: Path) -> tuple[bool, list[str]]:
    """Whether the files of a split are hashed, and for each what tells it from others."""
    files = [Path(part.filename) for part in chosen.file_instructions]
    stats = [file.stat() for file in files]
    if sum(stat.st_size for stat in stats) <= HASH_UP_TO:
        return True, [records.file_digest(file, cache_dir) for file in files]
    pairs = zip(files, stats, strict=True)
    return False, [f"{file.name} {stat.st_size} {stat.st_mtime_ns}" for file, stat in pairs]


def _decoded(tfds, builder, split: str, image: str, label: str | None, n: int) -> tuple[records.Columns, np.ndarray]:
    features = builder.info.features
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={name: tfds.decode.SkipDecoding() for name in features if name not in (image, label)},
        # One file after the other: the order of the records, whatever the number of files.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    ).map(lambda example: (example[image], example[label] if label else np.int64(-1)))
    images, labels, start = np.empty((n, *features[image].shape), np.uint8), np.full(n, -1, np.int64), 0
    parts = dataset.batch(READ_BATCH).prefetch(2).as_numpy_iterator()
    for image_batch, label_batch in counted(parts, f"reading {split}", n, by=READ_BATCH):
        stop = start + len(image_batch)
        images[start:stop], labels[start:stop] = image_batch, label_batch
        start = stop
    return {"image": images}, labels[:start]


def _decoded_records(columns: records.Columns, shape: tuple[int, ...]) -> records.Columns:
    tf = tensorflow()
    images = np.empty((len(columns["length"]), *shape), np.uint8)
    for i in range(len(images)):
        data = decode.contents({name: column[i] for name, column in columns.items()})
        images[i] = tf.image.decode_image(data, shape[-1], expand_animations=False)  # as TFDS does
    return {"image": images}


def _encoded(
    builder, chosen, image: str, label: str | None, memory_limit: int, cache_dir: Path, what: str, decoding: Decoding
) -> tuple[records.Columns, np.ndarray]:
    """Image files as they lie in the records: their bytes if they fit in memory, else where they are on disk."""
    kind = builder.info.file_format.value
    if kind not in ("tfrecord", "array_record"):
        raise ValueError(f"{what} lies in {kind} files; tfrecord and array_record can be read in part")
    files = [Path(part.filename) for part in chosen.file_instructions]
    if kind == "tfrecord" and sum(file.stat().st_size for file in files) <= HASH_UP_TO:
        for file in counted(files, f"checking {what}", len(files), "files"):
            _check_sums(file, cache_dir)
    parts = [records.record_index(file, image, label, cache_dir, decoding) for file in files]
    columns, labels = {name: [] for name in ("path", *parts[0])}, []
    columns.pop("label")
    for part, found in zip(chosen.file_instructions, parts, strict=True):
        rows = slice(*_rows(part))
        labels.append(found["label"][rows])
        columns["path"].append(np.full(len(labels[-1]), str(part.filename), object))
        for name in columns.keys() - {"path"}:
            columns[name].append(found[name][rows])
    columns = {name: np.concatenate(column) for name, column in columns.items()}
    return records.held(columns, memory_limit), np.concatenate(labels)


def _check_sums(file: Path, cache_dir: Path) -> None:
    """Check all of a TFRecord file, once, against the sums in it, of which those who read pieces of it see nothing.

    Raises:
      DataLossError: of TensorFlow; see :func:`_undamaged`.
    """

    def check() -> dict[str, np.ndarray]:
        tf = tensorflow()
        dataset = tf.data.TFRecordDataset(str(file)).batch(32)  # one call of Python's for each: ten times as fast
        return {"batches": np.asarray(dataset.reduce(np.int64(0), lambda count, _: count + 1))}

    of_file(file, "sums", cache_dir / "records", check)


def _image_and_label(tfds, features, full_name: str) -> tuple[str, str | None, str]:
    """Names of the image and of the label, None where there is none, and why there is none."""
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise ValueError(
            f"{full_name} has neither images nor text, only {', '.join(sorted(features))}; choose another dataset"
        )
    image = "image" if "image" in images else images[0]
    if features[image].np_dtype != np.uint8:
        raise ValueError(f"{full_name}: images are {np.dtype(features[image].np_dtype)}; uint8 can be used")
    return image, *_label(tfds, features)


def _label(tfds, features) -> tuple[str | None, str]:
    """Name of the label, None where there is none, and why there is none."""
    classes = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if classes:
        return "label" if "label" in classes else classes[0], ""
    numbers = [k for k, f in features.items() if _is_integer(f)]
    label = next((name for name in LABELS if name in numbers), None)
    there = ", ".join(sorted(features))
    return label, f"no feature is a ClassLabel or an integer called label (there: {there})"


def _is_integer(feature: Any) -> bool:
    return getattr(feature, "shape", None) == () and np.dtype(getattr(feature, "np_dtype", object)).kind in "iu"


def _is_text(tfds, features) -> bool:
    kinds = [type(feature) for feature in features.values()]
    return tfds.features.Text in kinds and not any(issubclass(kind, tfds.features.Image) for kind in kinds)


def _read_texts(tfds, builder, split: str, chosen: Any, cache_dir: Path, asked: dict[str, str | None]) -> Source:
    """A split of text; ``asked``: the features that are "text" and "label", None: found by type and usual names."""
    info = builder.info
    full_name, features = f"tfds:{info.full_name}", info.features
    for role, name in asked.items():
        if name is not None and name not in features:
            raise ValueError(
                f"{full_name} has no feature {name!r} (data.{role}_column); {hint(name, features)}it has "
                f"{', '.join(sorted(features))}"
            )
    texts = [k for k, f in features.items() if isinstance(f, tfds.features.Text)]
    text = asked["text"] or next((name for name in TEXTS if name in texts), texts[0])
    label, why = (asked["label"], "") if asked["label"] else _label(tfds, features)
    n = chosen.num_examples
    found, labels, unread = [], np.full(n, -1, np.int64), 0
    for i, (data, of) in enumerate(
        counted(_examples(tfds, builder, split, text, label), f"reading {split}", n, "texts")
    ):
        try:
            found.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            unread += 1
            found.append(data.decode("utf-8", "replace"))
        labels[i] = of
    if unread > MAX_UNREADABLE * len(found):
        raise ValueError(f"{full_name}:{split}: {unread} of {len(found)} texts are no UTF-8; prepare it again as UTF-8")
    other = sorted(set(texts) - {text})
    notes = [f"{full_name}: the text is {text!r}; {', '.join(other)} not used (data.text_column)"] if other else []
    if unread:
        notes.append(
            f"{full_name}:{split}: {unread} of {len(found)} texts are no UTF-8; bytes that are none read as \ufffd"
        )
    named = label and isinstance(features[label], tfds.features.ClassLabel)
    names = tuple(features[label].names) if named else None
    known = label and (labels >= 0).any()
    return of_texts(found, labels if known else None, names if known else None, tuple(notes), why)


def _examples(tfds, builder, split: str, text: str, label: str | None) -> Iterator[tuple[bytes, int]]:
    """Text and label of each example, in the order of the records."""
    if builder.info.file_format.value == "array_record":  # of which TFDS makes no tf.data.Dataset
        for example in builder.as_data_source(split):
            data = example[text]
            yield data.encode() if isinstance(data, str) else data, example[label] if label else -1
        return
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(split, shuffle_files=False, read_config=config)
    pairs = dataset.map(lambda example: (example[text], example[label] if label else np.int64(-1)))
    for texts, labels in pairs.batch(READ_BATCH).prefetch(2).as_numpy_iterator():
        yield from zip(texts, labels, strict=True)
