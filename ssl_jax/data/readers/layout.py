"""How images in folders are meant: splits, classes, and images without a class. The same on disk and inside tars.

A class is a folder with the images below it, however deep; one flat folder of images is unlabelled, and so are folders
with images beside them. Folders without an image do not count, nor does a folder around everything. Names of splits are
those of :mod:`split_names`; a folder ``unlabeled/`` beside training data or beside classes is more training data,
without labels. Splits may also lie inside the classes. Where there is one class only, or where classes have the names
of splits or hold folders of the same names, which may be the classes, an accuracy would say nothing: the images are
unlabelled then.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ssl_jax.data.images.image_files import SUFFIXES, some
from ssl_jax.data.readers import split_names
from ssl_jax.data.readers.splits import FLAT, Classes, Layout, Part, divide, known, not_used, sensible

WRAPPERS = ("images", "imgs", "image", "img", "jpegimages", "jpg", "jpeg", "png", "pictures", "photos", "data")
LOOSE = "images lie beside the folders, which are no classes then"
NO_PICTURES = ("annotations", "annotation", "labels", "label", "masks", "mask", "gt", "ground_truth", "groundtruth")
NO_PICTURES = (*NO_PICTURES, "segmentation", "segmentations", "segmentationclass", "segmentationobject", "depth")


class Listed(Protocol):
    """What a folder holds, sorted by name; ``inode`` tells folders apart that links show twice."""

    @property
    def inode(self) -> Hashable: ...
    @property
    def folders(self) -> list[str]: ...
    @property
    def images(self) -> list[Any]: ...


class Tree(NamedTuple):
    """A dataset of images in folders.

    Attributes:
      where: its name, for what is said.
      look: lists the folder at a path below the dataset; ``""`` is all of it.
      strict: refuse loose images where they would be trained on with a test, or cost the classes of a split.
      name: of an image.
      given: classes that are known otherwise, of images that are; those of folders are no classes then.
    """

    where: str
    look: Callable[[str], Listed]
    strict: bool = True
    name: Callable[[Any], str] = str
    given: Mapping[Any, str] | None = None


def read(tree: Tree, train_split: str | None = None, test_split: str | None = None) -> Layout:
    """The layout of a dataset.

    Args:
      tree: the dataset.
      train_split: name of the folder that is asked for, or None.
      test_split: name of the folder that is asked for, or None.

    Raises:
      ValueError: with the fix, for loose images beside splits or classes, no images, or splits that are not there.
    """
    asked = {name for name in (train_split, test_split) if name is not None}
    top, unused = ("", []) if asked & {_base(folder) for folder in tree.look("").folders} else _top(tree)
    notes = _masks(tree, unused)
    if (data := _dataset(tree, top, asked)) is not None:
        beside = [folder for folder in _full(tree, top) if folder != data]
        notes.append(not_used(tree.where, [f"{folder}/" for folder in beside]))
        top, unused = _beneath(tree, data), [*unused, *beside]
    # What is asked for is there, also where it holds no image, which is told then.
    full = _full(tree, top)
    there = {_base(f): f for f in tree.look(top).folders if f in full or _base(f) in asked}
    at = _at(tree, top)
    inside, more = {}, [folder for folder in full if _role(folder) == "unlabelled"]
    if not asked & there.keys() and not any(_role(folder) for folder in full if folder not in more):
        inside = _splits_inside(tree, [folder for folder in full if folder not in more])
    if any(inside.values()) and 2 * sum(map(bool, inside.values())) >= len(inside):
        found = _divided_inside(tree, at, inside, train_split, test_split)
        found = found._replace(unlabelled=found.unlabelled | {image: None for f in more for image in _all(tree, f)})
    else:
        chosen = split_names.choose(at, list(there), train_split, test_split, lambda name: _nested(tree, there[name]))
        if chosen is None:
            found = _undivided(tree, top, full, inside)
        else:
            found = _divided(tree, top, full, there, chosen, asked=test_split is not None)
    return found._replace(unused=(*unused, *found.unused), notes=(*notes, *found.notes))


def part(tree: Tree, name: str) -> Part:
    """What is in a dataset that is the split ``name`` of another."""
    top, masks = _top(tree)
    classes, unlabelled, more, notes = _part(tree, top, split_names.parse(name)[0])
    return classes, unlabelled, masks + more, _masks(tree, masks) + notes


def _base(folder: str) -> str:
    return posixpath.basename(folder)


def _role(folder: str) -> str | None:
    return split_names.role(_base(folder))


def _at(tree: Tree, folder: str) -> str:
    return posixpath.join(tree.where, folder) if folder else tree.where


def _below(tree: Tree, folder: str, around: set[Hashable]) -> Iterator[Any]:
    """The images in a folder and in those below it, but not in those of ``around``, to which only links lead."""
    todo, seen = [folder], set()
    while todo:
        here = tree.look(todo.pop())
        if here.inode not in seen and (not seen or here.inode not in around):
            seen.add(here.inode)
            yield from here.images
            todo += reversed(here.folders)


def _all(tree: Tree, folder: str) -> Iterator[Any]:
    return _below(tree, folder, _around(tree, folder))


def _holds(tree: Tree, folder: str, around: set[Hashable]) -> bool:
    return any(True for _ in _below(tree, folder, around))


def _around(tree: Tree, folder: str) -> set[Hashable]:
    """Where a link in ``folder`` must not lead: to what it lies in, and to what lies beside that or beside itself."""
    levels = [""]
    for part in folder.split("/")[:-1]:
        levels.append(posixpath.join(levels[-1], part))
    return {tree.look(inner).inode for level in levels for inner in (level, *tree.look(level).folders)}


def _full(tree: Tree, where: str) -> list[str]:
    """The folders in a folder that hold an image."""
    folders = tree.look(where).folders
    around = _around(tree, folders[0]) if folders else set()
    return [folder for folder in folders if _holds(tree, folder, around)]


def _nested(tree: Tree, folder: str) -> bool:
    """Whether a folder holds class folders."""
    inner, _ = _inside(tree, folder, split_names.parse(_base(folder))[0])
    return not tree.look(inner).images and len(_full(tree, inner)) > 1


def _beneath(tree: Tree, folder: str) -> str:
    """Below ``images/`` in a class."""
    here = tree.look(folder)
    while not here.images and len(here.folders) == 1 and _base(here.folders[0]).lower() in WRAPPERS:
        folder = here.folders[0]
        here = tree.look(folder)
    return folder


def _held_alike(tree: Tree, folders: Sequence[str]) -> list[str]:
    """Names of folders that most of ``folders`` hold, two at least and no images beside them."""
    held = []
    for folder in folders:
        here = tree.look(_beneath(tree, folder))
        names = {_base(inner) for inner in here.folders if _base(inner).lower() not in (*NO_PICTURES, *WRAPPERS)}
        if _role(folder) != "unlabelled":
            held.append(set() if here.images else names)
    shared = {name for name, n in Counter(name for names in held for name in names).items() if n > 1}
    alike = [names for names in held if len(names & shared) > 1]
    return sorted(shared) if len(alike) > 1 and 2 * len(alike) >= len(held) else []


def _splits_inside(tree: Tree, classes: Sequence[str]) -> dict[str, dict[str, str]]:
    """The folders of each class by name, where those are splits: one to train on and others; else none."""
    found = {}
    for folder in classes:
        inner = {_base(part): part for part in tree.look(_beneath(tree, folder)).folders}
        roles = {split_names.role(name) for name in inner} - {None}
        found[folder] = inner if "train" in roles and len(roles) > 1 else {}
    return found


def _dataset(tree: Tree, top: str, asked: set[str]) -> str | None:
    """The one folder that holds splits with classes in them, beside others (``docs/``) that hold none; else None."""
    full = _full(tree, top)
    if tree.look(top).images or any(_base(folder) in asked or _role(folder) for folder in full):
        return None
    found = [folder for folder, splits in _splits_inside(tree, full).items() if splits]
    one = len(full) > 1 and len(found) == 1
    return found[0] if one and any(_nested(tree, part) for part in _trained_on(tree, found)) else None


def _trained_on(tree: Tree, folders: Sequence[str]) -> list[str]:
    """The splits to train on that lie in ``folders``."""
    parts = [part for splits in _splits_inside(tree, folders).values() for part in splits.values()]
    return [part for part in parts if _role(part) == "train"]


def _undivided(tree: Tree, top: str, full: Sequence[str], inside: Mapping[str, Mapping[str, str]]) -> Layout:
    """The layout of a dataset without splits; ``inside``: folders by name in classes that hold some."""
    at = _at(tree, top)
    train, unlabelled, unused, notes = _part(tree, top, None)
    why = ""
    if tree.given is None:
        train, why, more = sensible(train, of_splits=True, same=_held_alike(tree, full))
        why = LOOSE if why == FLAT and full and tree.look(top).images else why
        notes += [f"{at}: {note}" for note in more]
    whole = {_base(folder): some([*splits]) for folder, splits in inside.items() if splits}
    notes += [f"{at}: {name}/ is a class with all folders in it ({held})" for name, held in whole.items()]
    if top and known(train) and tree.given is None and _base(top).lower() not in WRAPPERS:
        notes.append(f"{at}: the classes are the folders in here ({some([*known(train)])})")
    return Layout(train, None, unlabelled, tuple(unused), tuple(notes), (why, why))


def _divided(
    tree: Tree, top: str, full: Sequence[str], there: Mapping[str, str], chosen: split_names.Chosen, *, asked: bool
) -> Layout:
    """The layout of a dataset whose folders ``there``, by name, are splits; ``asked``: for the test by its name."""
    at = _at(tree, top)
    if tree.look(top).images:
        loose = some([*map(tree.name, tree.look(top).images)])
        raise ValueError(f"{at} has loose images ({loose}) beside its splits; move them into {chosen.train}/")
    found = divide(
        at,
        chosen,
        lambda name: _part(tree, there[name], split_names.parse(name)[0]),
        lambda name: dict.fromkeys(_all(tree, there[name])),
        asked=asked,
        check=tree.given is None,
    )
    others = [folder for folder in full if _base(folder) not in found.used]
    notes = [not_used(at, [f"{_base(folder)}/" for folder in others])] if others else []
    unused = [there.get(folder, folder) for folder in found.unused]
    return found._replace(unused=(*unused, *others), notes=(*notes, *found.notes))


def _divided_inside(
    tree: Tree, at: str, inside: Mapping[str, Mapping[str, str]], train_split: str | None, test_split: str | None
) -> Layout:
    """The layout of a dataset of which the classes hold the splits, ``inside`` by class and name."""
    around, where = _around(tree, next(iter(inside))), f"{at}/*"
    for folder in (posixpath.dirname(next(iter(inside))), *(folder for folder, splits in inside.items() if splits)):
        if loose := tree.look(_beneath(tree, folder) if folder in inside else folder).images:
            raise ValueError(
                f"{posixpath.join(tree.where, folder)} has loose images ({some([*map(tree.name, loose)])}) beside the "
                "folders of splits; move them into one of these"
            )

    holding = [
        (name, part) for splits in inside.values() for name, part in splits.items() if _holds(tree, part, around)
    ]
    names = sorted({name for name, _ in holding})
    chosen = split_names.choose(where, names, train_split, test_split)
    if chosen is None:
        raise ValueError(f"{where} is not clear ({', '.join(names)}); name what to train on with data.train_split")

    def images(name: str) -> Classes:
        parts = [(folder, splits[name]) for folder, splits in inside.items() if name in splits]
        if name == chosen.train:
            parts += [(folder, folder) for folder, splits in inside.items() if not splits]
        given = tree.given
        return {
            image: _base(folder) if given is None else given.get(image)
            for folder, part in parts
            for image in _below(tree, part, around)
        }

    found = divide(
        where,
        chosen,
        lambda name: (images(name), {}, [], []),
        lambda name: dict.fromkeys(images(name)),
        asked=test_split is not None,
        check=tree.given is None,
        same=_held_alike(tree, _trained_on(tree, [*inside])),
    )
    used = [name for name in found.used if name not in found.unused]
    notes = [f"{where}: each class holds its splits ({', '.join(used)})", *found.notes]
    if whole := [_base(folder) for folder, splits in inside.items() if not splits]:
        notes.append(f"{at}: {some(whole)} without splits, all in there is trained on")
    if others := {name for name in names if name not in found.used}:
        notes.append(not_used(where, [f"{name}/" for name in others]))
    unused = tuple(part for name, part in holding if name not in used)
    return found._replace(unused=unused, notes=tuple(notes))


def _only(tree: Tree, where: str) -> tuple[str | None, list[str]]:
    """The one folder in a folder that holds all its images, None if there are several; and folders of masks beside."""
    full = [] if tree.look(where).images else _full(tree, where)
    pictures = [folder for folder in full if _base(folder).lower() in WRAPPERS]
    masks = [folder for folder in full if _base(folder).lower() in NO_PICTURES]
    if len(full) > 1 and len(pictures) == 1 and len(masks) == len(full) - 1:
        return pictures[0], masks
    return (full[0] if len(full) == 1 else None), []


def _masks(tree: Tree, folders: Sequence[str]) -> list[str]:
    """What is said of folders of masks."""
    names = ", ".join(f"{name}/" for name in folders)
    return [f"{tree.where}: {names} not used: pictures of what is in others, by the name"] if folders else []


def _top(tree: Tree) -> tuple[str, list[str]]:
    """The folder that holds the splits or the classes: that which all else lies in; and folders of masks beside."""
    top, unused, (inner, masks) = "", [], _only(tree, "")
    while inner is not None and _role(inner) is None:
        full = [] if tree.look(inner).images else _full(tree, inner)
        if len(full) > 1 or any(_role(folder) for folder in full) or _base(inner).lower() in WRAPPERS:
            top, unused = inner, unused + masks
        inner, masks = _only(tree, inner)
    return top, unused


def _inside(tree: Tree, folder: str, role: str | None) -> tuple[str, list[str]]:
    """Below ``images/`` in a split, or ``train/`` in ``train/``; and the folders of masks that lie beside."""
    masks = []
    while True:
        inner, beside = _only(tree, folder)
        if inner is None:
            return folder, masks
        again = role is not None and split_names.parse(_base(inner))[0] == role
        if not (again or _base(inner).lower() in WRAPPERS):
            return folder, masks
        folder, masks = inner, masks + beside


def _without_masks(tree: Tree, classes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Of each class the folder with its images, which lies beside masks or is the class itself; and those masks."""
    found, unused = {}, []
    for folder in classes:
        held = {_base(inner).lower() for inner in tree.look(folder).folders}
        pictures, masks = _only(tree, folder) if held & {*NO_PICTURES} else (None, [])
        found[folder] = pictures if masks and pictures is not None else folder
        unused += masks
    return found, unused


def _part(tree: Tree, folder: str, role: str | None) -> Part:
    """The classes of the images of a split, more images without, folders that are not used, and what is said."""
    inner, unused = _inside(tree, folder, role)
    notes = _masks(tree, unused)
    here, classes, unlabelled = tree.look(inner), {}, {}
    full = _full(tree, inner)
    around = _around(tree, full[0]) if full else set()
    kinds = {"labelled" if split_names.is_labelled(_base(f)) else _role(f): f for f in full}
    if role == "train" and len(full) == 2 and kinds.keys() == {"labelled", "unlabelled"}:
        classes, more, beside, said = _part(tree, kinds["labelled"], None)
        more |= dict.fromkeys(_below(tree, kinds["unlabelled"], around))
        return classes, more, unused + beside, [*notes, *said]
    full, masks = _without_masks(tree, full)
    if masks:
        unused += masks
        names = ", ".join(sorted({f"{_base(mask)}/" for mask in masks}))
        notes.append(
            f"{tree.where}: {names} in {len(masks)} folders not used: pictures of what is in others, by the name"
        )
    if tree.given is not None:
        images = [*here.images, *(image for name in full.values() for image in _below(tree, name, around))]
        return {image: tree.given.get(image) for image in images}, {}, unused, notes
    for name, pictures in full.items():
        images = _below(tree, pictures, around)
        # Beside one class it is not clear what it is.
        if _role(name) == "unlabelled" and len(full) > 2:
            unlabelled |= dict.fromkeys(images)
        else:
            classes |= dict.fromkeys(images, _base(name))
    at = _at(tree, inner)
    if not here.images and not full:
        raise ValueError(f"{at} holds no image; images end in {', '.join(SUFFIXES)}")
    if here.images and full:
        loose, folders = some([*map(tree.name, here.images)]), some([_base(name) for name in full])
        if tree.strict and role is not None:  # a split says what is meant: its folders are classes
            raise ValueError(
                f"{at} has loose images ({loose}) beside class folders ({folders}); "
                "move them into a class folder, or all images into one flat folder"
            )
        held_out = [f"{_base(name)}/" for name in full if _role(name) in ("test", "validation")]
        if tree.strict and held_out:
            raise ValueError(
                f"{at} has loose images ({loose}) beside {some(held_out)}, which would be trained on with them; move "
                "what is to train on into train/, or rename the folder if it is no split"
            )
        notes.append(
            f"{at}: all images are taken without labels, since some ({loose}) lie beside folders ({folders}); "
            "labels are known where every image lies in the folder of its class"
        )
    if here.images:
        classes = dict.fromkeys([*here.images, *classes])
    return classes, unlabelled, unused, notes
