"""Which files are images: by their suffix, those without one by how they begin; and how to say what is passed over."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ssl_jax.data.images import opening

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
HEIF = (".heic", ".heif", ".hif")  # read where pillow-heif is installed
HEAD = 32  # bytes of which is_image_head makes up its mind
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
# Folders that file systems, archives and network disks leave behind; what lies in them is not the user's.
SYSTEM = ("__macosx", "@eadir", "@tmp", "#recycle", "@recycle", "$recycle.bin", "system volume information")
SYSTEM = (*SYSTEM, "lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r")
HIDDEN, SUFFIXLESS, NO_FILE, SPARSE = "hidden", "without suffix", "neither file nor folder", "sparse"
SYSTEM_FOLDER, SYSTEM_FILE, DEAD = "system folder", "system file", "link that leads to no file"
RUN = "folder of a run"
REPLACED = "member that a later one of its name replaces"
PLURAL = {SYSTEM_FOLDER: "system folders", SYSTEM_FILE: "system files", DEAD: "links that lead to no file"}
PLURAL = {**PLURAL, RUN: "folders of runs", REPLACED: "members that later ones of their names replace"}


def suffixes() -> tuple[str, ...]:
    """The suffixes of files that can be read here."""
    return (*SUFFIXES, *HEIF) if opening.reads_heif() else SUFFIXES


def suffix(name: str) -> str:
    """The suffix of a name in lower case; none if it does not look like one (``IMG_1.2019``, ``a.jpg_large``)."""
    end = os.path.splitext(name)[1].lower()
    return end if re.fullmatch(r"\.[a-z0-9]*[a-z][a-z0-9]*", end) else ""


def kind_of_head(head: bytes) -> str:
    """``"image"`` where a file without suffix begins like one that can be read here, else as what it is passed over."""
    if opening.is_heif(head):
        return "image" if opening.reads_heif() else HEIF[0]
    webp, bitmap = head[:4] == b"RIFF" and head[8:12] == b"WEBP", head[:2] == b"BM" and head[6:10] == bytes(4)
    avif = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")
    return "image" if head.startswith(STARTS) or webp or bitmap or avif else SUFFIXLESS


def is_system(name: str) -> bool:
    return name.lower() in SYSTEM


def passed_over(where: str, counts: Mapping[str, int], empty: Sequence[str] = ()) -> tuple[str, ...]:
    """One line of what was passed over in a dataset, none if nothing was.

    Args:
      where: the dataset.
      counts: kind -> number of files: a suffix or one of the words above.
      empty: names of folders without an image.
    """
    said = [_kind(kind, n) for kind, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n]
    if empty:
        said.append(f"folders without an image ({some([f'{name}/' for name in empty])})")
    return (f"{where}: passed over {', '.join(said)}",) if said else ()


def _kind(kind: str, n: int) -> str:
    if kind in HEIF:
        return f"{n} {kind} (`pip install pillow-heif` to read them)"
    if kind == SUFFIXLESS:
        return f"{n} {kind} that {'is no image' if n == 1 else 'are no images'}"
    if kind in PLURAL and n > 1:
        return f"{n} {PLURAL[kind]}"
    return f"{n} {kind}"


def total(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of counts by kind."""
    found: Counter[str] = Counter()
    for part in counts:
        found.update(part)
    return dict(found)


def some(names: Sequence[str]) -> str:
    """The first few of names."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
