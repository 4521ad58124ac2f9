"""torch's two kinds of files without torch: the zip archive of today, and the pickles in a row from before 1.6.

A zip holds ``NAME/data.pkl`` and each storage as ``NAME/data/KEY``, stored and not compressed. The older kind is a
number, a version, the sizes of a machine's types, the value, a list of keys, and then of each key a count and its
numbers. Both are read in place: an array that lies row by row in its storage is a view of the file's bytes.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from ssl_jax.interop import pickles
from ssl_jax.interop.constructors import SAVE, STORAGES, Global, Limits, Placeholder, Storage, kind
from ssl_jax.interop.plain import Unreadable

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."  # of the older kind
BESIDE = r"(data/\d+|data\.pkl|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment)"


def is_zip(names: list[str]) -> bool:
    """Whether the members of an archive are those of a file of torch, or of one that looks like it."""
    return any(name.endswith("/data.pkl") or name == "data.pkl" for name in names)


def read_zip(data: bytes, limits: Limits) -> Any:
    """The value in an archive, its arrays still to be laid out by :func:`pickles.tree`.

    Raises:
      Unreadable: damaged, cut, compressed, of TorchScript, or with members that are none of torch's.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if any("/code/" in f"/{name}" or name.endswith("constants.pkl") for name in names):
        raise Unreadable(f"it is a program of TorchScript with its weights; {SAVE}")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(roots) > 1 or len(set(names)) < len(names):
        raise Unreadable(f"two of its members have one name; {SAVE}")
    for name in names:
        if not re.fullmatch(re.escape(roots[0]) + BESIDE, name, re.ASCII):
            raise Unreadable(f"it is an archive with {name[:80]!a} in it, which a file of torch.save has not; {SAVE}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Unreadable(f"its members are compressed, which torch.save does not do; {SAVE}")
    if sum(member.file_size for member in members) > len(data):
        raise Unreadable(f"its {len(data)} bytes claim to hold more than that; get the file again")
    held = {m.filename.removeprefix(roots[0]): m for m in members}
    if "byteorder" in held and bytes(_stored(data, held["byteorder"])) != b"little":
        raise Unreadable(f"it was written on a machine that puts the high byte first; {SAVE} on another")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        key, dtype, numel = _pointed(pid)[:3]
        if key not in storages:
            if f"data/{key}" not in held:
                raise Unreadable(f"it has no data/{key[:40]!a}, to which a tensor points; get the file again")
            storages[key] = Storage(dtype, numel, _stored(data, held[f"data/{key}"]))
        first = storages[key]
        return first if (first.dtype, first.numel) == (dtype, numel) else Storage(dtype, numel, first.data)

    return pickles.load(io.BytesIO(_stored(data, held["data.pkl"])), limits, persistent)


def _stored(data: bytes, member: zipfile.ZipInfo) -> memoryview:
    """A member in place, compared with its checksum."""
    at, name = member.header_offset, member.filename[:80]
    head = data[at : at + 30]
    if len(head) < 30 or head[:4] != b"PK\x03\x04" or member.flag_bits & 1:
        raise Unreadable(f"its member {name!a} is damaged or encrypted; get the file again")
    begin = at + 30 + sum(struct.unpack("<HH", head[26:]))
    held = memoryview(data)[begin : begin + member.file_size]
    if len(held) < member.file_size or member.compress_size != member.file_size or zlib.crc32(held) != member.CRC:
        raise Unreadable(f"its member {name!a} is cut or damaged (checksum); get the file again")
    return held


def _pointed(pid: Any) -> tuple[str, str, int, tuple[Any, ...]]:
    """(key, dtype, how many numbers, what else) of an id of a storage."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise Unreadable(f"it points to {kind(pid)} and not to numbers; {SAVE}")
    _, cls, key, _, numel, *more = pid
    name = cls.name if isinstance(cls, Global) else kind(cls)
    if name not in STORAGES:
        raise Unreadable(f"a tensor is of {name[:80]}, which is no storage of plain numbers; convert it to float32")
    if not isinstance(key, str) or len(key) > 64 or type(numel) is not int or not 0 <= numel < 1 << 48:
        raise Unreadable("a storage without a key or a length; get the file again")
    return key, STORAGES[name], numel, tuple(more)


def read_legacy(data: bytes, limits: Limits) -> Any:
    """The value in the older kind of file, its arrays still to be laid out by :func:`pickles.tree`.

    Raises:
      Unreadable: damaged, cut, of another version or byte order.
    """
    file = io.BytesIO(data)
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":  # a class with its source
            return pid[1] if isinstance(pid[1], Global) else Placeholder("a module")
        key, dtype, numel, more = _pointed(pid)
        whole = storages.setdefault(key, Storage(dtype, numel))
        if (whole.dtype, whole.numel) != (dtype, numel):
            raise Unreadable("two tensors tell of one storage differently; get the file again")
        if not more or more[0] is None:
            return whole
        view = more[0]  # of 2017: (key, first number, how many)
        if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
            raise Unreadable("a part of a storage without an offset or a length; get the file again")
        if view[1] + view[2] > numel:
            raise Unreadable("a part of a storage that is longer than the whole; get the file again")
        return _Part(whole, view[1], view[2])

    magic, version, about = (pickles.load(file, limits) for _ in range(3))
    if magic != MAGIC or version != VERSION:
        raise Unreadable(f"it is of a version of torch's files that is not known; {SAVE}")
    if isinstance(about, dict) and about.get("little_endian") is False:
        raise Unreadable(f"it was written on a machine that puts the high byte first; {SAVE} on another")
    value = pickles.load(file, limits, persistent)
    keys = pickles.load(file, limits)
    if not isinstance(keys, list) or set(map(type, keys)) - {str} or len(set(keys)) < len(keys):
        raise Unreadable("its list of storages is none; get the file again")
    at, held = file.tell(), memoryview(data)
    for key in keys:
        if key not in storages:
            raise Unreadable("it holds a storage to which no tensor points; get the file again")
        storage = storages[key]
        nbytes = storage.numel * np.dtype(storage.dtype).itemsize
        if held[at : at + 8] != storage.numel.to_bytes(8, "little") or len(held) < at + 8 + nbytes:
            raise Unreadable("a storage is not as long as its tensor says; the file is cut or wrong, get it again")
        storage.data = held[at + 8 : at + 8 + nbytes]
        at += 8 + nbytes
    if at != len(data):
        raise Unreadable(f"{len(data) - at} bytes follow its end; get the file again")
    return value


class _Part(Storage):
    """A part of another storage, whose numbers come later."""

    __slots__ = ("whole",)

    def __init__(self, whole: Storage, start: int, numel: int) -> None:
        super().__init__(whole.dtype, numel, None, start)
        self.whole = whole

    def bytes(self) -> memoryview:
        self.data = self.whole.data
        return super().bytes()
