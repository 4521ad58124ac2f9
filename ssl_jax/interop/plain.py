"""Files that hold arrays and nothing else: ``.safetensors``, ``.npz``, and Flax's ``.msgpack``.

Sizes are compared with the file's before anything is allocated, and nothing in them can run.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
DTYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
UNPACKED, RATIO = 64 << 20, 100  # bytes, and times the file's size: an archive that claims more of both is a bomb
ITEMS, DIMENSIONS = 1 << 16, 32  # of one map or list of a .msgpack; of an array


class Unreadable(ValueError):
    """What a file is and what to do, in one line without its path."""


def can_execute(what: str) -> str:
    return (
        f"{what} can execute code when they are opened; where you trust it, load it and write its arrays with "
        "safetensors.numpy.save_file(arrays, 'X.safetensors')"
    )


def check_local(path: str | os.PathLike[str]) -> None:
    """Refuse an address, as nothing is fetched.

    Raises:
      ValueError: says what to do.
    """
    if re.match(r"[A-Za-z][\w+.-]+://", text := os.fspath(path)):
        raise ValueError(f"{text} is an address, and nothing is fetched; download it first, and give the file")


def read_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, the file's ``__metadata__``); the arrays are views of the data where they can be.

    Raises:
      Unreadable: damaged, cut, or of numbers that are not known.
    """
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Unreadable(f"no whole .safetensors file ({error}); get it again") from None
    unknown = [f"{name} is {view['dtype']}" for name, view in found if view["dtype"] not in DTYPES]
    if unknown:
        raise Unreadable(f"{unknown[0]}; known: {', '.join(DTYPES)}")
    arrays = {
        name: np.frombuffer(view["data"], np.dtype(DTYPES[view["dtype"]])).reshape(view["shape"])
        for name, view in found
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # which has been found to be sound
    return arrays, header.get("__metadata__") or {}


def read_npz(data: bytes, *, void: bool = False) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``.

    Args:
      void: take two bytes without a meaning for bfloat16, which NumPy cannot name (big_vision's files).

    Raises:
      Unreadable: damaged, cut, claims to be larger than it is, or holds other things than numbers.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise Unreadable(f"no whole .npz file ({error}); get it again") from None
    with archive:
        members = archive.infolist()
        for member in members:
            if not member.filename.endswith(".npy"):
                what = can_execute("archives with other things")
                raise Unreadable(f"its member {member.filename[:80]!r} is no array, and {what}")
        if len({member.filename for member in members}) < len(members):
            raise Unreadable("two of its members have one name; write it with numpy.savez")
        claimed, size = sum(member.file_size for member in members), len(data)
        if claimed > max(UNPACKED, RATIO * size):
            raise Unreadable(f"its {size} bytes claim to unpack to {claimed}; write it with numpy.savez")
        try:
            return {member.filename.removesuffix(".npy"): _read_npy(archive, member, void) for member in members}
        except zipfile.BadZipFile as error:
            raise Unreadable(f"damaged ({error}); get it again") from None


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, void: bool) -> np.ndarray:
    """One array, whose header has been compared with the member's length before anything is allocated for it."""
    name = member.filename
    with archive.open(member) as file:
        major, _ = np.lib.format.read_magic(file)
        reads = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        if major not in reads:
            raise Unreadable(f"{name} is of version {major} of the .npy format; write it with numpy.savez")
        shape, _, dtype = reads[major](file)
        if dtype.hasobject:
            raise Unreadable(f"{name} holds Python objects, and {can_execute('these')}")
        brain = void and dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None
        if dtype.kind not in "biuf" and not brain:
            raise Unreadable(f"{name} is of dtype {dtype}; .npz holds plain numbers (bfloat16 needs .safetensors)")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise Unreadable(f"{name} claims the shape {shape}, and is not so long; get it again")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return array.view(ml_dtypes.bfloat16) if brain else array


def read_msgpack(data: bytes) -> Any:
    """The tree of ``flax.serialization.msgpack_serialize``, its arrays views of what was read.

    Raises:
      Unreadable: damaged, cut, or claims to be larger than it is.
    """
    import msgpack  # Flax's own dependency

    limits: dict[str, Any] = {"max_array_len": ITEMS, "max_map_len": ITEMS, "raw": False}

    def extension(code: int, held: bytes) -> Any:
        if code not in (1, 2, 3):  # an array, a complex number, a scalar
            raise Unreadable(f"its extension {code} is none of Flax's; write it with flax.serialization")
        value = msgpack.unpackb(held, ext_hook=_no_extension, **(limits | {"max_array_len": DIMENSIONS}))
        if code == 2:
            return complex(*value)
        shape, dtype, raw = value
        if dtype not in (*DTYPES.values(), "complex64", "complex128"):
            raise Unreadable(f"one of its arrays is of dtype {str(dtype)[:40]!r}; write it with flax.serialization")
        dtype = np.dtype(dtype)
        if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(raw):
            raise Unreadable(f"an array claims the shape {str(shape)[:80]} and is not so long; get it again")
        return np.frombuffer(raw, dtype).reshape(shape)

    try:
        found = msgpack.unpackb(data, ext_hook=extension, strict_map_key=True, **limits)
    except Unreadable:
        raise
    except Exception as error:  # its own kinds, which are many
        raise Unreadable(f"no whole .msgpack file ({str(error) or type(error).__name__}); get it again") from None
    return _joined(found, len(data))


def _no_extension(code: int, held: bytes) -> Any:
    raise Unreadable("an extension within an extension; write it with flax.serialization")


def _joined(value: Any, size: int) -> Any:
    """A tree in which what Flax wrote in pieces, because it is longer than 1 GiB, is whole."""
    if not isinstance(value, Mapping):
        return [_joined(item, size) for item in value] if isinstance(value, list) else value
    if "__msgpack_chunked_array__" not in value:
        return {key: _joined(item, size) for key, item in value.items()}
    shape, pieces = ([entry[str(i)] for i in range(len(entry))] for entry in (value["shape"], value["chunks"]))
    if sum(piece.nbytes for piece in pieces) > size:
        raise Unreadable("the pieces of an array are longer than the file; get it again")
    return np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(shape)
