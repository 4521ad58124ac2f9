"""Any file of weights as a tree of NumPy arrays, told by what is in it and never by its name; nothing in it can run.

Known: torch's ``.pth`` of today and from before 1.6, pickles of arrays (Haiku's, dill's), ``.safetensors``, ``.npz``,
Flax's ``.msgpack``, Keras's ``.h5``, checkpoints of TensorFlow, ``.onnx``, and folders as Hugging Face writes them.
HDF5, TensorFlow's and ONNX's are parsed by their own libraries, in C; the others by this package.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import tensorflow
from ssl_jax.interop import keras, onnx_files, pickles, plain, torch_files
from ssl_jax.interop.constructors import SAVE, Limits
from ssl_jax.interop.plain import RATIO, UNPACKED, Unreadable

WHOLE = ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "model.weights.h5", "tf_model.h5")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
CONFIG = 16 << 20  # bytes of a config.json or of the index of shards
HDF5, TABLE = b"\x89HDF\r\n\x1a\n", bytes.fromhex("57fb808b247547db")  # the last of TensorFlow's .index
OTHERS = {  # how files begin that are often taken for weights
    b"": "it is empty; get it again",
    b"version https://git-lfs": "it is a pointer of Git LFS and not the file; run git lfs pull",
    b"<!DOCTYPE": "it is a web page; download the file itself",
    b"<html": "it is a web page; download the file itself",
    b"\x93NUMPY": "it is one array without a name; write it with numpy.savez",
    b"\x1f\x8b": "it is compressed; unpack it and give what is inside",
    b"BZh": "it is compressed; unpack it and give what is inside",
    b"\xfd7zXZ": "it is compressed; unpack it and give what is inside",
    b"\x28\xb5\x2f\xfd": "it is compressed; unpack it and give what is inside",
    b"GGUF": "it is a .gguf file; give the .safetensors from which it was made",
}


class Archive(NamedTuple):
    """What is in a file of weights.

    Attributes:
      tree: nested dicts and lists with NumPy arrays at the leaves, read-only where they are views of the file, beside
        text and numbers; a :class:`Placeholder` where something was not built. Of .safetensors, .npz, .h5 and
        TensorFlow a flat dict by the names in the file, of .h5 without what repeats itself ("conv1_conv/kernel").
      kind: "torch zip", "torch legacy", "pickle", "safetensors", "npz", "msgpack", "keras h5", "tf checkpoint", "onnx".
      sha256: of the file, in hex; of several, over the sorted lines "NAME SHA256".
      passed_over: name of what was not built ("argparse.Namespace") -> how often.
      metadata: "config", "preprocessor": a folder's config.json and preprocessor_config.json; "beside": the name of a
        config.json that lies beside a file and was not read; "safetensors": its ``__metadata__``; "h5": attributes
        that are text.
    """

    tree: Any
    kind: str
    sha256: str
    passed_over: Mapping[str, int]
    metadata: Mapping[str, Any]


def read(path: str | os.PathLike[str]) -> Archive:
    """What is in a file of weights, a folder of one, or a checkpoint of TensorFlow by its prefix.

    Raises:
      ValueError: one line, beginning with the path: what it looks like and what to give instead.
    """
    path = Path(os.path.expanduser(path))
    try:
        found = _read(path)
        beside = {"beside": "config.json"} if path.is_file() and _described(path) else {}
        return found._replace(metadata={**found.metadata, **beside})
    except Unreadable as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); name another file") from None
    except MemoryError:
        raise ValueError(f"{path} is larger than the memory that is free; use another machine") from None
    except Exception as error:  # whatever the parsers make of broken bytes
        said = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {said}); get it again") from None


def folder_beside(path: str | os.PathLike[str], asked: str) -> str:
    """What to add to a line that refuses a file of a folder of Hugging Face's: where the rest lies; else "".

    Args:
      asked: the line; a config.json beside the file is named where it asks for what that says.
    """
    path = Path(os.path.expanduser(path))
    if SHARD.fullmatch(path.name) and path.is_file():
        return f"; it is one of several shards: give their folder, {path.parent}"
    if not re.search(r"--(as|mean|model)\b", asked) or not path.is_file() or not _described(path):
        return ""
    return f"; or give its folder, {path.parent}, whose config.json says more"


def _described(path: Path) -> bool:
    """Whether a file is one of a folder as Hugging Face writes them."""
    return (path.name in WHOLE or bool(SHARD.fullmatch(path.name))) and (path.parent / "config.json").is_file()


def as_float32(
    arrays: Mapping[str, np.ndarray], names: Collection[str], classifier: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(the arrays, those of ``names`` as float32; dtype -> how many of these were of it).

    Args:
      classifier: those of ``names`` without which the rest may be taken, as a line that refuses one of them says.

    Raises:
      ValueError: complex or whole numbers, which no weights of ours are.
    """
    found, converted = dict(arrays), {}
    for name in sorted(names & arrays.keys(), key=lambda name: (name in classifier, name)):
        dtype = arrays[name].dtype
        if dtype == np.float32:
            continue
        if dtype.kind in "biuc":
            what = (
                "whose imaginary part would be lost" if dtype.kind == "c" else "whole numbers, as of quantised weights"
            )
            rest = ", or leave its classifier out: --no-classifier" if name in classifier else ""
            raise ValueError(f"{name} is {dtype}, {what}; give the weights in float32{rest}")
        with np.errstate(over="ignore"):  # what becomes infinite is refused with all that is not finite
            found[name] = arrays[name].astype(np.float32)
        converted[dtype.name] = converted.get(dtype.name, 0) + 1
    return found, converted


def _read(path: Path) -> Archive:
    if path.is_dir():
        return _folder(path)
    if prefix := _tf_prefix(path):
        return _tf_checkpoint(prefix)
    return _file(path)


def _file(path: Path) -> Archive:
    data = _bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    for start, said in OTHERS.items():
        if data.startswith(start) if start else not data:
            raise Unreadable(said)
    if data[257:262] == b"ustar":
        raise Unreadable(f"it is a .tar archive, as torch wrote until 2016; unpack it, or {SAVE}")
    length = int.from_bytes(data[:8], "little")
    if length <= len(data) - 8 and data[8:9] == b"{":
        arrays, about = plain.read_safetensors(data)
        return Archive(arrays, "safetensors", sha256, {}, {"safetensors": about})
    if data[:4] == b"PK\x03\x04" or data[:4] == b"PK\x05\x06":
        return _zip(data, sha256)
    if data[:8] == HDF5:
        arrays, about = _hdf5(data)
        return Archive(arrays, "keras h5", sha256, {}, {"h5": about})
    if re.match(rb'\{["}\s]', data[8:10]):
        raise Unreadable(
            f"a damaged .safetensors file: its header claims {length} bytes, and {len(data) - 8} follow; get it again"
        )
    limits = Limits(len(data))
    if data.startswith(torch_files.START):
        with pickles.warned(limits):
            return _pickled(torch_files.read_legacy(data, limits), limits, "torch legacy", sha256)
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        file = io.BytesIO(data)
        with pickles.warned(limits):
            value = pickles.load(file, limits)
            if file.tell() != len(data):
                raise Unreadable(f"{len(data) - file.tell()} bytes follow its end; get it again")
            return _pickled(value, limits, "pickle", sha256)
    if re.match(rb"\x08[\x03-\x1f][\x12\x3a\x42]", data):  # version of the format; then producer, graph or operators
        return Archive(onnx_files.read(data), "onnx", sha256, {}, {})
    if 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):
        tree = plain.read_msgpack(data)
        if not _arrays(tree):
            raise Unreadable("it is a .msgpack without arrays; give the file of a network's weights")
        return Archive(tree, "msgpack", sha256, {}, {})
    known = ".safetensors, .npz, .pth, .msgpack, .h5, .onnx, a checkpoint of TensorFlow or a folder with one"
    raise Unreadable(f"it begins with {data[:8]!r}, as no file of weights that is known does; give {known}")


def _zip(data: bytes, sha256: str) -> Archive:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise Unreadable(f"no whole archive ({error}); the file is cut, get it again") from None
    if torch_files.is_zip(names):
        limits = Limits(len(data))
        with pickles.warned(limits):
            return _pickled(torch_files.read_zip(data, limits), limits, "torch zip", sha256)
    if "model.weights.h5" in names:
        raise Unreadable("it is a .keras archive; unpack it and give its model.weights.h5")
    others = [name for name in names if not name.endswith(".npy")]
    if others or not names:
        what = f"with {others[0][:80]!a} in it" if others else "with nothing in it"
        raise Unreadable(f"it is an archive {what}; unpack it and give the file of weights inside")
    return Archive(plain.read_npz(data, void=True), "npz", sha256, {}, {})


def _pickled(value: Any, limits: Limits, kind: str, sha256: str) -> Archive:
    tree, passed_over, arrays = pickles.tree(value, limits)
    if not arrays:
        if tree is None or tree == {} or tree == []:
            raise Unreadable(f"a {kind} file that holds nothing; give the file of a network's weights")
        many = ", ".join(f"{count} x {name}" for name, count in sorted(passed_over.items())[:3])
        more = ", ..." if len(passed_over) > 3 else ""
        holds = f"it holds objects or code ({many}{more}) and no arrays outside of them" if many else ""
        raise Unreadable(f"a {kind} file, and {holds or 'there are no arrays in it'}; {SAVE}")
    return Archive(tree, kind, sha256, passed_over, {})


def _arrays(tree: Any) -> bool:
    if isinstance(tree, (dict, list)):
        return any(_arrays(item) for item in (tree.values() if isinstance(tree, dict) else tree))
    return isinstance(tree, np.ndarray)


def _bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise Unreadable("it is no file; give one")  # a pipe or a device, which may never end
    return path.read_bytes()


def _folder(path: Path) -> Archive:
    """The weights in a folder, whole or in shards, and what its JSON files say of the network and of images."""
    said = {"config": path / "config.json", "preprocessor": path / "preprocessor_config.json"}
    metadata = {what: _json(file) for what, file in said.items() if file.is_file()}
    for name in WHOLE:
        if (path / name).is_file():
            found = _file(path / name)
            return found._replace(metadata={**found.metadata, **metadata})
    for name in SHARDED:
        if (path / name).is_file():
            return _shards(path, _json(path / name).get("weight_map"), metadata)
    for prefix in (path / "variables" / "variables", _latest(path)):
        if prefix and _tf_prefix(prefix):
            return _tf_checkpoint(prefix)
    if prefixes := sorted(str(file.with_suffix("")) for file in path.glob("*.index") if _tf_prefix(file)):
        raise Unreadable(
            'a folder with a checkpoint of TensorFlow and without the file "checkpoint" that names it; give its '
            f"prefix, {' or '.join(prefixes[-3:])}"
        )
    there = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
    raise Unreadable(f"a folder without {' or '.join(WHOLE[:3])} (there is {there[:200]!r}); give a file of weights")


def _shards(path: Path, weight_map: Any, metadata: dict[str, Any]) -> Archive:
    """Arrays of several files; ``weight_map`` says which file holds which."""
    if not isinstance(weight_map, dict) or not weight_map or set(map(type, weight_map.values())) != {str}:
        raise Unreadable("its index of shards has no weight_map; get the folder again")
    tree: dict[str, Any] = {}
    digests, kinds, passed = {}, [], {}
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or name in (".", ".."):
            raise Unreadable(f"its index names the shard {name[:80]!a}, which is no file beside it; get it again")
    if missing := [name[:80] for name in names if not (path / name).exists()]:
        shown = f"{', '.join(missing[:3])}{', ...' if missing[3:] else ''}"
        raise Unreadable(f"{len(missing)} of its {len(names)} shards not in the folder: {shown}; get the whole folder")
    for name in names:
        try:
            found = _file(path / name)
        except Unreadable as error:
            raise Unreadable(f"its shard {name[:80]}: {error}") from None
        wanted = {array for array, shard in weight_map.items() if shard == name}
        if not isinstance(found.tree, dict) or set(found.tree) != wanted:
            raise Unreadable(f"{name[:80]!a} does not hold the arrays that the index says; get the folder again")
        tree |= found.tree
        digests[name] = found.sha256
        kinds.append(found.kind)
        passed |= found.passed_over
        metadata = {**found.metadata, **metadata}
    return Archive(tree, kinds[0], _together(digests), passed, metadata)


def _json(path: Path) -> dict[str, Any]:
    data = path.read_bytes() if path.stat().st_size <= CONFIG else b""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unreadable(f"its {path.name} holds no JSON that can be read; get the folder again")
    return found


def _together(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


# ---------------------------------------------------------------------------------- files that their libraries parse


def _hdf5(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of an HDF5 file by their path in it, of Keras's by layer and part, and its attributes that are text."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise Unreadable("it is an HDF5 file, which h5py reads; pip install h5py") from None

    arrays: dict[str, np.ndarray] = {}
    layers: dict[str, str] = {}  # path of a group -> name of the layer whose arrays it holds
    claimed = 0

    def visit(
        name: str, item: Any
    ) -> None:  # links out of the file are not visited; a group comes before what it holds
        nonlocal claimed
        if isinstance(item, h5py.Group) and (layer := _text(item.attrs.get("name"))):
            layers[name] = layer
        if not isinstance(item, h5py.Dataset):
            return
        if item.external or item.is_virtual:
            raise Unreadable(f"its {name[:80]!a} lies in another file; write it whole")
        if item.dtype.kind not in "biuf" or item.shape is None:
            return  # text, and what has no numbers: no weights
        claimed += item.size * item.dtype.itemsize
        if claimed > max(UNPACKED, RATIO * len(data)):
            raise Unreadable(f"its {len(data)} bytes claim to unpack to {claimed}; write it again")
        called = keras.called(name, layers)
        if called in arrays:
            raise Unreadable(f"two of its arrays are both called {called[:80]!a}; it holds a network twice")
        arrays[called] = np.asarray(item[()])

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)
            about = {key: _text(value) for key, value in file.attrs.items()}
    except Unreadable:
        raise
    except Exception as error:  # of its many kinds
        said = (str(error).splitlines() or [""])[0][:120]
        raise Unreadable(f"no whole HDF5 file ({said}); get it again") from None
    if not arrays:
        raise Unreadable("it is an HDF5 file without arrays; give the file of a network's weights")
    return arrays, {key: value for key, value in about.items() if value is not None}


def _text(value: Any) -> str | None:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


def _tf_prefix(path: Path) -> Path | None:
    """The prefix of the checkpoint of TensorFlow that a path means: it, its .index, or one of its data files."""
    found = re.fullmatch(r"(.+)\.(index|data-\d{5}-of-\d{5})", path.name)
    prefix = path.with_name(found[1]) if found else path
    index = prefix.with_name(f"{prefix.name}.index")
    if not index.is_file() or (not found and path.is_file()):
        return None
    with open(index, "rb") as file:
        file.seek(max(0, index.stat().st_size - len(TABLE)))
        return prefix if file.read() == TABLE else None


def _latest(path: Path) -> Path | None:
    """The prefix that a folder's file "checkpoint" names."""
    if not (path / "checkpoint").is_file() or (path / "checkpoint").stat().st_size > CONFIG:
        return None
    found = re.search(r'^model_checkpoint_path: "([^"]+)"', (path / "checkpoint").read_text(errors="replace"), re.M)
    return path / Path(found[1]).name if found else None


def _tf_checkpoint(prefix: Path) -> Archive:
    """Arrays of a checkpoint of TensorFlow by their names; text is passed over."""
    try:
        tf = tensorflow()
    except ValueError:
        raise Unreadable("it is a checkpoint of TensorFlow, which reads it; pip install tensorflow-cpu") from None

    files = [prefix.with_name(f"{prefix.name}.index"), *sorted(prefix.parent.glob(f"{prefix.name}.data-*"))]
    if len(files) < 2:
        raise Unreadable(f"it has no {prefix.name}.data-00000-of-00001 beside its .index; get both files")
    digests = {file.name: hashlib.sha256(_bytes(file)).hexdigest() for file in files}
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        numbers = [name for name in sorted(shapes) if types[name].is_floating or types[name].is_integer]
        claimed = sum(_product(shapes[name]) * types[name].size for name in numbers)
        if claimed > sum(file.stat().st_size for file in files):
            raise Unreadable(f"its arrays claim {claimed} bytes, which its files have not; get them again")
        tree = {name: np.asarray(reader.get_tensor(name)) for name in numbers}
    except Unreadable:
        raise
    except Exception as error:  # of its many kinds
        said = (str(error).splitlines() or [""])[0][:120]
        raise Unreadable(f"no whole checkpoint of TensorFlow ({said}); get its files again") from None
    passed = {"tensorflow.string": len(shapes) - len(numbers)} if len(shapes) > len(numbers) else {}
    return Archive(tree, "tf checkpoint", _together(digests), passed, {})


def _product(shape: Iterable[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
