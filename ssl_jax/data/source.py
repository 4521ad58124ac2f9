"""Sources: a dataset as random-access records, split into train, validation and test.

``load("digits" | "tfds:<name>" | "folder:<path>" | "tar:<path>" | "arrayrecord:<path>" | "npz:<path>")``. The
validation part is always drawn from train; where a dataset brings no test split, a fifth of it is cut off. Which
examples go where depends on ``seed`` of :func:`load` alone, not on the seed of a run, so that runs are measured on the
same examples.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

log = logging.getLogger(__name__)

TEST_FRACTION = 0.2
SCHEMES = ("digits", "tfds:<name>", "folder:<path>", "tar:<path>", "arrayrecord:<path>", "npz:<path>")


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset, immutable, with random access.

    Attributes:
      columns: name -> array with ``n`` rows. Exactly one of ``"image"`` (uint8 ``[n, h, w, c]``), ``"encoded"``
        (objects, the bytes of image files) and ``"path"`` (objects, absolute paths; inside other files beside
        ``"offset"`` and ``"length"``, which are inside record ``"record"`` where there is such a column). The last two
        come with ``"plain"`` (bool): a baseline JPEG that need not be turned, which TensorFlow may decode in part.
      labels: int32 ``[n]``, -1 where unknown, or None if none is known.
      class_names: one per class, or None if no label is known.
      fingerprint: sha256 that changes when the data do.
      channels: of the images that the records decode to.
      unreadable: relative paths of files that were left out because they cannot be decoded.
    """

    columns: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    fingerprint: str
    channels: int = 3
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    def record(self, i: int) -> dict[str, Any]:
        """The columns of example ``i`` and its ``"label"`` (-1 if unknown)."""
        label = -1 if self.labels is None else self.labels[i]
        return {name: column[i] for name, column in self.columns.items()} | {"label": np.int32(label)}

    def take(self, indices: np.ndarray) -> Source:
        """The examples at ``indices``, in that order; the fingerprint is derived from this one's and the indices."""
        indices = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            columns={name: column[indices] for name, column in self.columns.items()},
            labels=None if self.labels is None else self.labels[indices],
            fingerprint=sha256(self.fingerprint, indices),
        )


def join(first: Source, second: Source) -> Source:
    """The examples of two parts of one dataset, one after the other."""
    labels = (first.labels, second.labels)
    return dataclasses.replace(
        first,
        columns={name: np.concatenate([column, second.columns[name]]) for name, column in first.columns.items()},
        labels=None if labels[0] is None or labels[1] is None else np.concatenate([labels[0], labels[1]]),
        fingerprint=sha256(first.fingerprint, second.fingerprint),
    )


class Splits(NamedTuple):
    """What a run learns from, is tuned on, and is measured on once at the end."""

    train: Source
    val: Source
    test: Source


def load(
    spec: str,
    *,
    data_dir: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    download: bool = False,
    val_fraction: float = 0.1,
    num_examples: int | None = None,
    seed: int = 0,
    verify: str | None = None,
    max_unreadable: float = 0.01,
    cache_dir: str | None = None,
    memory_limit: int = 4 << 30,
) -> Splits:
    """Read a dataset and hold out validation and test.

    Args:
      spec: ``digits`` (scikit-learn's 8x8 digits), ``tfds:<name>`` (``name[/config][:version]``), ``folder:<path>``
        (class sub-folders or one flat unlabelled folder, both possibly below ``train/`` beside ``test/`` or ``val/``),
        ``tar:<path>`` or ``arrayrecord:<path>`` (a folder, file or pattern of shards, see ``shards.py``) or
        ``npz:<path>`` (train_images, train_labels, test_images, test_labels; labels and test may be missing).
      data_dir: where TFDS datasets lie (default: TFDS's own); relative paths start there too.
      train_split: name of the split to learn from (default ``train``); TFDS slices such as ``train[:50%]`` work.
      test_split: name of the split to be measured on (default ``test``, else ``validation`` or ``val``, else 20 % of
        the examples, stratified).
      download: let TFDS fetch and prepare a dataset that is not there.
      val_fraction: part of train that is held out, stratified, between 0 and 1.
      num_examples: use at most so many train examples (stratified; a smaller cap gives a subset of a larger one).
      seed: of the choice of validation, test and ``num_examples``.
      verify: how the images of a folder or of shards are checked when their index is built: ``full`` (decode all),
        ``header``; default ``full`` up to 100,000 files.
      max_unreadable: fraction of unreadable files above which a folder or shards are refused.
      cache_dir: where indices of folders and shards are kept (default ``$XDG_CACHE_HOME/ssl_jax`` or
        ``~/.cache/ssl_jax``).
      memory_limit: bytes up to which a split of TFDS or of ArrayRecord files is held in memory.

    Returns:
      Splits of three sources.

    Raises:
      ValueError: with the fix, for a wrong spec, missing or broken data, too few examples.
    """
    if not 0.0 < val_fraction < 1.0:
        raise ValueError(f"data.val_fraction={val_fraction} must lie between 0 and 1; 0.1 is the default")
    if verify not in (None, "full", "header"):
        raise ValueError(f"data.verify={verify!r} is not known; use 'full' or 'header'")
    scheme, _, name = spec.partition(":")
    cache = Path(cache_dir or default_cache_dir())
    roles = {"train_split": train_split, "test_split": test_split}
    if scheme in ("digits", "npz") and any(role is not None for role in roles.values()):
        raise ValueError(f"data.train_split and data.test_split mean nothing to {spec!r}; leave them out")
    if scheme == "digits" and not name:
        train, test = _digits(), None
    elif scheme == "npz" and name:
        train, test = _npz(_path(name, data_dir))
    elif scheme == "folder" and name:
        from ssl_jax.data import folder

        train, test = folder.load(
            _path(name, data_dir), **roles, verify=verify, max_unreadable=max_unreadable, cache_dir=cache
        )
    elif scheme in ("tar", "arrayrecord") and name:
        from ssl_jax.data import shards

        checks: dict[str, Any] = {"verify": verify, "max_unreadable": max_unreadable, "cache_dir": cache}
        train, test = shards.load(scheme, _path(name, data_dir), **roles, **checks, memory_limit=memory_limit)
    elif scheme == "tfds" and name:
        from ssl_jax.data import tfds

        train, test = tfds.load(
            name, data_dir=data_dir, **roles, download=download, cache_dir=cache, memory_limit=memory_limit
        )
    else:
        close = difflib.get_close_matches(spec, SCHEMES, n=1, cutoff=0.3)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown data.source {spec!r}{hint}; use one of {', '.join(SCHEMES)}")
    return split(train, test, spec=spec, val_fraction=val_fraction, num_examples=num_examples, seed=seed)


def split(
    train: Source, test: Source | None, *, spec: str, val_fraction: float, num_examples: int | None, seed: int
) -> Splits:
    """Cut validation (and test, where there is none) from ``train``; see :func:`load` for the arguments."""
    if test is None:
        test, train = _cut(train, TEST_FRACTION, seed, f"{spec}: the test split")
    val, train = _cut(train, val_fraction, seed + 1, f"{spec}: the validation split")
    if num_examples is not None:
        if not num_examples >= 1:
            raise ValueError(f"data.num_examples={num_examples} must be at least 1")
        if num_examples < len(train):
            train = train.take(np.sort(stratified_order(train.labels, len(train), seed + 2)[:num_examples]))
    for role, part in (("train", train), ("validation", val), ("test", test)):
        if len(part) == 0:
            raise ValueError(f"{spec}: too few examples, none is left for {role}; give more data")
    return Splits(train, val, test)


def _cut(source: Source, fraction: float, seed: int, what: str) -> tuple[Source, Source]:
    n = len(source)
    size = max(1, round(n * fraction))
    if n - size < 1:
        raise ValueError(f"{what} needs {size} of {n} example(s), which leaves none to train on; give more data")
    order = stratified_order(source.labels, n, seed)
    return source.take(np.sort(order[:size])), source.take(np.sort(order[size:]))


def stratified_order(labels: np.ndarray | None, n: int, seed: int) -> np.ndarray:
    """A random order, int64 ``[n]``, of which every prefix holds the classes in proportion (to within one example).

    Example ``r`` (in random order) of a class with ``m`` members is put at ``(r + 1/2) / m``.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, n]))
    shuffled = rng.permutation(n)
    if labels is None:
        return shuffled
    _, group = np.unique(labels[shuffled], return_inverse=True)
    sizes = np.bincount(group)
    by_group = np.argsort(group, kind="stable")
    rank = np.empty(n, np.int64)
    rank[by_group] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Ties between classes of one size fall in a random order of classes, else class 0 would always come first.
    return shuffled[np.lexsort((rng.permutation(len(sizes))[group], (rank + 0.5) / sizes[group]))]


def sha256(*parts: Any) -> str:
    """Hex digest of strings and arrays; arrays count with their shape and dtype."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(f"{len(str(part))}:{part}".encode())
    return digest.hexdigest()


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/ssl_jax``, by default ``~/.cache/ssl_jax``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl_jax"


def read_cache(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file, None if it is not there or not whole."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # a cache is only ever a saving
        return None


def write_cache(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a cache file in one move, so that no reader ever sees a part of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
        with os.fdopen(handle, "wb") as out:
            np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]: no array is called allow_pickle
        os.replace(part, file)
    except OSError as error:
        log.warning("the index of the dataset could not be kept (%s); it is built again next time", error)


def from_arrays(
    images: np.ndarray, labels: np.ndarray | None = None, class_names: tuple[str, ...] | None = None
) -> Source:
    """A source of images in memory.

    Args:
      images: uint8 ``[n, h, w, c]`` or ``[n, h, w]``, c 1 or 3.
      labels: integers ``[n]`` in 0..classes-1, -1 where unknown; or None.
      class_names: by default the numbers 0..max label.

    Raises:
      ValueError: for another dtype or shape, or labels out of range.
    """
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} {images.shape}; give uint8 [n, h, w, 1 or 3] (0..255, channels last)"
        )
    if labels is not None and labels.dtype.kind in "iu" and (labels < 0).all() and class_names is None:
        labels = None  # every label is unknown
    if labels is None:
        return Source({"image": images}, None, None, sha256(images), images.shape[-1])
    labels, class_names = check_labels(labels, len(images), class_names)
    return Source({"image": images}, labels, class_names, sha256(images, labels), images.shape[-1])


def check_labels(labels: np.ndarray, n: int, class_names: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int32 and the class names, or ValueError if they do not fit ``n`` examples or the names."""
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; give integers of shape ({n},), one per image")
    if class_names is None:
        if n and int(labels.max()) >= n:
            raise ValueError(f"label {labels.max()} is out of range for {n} images; number the classes from 0")
        class_names = tuple(str(k) for k in range(int(labels.max()) + 1)) if n else ()
    if n and not (int(labels.min()) >= -1 and int(labels.max()) < len(class_names)):
        worst = labels.min() if labels.min() < -1 else labels.max()
        raise ValueError(
            f"label {worst} is out of range; the labels are 0..{len(class_names) - 1}, or -1 where unknown"
        )
    return labels.astype(np.int32), class_names


def _path(name: str, data_dir: str | None) -> Path:
    for address in (name, data_dir or ""):
        if "://" in address:
            raise ValueError(f"{address!r} is an address; mount the bucket (gcsfuse, s3fs) and give a path below it")
    try:
        path = Path(name).expanduser()
        path = path if path.is_absolute() or data_dir is None else Path(data_dir).expanduser() / path
        path.exists()
    except (OSError, RuntimeError) as error:  # too long, not ours to see, or below the home of nobody
        raise ValueError(f"data.source path {name!r} cannot be looked at ({error}); give another") from error
    return path


def _digits() -> Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data.source 'digits' needs scikit-learn; `pip install scikit-learn`") from error
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255.0 / 16.0)).astype(np.uint8)  # stored as 0..16
    return from_arrays(images, labels.astype(np.int32))


def _npz(path: Path) -> tuple[Source, Source | None]:
    known = ("train_images", "train_labels", "test_images", "test_labels")
    if not path.is_file():
        raise ValueError(f"npz file {str(path)!r} is not there; give data.source=npz:<path of a file>")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except ValueError as error:  # NumPy's advice is to run the code that may be in there
        said = "objects or text, not arrays" if "allow_pickle" in str(error) else error
        raise ValueError(f"{str(path)!r} cannot be read as npz ({said}); write it with np.savez") from error
    except (OSError, EOFError, KeyError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as npz ({error}); write it with np.savez") from error
    except Exception as error:  # zipfile and zlib have errors of their own
        raise ValueError(f"{str(path)!r} is not a whole npz file ({error}); write it again with np.savez") from error
    wrong = sorted(set(arrays) - set(known))
    if wrong or "train_images" not in arrays or ("test_labels" in arrays and "test_images" not in arrays):
        raise ValueError(
            f"{str(path)!r} holds {', '.join(sorted(arrays)) or 'nothing'}; "
            f"it must hold train_images and may hold {', '.join(known[1:])}"
        )
    try:
        train = from_arrays(arrays["train_images"], arrays.get("train_labels"))
        if "test_images" not in arrays:
            return train, None
        test = from_arrays(arrays["test_images"], arrays.get("test_labels"), train.class_names)
        if test.columns["image"].shape[1:] != train.columns["image"].shape[1:]:
            raise ValueError(
                f"train images are {train.columns['image'].shape[1:]}, test images "
                f"{test.columns['image'].shape[1:]}; make them one shape"
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return train, test
