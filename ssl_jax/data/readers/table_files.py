"""Where the image files lie that a table names, as ``a.jpg``, ``cat/a.jpg``, or ``000c34`` for ``train/000c34.jpg``.

They are looked for where the table lies, in the folders of images and of splits there (``images/``, ``train_images/``,
``images_001/images/``), for a path also where the folder of the table lies, and by their absolute paths. A name may
lack its suffix, and be written in other cases. Every folder is listed once.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ssl_jax.data.images import image_files
from ssl_jax.data.readers import layout, split_names

DEPTH = 2  # of folders that are looked through
PICTURES = re.compile(r"image|img|photo|pic|jpe?g|png")


class Files:
    """The image files around a table."""

    def __init__(self, table: Path) -> None:
        self.root = table.parent.resolve()
        self.listed: dict[str, dict[str, list[str]]] = {}
        self.images: Counter[str] = Counter()  # of each folder that was listed
        self.folders = self._folders("", table.stem.lower(), DEPTH)
        self.several: dict[str, tuple[str, ...]] = {}  # what was found in several folders, the first of which is taken

    def find(self, value: str, role: str | None) -> str | None:
        """The path, relative to the table, of the image that a row of a split of this role names; None if not there.

        A row of a split is looked for in folders of that split, then in those of none, and in those of another only
        where there is none of its own: the same number may be another image there.
        """
        return self._find(value, role) or ("\\" in value and self._find(value.replace("\\", "/"), role)) or None

    def _find(self, value: str, role: str | None) -> str | None:
        for folders in self.ranked(role, inside=not os.path.isabs(value)):
            hits = [(folder, hit) for folder in folders if (hit := self._hit(os.path.join(folder, value)))]
            if hits:
                if len(hits) > 1:
                    self.several[value] = tuple(folder for folder, _ in hits)
                return hits[0][1]
        if "/" in value and not os.path.isabs(value):
            return self._hit(os.path.join("..", value))
        return None

    def ranked(self, role: str | None, inside: bool = True) -> list[list[str]]:
        """Folders to be looked through one after the other for what any of them holds."""
        by_role: dict[str | None, list[str]] = {}
        for folder in self.folders if inside else ():
            by_role.setdefault(_role(folder), []).append(folder)
        others = [None, "train", "unlabelled", "validation", "test"]
        order = [role, None] if role in by_role and role is not None else [role, *others]
        return [[""], *(by_role[key] for key in dict.fromkeys(order) if key in by_role)]

    def _hit(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        found = self._names(folder).get(name.lower(), [])
        best = min(found, key=lambda hit: (hit != name, os.path.splitext(hit)[0] != name), default=None)
        if best is None:
            return None
        path = os.path.normpath(os.path.join(folder, best))
        inside = os.path.isabs(path) and Path(path).is_relative_to(self.root)
        return os.path.relpath(path, self.root) if inside else path

    def _names(self, folder: str) -> dict[str, list[str]]:
        """The files of a folder by their names and, of images, by their names without suffix, in small letters."""
        if folder not in self.listed:
            found: dict[str, list[str]] = {}
            for entry in sorted(self._entries(folder), key=lambda entry: entry.name):
                if entry.is_file() and not entry.name.startswith("."):
                    name, is_image = entry.name, image_files.suffix(entry.name) in image_files.suffixes()
                    self.images[os.path.normpath(folder)] += is_image
                    found.setdefault(name.lower(), []).append(name)
                    if is_image:
                        found.setdefault(os.path.splitext(name)[0].lower(), []).append(name)
            self.listed[folder] = found
        return self.listed[folder]

    def _entries(self, folder: str) -> list[os.DirEntry]:
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except (OSError, ValueError):  # not there, none of ours to see, or no path at all; what is missed in it is told
            return []

    def _folders(self, folder: str, stem: str, depth: int) -> list[str]:
        inner = sorted(entry.name for entry in self._entries(folder) if entry.is_dir())
        inner = [name for name in inner if not (name.startswith(".") or image_files.is_system(name))]
        inner = [name for name in inner if name.lower() not in layout.NO_PICTURES]
        usual = [name for name in inner if _is_usual(name) or name.lower() == stem]
        found = []
        for name in usual or inner[: len(inner) == 1]:
            path = os.path.join(folder, name)
            found += [path, *(self._folders(path, stem, depth - 1) if depth > 1 else [])]
        return found

    def not_named(self, found: Iterable[str]) -> tuple[int, list[str]]:
        """How many images lie beside those at the paths ``found`` that are none of these, and in which folders."""
        used = Counter(os.path.dirname(path) or "." for path in {*found})
        left = {folder: self.images[folder] - n for folder, n in used.items() if self.images[folder] > n}
        return sum(left.values()), sorted(left)


def _is_usual(name: str) -> bool:
    usual = name.lower() in layout.WRAPPERS or PICTURES.search(name.lower())
    return bool(usual) or split_names.parse(name)[0] is not None


def _role(folder: str) -> str | None:
    roles = [split_names.parse(part)[0] for part in folder.split("/")]
    return next((role for role in reversed(roles) if role is not None), None)
