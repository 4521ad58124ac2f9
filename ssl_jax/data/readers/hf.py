"""Hugging Face's datasets as sources: images and texts, by index, without the network.

``hf:PATH``: a folder that ``save_to_disk`` wrote, one that ``load_dataset`` reads (Parquet, ``imagefolder``, ...), or a
Parquet or Arrow file. ``hf:NAME`` or ``hf:NAME:CONFIG``: a dataset in the local cache; with ``data.download=True`` one
of the Hub. What ``load_dataset`` makes of a folder lies in our cache.

Images stay the files that they were. Their bytes are read from where they lie in the memory-mapped Arrow files, or from
the image files that a dataset names by path; what lies in neither is held in memory. Texts are held in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import overlap
from ssl_jax.data.images import decode
from ssl_jax.data.readers import files, folder, hf_columns, shards, split_names, splits
from ssl_jax.data.readers.text import of_texts
from ssl_jax.data.source import Decoding, Source, sha256
from ssl_jax.names import said_of

ONE_FILE = {".parquet": "parquet", ".arrow": "arrow"}
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

Parts = Mapping[str, Any]  # name of a split -> datasets.Dataset


def load(
    name: str,
    path: Path,
    *,
    train_split: str | None,
    test_split: str | None,
    asked: Mapping[str, str | None],
    download: bool,
    verify: str | None,
    max_unreadable: float,
    decoding: Decoding,
    cache_dir: Path,
    memory_limit: int,
) -> tuple[Source, Source | None, Source | None, Source | None]:
    """Train, validation, test and more unlabelled examples; see :func:`ssl_jax.data.readers.load`.

    Args:
      name: as it was given, maybe that of a dataset in the cache.
      path: where it lies if it is one.
      asked: names of the columns "image", "text" and "label", None where they are found by their usual names.
    """
    where = f"hf:{name}"
    with _quiet(offline=not download):
        parts = _opened(name, path, cache_dir, download)
        chosen = _chosen(where, list(parts), train_split, test_split)
        columns = hf_columns.choose(where, parts[chosen.train].features, asked)
        used = [chosen.train, *chosen.tests, *chosen.unlabelled]
        for part in used:
            hf_columns.refuse_others(where, part, parts[part], parts[chosen.train], columns)
        labels = hf_columns.labels(where, [parts[part] for part in used], columns)
        of = dict(zip(used, labels.of, strict=True))
        roles, notes = _roles(where, chosen, of, test_split, text=columns.kind == "text")
        if left := sorted(set(parts) - set(roles.values())):
            notes.append(splits.not_used(where, left))
        why = labels.why or "no example has a label"
        if columns.kind == "text":
            made = {
                role: _texts(f"{where}:{part}", parts[part], columns.data, of[part], labels.names, memory_limit, why)
                for role, part in roles.items()
            }
        else:
            how = {"verify": verify, "decoding": decoding, "cache_dir": cache_dir}
            images = {
                role: _images(f"{where}:{part}", parts[part], columns.data, memory_limit, **how)
                for role, part in roles.items()
            }
            notes += _unreadable(where, roles, images, max_unreadable, decoding)
            made = {role: _source(images[role], of[part], labels.names, why) for role, part in roles.items()}
            notes += _overlap(where, roles, made)
    if "more" in made:
        notes.append(f"{where}: {len(made['more'])} examples of {roles['more']} are more to learn from, without labels")
    train = made["train"]
    train = dataclasses.replace(train, notes=(*columns.notes, *notes, *train.notes))
    return train, made.get("val"), made.get("test"), made.get("more")


# --- opening


@contextlib.contextmanager
def _quiet(offline: bool) -> Iterator[None]:
    """Without bars, without warnings, and without the network where it is not asked for, whatever the environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import datasets  # pyright: ignore[reportMissingImports]: an extra
            from huggingface_hub import constants

            bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
        except (ImportError, AttributeError) as error:  # a folder called datasets is a module without these
            raise ValueError(
                f"hf: needs datasets ({error}); `pip install 'ssl_jax[hf]'` or `pip install datasets`"
            ) from error
        before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        if offline:
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
            datasets.logging.set_verbosity(level)
            if not bars:
                datasets.enable_progress_bars()


def _opened(name: str, path: Path, cache_dir: Path, download: bool) -> Parts:
    """The splits of a dataset by name.

    Raises:
      ValueError: of one line: it is not there, or datasets cannot read it.
    """
    import datasets  # pyright: ignore[reportMissingImports]: an extra

    at, _, config = name.rpartition(":")
    kept = {"cache_dir": str(cache_dir / "hf")}
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(path.resolve()))
        elif path.is_dir():
            found = datasets.load_dataset(str(path.resolve()), **kept)
        elif path.is_file():
            if path.suffix not in ONE_FILE:
                raise ValueError(
                    f"hf:{name} is no Parquet or Arrow file; a table of images is csv:{name}, one of texts text:{name}"
                )
            found = datasets.load_dataset(ONE_FILE[path.suffix], data_files=str(path.resolve()), **kept)
        elif at and (inside := path.with_name(path.name.rpartition(":")[0])).is_dir():
            found = datasets.load_dataset(str(inside.resolve()), config, **kept)
        else:
            found = _named(*((at, config) if at else (name, None)), str(path), download)
    except Exception as error:  # it raises many kinds of them
        if isinstance(error, ValueError) and str(error).startswith("hf:"):
            raise
        if isinstance(error, IndexError):
            _refuse_empty(name, path)
        raise ValueError(f"hf:{name} cannot be read: {said_of(error)}") from error
    if not isinstance(found, dict):
        found = {str(found.split or "train"): found}
    return {str(split): part for split, part in found.items()}


def _refuse_empty(name: str, path: Path) -> None:
    """Refuse a folder of ``save_to_disk`` with a split of no example, of which there is no file, only its description.

    Raises:
      ValueError: names the split.
    """
    for state in sorted([*path.glob("state.json"), *path.glob("*/state.json")]):
        if json.loads(state.read_text("utf-8")).get("_data_files") == []:
            if state.parent == path:
                raise ValueError(f"hf:{name} holds no example; name a dataset that does")
            split = state.parent.name
            raise ValueError(f"hf:{name}: the split {split!r} holds no example; write the dataset again without it")


def _named(name: str, config: str | None, path: str, download: bool) -> Any:
    """A dataset of the local cache, or of the Hub where that is asked for."""
    import datasets  # pyright: ignore[reportMissingImports]: an extra
    import huggingface_hub

    if not NAME.fullmatch(name):
        raise ValueError(f"hf:{name} is not there ({path}); give a folder, or the name of a dataset (user/name)")
    try:
        return datasets.load_dataset(name, config)
    except Exception as error:
        if download or "onfig" in str(error):  # which configuration is meant, it says itself
            raise
        try:  # files as they were fetched, of which nothing was made yet
            kept = huggingface_hub.snapshot_download(name, repo_type="dataset", local_files_only=True)
        except Exception:
            raise ValueError(
                f"hf:{name} is neither a folder ({path}) nor in the cache of datasets "
                f"({datasets.config.HF_DATASETS_CACHE}); nothing is fetched unless asked: "
                "--config.data.download=True would, from the Hub"
            ) from error
        return datasets.load_dataset(kept, config)


# --- splits


def _chosen(where: str, names: Sequence[str], train: str | None, test: str | None) -> split_names.Chosen:
    chosen = split_names.choose(where, names, train, test)
    if chosen is None and len(names) > 1:
        raise ValueError(f"{where} has the splits {', '.join(names)}; name what to train on with data.train_split")
    return chosen or split_names.Chosen(names[0], (), ())


def _roles(
    where: str, chosen: split_names.Chosen, of: Mapping[str, np.ndarray], asked: str | None, *, text: bool
) -> tuple[dict[str, str], list[str]]:
    """Which split is what: "train", "test", of text "val", "more"; and what is to be said of it.

    A test without labels beside labelled training examples is none, except where it is asked for or of text.
    """
    roles, notes = {"train": chosen.train}, []
    labelled = bool((of[chosen.train] >= 0).any())
    for name in chosen.tests:
        known = bool((of[name] >= 0).any())
        if known or not labelled or asked is not None:
            roles["test"] = name
            break
        notes.append(
            f"{where}: {name} is not used: no label is known of its {len(of[name])} examples, by which they could be "
            "measured"
        )
    if chosen.tests and "test" not in roles:
        notes.append(f"{where}: the test split is cut from {chosen.train}")
    held_out = [name for name in chosen.tests if split_names.role(name) == "validation" and name not in roles.values()]
    roles |= {"val": held_out[0]} if text and held_out else {}
    roles |= {"more": chosen.unlabelled[0]} if chosen.unlabelled else {}
    return roles, notes


# --- images


class _Images(NamedTuple):
    """The images of a split, readable or not; see :class:`folder.Index`."""

    columns: dict[str, np.ndarray]  # "path", also "offset" and "length"; or "encoded"
    state: np.ndarray
    plain: np.ndarray
    digest: np.ndarray
    full: bool
    known_by: tuple[Any, ...]  # where the contents are not read


def _images(
    where: str, part: Any, column: str, memory_limit: int, *, verify: str | None, decoding: Decoding, cache_dir: Path
) -> _Images:
    full = verify == "full" or (verify is None and len(part) <= folder.FULL_UP_TO)
    if (paths := hf_columns.paths(part, column)) is not None:
        how: dict[str, Any] = {"verify": "full" if full else "header", "decoding": decoding, "cache_dir": cache_dir}
        checked = files.check(Path("/"), paths, known_as=where + paths[0], **how)
        rows = np.array([checked.rows[path] for path in paths], np.int64)
        index = checked.index
        known_by = (index.size[rows], index.mtime[rows])
        return _Images(
            {"path": folder.objects(paths)}, index.state[rows], index.plain[rows], index.digest[rows], full, known_by
        )
    if (stretches := hf_columns.stretches(part, column)) is not None:
        columns, found, known_by = {"path": [], "offset": [], "length": []}, [], []
        for file, table in stretches:
            found.append(shards.checked(file, table, full, decoding, cache_dir, column))
            columns["path"].append(np.full(len(table["offset"]), str(file), object))
            columns["offset"].append(table["offset"])
            columns["length"].append(table["length"])
            known_by += [table["length"], f"{file.stat().st_size} {file.stat().st_mtime_ns}"]
        joined = {name: np.concatenate(of) for name, of in columns.items()}
        checks = [np.concatenate([of[name] for of in found]) for name in ("state", "plain", "digest")]
        return _Images(joined, checks[0], checks[1], checks[2], full, tuple(known_by))
    if (size := part.data.column(column).nbytes) > memory_limit:
        raise ValueError(
            f"{where}: its images lie in no file that can be read in part and take {size:,} bytes of memory, more than "
            f"data.memory_limit={memory_limit:,}; write it with save_to_disk and give that folder, or raise the limit"
        )
    data = hf_columns.contents(part, column)
    checks = folder.check_all(data.__getitem__, range(len(data)), True, decoding)
    state, plain, digest = (np.array(of) for of in zip(*checks, strict=True))
    return _Images({"encoded": folder.objects(data)}, state, plain, digest, True, ())


def _source(images: _Images, labels: np.ndarray, names: tuple[str, ...] | None, why: str) -> Source:
    kept = np.flatnonzero(images.state > 0)
    labels, known = labels[kept], bool((labels[kept] >= 0).any())
    content = (images.digest[kept],) if images.full else (kept, *images.known_by)
    return Source(
        {name: column[kept] for name, column in images.columns.items()} | {"plain": images.plain[kept]},
        labels if known else None,
        names if known else None,
        sha256("hf", *content, labels, *(names or ())),
        unreadable=tuple(f"row {i}" for i in np.flatnonzero(images.state == 0)),
        why_unlabelled="" if known else why,
        by_content=images.full,
        digests=folder.objects([digest.tobytes() for digest in images.digest[kept]]) if images.full else None,
    )


def _unreadable(
    where: str, roles: Mapping[str, str], images: Mapping[str, _Images], max_unreadable: float, decoding: Decoding
) -> tuple[str, ...]:
    at = {f"{roles[role]} row {i}": (of, int(i)) for role, of in images.items() for i in np.flatnonzero(of.state == 0)}

    def why(name: str) -> str | None:
        of, i = at[name]
        row = {key: column[i] for key, column in of.columns.items()}
        if not of.columns.get("length", np.ones(i + 1))[i]:
            return "there is none"
        try:
            return folder.why_unreadable(decode.contents(row), of.full, decoding)
        except OSError as error:
            return str(error)

    n = sum(len(of.state) for of in images.values())
    return folder.check_unreadable(where, [*at], n, max_unreadable, why)


def _overlap(where: str, roles: Mapping[str, str], made: Mapping[str, Source]) -> tuple[str, ...]:
    held = {role: source.digests for role, source in made.items() if source.digests is not None}
    if "test" not in held or len(held) < len(made):
        return ()
    learned = [digest for role, digests in held.items() if role != "test" for digest in digests]
    return overlap.check(learned, held["test"], where, (roles["train"], roles["test"]))


# --- texts


def _texts(
    where: str,
    part: Any,
    column: str,
    labels: np.ndarray,
    names: tuple[str, ...] | None,
    memory_limit: int,
    why: str,
) -> Source:
    if (size := part.data.column(column).nbytes) > memory_limit:
        raise ValueError(
            f"{where}: its texts take {size:,} bytes of memory, more than data.memory_limit={memory_limit:,}; raise "
            "it, or name a smaller split"
        )
    texts = part[column][:]
    kept = np.array([i for i, text in enumerate(texts) if text and text.strip()], np.int64)
    if not len(kept):
        raise ValueError(f"{where}: the column {column!r} holds no text; name another with data.text_column")
    left = len(texts) - len(kept)
    notes = (f"{where}: {left} documents without a word are left out",) if left else ()
    labels = labels[kept]
    known = bool((labels >= 0).any())
    return of_texts(
        [texts[i] for i in kept], labels if known else None, names if known else None, notes, "" if known else why
    )
