"""A recipe as plain values, there and back, and what of it cannot be.

This is what ``config.json`` holds of a run's recipe, and what ``data.recipe`` may be in a config file::

    {"views": [{"crop": {"area": [0.5, 1.0]}, "ops": ["flip", {"op": "jitter", "brightness": 0.4, ...}]}, ...],
     "evaluate": {"kind": "resize"}, "unlabelled": [...], "ratio": 7}

What is left out has its default; an operation may be its name alone.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ssl_jax import names
from ssl_jax.data.images.recipes import KINDS, Crop, Eval, Op, Own, Recipe, View
from ssl_jax.names import hint, is_imported, short

SHARE = (0.0, 1.0)
OF_BATCHES = ("images", "imgs", "batch", "xs", "keys", "rngs")  # what arguments of a function of many images are called
# Least and greatest value of a field, and of both ends of a range.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("p", "chance", "threshold", "side", "std", "fraction"), SHARE),
    **dict.fromkeys(("brightness", "contrast", "saturation"), (0.0, float("inf"))),
    **{"hue": (0.0, 0.5), "area": (1e-6, 1.0), "aspect": (1e-3, 1e3), "sigma": (1e-3, 1e3), "levels": (0, 10)},
    **{"count": (1, 100), "size": (1, 1 << 14), "ratio": (1, 1 << 20)},
}


def named(op: Op) -> str:
    """What an operation is called in keys and messages: ``jitter``; ``cutout`` of ``./ops.py:cutout``."""
    return short(op.name) if isinstance(op, Own) else type(op).__name__.lower()


def own_operations(recipe: Any) -> dict[str, Own]:
    """The user's own operations in a recipe, by what they are called."""
    views = (*recipe.views, *recipe.unlabelled) if isinstance(recipe, Recipe) else ()
    return {named(op): op for view in views for op in view.ops if isinstance(op, Own)}


def with_names(recipe: Recipe, others: Mapping[str, str]) -> Recipe:
    """The recipe with its own operations under other names, by those that they have."""

    def of(view: View) -> View:
        ops = (op._replace(name=others.get(op.name, op.name)) if isinstance(op, Own) else op for op in view.ops)
        return view._replace(ops=tuple(ops))

    return recipe._replace(views=tuple(map(of, recipe.views)), unlabelled=tuple(map(of, recipe.unlabelled)))


# ------------------------------------------------------------------------------------------------ there and back


def plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON gives it back."""
    return {
        "views": [_plain_view(view) for view in recipe.views],
        "evaluate": _plain(recipe.evaluate),
        "unlabelled": [_plain_view(view) for view in recipe.unlabelled],
        "ratio": recipe.ratio,
    }


def _plain_view(view: View) -> dict[str, Any]:
    ops = [
        {"op": op.name, "p": op.p} | dict(_listed(op.fields)) if isinstance(op, Own) else {"op": named(op)} | _plain(op)
        for op in view.ops
    ]
    return {"crop": None if view.crop is None else _plain(view.crop), "ops": ops, "size": view.size}


def _plain(value: Any) -> dict[str, Any]:
    return {field: _listed(part) for field, part in value._asdict().items()}


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, (tuple, list)) else value


def recipe_of(given: Mapping[str, Any], path: str = "data.recipe", *, own: bool = True) -> Recipe:
    """The recipe that plain values mean.

    Args:
      path: key of the config that holds them, for messages.
      own: False: operations of the user's own are not looked up, so that a run opens without their files.

    Raises:
      ValueError: one line with the nearest name of the same kind.
    """
    given = mapping(given, path)
    if "views" not in given:
        _refuse_fields(given, Recipe, path)
        raise ValueError(f"{path} has no views; give one for each view of an image, {path}.views=[{{...}}, ...]")
    _refuse_fields(given, Recipe, path)
    parts: dict[str, Any] = {}
    for part in ("views", "unlabelled"):
        views = given.get(part, ())
        if not isinstance(views, (list, tuple)):
            raise ValueError(f"{path}.{part}={views!r} is no list of views")
        parts[part] = tuple(_view_of(view, f"{path}.{part}.{i}") for i, view in enumerate(views))
    more = {k: made(Recipe, {k: given[k]}, path, whole=False)[k] for k in ("ratio",) if k in given}
    evaluate = made(Eval, given.get("evaluate", {}), f"{path}.evaluate")
    return checked(Recipe(**parts, evaluate=evaluate, **more), path, own=own)


def _view_of(given: Any, path: str) -> View:
    given = mapping(given, path)
    _refuse_fields(given, View, path)
    crop, size = given.get("crop"), made(View, {"size": given.get("size")}, path, whole=False)["size"]
    return View(None if crop is None else made(Crop, crop, f"{path}.crop"), ops_of(given.get("ops", ()), path), size)


def ops_of(given: Any, path: str, before: Sequence[Op] = ()) -> tuple[Op, ...]:
    """Operations of plain values: names, ``{"op": name, field: value}``, and "..." for those of ``before``."""
    found: list[Any] = []
    for one in given.split(",") if isinstance(given, str) else given:
        if isinstance(one, tuple) and hasattr(one, "_fields"):  # an operation already
            found.append(one)
        elif one in ("...", ...):
            found += before
        else:
            found.append(_op_of(one.strip() if isinstance(one, str) else one, f"{path}.ops"))
    return tuple(found)


def _op_of(given: Any, path: str) -> Op:
    fields = dict(mapping({"op": given} if isinstance(given, str) else given, path))
    name = fields.pop("op", None)
    if name in KINDS:
        return made(KINDS[name], fields, f"{path}.{name}")
    if not is_imported(name):
        raise ValueError(
            f"{path}: there is no operation {name!r}; {hint(name, KINDS)}known: {', '.join(KINDS)}, or your own, "
            "./FILE.py:NAME"
        )
    return own_op(Own(name), fields, f"{path}.{short(name)}")


def own_op(op: Own, changes: Mapping[str, Any], path: str) -> Own:
    """The user's own operation with some fields changed; what it takes, :func:`checked` asks of its function."""
    fields = {_field(word, ("p",)): _hashable(value) for word, value in changes.items()}
    p = made(Own, {"p": fields.pop("p", op.p)}, path, whole=False)["p"]
    return Own(op.name, p, tuple(sorted((dict(op.fields) | fields).items())))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def own_fields(name: str) -> dict[str, inspect.Parameter]:
    """The fields of the user's own operation: the arguments of its function behind the image and the key.

    Raises:
      ValueError: there is no such function, or it does not take an image and a key.
    """
    function, form = names.own(name, "operation").value, "write it as NAME(image, key, *, FIELD=...)"
    if not callable(function):
        raise ValueError(f"operation {name} is a {type(function).__name__} and no function; {form}")
    arguments = list(inspect.signature(function).parameters.values())
    fields = {p.name: p for p in arguments[2:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if len(arguments) < 2 or any(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in arguments[:2]):
        raise ValueError(f"operation {name} does not take an image and a key; {form}")
    if arguments[0].name in OF_BATCHES or arguments[1].name in OF_BATCHES:
        raise ValueError(
            f"operation {name} takes {arguments[0].name} and {arguments[1].name}, and is called with one image "
            f"[h, w, c] and the key of its row; {form}, which may call what takes a batch: f(image[None], key[None])[0]"
        )
    for word in {"op", "p", "rate"} & set(fields):
        why = "which every operation has: the probability with which it is done" if word != "op" else "which names it"
        raise ValueError(f"operation {name} has the argument {word!r}, {why}; call it otherwise")
    return fields


def made(kind: Any, given: Any, path: str, *, whole: bool = True) -> Any:
    """A named tuple of plain values, each of the type that its field has.

    Args:
      whole: False: the fields that are given, as a mapping.

    Raises:
      ValueError: it has no such field, or a value is of another type.
    """
    given = {_field(word, kind._fields): value for word, value in mapping(given, path).items()}
    _refuse_fields(given, kind, path)
    types_ = _types(kind)
    fields = {word: typed(value, types_[word], f"{path}.{word}") for word, value in given.items()}
    if not whole:
        return fields
    if lacking := [field for field in kind._fields if field not in kind._field_defaults and field not in fields]:
        raise ValueError(f"{path} needs {', '.join(lacking)}; give a number for each")
    return kind(**fields)


_types = lru_cache(get_type_hints)


def _field(word: Any, known: Sequence[str]) -> Any:
    return "p" if word == "rate" and "p" in known and "rate" not in known else word


def typed(value: Any, kind: Any, path: str) -> Any:
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # or None
        return None if value is None else typed(value, options[0], path)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{path}={value!r} is unknown; {hint(value, options)}known: {', '.join(options)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(f"{path}={value!r} must be two numbers, the lower one first, such as 0.5,1")
        return tuple(typed(part, options[0], path) for part in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    right = {bool: isinstance(value, bool), float: number, int: number and value == int(value)}
    if not right[kind]:
        words = {bool: "true or false", float: "a number", int: "a whole number"}
        raise ValueError(f"{path}={value!r} must be {words[kind]}")
    return kind(value)


def mapping(given: Any, path: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping) or hasattr(given, "items"):  # a ConfigDict is no Mapping
        return {str(word): value for word, value in given.items()}
    raise ValueError(f"{path}={given!r} has no fields; name one of them, {path}.FIELD=VALUE")


def _refuse_fields(given: Mapping[str, Any], kind: Any, path: str) -> None:
    for word in given:
        if word not in kind._fields:
            raise no_field(word, kind._fields, path)


def no_field(word: str, known: Sequence[str], path: str) -> ValueError:
    return ValueError(f"{path}.{word} is unknown; {hint(word, known)}known of {path}: {', '.join(known)}")


# ------------------------------------------------------------------------------------------------ what cannot be


def checked(recipe: Recipe, path: str, *, own: bool = True) -> Recipe:
    """The recipe itself; one that cannot be carried out is refused before anything is compiled.

    Args:
      own: see :func:`recipe_of`.

    Raises:
      ValueError: one line.
    """
    if not recipe.views:
        raise ValueError(f"{path} makes no view; give at least one")
    for view in (*recipe.views, *recipe.unlabelled):
        check_view(view)
        parts = [("", view), *((f".{named(op)}", op) for op in view.ops)]
        for word, part in [*parts, (".crop", view.crop)]:
            if part is not None:
                _check_numbers(part, f"{path}{word}")
    _check_numbers(recipe.evaluate, f"{path}.evaluate")
    _check_numbers(recipe, path)
    for word, op in own_operations(recipe).items() if own else ():
        _check_fields(op, f"{path}.{word}")
    return recipe


def check_sizes(recipe: Recipe, image_size: int, shape: Sequence[int] | None = None) -> None:
    """Refuse a view with a size of its own that is not smaller than the others, and a box of less than a pixel.

    Args:
      image_size: side of the images in pixels, which views have without a size.
      shape: of the images that boxes are cut from, ``[n, h, w, c]``, where all have one.

    Raises:
      ValueError: one line.
    """
    for part, views in (("", recipe.views), ("unlabelled.", recipe.unlabelled)):
        for i, view in enumerate(views):
            if view.size is not None and view.size >= image_size:
                key = f"data.views.{part}{i}.size" if part else "data.views.local.size"
                raise ValueError(
                    f"view {part}{i} of this recipe is of {view.size} pixels, not less than "
                    f"data.image_size={image_size}; set {key}={max(1, image_size // 2)}, or use another recipe"
                )
            if shape is not None and view.crop is not None and view.crop.area[0] * shape[1] * shape[2] < 1:
                raise ValueError(
                    f"view {part}{i} of this recipe cuts boxes from {view.crop.area[0]:g} of the area on, less than a "
                    f"pixel of images of {shape[1]} x {shape[2]}; use {1 / (shape[1] * shape[2]):.2g} or more"
                )


def _check_fields(op: Own, path: str) -> None:
    known, given = own_fields(op.name), dict(op.fields)
    for word in given:
        if word not in known:
            raise no_field(word, ("p", *known), path)
    lacking = [word for word, field in known.items() if field.default is field.empty and word not in given]
    if lacking:
        raise ValueError(f"{path} needs {', '.join(lacking)}, which {op.name} takes; give each a value")


def _check_numbers(part: Any, path: str) -> None:
    for field, value in part._asdict().items():
        values = value if isinstance(value, tuple) else (value,)
        if field not in BOUNDS or None in values:
            continue
        low, high = BOUNDS[field]
        if not all(low <= v <= high for v in values):
            shown = ",".join(f"{v:g}" for v in values)
            limits = f"{low:g} or more" if high == float("inf") else f"from {low:g} to {high:g}"
            raise ValueError(f"{path}.{field}={shown} must be {limits}")
        if len(values) == 2 and values[0] > values[1]:
            raise ValueError(f"{path}.{field}={values[0]:g},{values[1]:g} must have the lower number first")


def check_view(view: View) -> None:
    """Refuse what is no operation, one that occurs twice, and a crop of a kind that there is not.

    Raises:
      ValueError: one line.
    """
    for op in view.ops:
        if not isinstance(op, (*KINDS.values(), Own)):
            what, known = type(op).__name__, ", ".join(KINDS)
            raise ValueError(f"{what} is no operation of a view; {hint(what.lower(), KINDS)}known: {known}, Own")
    called = [named(op) for op in view.ops]
    for op, name in zip(view.ops, called, strict=True):
        if called.count(name) > 1:
            shown = name if isinstance(op, Own) else type(op).__name__
            raise ValueError(f"{shown} occurs {called.count(name)} times in one view; each operation may occur once")
    for field in ("sampler", "interpolation") if view.crop is not None else ():
        known, value = get_args(_types(Crop)[field]), getattr(view.crop, field)
        if value not in known:
            what = "crop sampler" if field == "sampler" else field
            raise ValueError(f"no {what} {value!r}; {hint(value, known)}known: {', '.join(known)}")


# ------------------------------------------------------------------------------------------------ in words


def said(part: Any) -> str:
    """The fields of a crop or an operation in one line: ``area 0.08 to 1, aspect 0.75 to 1.33, ...``."""
    fields = dict(part.fields) | {"p": part.p} if isinstance(part, Own) else part._asdict()
    return ", ".join(_said(word, value) for word, value in fields.items())


def _said(word: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{word.replace('_', ' ')} {'yes' if value else 'no'}"
    if isinstance(value, tuple) and len(value) == 2:
        return f"{word} {value[0]:.3g} to {value[1]:.3g}"
    return f"{word} {value:.3g}" if isinstance(value, float) else f"{word} {value}"


def lines(view: View) -> list[tuple[str, str]]:
    """(name, fields in words) of a view's crop and operations, in order."""
    first = ("whole image", "resized") if view.crop is None else ("crop", said(view.crop))
    to = "" if view.size is None else f", to {view.size} x {view.size} pixels"
    return [(first[0], first[1] + to), *((named(op), said(op)) for op in view.ops)]


def differences(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """``views.0.ops.0.contrast 0.4 then, 0.6 now``: where two plain recipes differ."""
    if (
        isinstance(then, list)
        and isinstance(now, list)
        and len(then) == len(now)
        and path.endswith(("s", "unlabelled"))
    ):
        then, now = ({str(i): part for i, part in enumerate(parts)} for parts in (then, now))
    if isinstance(then, dict) and isinstance(now, dict):
        for word in sorted(then.keys() | now.keys()):
            yield from differences(then.get(word), now.get(word), f"{path}.{word}" if path else word)
    elif then != now:
        yield f"{path} {then!r} then, {now!r} now"
