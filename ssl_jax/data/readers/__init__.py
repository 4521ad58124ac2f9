"""Readers: what lies on disk or in a package as sources; ``load`` reads what ``data.source`` names, and splits it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import classes
from ssl_jax.data.cache import default_cache_dir
from ssl_jax.data.images import levels
from ssl_jax.data.readers.arrays import beside, digits, npz
from ssl_jax.data.source import DEFAULT_DECODING, Decoding, Source, Splits, as_stored, named, sha256, split
from ssl_jax.names import brief, hint, is_file, is_imported, is_there, own, place, said_of

PATHS = ("folder:<path>", "tar:<path>", "arrayrecord:<path>", "npz:<path>", "csv:<file>", "hf:<path or name>")
SCHEMES = ("digits", "tfds:<name>", *PATHS, "text:<path>")
SCHEMES = (*SCHEMES, "pydoc")
NONE = "none"  # of a network that was imported
ARRAYS = "arrays:"  # and the sha256 of examples that were handed over from Python, which lie in no file


def is_own(spec: str) -> bool:
    """Whether a source is a function of the user's."""
    ours = {scheme.partition(":")[0] for scheme in (*SCHEMES, ARRAYS)}
    return spec.partition(":")[0] not in ours and is_imported(spec)


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
    decoding: Decoding = DEFAULT_DECODING,
    cache_dir: str | None = None,
    memory_limit: int = 4 << 30,
    unlabelled: int | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    second_column: str | None = None,
    image_column: str | None = None,
) -> Splits:
    """Read a dataset and hold out validation and test.

    Args:
      spec: ``digits`` (scikit-learn's 8x8 digits), ``tfds:<name>`` (``name[/config][:version]``), ``folder:<path>``
        (class sub-folders or one flat unlabelled folder, both possibly below ``train/`` beside ``test/`` or ``val/``,
        see ``layout.py``),
        ``tar:<path>`` or ``arrayrecord:<path>`` (a folder, file or pattern of shards, see ``shards.py``) or
        ``npz:<path>`` (train_images, train_labels, test_images, test_labels; labels and test may be missing);
        ``text:<path>`` (a file or folder of text, tables or class folders, see ``text.py``), ``pydoc`` (the help texts
        inside Python); ``csv:<file>`` (a table of image files and labels, see ``image_tables.py``); ``hf:<path>`` (what
        Hugging Face's datasets wrote or reads, or the name of one in its cache, see ``hf.py``); or
        a function of one's own (``./mine.py``, ``package.module:function``, see :mod:`ssl_jax.names`), called with
        ``data_dir=``, which gives (train, test or None).
      data_dir: where TFDS datasets lie (default: TFDS's own); relative paths start there too.
      train_split: name of the split to learn from (default ``train``); TFDS slices such as ``train[:50%]`` work.
      test_split: name of the split to be measured on (default ``test``, else ``validation`` or ``val``, else 20 % of
        the examples, stratified).
      download: let TFDS or Hugging Face's datasets fetch and prepare a dataset that is not there.
      val_fraction: part of train that is held out, stratified, between 0 and 1.
      num_examples: use at most so many train examples (stratified; a smaller cap gives a subset of a larger one).
      seed: of the choice of validation, test and ``num_examples``.
      verify: how the images of a folder or of shards are checked when their index is built: ``full`` (decode all),
        ``header``; default ``full`` up to 100,000 files.
      max_unreadable: fraction of unreadable files above which a folder or shards are refused.
      decoding: how image files become 8 bits, and how large they may be.
      cache_dir: where indices of folders and shards are kept (default ``$XDG_CACHE_HOME/ssl_jax`` or
        ``~/.cache/ssl_jax``).
      memory_limit: bytes up to which a split of TFDS, of ArrayRecord files or of Hugging Face's is held in memory.
      unlabelled: an integer label that means "no label", beside -1.
      text_column, label_column, second_column: of tables of text (default: found by the usual names); the last holds
        another form of each text.
      image_column: of tables of images and of Hugging Face's datasets (default: found by the usual names).

    Returns:
      Splits of three sources.

    Raises:
      ValueError: with the fix, for a wrong spec, missing or broken data, too few examples.
    """
    if not 0.0 < val_fraction < 1.0:
        raise ValueError(f"data.val_fraction={val_fraction} must lie between 0 and 1; 0.1 is the default")
    if verify not in (None, "full", "header"):
        raise ValueError(f"data.verify={verify!r} is not known; use 'full' or 'header'")
    if spec.startswith(ARRAYS):
        raise ValueError(
            f"data.source={brief(spec)} are arrays that lie in no file; hand them over from Python: "
            "ssl_jax.evaluate(run, images=..., labels=...), ssl_jax.pretrain(config, workdir, images=..., labels=...); "
            "or name another source"
        )
    if spec == NONE:
        raise ValueError("weights that were imported have no data of their own; name some: --source folder:PATH")
    scheme, _, name = spec.partition(":")
    cache = Path(cache_dir or default_cache_dir())
    roles = {"train_split": train_split, "test_split": test_split}
    if scheme in ("digits", "npz", "pydoc") and any(role is not None for role in roles.values()):
        raise ValueError(f"data.train_split and data.test_split mean nothing to {spec!r}; leave them out")
    if scheme in ("digits", "folder") and unlabelled is not None:
        raise ValueError(f"data.unlabelled={unlabelled} means nothing to {spec!r}; leave it out")
    if image_column is not None and scheme not in ("csv", "hf"):
        raise ValueError(f"data.image_column={image_column!r} means nothing to {spec!r}; leave it out")
    checks: dict[str, Any] = {"verify": verify, "max_unreadable": max_unreadable, "decoding": decoding}
    checks["cache_dir"] = cache
    more = val = None
    if scheme == "digits" and not name:
        train, test = digits(), None
    elif scheme in ("text", "pydoc") and bool(name) == (scheme == "text"):
        from ssl_jax.data.readers import text

        if scheme == "pydoc":
            train, test = text.pydoc(), None
        else:
            columns = text.Columns(text_column, label_column, second_column)
            train, val, test, more = text.load(_path(name, data_dir), **roles, columns=columns)
    elif scheme == "npz" and name:
        train, test = npz(_path(name, data_dir))
    elif scheme == "folder" and name:
        from ssl_jax.data.readers import folder

        train, test, more = folder.load(_path(name, data_dir), **roles, **checks)
    elif scheme in ("tar", "arrayrecord") and name:
        from ssl_jax.data.readers import shards

        train, test, more = shards.load(scheme, _path(name, data_dir), **roles, **checks, memory_limit=memory_limit)
    elif scheme == "tfds" and name:
        from ssl_jax.data.readers import tfds

        train, test, more = tfds.load(
            name,
            data_dir=data_dir,
            **roles,
            download=download,
            decoding=decoding,
            cache_dir=cache,
            memory_limit=memory_limit,
            text_column=text_column,
            label_column=label_column,
        )
    elif scheme == "csv" and name:
        from ssl_jax.data.readers import image_tables

        asked = {"image_column": image_column, "label_column": label_column}
        if (other := text_column or second_column) is not None:
            raise ValueError(f"data.text_column={other!r} means nothing to {spec!r}; a table of texts is text:{name}")
        train, test, more = image_tables.load(_path(name, data_dir), **roles, **asked, **checks)
    elif scheme == "hf" and name:
        from ssl_jax.data.readers import hf

        asked = {"image": image_column, "text": text_column, "label": label_column}
        if second_column is not None:
            raise ValueError(f"data.second_column={second_column!r} means nothing to {spec!r}; leave it out")
        train, val, test, more = hf.load(
            name, _path(name, data_dir), **roles, asked=asked, download=download, memory_limit=memory_limit, **checks
        )
    elif is_own(spec) and (is_file(spec) or is_there(spec)):
        train, test = _own(spec, data_dir)
    else:
        meant = hint(spec, SCHEMES, cutoff=0.3)
        raise ValueError(f"unknown data.source {spec!r}; {meant}use one of {', '.join(SCHEMES)}")
    if scheme == "csv" and unlabelled is not None and train.class_names is not None:
        some = ", ".join(train.class_names[:3])
        raise ValueError(
            f"data.unlabelled={unlabelled} means nothing to {spec!r}, whose labels are names ({some}, ...)"
        )
    try:
        train, test = named(train, test, unlabelled)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    train, test, val = _without_one_class(train, test, val)
    if "text" not in train.columns:
        train, test, more = levels.told(train, test, more, decoding, cache)
    return split(train, test, more, val, spec=spec, val_fraction=val_fraction, num_examples=num_examples, seed=seed)


def of_arrays(
    images: Any,
    labels: Any = None,
    *,
    val_fraction: float = 0.1,
    num_examples: int | None = None,
    seed: int = 0,
    unlabelled: int | None = None,
    stratified: bool = True,
) -> tuple[str, Splits]:
    """Examples that lie in no file as the splits of a run, and the ``data.source`` that a run records of them.

    Args:
      images: uint8 ``[n, h, w, c]`` or ``[n, h, w]``; a :class:`Source`; or two of either, to learn from and to be
        measured on, without which a fifth is cut off.
      labels: integers ``[n]``, -1 where unknown, as many arrays as there are of images; None of sources, which have
        their own.
      val_fraction, num_examples, seed, unlabelled: as in :func:`load`.
      stratified: False cuts as where there are no labels.

    Returns:
      (``arrays:<sha256>``, of everything that was handed over; the splits).

    Raises:
      ValueError: for other arrays, or too few.
    """
    pair = isinstance(images, tuple) and len(images) == 2
    given = images if pair else (images,)
    of_each = labels if pair and labels is not None else (labels,) * len(given)
    if len(of_each) != len(given):
        raise ValueError("labels are one array and images are two; give labels=(of the first, of the second)")
    parts = [_part(x, y, labels is not None) for x, y in zip(given, of_each, strict=True)]
    both = beside(parts[0], parts[1], "images=", ("the first", "the second")) if pair else None
    train, test = named(parts[0], both, unlabelled)
    train, test, _ = _without_one_class(train, test, None)
    spec = ARRAYS + sha256(*(part.fingerprint for part in parts))
    how: dict[str, Any] = {"val_fraction": val_fraction, "num_examples": num_examples, "seed": seed}
    how["stratified"] = stratified
    return spec, split(train, test, spec="arrays", **how)


def _part(images: Any, labels: Any, labelled: bool) -> Source:
    if not isinstance(images, Source):
        return as_stored(np.asarray(images), None if labels is None else np.asarray(labels), labelled=labelled)
    if labels is not None:
        raise ValueError("a Source has its labels; leave labels= out")
    return _checked(images, "images=")


def _without_one_class(train: Source, test: Source | None, val: Source | None) -> tuple[Any, Any, Any]:
    """The parts of a dataset; of one class only they have no labels, from which there is nothing to learn."""
    only = classes.single(train.labels, train.class_names)
    if not only:
        return train, test, val
    why = f"there is one class only, {only}"
    without = {"labels": None, "class_names": None, "why_unlabelled": why}
    train = dataclasses.replace(train, **without)
    test, val = (None if p is None else dataclasses.replace(p, **without) for p in (test, val))
    return train, test, val


def _own(spec: str, data_dir: str | None) -> tuple[Source, Source | None]:
    """What a user's own function gives.

    Raises:
      ValueError: of one line: it cannot be called so, or gives something else.
    """
    make, path, _ = own(spec, "data.source")
    form = "called with data_dir= it gives (train, test or None), two Sources"
    try:
        found = make(data_dir=data_dir)
    except Exception as error:  # whatever it does wrong
        said = f"{said_of(error)}{place(error, path)}"
        raise ValueError(f"data.source={spec!r} fails: {said}; {form} (ssl_jax/data/source.py)") from error
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or not isinstance(found[0], Source) or not isinstance(found[1], Source | None):
        kinds = ", ".join(type(part).__name__ for part in found) if isinstance(found, tuple) else type(found).__name__
        raise ValueError(f"data.source={spec!r} gives {kinds}; {form} (ssl_jax/data/source.py)")
    for part in filter(None, found):
        _checked(part, f"data.source={spec!r}")
    return found


def _checked(part: Source, said: str) -> Source:
    images = part.columns.get("image")
    if images is not None and (images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] != part.channels):
        raise ValueError(
            f"{said} gives images {images.dtype}{list(images.shape)} and channels={part.channels}; "
            "make such a Source with ssl_jax.data.source.from_arrays(images, labels)"
        )
    return part


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
