"""What the folder of an evaluation holds: ``evaluation.json``, with results side by side by data, and ``hits.npz``.

The first data that a checkpoint is evaluated on have their pictures and ``hits.npz`` in the folder itself, others in
folders of their own, ``on_<name>_<fingerprint>``. ``evaluation.json`` is the result on one data, and of several
``{"data": {name: result}}``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.evals.shared import names
from ssl_jax.interop.files import write_json

FILE = "evaluation.json"
Hits = dict[str, np.ndarray]  # metric -> bool [n]: which examples it is of


class Found(NamedTuple):
    """What one run was found to be on one data: ``home`` has the pictures."""

    result: dict[str, Any]
    hits: Hits
    home: Path


def earlier(place: Path, checkpoint: str, say: Callable[[str], None]) -> dict[str, Found]:
    """What was found earlier on the same checkpoint, by name of the data; other things in ``place`` are told of."""
    try:
        found = json.loads((place / FILE).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        say(f"WARNING: {place / FILE} cannot be read ({error}) and is written anew")
        return {}
    if isinstance(found, dict) and "runs" in found:
        say(f"{place / FILE} compares several runs; the evaluation of this one takes its place")
        return {}
    kept, others = {}, 0
    for result in _results(found):
        try:
            home = place / result.get("folder", ".")
            same = result["provenance"]["checkpoint"] == checkpoint
            whole = all(isinstance(result[part], dict) for part in ("metrics", "intervals", "evaluators"))
            if not (whole and home.resolve().is_relative_to(place.resolve())):
                raise ValueError("it is not whole")
            if same:
                kept[_name(result, kept)] = Found(result, _read_hits(home), home)
            others += not same
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            say(f"WARNING: {place / FILE} holds a result that cannot be read ({error}); it is left out")
    if others:
        say(f"{place / FILE} is of another checkpoint; the evaluation of this one takes its place")
    return kept


def _results(found: Any) -> list[Any]:
    several = found.get("data") if isinstance(found, dict) else None
    return list(several.values()) if isinstance(several, dict) else [found]


def _read_hits(home: Path) -> Hits:
    try:
        with np.load(home / "hits.npz") as file:
            return dict(file)
    except (OSError, ValueError, EOFError):
        return {}


def home(place: Path, known: Mapping[str, Found], source: str, fingerprints: Mapping[str, str]) -> Path:
    """The folder of what is found on these data."""
    for found in known.values():
        if found.result["provenance"].get("fingerprints") == fingerprints:
            return found.home
    if not any(found.home == place for found in known.values()):
        return place
    name = re.sub(r"[^\w.-]", "_", names.printable(source.rstrip("/").split("/")[-1]), flags=re.ASCII)[-40:]
    return place / f"on_{name}_{fingerprints['test'][:8]}"


def added(
    known: Mapping[str, Found], result: dict[str, Any], hits: Hits, home: Path, place: Path, say: Callable[[str], None]
) -> dict[str, Found]:
    """All that is known now: ``result`` with what other evaluators found earlier on the same data, and other data."""
    before = next((name for name, found in known.items() if found.home == home), None)
    if before is not None:
        old = known[before]
        kept = {n: entry for n, entry in old.result["evaluators"].items() if n not in result["evaluators"]}
        of_them = [metric for entry in kept.values() for metric in entry["metrics"]]
        for part in ("metrics", "intervals"):
            result[part] = {m: old.result[part][m] for m in of_them if m in old.result[part]} | result[part]
        hits = {m: old.hits[m] for m in of_them if m in old.hits} | hits
        result["evaluators"] = kept | result["evaluators"]
        if kept:
            say(f"kept from an earlier evaluation of the same checkpoint: {', '.join(kept)}")
    if home != place:
        result["folder"] = str(home.relative_to(place))
    others = {name: found for name, found in known.items() if name != before}
    name = before if before is not None else _name(result, others)
    return others | {name: Found(result, hits, home)}


def _name(result: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    about = result["provenance"]
    name = str(about["evaluated_on"])
    return name if name not in taken else f"{name} ({about['fingerprints']['test'][:8]})"


def content(found: Mapping[str, Found]) -> dict[str, Any]:
    """Of ``evaluation.json``."""
    results = {name: one.result for name, one in found.items()}
    return {"data": results} if len(results) > 1 else next(iter(results.values()))


def write(place: Path, value: Mapping[str, Any]) -> None:
    """``evaluation.json``, whole or not at all."""
    write_json(place / FILE, strict(value))


def write_hits(found: Found) -> None:
    found.home.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(found.home / "hits.npz", **found.hits)  # pyright: ignore[reportArgumentType]: none is "file"


def strict(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
