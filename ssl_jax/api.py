"""The package from Python: configs by name, pretraining, evaluation and embeddings, of files or of arrays in memory."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from ssl_jax import configs, evals, evaluation, models, train
from ssl_jax.data import readers
from ssl_jax.data.images import image_files
from ssl_jax.experiment import build
from ssl_jax.interop import weights
from ssl_jax.run import embedding, folder, processes
from ssl_jax.run.hooks import Hooks
from ssl_jax.run.open import Run, open_run, open_weights
from ssl_jax.types import Config


def config(name: str | os.PathLike[str], **changes: Any) -> Config:
    """A config of the package by its name, or one of yours by its file, with changes.

    Args:
      name: ``"simclr_digits"`` (``ssl-jax pretrain --list`` shows all), or the path of a config file.
      **changes: values by key, nested or dotted; ``ssl-jax pretrain --config NAME --help-config`` shows the keys.

    Returns:
      The config, locked: keys that it does not have cannot be set.

    Example:
      >>> import ssl_jax
      >>> config = ssl_jax.config("simclr_digits", train={"epochs": 5}, **{"optim.learning_rate": 1e-3})
      >>> config.method.name, config.train.epochs
      ('simclr', 5)

    Raises:
      ValueError: there is no such config, or it has no such key, with the nearest there is; or a value cannot be.
    """
    found = configs.load(name, [f"{key}={_text(value)}" for key, value in _flat(changes)])
    configs.check(found)
    return found


def pretrain(
    config: Config,
    workdir: str | os.PathLike[str],
    *,
    images: Any = None,
    labels: Any = None,
    encoder: Any = None,
    hooks: Hooks = (),
    test: bool = True,
    extend: bool = False,
) -> Run:
    """Train as ``ssl-jax pretrain`` does, on the data of the config or on yours; a run that was interrupted goes on.

    Args:
      config: of :func:`ssl_jax.config`.
      workdir: folder of the run.
      images: in place of ``data.source``: uint8 ``[n, h, w, c]`` or ``[n, h, w]``, or a ``ssl_jax.data.source.Source``;
        two of them in a tuple: to learn from, and to be measured on (else a fifth is cut off for that).
      labels: integers ``[n]``, -1 where unknown, for measurements and methods that take some; as many as images.
      encoder: in place of ``model``: a linen module, an ``ssl_jax.models.Encoder`` or what
        ``ssl_jax.models.from_module(module, dim=...)`` makes of a plain one.
      hooks: one or several, called as ``hook(step, metrics, state)`` with every line of the log, or
        ``run.hooks.every(n, hook)``; numbers that one returns by name go into that line.
      test: False leaves the test data unread.
      extend: a shorter run in ``workdir`` goes on to the length that the config has now.

    Returns:
      The run, opened. Its ``config.json`` records data and encoder of yours by their sha256.

    Example:
      >>> config = ssl_jax.config("simclr_digits", train={"epochs": 5})      # doctest: +SKIP
      >>> run = ssl_jax.pretrain(config, "runs/mine", images=images)         # doctest: +SKIP

    Raises:
      ValueError: one line: what cannot run, or ``workdir`` holds another run.
    """
    config, splits = copy.deepcopy(config), None
    if images is None and labels is not None:
        raise ValueError("labels are given and images are not; give images=, too")
    workdir = folder.check(workdir, "workdir")
    with config.unlocked():
        if images is not None:
            how = {key: config.data.get(key) for key in ("val_fraction", "num_examples", "unlabelled")}
            config.data.source, splits = readers.of_arrays(images, labels, **how)
            config.data.update({"train_split": None, "test_split": None})  # of the source that was there before
        if encoder is not None:
            config.model = ConfigDict({"name": models.hand_over(encoder)})
    processes.configure_as(config.parallel)
    with folder.naming_copies(workdir):
        experiment = build(config, splits, folder=workdir)
    train.fit(experiment, workdir, test=test, hooks=hooks, extend=extend)
    return open_run(workdir)._replace(splits=splits)


def evaluate(
    run: Run | str | os.PathLike[str],
    evaluators: str | Sequence[str] | None = None,
    *,
    images: Any = None,
    labels: Any = None,
    source: str | None = None,
    encoder: Any = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    outdir: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Measure a finished run as ``ssl-jax evaluate`` does, which writes a report, too.

    Args:
      run: of :func:`ssl_jax.pretrain`, or a workdir.
      evaluators: one name or several, of ours or files of yours; default: those that suit the data (``ssl-jax evaluate
        --list``).
      images, labels: as in :func:`ssl_jax.pretrain`: those of the run, where it was made on arrays and this is another
        process, or others.
      source: another dataset than the run's own, as in ``data.source``.
      encoder: the module of a run that was given one from Python.
      options: of the evaluators, ``{"knn": {"k": (20, 200)}}``.
      outdir: of report and pictures; default ``<workdir>/evaluation``.
      say: takes the lines that are printed.

    Returns:
      The metrics by name, on validation ``val_*`` and on test ``test_*``.

    Example:
      >>> ssl_jax.evaluate("runs/simclr_digits", ["knn"])                    # doctest: +SKIP
      {'test_knn_top1': 0.9777, ...}

    Raises:
      ValueError: one line, before anything is computed.
    """
    run, splits = opened(run, encoder), None
    for name in evals.called(() if evaluators is None else evals.named(evaluators)).values():
        evals.get(name)  # refused before data are looked for
    if "plan" not in run.resolved:
        raise ValueError(f"{run.workdir} is a file of weights; evaluate its run, or embed your images with it")
    if images is not None:
        if source is not None:
            raise ValueError(f"images and source={source!r} are given; leave one out")
        data = run.config.data
        how = {key: data.get(key) for key in ("val_fraction", "num_examples", "unlabelled")}
        known, splits = readers.of_arrays(images, labels, **how)
        if known != data.source:  # then what the run said of its own data does not hold
            bare = labels is not None and readers.of_arrays(images, None, **how)[0] == data.source
            how = how if bare else {"val_fraction": data.val_fraction}
            # Labels that the run did not have: what it left out of its training is test now, too.
            source, splits = readers.of_arrays(images, labels, **how, stratified=not bare)
    elif labels is not None:
        raise ValueError("labels are given and images are not; give images=, too")
    elif source is None:
        splits = run.splits
    found = evaluation.evaluate([run], evaluators, options or {}, outdir=outdir, source=source, splits=splits, say=say)
    on = source or run.config.data.source
    several = {one["provenance"]["evaluated_on"]: one for one in found.get("data", {}).values()}
    measured = several.get(on, found)
    if evaluators is None:
        return measured["metrics"]
    asked = [
        metric for name in evals.called(evals.named(evaluators)) for metric in measured["evaluators"][name]["metrics"]
    ]
    return {metric: measured["metrics"][metric] for metric in asked}


def embed(
    run: Run | str | os.PathLike[str],
    images: Any,
    *,
    layer: str = "features",
    batch_size: int = 256,
    encoder: Any = None,
    unreadable: Literal["refuse", "nan"] = "refuse",
) -> np.ndarray:
    """What the encoder of a run makes of images of any size, brought to its size as evaluation does.

    Args:
      run: of :func:`ssl_jax.pretrain`, a workdir, or a file of weights that ``ssl-jax export`` wrote.
      images: uint8 or [0, 1] floats ``[n, h, w, c]`` or ``[n, h, w]``; a list of arrays ``[h, w, c]`` or ``[h, w]``;
        one path or a list of them; or a folder, whose images are taken in the order of :func:`ssl_jax.images_of`. To a
        run on text, a list of texts.
      layer: "features", the name of a stage, or "logits" of a network with a classifier (supervised, or imported so).
      batch_size: rows that are computed at once; the last batch is padded, so that one program is compiled.
      encoder: the module of a run that was given one from Python.
      unreadable: what is done where some of the files cannot be read: "refuse" names all of them, "nan" gives rows of
        NaN in their places.

    Returns:
      float32 ``[n, d]``, a row for each image.

    Example:
      >>> features = ssl_jax.embed("runs/simclr_digits", "photos/")          # doctest: +SKIP

    Raises:
      ValueError: one line: no such run, layer or folder; files that cannot be read, in the mode "nan" where that is all
        of them; grey was learned and these are in colour.
    """
    if unreadable not in ("refuse", "nan"):
        raise ValueError(f"unreadable={unreadable!r} must be 'refuse' or 'nan'")
    run = opened(run, encoder)
    if isinstance(images, (str, os.PathLike)):
        if not run.modality.shown:
            raise ValueError(f"{run.workdir} is a run on text; give a list of texts")
        images = [images] if os.path.isfile(os.path.expanduser(images)) else images_of(images)
    return embedding.embed(run, images, layer=layer, batch_size=batch_size, refuse=unreadable == "refuse")[0]


def images_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files in a folder and below it, by their suffix, in the order of their paths.

    Example:
      >>> paths = ssl_jax.images_of("photos/")                               # doctest: +SKIP

    Raises:
      ValueError: there is no such folder, or no image in it.
    """
    place = Path(configs.path(folder))
    if not place.exists():
        raise ValueError(f"{place} does not exist; give a folder that holds images, a file, or a list of paths")
    if not place.is_dir():
        raise ValueError(f"{place} is no folder; give one that holds images, or a list of paths")
    known = image_files.suffixes()
    found = [
        Path(root, name)
        for root, inner, files in os.walk(place, followlinks=True)
        if not image_files.is_system(Path(root).name)
        for name in files
        if image_files.suffix(name) in known and not name.startswith(".")
    ]
    if not found:
        raise ValueError(f"{place} holds no image ({', '.join(known[:4])}, ...)")
    return sorted(found)


def _flat(changes: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        if isinstance(value, (Mapping, ConfigDict)):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    return repr(value.item() if isinstance(value, np.generic) else value)


def opened(run: Run | str | os.PathLike[str], encoder: Any = None) -> Run:
    """A run as the functions here take it."""
    if not isinstance(run, Run):
        return (open_weights if weights.is_weights(run) else open_run)(Path(run), encoder=encoder)
    if encoder is not None:
        models.hand_back(encoder, run.config.model.name, run.workdir)
    return run
