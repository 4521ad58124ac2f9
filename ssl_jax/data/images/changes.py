"""Changes of a recipe by key: what ``data.views`` holds.

``{"jitter": {"strength": 0.5}, "local": {"count": 4}, "1": {"solarize": {"p": 0}}}``: what stands below the number of a
view is of that view, below ``local`` of the views with a size of their own, below ``global`` of the others, below
``unlabelled`` of the second part of a batch, all else of every view that has the operation. ``local.count`` is how many
local views there are, copies of those of the recipe, or of its last view where it has none. ``jitter.strength`` is a
factor on its brightness, contrast, saturation and hue; ``rate`` says the same as ``p``; an operation or crop that is
null is left out; ``ops`` are all operations in order, "..." among them those that the recipe has.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_jax.data.images.recipes import KINDS, Crop, Eval, Jitter, Op, Own, Recipe, View
from ssl_jax.data.images.values import checked, made, mapping, named, no_field, ops_of, own_fields, own_op, typed
from ssl_jax.names import hint

GROUPS = ("global", "local")  # of views: of the run's image_size, and of a size of their own
MOST_VIEWS = 100
STRENGTH = ("brightness", "contrast", "saturation", "hue")


def changed(recipe: Recipe, changes: Mapping[str, Any], name: str = "the recipe", path: str = "data.views") -> Recipe:
    """The recipe with the changes of ``data.views``.

    Args:
      changes: see the module's docstring.
      name: of the recipe, for messages.

    Raises:
      ValueError: one line with the nearest name of the same kind.
    """
    changes = dict(mapping(changes, path))
    evaluate = made(Eval, changes.pop("evaluate", {}), f"{path}.evaluate", whole=False)
    groups = {word: dict(mapping(changes.pop(word, {}), f"{path}.{word}")) for word in GROUPS}
    first = _counted(recipe.views, groups["local"], path, name)
    second = dict(mapping(changes.pop("unlabelled", {}), f"{path}.unlabelled"))
    if second and not recipe.unlabelled:
        raise ValueError(f"{path}.unlabelled is of recipes of two parts, and {name} has one; leave it out")
    everywhere = {word: value for word, value in changes.items() if not word.isdigit()}
    views, seen, of = _changed_views(first, everywhere, changes, path, name, groups)
    all_second = {word: value for word, value in second.items() if not word.isdigit()}
    everywhere_too = everywhere | all_second
    unlabelled, more, _ = _changed_views(recipe.unlabelled, everywhere_too, second, f"{path}.unlabelled", name)
    of_groups = ((groups[word], of[word], f"{path}.{word}") for word in GROUPS)
    for words, there, place in ((everywhere, seen | more, path), (all_second, more, f"{path}.unlabelled"), *of_groups):
        for word in words:
            if word not in there:
                raise _no_operation(word, there, place, name)
    evaluated = recipe.evaluate._replace(**evaluate)
    return checked(recipe._replace(views=views, unlabelled=unlabelled, evaluate=evaluated), path)


def _counted(views: Sequence[View], local: dict[str, Any], path: str, name: str) -> tuple[View, ...]:
    """The views with as many local ones as ``local.count`` says, which is taken out of ``local``."""
    large, small = ([view for view in views if (view.size is None) == one] for one in (True, False))
    count, size = local.pop("count", None), local.get("size")
    if size is not None and typed(size, int, f"{path}.local.size") < 1:
        raise ValueError(f"{path}.local.size={size} must be 1 or more")
    if count is None:
        if local and not small:
            raise ValueError(
                f"{path}.local: {name} has no local views; say how many and how large, {path}.local.count=6 "
                f"{path}.local.size=16"
            )
        return tuple(views)
    count = typed(count, int, f"{path}.local.count")
    if not 0 <= count <= MOST_VIEWS:
        raise ValueError(f"{path}.local.count={count} must be from 0 to {MOST_VIEWS}")
    if count and not small and size is None:
        raise ValueError(f"{path}.local.count={count}: {name} has no local views; say how large, {path}.local.size=16")
    small = small or [views[-1]._replace(size=size)]
    return (*large, *(small[i % len(small)] for i in range(count)))


def _changed_views(
    views: Sequence[View],
    everywhere: Mapping[str, Any],
    numbered: Mapping[str, Any],
    path: str,
    name: str,
    groups: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
) -> tuple[tuple[View, ...], set[str], dict[str, set[str]]]:
    """(The views as they become, the words that mean something in at least one of them, and of each group)."""
    for word in numbered:
        if word.isdigit() and int(word) >= len(views):
            there = "view 0 alone" if len(views) == 1 else f"views 0 to {len(views) - 1}"
            raise ValueError(f"{path}.{word}: {name} has {there}")
    found, seen = [], {"ops", "size"}
    of: dict[str, set[str]] = {word: {"ops", "size", "crop"} for word in GROUPS}
    for i, view in enumerate(views):
        group = GROUPS[view.size is not None]
        mine = mapping(numbered.get(str(i), {}), f"{path}.{i}")
        change = _merged(_merged(everywhere, groups.get(group, {})), mine)
        if change.get("ops") is not None:
            view = view._replace(ops=ops_of(change.pop("ops"), path, view.ops))
        there = {named(op) for op in view.ops} | ({"crop"} if view.crop is not None else set())
        seen |= there
        of[group] |= there
        for word in mine:
            if word not in there | {"crop", "size", "ops"}:
                raise _no_operation(word, there, f"{path}.{i}", f"view {i} of {name}")
        if view.crop is None and "crop" not in mine and "crop" not in groups.get(group, {}):
            change.pop("crop", None)
        found.append(_changed_view(view, change, path))
    return tuple(found), seen, of


def _changed_view(view: View, change: Mapping[str, Any], path: str) -> View:
    crop, ops = view.crop, []
    if "crop" in change:
        fields = None if change["crop"] is None else made(Crop, change["crop"], f"{path}.crop", whole=False)
        crop = None if fields is None else (crop or Crop())._replace(**fields)
    for op in view.ops:
        fields = change.get(named(op), {})
        if fields is not None:  # null leaves the operation out
            ops.append(_changed_op(op, dict(mapping(fields, f"{path}.{named(op)}")), f"{path}.{named(op)}"))
    size = made(View, {"size": change.get("size", view.size)}, path, whole=False)["size"]
    return View(crop, tuple(ops), size)


def _changed_op(op: Op, fields: dict[str, Any], path: str) -> Op:
    if isinstance(op, Own):
        return own_op(op, fields, path)
    strength = 1.0
    if isinstance(op, Jitter):
        unknown = [word for word in fields if word not in (*op._fields, "strength", "rate")]
        if unknown:
            raise no_field(unknown[0], (*op._fields, "strength"), path)
        strength = typed(fields.pop("strength", 1.0), float, f"{path}.strength")
    op = op._replace(**made(type(op), fields, path, whole=False))
    return op if strength == 1.0 else op._replace(**{word: strength * getattr(op, word) for word in STRENGTH})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of operations, those of ``above`` where both have them."""
    found = {word: value for word, value in below.items() if not word.isdigit()}
    for word, value in above.items():
        both = hasattr(value, "items") and hasattr(found.get(word), "items")
        found[word] = dict(found[word].items()) | dict(value.items()) if both else value
    return found


def _no_operation(word: str, there: set[str], path: str, name: str) -> ValueError:
    has = sorted(there - {"ops", "size"})
    known = ", ".join(has) if has else "neither a crop nor operations"
    if word in KINDS:
        return ValueError(f"{path}.{word}: {name} has no {word}, it has {known}; add it with {path}.ops=...,{word}")
    if word == "crop":
        return ValueError(f"{path}.crop: {name} has no crop; say in which view, {path}.0.crop.area=0.5,1")
    words = [*has, *(kind for kind in KINDS if kind not in has), "evaluate", "unlabelled", "ops", "size", "crop"]
    words += [*GROUPS, *(["count"] if path.endswith(".local") else [])]
    return ValueError(f"{path}.{word} is unknown; {hint(word, words, form=path + '.{}')}{name} has {known}")


def keys(recipe: Recipe) -> Iterator[str]:
    """Every key that ``data.views`` may have of a recipe, without the number or the group of a view."""
    there: dict[str, Sequence[str]] = {}
    for view in (*recipe.views, *recipe.unlabelled):
        there |= {} if view.crop is None else {"crop": Crop._fields}
        for op in view.ops:
            fields = ("p", *own_fields(op.name)) if isinstance(op, Own) else op._fields
            there[named(op)] = (*fields, "strength") if isinstance(op, Jitter) else fields
    there |= {"evaluate": Eval._fields, "local": ("count", "size")}
    yield from (f"{part}.{field}" for part, fields in there.items() for field in fields)
