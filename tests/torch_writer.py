"""Files as torch.save writes them, without torch."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from typing import Any, ClassVar, NamedTuple

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "float64": "DoubleStorage"}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Global(NamedTuple):
    """A function of torch's, by name."""

    module: str
    name: str


class Storage(NamedTuple):
    key: str
    array: np.ndarray


class _Pickler(pickle._Pickler):
    """Writes arrays as torch writes tensors."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, 2)
        self.storages: list[np.ndarray] = []

    def save_global_by_name(self, found: Global) -> None:
        self.write(f"c{found.module}\n{found.name}\n".encode())
        self.memoize(found)

    dispatch[Global] = save_global_by_name

    def reducer_override(self, found):
        if not isinstance(found, np.ndarray):
            return NotImplemented
        array = np.ascontiguousarray(found).reshape(found.shape)
        self.storages.append(array)
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = Storage(str(len(self.storages) - 1), array)
        return Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, array.shape, strides, False, OrderedDict())

    def persistent_id(self, found):
        if not isinstance(found, Storage):
            return None
        kind = Global("torch", STORAGES[found.array.dtype.name])
        return ("storage", kind, found.key, "cuda:0", found.array.size)

    def save_reduce(self, func, args, *rest, **named):
        if isinstance(func, Global):
            self.save(func)
            self.save(args)
            self.write(pickle.REDUCE)
        else:
            super().save_reduce(func, args, *rest, **named)


def torch_zip(tree: Any) -> bytes:
    """As torch.save writes since 1.6."""
    file, out = io.BytesIO(), io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(tree)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", sys.byteorder)
        for key, array in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def torch_legacy(tree: Any) -> bytes:
    """As torch.save wrote before 1.6."""
    out = io.BytesIO()
    for value in (MAGIC, PROTOCOL, {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}):
        pickle.dump(value, out, 2)
    pickler = _Pickler(out)
    pickler.dump(tree)
    pickle.dump([str(key) for key in range(len(pickler.storages))], out, 2)
    for array in pickler.storages:
        out.write(array.size.to_bytes(8, "little") + array.tobytes())
    return out.getvalue()
