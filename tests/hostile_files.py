"""Files of weights that are none: programs, bombs, cuts and lies, each with the words that it must be refused with."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator

import h5py
import numpy as np

from ssl_jax.interop.torch_files import START

TERA = 1 << 40


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def whole(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def pid(key: str, numel: int, cls: bytes) -> bytes:
    return b"(" + text("storage") + cls + text(key) + text("cpu") + number(numel) + b"tQ"


FLOATS = name("torch", "FloatStorage")
V2 = name("torch._utils", "_rebuild_tensor_v2")
EMPTY = call(name("collections", "OrderedDict"))


def tensor(numel=4, offset=0, size=(2, 2), stride=(2, 1), *, key="0", storage=None, v2=V2) -> bytes:
    storage = pid(key, numel, FLOATS) if storage is None else storage
    return call(v2, storage, number(offset), numbers(*size), numbers(*stride), b"\x89", EMPTY)


def state(*tensors: bytes) -> bytes:
    return b"}(" + b"".join(text(f"t{i}") + made for i, made in enumerate(tensors)) + b"u"


def torch_zip(body: bytes, data=b"\0" * 16, *, more=(), compress=zipfile.ZIP_STORED) -> bytes:
    """As torch.save writes it: the body of data.pkl, one storage, and what else."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as archive:
        archive.writestr("archive/data.pkl", whole(body))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
        for entry, held in more:
            archive.writestr(zipfile.ZipInfo(entry), held)
    return file.getvalue()


def legacy(body: bytes, data=b"\0" * 16, count=4, about=b"}", keys=("0",)) -> bytes:
    parts = [START, whole(b"M\xe9\x03"), whole(about), whole(body)]
    parts.append(whole(b"](" + b"".join(map(text, keys)) + b"e"))
    return b"".join(parts) + struct.pack("<q", count) + data


def safetensors(header: dict, data=b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def claims(shape, dtype="<f4", held=b"1234", flags=zipfile.ZIP_STORED) -> bytes:
    file, member = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"shape": shape, "fortran_order": False, "descr": dtype})
    with zipfile.ZipFile(file, "w", flags) as archive:
        archive.writestr("x.npy", member.getvalue() + held)
    return file.getvalue()


def programs(mark: str) -> Iterator[tuple[str, bytes, str]]:
    """Pickles that would make the file ``mark`` if they ran."""
    system, touch = name("os", "system"), text(f"touch {mark}")
    run = call(system, touch)
    here = text(f"open({mark!r}, 'w')")
    objects = "it holds objects or code"
    yield "system", whole(run), rf"{objects} \(.*os.system"
    yield "eval", whole(call(name("builtins", "eval"), here)), rf"{objects} \(1 x builtins.eval\)"
    yield "inst", whole(b"(" + here + b"ibuiltins\nexec\n"), objects
    yield "obj", whole(b"(" + name("subprocess", "Popen") + b"](" + text("touch") + text(mark) + b"eo"), objects
    yield "newobj", whole(system + b"(" + touch + b"t\x81"), objects
    yield "newobj_ex", b"\x80\x04" + system + b"(" + touch + b"t}" + b"\x92.", objects
    yield "stack_global", b"\x80\x04" + text("os") + text("system.__call__") + b"\x93(" + touch + b"tR.", objects
    chain = call(name("builtins", "getattr"), call(name("builtins", "__import__"), text("os")), text("system"))
    yield "chain", whole(call(chain, touch)), "calls builtins.getattr"
    yield "text_called", whole(call(text("os.system"), touch)), "calls a str"
    yield "dict_called", whole(call(b"}", touch)), "calls a dict"
    obj = name("types", "SimpleNamespace") + b")\x81"
    yield "setstate", whole(obj + b"}" + text("__setstate__") + system + b"sb" + touch + b"b"), objects
    yield "reduce_ex", whole(obj + b"}" + text("__reduce__") + system + b"sb" + b")R"), "calls types.SimpleNamespace"
    yield "items", whole(name("os", "environ") + b")\x81(" + text("PATH") + touch + b"u"), objects
    yield "appends", whole(name("os", "sys") + b")\x81(" + run + b"e"), objects
    yield "extension", b"\x80\x02\x82\x01)R.", "EXT1"
    yield "buffer", b"\x80\x05\x97.", "NEXT_BUFFER"
    yield "pid", whole(text("storage") + b"Q"), "points to what lies outside"
    yield "pid_text", b"\x80\x02P0\n.", "points to what lies outside"
    yield "pid_zip", torch_zip(text("0") + b"Q"), "points to a str"
    yield "pid_class", torch_zip(state(tensor(storage=pid("0", 4, system)))), "a tensor is of os.system"
    yield "pid_called", torch_zip(state(tensor(storage=pid("0", 4, run)))), "a tensor is of os.system"
    yield "pid_path", torch_zip(state(tensor(key="../../etc/passwd"))), "to which a tensor points"
    yield "zip", torch_zip(run), objects
    yield "legacy", legacy(run, keys=()), "bytes follow its end"
    yield "legacy_about", legacy(state(tensor()), about=run, keys=(mark,)), "to which no tensor points"
    yield "storage", torch_zip(state(tensor(storage=run))), "made of os.system and not of numbers"
    yield "shape", torch_zip(state(call(V2, pid("0", 4, FLOATS), b"K\0", run, run, b"\x89", EMPTY))), "shape"
    nested = call(name("torch.storage", "_load_from_bytes"), b"U" + bytes([len(whole(b"N"))]) + whole(b"N"))
    yield "nested", whole(nested), "_load_from_bytes"
    made = call(name("jax._src.array", "_reconstruct_array"), system, b"(" + touch + b"t", b")", b")")
    yield "jax", whole(made), rf"{objects} \(.*os.system"
    kind = call(name("torch._tensor", "_rebuild_from_type_v2"), system, b"N", b"(" + touch + b"t", b"N")
    yield "subclass", torch_zip(kind), rf"{objects} \(.*os.system"
    yield "codec", whole(call(name("_codecs", "encode"), touch, text("rot13"))), "_codecs.encode"
    yield "default", whole(call(name("collections", "defaultdict"), system)), "that holds nothing"


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """What claims or unpacks to more than there is."""
    cut = "damaged or cut pickle"
    yield "binbytes8", b"\x80\x04\x8e" + struct.pack("<Q", TERA) + b"x.", cut
    yield "binunicode", whole(b"X\xff\xff\xff\xffx"), cut
    yield "bytearray8", b"\x80\x05\x96" + struct.pack("<Q", TERA) + b"x.", cut
    yield "long4", whole(b"\x8b\xff\xff\xff\x7fx"), cut
    yield "long", whole(b"\x8b" + struct.pack("<i", 1 << 16) + b"\x7f" * (1 << 16)), "a whole number of"
    yield "digits", whole(b"L" + b"9" * 100_000 + b"L\n"), cut
    yield "frame", b"\x80\x04\x95" + struct.pack("<Q", TERA) + b"N.", "that holds nothing"
    yield "memo", whole(b"Nr\xff\xff\xff\x7f"), "that holds nothing"
    yield "memo_text", whole(b"Np99999999999999999999\n"), "that holds nothing"
    yield "deep_list", whole(b"]" * 30_000 + b"a" * 29_999), "nested more than 100 deep"
    yield "deep_tuple", whole(b")" + b"\x85" * 50_000), "nested more than 100 deep"
    yield "deep_key", whole(b"})" + b"\x85" * 50_000 + b"Ns"), "no arrays in it"
    yield "deep_state", whole((name("a", "B") + b")R") * 20_000 + b"b" * 19_999), "nested more than 100 deep"
    double = b"q\0h\0\x86"  # a pair of the last with itself
    yield "hash", whole(b"})" + double * 60 + b"Ns"), "no arrays in it"
    laughs = b"".join(b"q" + bytes([i]) + b"](" + (b"h" + bytes([i])) * 9 + b"e" for i in range(60))
    yield "laughs", whole(b"]" + laughs), "more values than its length"
    yield "itself", whole(b"}q\0" + text("x") + b"h\0s"), "nested more than 100 deep"
    many = b"](" + b"K\x01" * 20_000 + b"eq\0"
    copies = b"".join(call(name("builtins", "list"), b"h\0") + b"a" for _ in range(2_000))
    yield "copies", whole(many + b"0]" + copies), "more values than its length"
    long = text("x" * 50_000) + b"q\0"
    encoded = b"".join(call(name("_codecs", "encode"), b"h\0", text("latin1")) + b"a" for _ in range(500))
    yield "encoded", whole(long + b"0]" + encoded), "more values than its length"
    pairs = b"](" + b"(K\x01K\x02t" * 5_000 + b"eq\0"
    dicts = b"".join(call(name("collections", "OrderedDict"), b"h\0") + b"a" for _ in range(500))
    yield "dicts", whole(pairs + b"0]" + dicts), "more values than its length"
    sizes = (name("torch", "Size") + b"h\x01R0") * 500
    yield "arguments", whole(b"(" + b"N" * 50_000 + b"tq\x01" + sizes + b"N"), "that holds nothing"
    key = text("0" * 50_000) + b"q\x010(" + text("storage") + FLOATS + b"h\x01NK\x01tQ"
    yield "long_key", torch_zip(key), "without a key"
    yield "collisions", whole(b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(9_999)) + b"u"), "64 bits"
    yield "steps", whole(b"N0" * (1 << 19) + b"N"), "more than 1,048,576 steps"
    yield "numel", torch_zip(state(tensor(TERA, 0, (2, 2), (2, 1)))), "shorter than the file says"
    yield "numel_1", torch_zip(state(tensor(TERA, 0, (TERA,), (1,)))), "shorter than the file says; the file is cut"
    yield "numel_2", torch_zip(state(tensor(4, 0, (TERA,), (1,)))), f"number {TERA} of 4; the file is cut"
    yield "overflow", torch_zip(state(tensor(4, 0, (1 << 47,) * 9, (0,) * 9))), "more than 4 times the file"
    yield "expanded", torch_zip(state(tensor(4, 0, (1 << 20, 1 << 20), (0, 0)))), "more than 4 times the file"
    yield "empty_size", torch_zip(state(tensor(4, 0, (0, 1 << 62), (0, 0)))), "shape is none that can be"
    yield "dimensions", torch_zip(state(tensor(4, 0, (1,) * 99, (1,) * 99))), "shape is none that can be"
    data = bytes(1 << 16)
    many = (tensor(1 << 14, 0, (1 << 14,), (1,)) for _ in range(200))
    yield "views", torch_zip(state(*many), data), "more than 4 times the file"
    array = name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray") + numbers(0) + text("b")
    dtype = call(name("numpy", "dtype"), text("f4"), b"\x89", b"\x88")
    built = b"(K\x01" + numbers(TERA) + dtype + b"\x89" + text("1234") + b"tb"
    yield "numpy", whole(call(*array) + built), "an array of 4398046511104 bytes has 4"
    objects = b"(K\x01" + numbers(1) + call(name("numpy", "dtype"), text("O8")) + b"\x89]Nab"
    yield "objects", whole(call(*array) + objects), "holds Python objects"
    deflated = torch_zip(b"N", bytes(8 << 20), compress=zipfile.ZIP_DEFLATED)
    yield "deflate", deflated, "compressed"
    yield "npz", claims((TERA,)), "claims the shape"
    yield "npz_deflate", claims((20 << 20,), held=bytes(80 << 20), flags=zipfile.ZIP_DEFLATED), "claim to unpack"
    yield "header", struct.pack("<Q", TERA) + b"{}", f"damaged .safetensors file: its header claims {TERA} bytes, and 2"
    yield "header_keys", struct.pack("<Q", TERA) + safetensors({"x": {}})[8:], "damaged .safetensors file"
    huge = {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 4 * TERA]}
    yield "array", safetensors({"x": huge}), "no whole .safetensors"
    huge = {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 0]}
    yield "safe_overflow", safetensors({"x": huge}), "no whole .safetensors"
    deep = b'{"x":' + b"[" * 100_000
    yield "json", struct.pack("<Q", len(deep)) + deep, "no whole .safetensors"
    yield "msgpack", b"\x81\xa1x" + b"\xdd\0\x10\0\0" * 500 + b"\0" * (1 << 21), "no whole .msgpack"
    yield "msgpack_deep", b"\x81\xa1x" + b"\x91" * 100_000 + b"\0", "no whole .msgpack"
    shape = b"\x93\x91\xce\xff\xff\xff\xff\xa7float32\xc4\x041234"
    yield "msgpack_shape", b"\x81\xa1x\xc7" + bytes([len(shape)]) + b"\x01" + shape, "claims the shape"
    shape = b"\x93\x91\x01\xa1O\xc4\x0812345678"
    yield "msgpack_object", b"\x81\xa1x\xc7" + bytes([len(shape)]) + b"\x01" + shape, "of dtype 'O'"
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.create_dataset("x", (TERA,), "f4", chunks=(1024,), compression="gzip")
    yield "h5", file.getvalue(), "claim to unpack"


def lies() -> Iterator[tuple[str, bytes, str]]:
    """Cut, of other kinds, or not what they say."""
    good, old = torch_zip(state(tensor())), legacy(state(tensor()))
    yield "zip_cut", good[:-40], "the file is cut"
    yield "zip_start", good[:300], "the file is cut"
    yield "legacy_cut", old[:-5], "a storage is not as long"
    yield "legacy_pickle_cut", old[:90], "cut pickle"
    yield "legacy_more", old + b"12345", "5 bytes follow its end"
    yield "legacy_count", legacy(state(tensor()), count=TERA), "a storage is not as long"
    yield "legacy_big_endian", legacy(state(tensor()), about=b"}" + text("little_endian") + b"\x89s"), "high byte first"
    yield "swapped", torch_zip(state(tensor(4, 0, (2, 3), (3, 1)))), "ends at number 6 of 4"
    yield "negative", torch_zip(state(tensor(4, 0, (2, 2), (-2, 1)))), "strides is none that can be"
    yield "offset", torch_zip(state(tensor(4, 3))), "ends at number 7 of 4"
    yield "offset_negative", torch_zip(state(tensor(4, -1))), "begins or steps where it cannot"
    yield "strides", torch_zip(state(tensor(4, 0, (2, 2), (2,)))), "begins or steps where it cannot"
    yield "storage_cut", torch_zip(state(tensor()), b"\0" * 12), "shorter than the file says"
    yield "storage_lost", torch_zip(state(tensor(key="7"))), "to which a tensor points"
    view = b"}" + text("neg") + b"\x88s"
    conjugate = call(V2, pid("0", 4, FLOATS), b"K\0", b"K\x04\x85", b"K\x01\x85", b"\x89", EMPTY, view)
    yield "conjugate", torch_zip(state(conjugate)), "a conjugate or negative view"
    yield "quantised", torch_zip(state(tensor(storage=pid("0", 4, name("torch", "QInt8Storage"))))), "QInt8Storage"
    yield "absolute", torch_zip(state(tensor()), more=[("/etc/passwd", "x")]), "an archive with '/etc/passwd' in it"
    yield "inner_zip", torch_zip(state(tensor()), more=[("archive/inner.pth", good)]), "'archive/inner.pth' in it"
    yield "script", torch_zip(state(tensor()), more=[("archive/code/x.py", "x")]), "TorchScript"
    yield "script_2", torch_zip(state(tensor()), more=[("archive/constants.pkl", "x")]), "TorchScript"
    yield "twice", torch_zip(state(tensor()), more=[("archive/data.pkz", "x")]).replace(b"pkz", b"pkl"), "have one name"
    yield "checksum", good.replace(b"\0" * 16, b"\1" + b"\0" * 15), "checksum"
    yield "big_endian", good.replace(b"little", b"lit_le"), "checksum"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/model.pth", good)
    yield "nested_zip", file.getvalue(), "unpack it and give the file of weights inside"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for entry in ("sys_info", "pickle", "storages", "tensors"):
            tar.addfile(tarfile.TarInfo(entry), io.BytesIO(b""))
    yield "tar", file.getvalue(), "as torch wrote until 2016"
    file = io.BytesIO()
    np.savez(file, x=np.array([{}], dtype=object))
    yield "npy_objects", file.getvalue(), "holds Python objects"
    file = io.BytesIO()
    np.save(file, np.ones(3))
    yield "npy", file.getvalue(), "one array without a name"
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["x"] = np.ones(100)
    yield "h5_cut", file.getvalue()[:-300], "no whole HDF5"
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        h5["y"] = h5py.ExternalLink("/etc/passwd", "/")
    yield "h5_outside", file.getvalue(), "lies in another file"
    yield "text", b"lr: 0.1\nmomentum: 0.9\n", "begins with"
    yield "empty", b"", "it is empty"
    yield "web", b"<!DOCTYPE html><html>", "a web page"
    yield "lfs", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"
    yield "msgpack_empty", b"\x80", "without arrays"
    yield "msgpack_format", b"\x81\xa1a\xc1", r"no whole .msgpack file \(FormatError\)"
    yield "pickle_more", pickle.dumps({"x": 1}, 2) + b"N.", "bytes follow its end"
    yield "nothing", torch_zip(b"}"), "that holds nothing"
