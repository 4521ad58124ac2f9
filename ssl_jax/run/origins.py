"""Whose weights a run holds or began with: what a licence follows, however far they were handed on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssl_jax.interop import licences, weights

KEYS = ("licence", "project", "source", "sha256")  # of the record of an import
Origin = dict[str, Any]  # those, and "where"


def of_run(config: Mapping[str, Any], resolved: Mapping[str, Any], workdir: Any, seen: Any = ()) -> list[Origin]:
    """Of the weights in a run that came from elsewhere, by import or at its start, in turn."""
    found = []
    if record := resolved.get("imported"):
        found.append({"where": f"the weights in {workdir}"} | {key: record.get(key) for key in KEYS})
    begun = resolved["origins"] if "origins" in resolved else began_with(config.get("init_from"), seen)
    return found + list(begun)


def began_with(init_from: Any, seen: Iterable[str] = ()) -> list[Origin]:
    """Of what ``init_from`` names, runs and files of weights.

    Nothing is refused here: whoever reads the weights says what is wrong with them.
    """
    found: list[Origin] = []
    for source in init_from.values() if isinstance(init_from, Mapping) else [init_from]:
        if not isinstance(source, str) or source in seen:
            continue
        with contextlib.suppress(Exception):
            for origin in _of_source(source, {*seen, source}):
                whose = f" ({origin['source']})" if origin.get("source") else ""
                found.append(origin | {"where": f"weights of {source}{whose}, which this began with,"})
    return found


def _of_source(source: str, seen: set[str]) -> list[Origin]:
    if os.path.isdir(place := os.path.expanduser(source)):
        stored = json.loads(Path(place, "config.json").read_text())
        return of_run(stored["config"], stored["resolved"], source, seen)
    return of_file(weights.about(source))


def of_file(about: Mapping[str, Any]) -> list[Origin]:
    """Of what a file of weights says of itself; a licence it was given counts as one it came with."""
    found: list[Origin] = [dict(origin) for origin in about.get("origins", [])]
    given = about.get("licence", licences.NOT_STATED)
    if given != licences.NOT_STATED and not any(
        licences.key(origin.get("licence") or "") == licences.key(given) for origin in found
    ):
        found.append({"licence": given})
    return found


def published(origins: Iterable[Origin]) -> dict[str, str]:
    """Where weights are -> the licence that they came under, as far as it is known; of several a restricted one."""
    known = [origin for origin in origins if origin.get("licence")]
    known.sort(key=lambda origin: licences.restricted(origin["licence"]))
    return {origin["where"]: origin["licence"] for origin in known}
