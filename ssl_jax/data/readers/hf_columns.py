"""What the columns of a dataset of Hugging Face's hold: the image or text, the label, and where the bytes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.readers import image_columns, tables
from ssl_jax.names import hint

IMAGES = ("image", "img", "picture", "photo", "pixel_values", "jpg", "png")
LABELS = (*image_columns.LABELS, "fine_label")
A_LABEL = "a label is one class, one whole number or one name"

Features = Mapping[str, Any]


class Columns(NamedTuple):
    """The columns that are read, ``data`` being of ``kind`` "image" or "text", and what is to be said of the others.

    ``why``: there is no column of labels, where there is none.
    """

    kind: str
    data: str
    label: str | None
    notes: tuple[str, ...]
    why: str


class Labels(NamedTuple):
    """Integer labels of each split as they were stored, -1 where unknown, their names, and why there are none."""

    of: list[np.ndarray]
    names: tuple[str, ...] | None
    why: str


def kind(feature: Any) -> str:
    """``"image"``, ``"bytes"``, ``"text"``, ``"class"``, ``"integer"``, else what it is called."""
    import datasets  # pyright: ignore[reportMissingImports]: an extra

    if isinstance(feature, datasets.Image):
        return "image"
    if isinstance(feature, datasets.ClassLabel):
        return "class"
    if isinstance(feature, datasets.Value):
        dtype = str(feature.dtype)
        known = {
            "string": "text",
            "large_string": "text",
            "binary": "bytes",
            "large_binary": "bytes",
            "bool": "integer",
        }
        return known.get(dtype, "integer" if dtype.lstrip("u").startswith("int") else dtype)
    if isinstance(feature, dict) and {*feature} == {"bytes", "path"}:
        return "bytes"  # an image in a file that does not say so
    return "nested" if isinstance(feature, dict) else type(feature).__name__


def choose(where: str, features: Features, asked: Mapping[str, str | None]) -> Columns:
    """The columns of image or text and of label.

    Raises:
      ValueError: a column that is asked for is not there or holds something else; several may be meant, or none.
    """
    kinds = {name: kind(feature) for name, feature in features.items()}
    shown = ", ".join(f"{name} ({of})" for name, of in kinds.items())
    for role, name in asked.items():
        if name is not None and name not in kinds:
            raise ValueError(f"{where} has no column {name!r} (data.{role}_column); {hint(name, kinds)}it has {shown}")
    image, text = asked["image"], asked["text"]
    if image is not None and text is not None:
        raise ValueError(f"data.image_column={image!r} and data.text_column={text!r}: name one of them")
    for role, name, right in (("image", image, ("image", "bytes")), ("text", text, ("text",))):
        if name is not None and kinds[name] not in right:
            raise ValueError(f"{where}: the column {name!r} (data.{role}_column) holds no {role}; it has {shown}")
    label, why = _label(where, features, kinds, asked["label"])
    data = image or text
    if data is None:
        data = _found(where, kinds, label, shown)
    left = ", ".join(f"{name} ({of})" for name, of in kinds.items() if name not in (data, label))
    said = f"{where}: the {'text' if kinds[data] == 'text' else 'image'} from {data!r}, "
    said += f"the label from {label!r}" if label else "no column of labels"
    notes = (f"{said}; not read: {left}" if left else said,)
    return Columns("text" if kinds[data] == "text" else "image", data, label, notes, why)


def _found(where: str, kinds: Mapping[str, str], label: str | None, shown: str) -> str:
    images = [name for name, of in kinds.items() if of == "image"]
    images = images or [name for name, of in kinds.items() if of == "bytes" and name.lower() in IMAGES]
    texts = [name for name, of in kinds.items() if of == "text" and name != label]
    role, several, usual = ("image", images, IMAGES) if images else ("text", texts, tables.TEXTS)
    if not several:
        raise ValueError(f"{where} has neither an image nor a text, only {shown}; images are of the feature Image")
    known = [name for word in usual for name in several if name.lower() == word]
    if len(several) > 1 and not known:
        raise ValueError(
            f"{where} has several columns of {role}s ({', '.join(several)}); name one with data.{role}_column"
        )
    return (known or several)[0]


def _label(where: str, features: Features, kinds: Mapping[str, str], asked: str | None) -> tuple[str | None, str]:
    """The column of the label, or None and why there is none."""
    right = ("class", "integer", "text")
    if asked is not None:
        if kinds[asked] not in right:
            said = f"is {_written(features[asked])}, no classes: {A_LABEL}"
            raise ValueError(f"{where}: the column {asked!r} (data.label_column) {said}")
        return asked, ""
    usual = [name for word in LABELS for name in features if name.lower().replace("_", "") == word.replace("_", "")]
    classes = [name for name in features if kinds[name] == "class"]
    found = [*(name for name in usual if name in classes), *classes, *(name for name in usual if kinds[name] in right)]
    odd = [name for name in usual if kinds[name] not in right]
    if found:
        return found[0], ""
    if odd:
        return None, f"the column {odd[0]!r} is {_written(features[odd[0]])}: {A_LABEL}"
    return None, f"no column is of classes or called label (there: {', '.join(features)})"


def _written(feature: Any) -> str:
    """The type of a column as datasets writes it, of one line."""
    text = " ".join(str(feature).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse_others(where: str, name: str, part: Any, train: Any, columns: Columns) -> None:
    """Refuse a split that is empty, or whose columns are others than those of train."""
    if not len(part):
        raise ValueError(f"{where}: the split {name!r} holds no example; name one that does")
    for column in filter(None, (columns.data, columns.label)):
        given = part.features.get(column)
        if column == columns.label and given is None:
            continue
        if given != train.features[column]:
            raise ValueError(
                f"{where}: {column!r} of {name} is {given}, and {train.features[column]} in train; name another split"
            )


def labels(where: str, parts: Sequence[Any], columns: Columns) -> Labels:
    """The labels of splits, whose classes are numbered alike."""
    none = [np.full(len(part), -1, np.int64) for part in parts]
    if columns.label is None:
        return Labels(none, None, columns.why)
    feature = parts[0].features[columns.label]
    given = [part[columns.label][:] if columns.label in part.features else [None] * len(part) for part in parts]
    if kind(feature) == "class":
        stored = [np.array([-1 if value is None else value for value in of], np.int64) for of in given]
        return Labels(stored, tuple(feature.names), "")
    read = [[tables.label_of(where, i, value) for i, value in enumerate(of)] for of in given]
    return Labels(*tables.stored([tables.whole(of) for of in read]), "")


# --- where the bytes of images lie


def _fields(column: Any) -> tuple[Any, Any]:
    """The bytes and the paths of a column of images, arrays of Arrow's; paths may be none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        return column, None
    field: Any = pc.struct_field  # pyright: ignore[reportAttributeAccessIssue]: made when it is imported
    return field(column, "bytes"), field(column, "path")


def paths(part: Any, column: str) -> list[str] | None:
    """The paths of image files where all are named by them; else None."""
    if _indexed(part):
        return None
    data, named = _fields(part.data.column(column))
    if named is None or data.null_count < len(data) or named.null_count:
        return None
    return named.to_pylist()


def stretches(part: Any, column: str) -> list[tuple[Path, dict[str, np.ndarray]]] | None:
    """Every Arrow file with "offset" and "length" of the images in it; None where these do not lie in such files.

    An image that there is none of has length 0.
    """
    import pyarrow as pa

    found = []
    for cached in [] if _indexed(part) else part.cache_files:
        file = Path(cached["filename"])
        with pa.memory_map(str(file)) as mapped:
            start = mapped.read_buffer(mapped.size()).address
            mapped.seek(0)
            table = pa.ipc.open_stream(mapped).read_all()
            if column not in table.column_names:
                return None
            where = [_stretch(chunk, start, mapped.size()) for chunk in table.column(column).chunks]
        if any(of is None for of in where):
            return None
        offset, length = (
            np.concatenate([of[k] for of in where if of is not None] or [np.zeros(0, int)]) for k in (0, 1)
        )
        names = np.array([b"%d" % i for i in range(len(offset))], "S")
        found.append((file, {"offset": offset, "length": length, "name": names}))
    whole = sum(len(table["offset"]) for _, table in found) == len(part)
    return found if found and whole and _agree(part, column, found) else None


def _stretch(chunk: Any, start: int, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Where the values of an array lie in a file that is mapped at ``start``; None where they do not."""
    import pyarrow as pa

    data, named = _fields(chunk)
    wide = {pa.binary(): np.int32, pa.large_binary(): np.int64}.get(data.type)
    missing = np.asarray(data.is_null())
    if wide is None or (named is not None and (missing & np.asarray(named.is_valid())).any()):
        return None
    _, offsets, values = data.buffers()
    if values is None or not start <= values.address <= start + size - values.size:
        return None
    ends = np.frombuffer(offsets, wide)[data.offset : data.offset + len(data) + 1].astype(np.int64)
    return ends[:-1] + (values.address - start), np.where(missing, 0, np.diff(ends))


def _agree(part: Any, column: str, found: Sequence[tuple[Path, Mapping[str, np.ndarray]]]) -> bool:
    """Whether the first and the last image are what the dataset gives."""
    (first, of_first), (last, of_last) = found[0], [pair for pair in found if len(pair[1]["offset"])][-1]
    for row, file, table, i in ((0, first, of_first, 0), (len(part) - 1, last, of_last, -1)):
        with open(file, "rb") as opened:
            opened.seek(table["offset"][i])
            if opened.read(table["length"][i]) != (contents(part.select([row]), column)[0]):
                return False
    return True


def contents(part: Any, column: str) -> list[bytes]:
    """The bytes of all images, none of one that is not there."""
    import datasets  # pyright: ignore[reportMissingImports]: an extra

    part = part.cast_column(column, datasets.Image(decode=False))
    return [_read(row) for row in part[column][:]]


def _read(row: Mapping[str, Any] | None) -> bytes:
    if row is None or row["bytes"] is not None:
        return b"" if row is None else row["bytes"]
    try:
        return Path(row["path"] or "").read_bytes()
    except OSError:
        return b""


def _indexed(part: Any) -> bool:
    """Whether its rows are others than those of its files, in another order."""
    return getattr(part, "_indices", None) is not None
