"""What the encoder of an opened run makes of arrays, files or texts, a row for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.data.from_config import decoding
from ssl_jax.data.images import decode, stand_ins
from ssl_jax.data.images.opening import Unreadable, opened
from ssl_jax.data.source import Decoding, Source, refuse_one
from ssl_jax.evals.shared.encode import LOGITS, with_logits
from ssl_jax.online.progress import counted
from ssl_jax.run.open import Run

GREY = ("1", "L", "I", "F")  # modes of Pillow's begin so


def embed(
    run: Run, images: Any, *, layer: str = "features", batch_size: int = 256, refuse: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Rows of features, and why what cannot be read cannot, by its place among the images: there a row is NaN.

    Args:
      run: opened.
      images: see :func:`ssl_jax.embed`; no folder.
      layer: "features", the name of a stage, or "logits" of a network with a classifier.
      batch_size: rows that are computed at once.
      refuse: what cannot be read is an error, of one line that names all of it.

    Raises:
      ValueError: one line; none can be read, too.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be positive")
    if hasattr(images, "shape"):
        refuse_one(images)
    else:
        images = list(images)
    if not len(images):
        raise ValueError("there are no images to embed; give one or more")
    rows, broken, found = min(batch_size, len(images)), {}, None
    if run.modality.shown and _are_paths(images):
        batches = _of_files(run, images, rows, broken, refuse)
    else:
        batches = _of_arrays(run, images, rows)
    compiled = jax.jit(with_logits(run.method) if layer == LOGITS else run.method.encode)
    for places, batch in counted(batches, "embedding", len(images), run.modality.record, by=rows):
        out = compiled(run.variables, batch)
        if layer not in out:
            more = [LOGITS] if "classify" in run.method.hooks else []
            raise ValueError(f"layer={layer!r} is none of this encoder's: {', '.join((*out, *more))}")
        made, there = np.asarray(out[layer], np.float32), places >= 0
        found = np.full((len(images), made.shape[1]), np.nan, np.float32) if found is None else found
        found[places[there]] = made[there]
    assert found is not None  # none that can be read is refused
    return found, broken


def by_reason(broken: Mapping[int, str], names: Sequence[Any], most: int | None = None) -> str:
    """What cannot be read and why, in one line; of more than ``most`` only the first."""
    reasons: dict[str, list[str]] = {}
    for i in sorted(broken)[:most]:
        reasons.setdefault(broken[i], []).append(str(names[i]))
    more = f"; and {len(broken) - most} more" if most is not None and len(broken) > most else ""
    return "; ".join(f"{', '.join(named)}: {reason}" for reason, named in reasons.items()) + more


def _are_paths(images: Any) -> bool:
    return not hasattr(images, "shape") and isinstance(images[0], (str, os.PathLike))


def _of_arrays(run: Run, images: Any, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of exactly ``rows``, of one array, of a list of any sizes, or of texts; and their places, -1 of none."""
    for start in range(0, len(images), rows):
        some = images[start : start + rows]
        if not run.modality.shown:
            batch = run.modality.prepare(some)
        elif hasattr(some, "shape"):
            batch = run.modality.prepare(_channels(run, some[..., None] if some.ndim == 3 else some))
        else:
            each = [np.asarray(image) for image in some]
            each = [image[..., None] if image.ndim == 2 else image for image in each]
            batch = np.concatenate([run.modality.prepare(_channels(run, image[None])) for image in each])
        places = np.arange(start, start + rows)
        padded = np.zeros((rows - len(batch), *batch.shape[1:]), batch.dtype)
        yield np.where(places < len(images), places, -1), np.concatenate([batch, padded])


def _channels(run: Run, images: np.ndarray) -> np.ndarray:
    """Grey images in three equal channels where the encoder takes colour."""
    wanted = run.modality.input_shape[-1]
    grey = images.ndim == 4 and images.shape[-1] == 1 and wanted > 1
    return np.broadcast_to(images, (*images.shape[:-1], wanted)) if grey else images


def _of_files(
    run: Run, paths: Sequence[str | os.PathLike[str]], rows: int, broken: dict[int, str], refuse: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As :func:`_of_arrays`, read as evaluation reads; of every file the header first. ``broken`` is added to."""
    how = decoding(run.config)
    names = [os.path.abspath(os.path.expanduser(path)) for path in paths]
    plain = np.zeros(len(names), bool)
    channels = run.modality.input_shape[-1]
    for i, name in enumerate(names):
        colour = False
        try:
            plain[i] = decode.is_plain(name, how)
            with opened(name, how) as image:
                colour = not image.mode.startswith(GREY)
        except (Unreadable, OSError) as error:
            broken[i] = _reason(error)
        if colour and channels == 1:
            raise ValueError(f"{paths[i]} is in colour and the encoder takes grey images; convert it to grey first")
    _check(broken, paths, names, how, refuse)
    whole = np.array([i for i in range(len(names)) if i not in broken])
    columns = {"path": np.array(names, object)[whole], "plain": plain[whole]}
    source = Source(columns, None, None, "", channels, how)
    batches = run.modality.inputs(source, global_batch_size=rows, quiet=True)
    try:
        for step, batch in enumerate(batches):
            lost = np.flatnonzero(~batch["mask"][: len(whole) - step * rows]) + step * rows
            if len(lost):
                broken.update(_damaged(names, how, whole[lost]))
                _check(broken, paths, names, how, refuse)
            yield np.where(batch["mask"], whole[batch["index"]], -1), batch["inputs"]
    except stand_ins.Lost:  # of all the rest the header is whole and nothing more
        broken.update(_damaged(names, how, whole))
        _check(broken, paths, names, how, refuse)


def _check(
    broken: dict[int, str], paths: Sequence[str | os.PathLike[str]], names: Sequence[str], how: Decoding, refuse: bool
) -> None:
    """Raises a ValueError where all are broken, or some and that is not to be; then of all that are."""
    if refuse and broken:
        broken.update(_damaged(names, how, (i for i in range(len(names)) if i not in broken), sure=False))
    if len(broken) == len(names) or (refuse and broken):
        fix = "; leave them out, or give unreadable='nan'" if len(broken) < len(names) else ""
        said = by_reason(broken, paths)
        raise ValueError(f"{len(broken)} of {len(names)} images cannot be read ({said}){fix}")


def _damaged(names: Sequence[str], how: Decoding, some: Iterable[int], *, sure: bool = True) -> dict[int, str]:
    """Why those of ``some`` files that cannot be decoded cannot; ``sure`` where one of them could not a moment ago."""
    found = {}
    for i in some:
        try:
            decode.read(names[i], 3, how)
        except (Unreadable, OSError) as error:
            found[int(i)] = _reason(error)
        else:
            if sure:
                found[int(i)] = "it could not be decoded"
    return found


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(said.splitlines()), "") or type(error).__name__
