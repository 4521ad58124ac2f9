"""Sources: a dataset as random-access records, split into train, validation and test.

What there is to read is said in :mod:`ssl_jax.data.readers`. The validation part of images is always drawn from train;
where a dataset brings no test split, a fifth of it is cut off. Which examples go where depends on ``seed`` of ``load``
alone, not on the seed of a run, so that runs are measured on the same examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from ssl_jax.data import classes, overlap

log = logging.getLogger(__name__)

TEST_FRACTION = 0.2


class Decoding(NamedTuple):
    """How image files become 8 bits.

    Attributes:
      value_range: the values that become 0 and 255 where pixels have more than 8 bits: two numbers, or ``"image"``,
        the least and the greatest of each image. None: 0 and 65535, and floating-point pixels are refused.
      max_pixels: what has more is refused by its header, which can promise far more than a machine's memory holds; by
        default where Pillow starts to warn.
    """

    value_range: tuple[float, float] | Literal["image"] | None = None
    max_pixels: int = 89_478_485

    @property
    def reads(self) -> str:
        """Part of a cache's key: which files can be decoded at all; empty where all is as by default."""
        parts = (
            "any values" if self.value_range is not None else "",
            f"{self.max_pixels} pixels" if self.max_pixels != DEFAULT_DECODING.max_pixels else "",
        )
        return " ".join(filter(None, parts))


DEFAULT_DECODING = Decoding()


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset, immutable, with random access.

    Attributes:
      columns: name -> array with ``n`` rows. Exactly one of ``"text"`` (objects, strings; beside it maybe ``"text_2"``,
        another form of each), ``"image"`` (uint8
        ``[n, h, w, c]``), ``"encoded"`` (objects, the bytes of image files) and ``"path"`` (objects, absolute paths;
        inside other files beside ``"offset"`` and ``"length"``, which are inside record ``"record"`` where there is
        such a column). The last two come with ``"plain"`` (bool): a baseline JPEG that need not be turned, which
        TensorFlow may decode in part.
      labels: int32 ``[n]``, -1 where unknown, or None if none is known.
      class_names: one per class, or None if no label is known. Readers may leave both to :func:`named`: labels as they
        are stored, and no names.
      fingerprint: sha256 that changes when the data do.
      channels: of the images that the records decode to.
      decoding: how they are decoded.
      unreadable: relative paths of files that were left out because they cannot be decoded.
      notes: what a reader decided and what it passed over, one line each, to be printed to whoever uses the data.
      why_unlabelled: why no label is known, where none is; part of a sentence.
      by_content: whether the fingerprint is of what the files hold; else of their names, sizes and times.
      before: the fingerprint as runs have it that were made when it was of less, where it was another.
      cut_from: of a test part that the dataset did not bring itself, how many examples it was cut from.
      digests: bytes ``[n]`` (objects) that are alike where examples hold the same, where a reader knows them.
    """

    columns: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    fingerprint: str
    channels: int = 3
    decoding: Decoding = DEFAULT_DECODING
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    why_unlabelled: str = ""
    by_content: bool = True
    before: str | None = None
    digests: np.ndarray | None = None
    cut_from: int | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    def record(self, i: int) -> dict[str, Any]:
        """The columns of example ``i`` and its ``"label"`` (-1 if unknown)."""
        label = -1 if self.labels is None else self.labels[i]
        return {name: column[i] for name, column in self.columns.items()} | {"label": np.int32(label)}

    def in_colour(self) -> Source:
        """Grey images with three equal channels, for an encoder that takes colour; others as they are."""
        if self.channels != 1:
            return self
        columns = dict(self.columns)
        if "image" in columns:
            columns["image"] = np.broadcast_to(columns["image"], (*columns["image"].shape[:-1], 3))  # no copy
        return dataclasses.replace(self, columns=columns, channels=3)

    def take(self, indices: np.ndarray) -> Source:
        """The examples at ``indices``, in that order; the fingerprint is derived from this one's and the indices."""
        indices = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            columns={name: column[indices] for name, column in self.columns.items()},
            labels=None if self.labels is None else self.labels[indices],
            fingerprint=sha256(self.fingerprint, indices),
            before=None if self.before is None else sha256(self.before, indices),
            digests=None if self.digests is None else self.digests[indices],
        )


def join(first: Source, second: Source) -> Source:
    """The examples of two parts of one dataset, one after the other."""
    labels = (first.labels, second.labels)
    return dataclasses.replace(
        first,
        columns={
            name: np.concatenate([column, second.columns[name]])
            for name, column in first.columns.items()
            if name in second.columns  # what is only measured may lack another form of its texts
        },
        labels=None if labels[0] is None or labels[1] is None else np.concatenate([labels[0], labels[1]]),
        fingerprint=sha256(first.fingerprint, second.fingerprint),
        before=None,  # of a whole split alone
        digests=None if first.digests is None or second.digests is None else np.append(first.digests, second.digests),
        unreadable=tuple(dict.fromkeys((*first.unreadable, *second.unreadable))),
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )


def with_channels(source: Source, channels: int) -> Source:
    """The same examples for an encoder of so many channels: grey images in three equal ones; colours are not lost.

    Raises:
      ValueError: the images are in colour and the encoder takes grey ones.
    """
    if source.channels == channels:
        return source
    if channels < source.channels:
        raise ValueError("these images are in colour and the encoder takes grey ones; convert them to grey first")
    return source.in_colour()


class Splits(NamedTuple):
    """What a run learns from, is tuned on, and is measured on once at the end."""

    train: Source
    val: Source
    test: Source

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the dataset, each line once; in it names that are not UTF-8 are escaped."""
        notes = dict.fromkeys(note for part in self for note in part.notes)
        return tuple(note.encode("utf-8", "backslashreplace").decode() for note in notes)


def identity(splits: Splits) -> dict[str, Any]:
    """What a run keeps of its data, to know them again: see :func:`same`.

    Returns:
      {"sizes": {split: n}, "fingerprints": {split: sha256}, "of": "content" or "times"}, and "before" where the
      fingerprints of older runs are others.
    """
    parts = splits._asdict()
    found = {
        "sizes": {name: len(part) for name, part in parts.items()},
        "fingerprints": {name: part.fingerprint for name, part in parts.items()},
        "of": "content" if all(part.by_content for part in splits) else "times",
    }
    if any(part.before for part in splits):
        found["before"] = {name: part.before or part.fingerprint for name, part in parts.items()}
    return found


def same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two :func:`identity` are of the same data; ``then`` may be an older run's, compared as it was then."""
    form = "fingerprints" if "of" in then or "before" not in now else "before"
    return (then.get("sizes"), then.get("fingerprints")) == (now.get("sizes"), now.get(form))


def split(
    train: Source,
    test: Source | None,
    more: Source | None = None,
    val: Source | None = None,
    *,
    spec: str,
    val_fraction: float,
    num_examples: int | None,
    seed: int,
    stratified: bool = True,
) -> Splits:
    """Cut validation and test, where there is none, from ``train``, to which the unlabelled ``more`` is added then.

    Args:
      stratified: classes in proportion; else as where no label is known.

    See :func:`ssl_jax.data.readers.load` for the other arguments.
    """
    copies: list[str] = []
    if test is None:
        whole = len(train)
        test, train = _cut(train, TEST_FRACTION, seed, f"{spec}: the test split", stratified)
        test = dataclasses.replace(test, cut_from=whole)
        copies += overlap.copies(train, test, f"{spec}: the test split")
    if val is None:
        val, train = _cut(train, val_fraction, seed + 1, f"{spec}: the validation split", stratified)
        copies += overlap.copies(train, val, f"{spec}: the validation split")
    if more is not None:
        labels = None if train.labels is None else np.full(len(more), -1, np.int32)
        train = join(train, dataclasses.replace(more, labels=labels))
    if num_examples is not None:
        if not num_examples >= 1:
            raise ValueError(f"data.num_examples={num_examples} must be at least 1")
        if num_examples < len(train):
            order = stratified_order(train.labels if stratified else None, len(train), seed + 2)
            train = train.take(np.sort(order[:num_examples]))
    for role, part in (("train", train), ("validation", val), ("test", test)):
        if len(part) == 0:
            raise ValueError(f"{spec}: too few examples, none is left for {role}; give more data")
    notes = [
        f"no {role} example has a label ({part.why_unlabelled}): what needs labels is not measured"
        for role, part in (("training", train), ("test", test))
        if part.labels is None and part.why_unlabelled
    ]
    notes = (*copies, *notes)
    return Splits(train, val, dataclasses.replace(test, notes=(*test.notes, *notes, *_never_learned(train, val, test))))


def _never_learned(train: Source, val: Source, test: Source) -> tuple[str, ...]:
    """Say where test examples are of classes of which there is nothing to learn from."""
    if test.labels is None or test.class_names is None or train.labels is None or val.labels is None:
        return ()
    strange = ~np.isin(test.labels, np.concatenate([train.labels, val.labels, np.array([-1], np.int32)]))
    if not strange.any():
        return ()
    names = [test.class_names[k] for k in np.unique(test.labels[strange])]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"WARNING: {strange.sum()} of {len(test)} test examples are of {len(names)} class{'es' * (len(names) > 1)} "
        f"without an example to learn from ({shown}): no accuracy can count them as right",
    )


def _cut(source: Source, fraction: float, seed: int, what: str, stratified: bool) -> tuple[Source, Source]:
    n = len(source)
    size = max(1, round(n * fraction))
    if n - size < 1:
        raise ValueError(f"{what} needs {size} of {n} example(s), which leaves none to train on; give more data")
    order = stratified_order(source.labels if stratified else None, n, seed)
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
            digest.update(f"{len(str(part))}:{part}".encode("utf-8", "surrogateescape"))  # any name of a file
    return digest.hexdigest()


def from_arrays(
    images: np.ndarray, labels: np.ndarray | None = None, class_names: tuple[str, ...] | None = None
) -> Source:
    """A source of images in memory.

    Args:
      images: uint8 ``[n, h, w, c]`` or ``[n, h, w]``, c 1 or 3.
      labels: integers ``[n]``, -1 where unknown; or None.
      class_names: of the labels 0, 1, ...; by default the classes are the labels that occur. Parts of one dataset need
        the same.

    Raises:
      ValueError: for another dtype or shape, or labels out of range.
    """
    stored = as_stored(images, labels, labelled=class_names is not None)
    return named(dataclasses.replace(stored, class_names=class_names), None)[0]


def as_stored(images: np.ndarray, labels: np.ndarray | None, *, labelled: bool = False) -> Source:
    """Images in memory with the labels that they came with, which :func:`named` numbers.

    Args:
      labelled: whether other parts of the dataset have labels.
    """
    refuse_one(images)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} {images.shape}; give uint8 [n, h, w, 1 or 3] (0..255, channels last)"
        )
    if labels is None:
        return Source({"image": images}, None, None, sha256(images), images.shape[-1])
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} {labels.shape}; give integers of shape ({len(images)},), one per image"
        )
    narrow = labels.astype(np.int32)
    content = (
        (images,) if (labels < 0).all() and not labelled else (images, narrow if (narrow == labels).all() else labels)
    )
    return Source({"image": images}, labels, None, sha256(*content), images.shape[-1])


def refuse_one(images: np.ndarray) -> None:
    """Refuse one image where some are wanted; ``[n, h, w]`` of a width of three or less is taken for one in colour.

    Raises:
      ValueError: says how to make a batch of it.
    """
    if images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 2, 3)):
        shape = list(images.shape)
        raise ValueError(f"an array {shape} is one image; give a batch of one, X[:1] in place of X[0], or image[None]")


def named(train: Source, test: Source | None, unlabelled: int | None = None) -> tuple[Source, Source | None]:
    """The parts of a dataset with their classes numbered the same way; see :func:`ssl_jax.data.classes.number`.

    Args:
      train, test: sources whose labels are as they were stored, or named already.
      unlabelled: another label than -1 that means "no label".
    """
    parts = [train] if test is None else [train, test]
    names = next((part.class_names for part in parts if part.class_names is not None), None)
    labels, names, notes = classes.number([part.labels for part in parts], names, unlabelled)
    hidden = "" if unlabelled is None else f" or {unlabelled} (data.unlabelled)"
    found = []
    for part, numbered in zip(parts, labels, strict=True):
        why = f"every label is -1{hidden}" if part.labels is not None else part.why_unlabelled or "there are no labels"
        found.append(
            dataclasses.replace(
                part,
                labels=numbered,
                class_names=None if numbered is None else names,
                why_unlabelled=why if numbered is None else "",
                # Hidden labels are other data; nothing hidden, nothing changes.
                fingerprint=part.fingerprint if unlabelled is None else sha256(part.fingerprint, f"-1: {unlabelled}"),
                notes=(*part.notes, *notes),
            )
        )
    return found[0], found[1] if len(found) == 2 else None
