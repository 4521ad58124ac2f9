"""Weights as one file: the trunk of a run written as ``.safetensors``, and read back, from ``.npz`` as well.

Arrays are called by their path, "params/stem_conv/kernel", "model_state/batch_stats/stem_norm/mean". Nothing that is
read can execute code: formats made of pickle, which run a program when they are opened, are refused by name, and what
hides under another name is refused because it does not parse. Sizes are checked before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ssl_jax.interop.files import whole
from ssl_jax.interop.leaves import fingerprint
from ssl_jax.types import Tree

EXECUTABLE = (".pt", ".pth", ".pt2", ".pkl", ".pickle", ".p", ".ckpt", ".bin", ".npy", ".joblib", ".dill", ".tar")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
DTYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
RECORD, DIGEST = "ssl_jax", "ssl_jax_sha256"  # two keys, so that a flipped bit in one of their names is noticed
UNPACKED, RATIO = 64 << 20, 100  # bytes, and times the file's size: an archive that claims more of both is a bomb


def is_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a path means a file of weights and not the folder of a run."""
    path = os.path.expanduser(path)
    named_so = Path(path).suffix.lower() in (*READERS, *EXECUTABLE)
    return os.path.isfile(path) or (named_so and not os.path.isdir(path))  # Path's raise where a name is too long


def write(path: str | os.PathLike[str], params: Tree, model_state: Tree, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write two trees of arrays in nested dicts, and JSON about them; returns that with their fingerprint.

    Raises:
      ValueError: the name does not end in .safetensors, or the file cannot be written.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors and {path} is not called so; rename it")
    named = flax.traverse_util.flatten_dict({"params": params, "model_state": model_state}, sep="/")
    arrays: dict[str, Any] = {name: np.array(leaf, order="C") for name, leaf in named.items()}
    about = dict(about) | {"fingerprint": fingerprint(arrays)}
    record = json.dumps(about, sort_keys=True)
    data = safetensors.numpy.save(arrays, {RECORD: record, DIGEST: _sha256(record)})
    try:
        with whole(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); name another file") from None
    return about


def read(path: str | os.PathLike[str]) -> tuple[Tree, Tree]:
    """(params, model_state) of a ``.safetensors`` or ``.npz`` file, NumPy arrays in nested dicts.

    A file of :func:`export` must be what was written, every bit of it. One from elsewhere need only be sound.

    Raises:
      ValueError: one line, beginning with the path: a format that can execute code, a file that is damaged or claims
        to be larger than it is, arrays that are not called as ours are, numbers that are not finite.
    """
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if suffix in EXECUTABLE:
        raise ValueError(f"{path} is not opened: {_can_execute(f'{suffix} files')}")
    if suffix not in READERS:
        raise ValueError(f"{path} is no file of weights; known: {', '.join(READERS)}")
    try:
        arrays = READERS[suffix](path)
        _check(arrays)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # whatever the parsers make of broken bytes
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: {lines[0]}") from None
    tree = flax.traverse_util.unflatten_dict(arrays, "/")
    return tree.get("params", {}), tree.get("model_state", {})


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`write` was given beside the arrays, {} of a file from elsewhere; call after ``read``."""
    path = Path(os.path.expanduser(path))
    if path.suffix.lower() != ".safetensors":
        return {}
    with safetensors.safe_open(path, "numpy") as file:
        return json.loads((file.metadata() or {}).get(RECORD, "{}"))


def files(path: str | os.PathLike[str]) -> dict[str, str]:
    """The files among :func:`about` (a tokenizer): name -> text; call after ``read``."""
    return about(path).get("files", {})


def _can_execute(what: str) -> str:
    return (
        f"{what} can execute code when they are opened; where you trust it, load it and write its arrays with "
        "safetensors.numpy.save_file(arrays, 'X.safetensors')"
    )


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """What names and numbers must be, wherever the file is from."""
    for name, array in arrays.items():
        if not name.startswith(("params/", "model_state/")):
            raise ValueError(f"its array {name[:80]!r} is called neither params/... nor model_state/...; rename it")
        words = name.split("/")
        if any("/".join(words[:i]) in arrays for i in range(1, len(words))):
            raise ValueError(f"{name} lies below another array of the file; rename one of them")
        if jnp.issubdtype(array.dtype, jnp.inexact) and (wrong := int((~np.isfinite(array)).sum())):
            raise ValueError(f"{wrong} of the {array.size} numbers of {name} are not finite; use other weights")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04":
            raise ValueError(f"not a .safetensors file inside, and {_can_execute('pickles and archives')}") from None
        raise ValueError(f"no whole .safetensors file ({error}); get it again") from None
    unknown = [f"{name} is {view['dtype']}" for name, view in found if view["dtype"] not in DTYPES]
    if unknown:
        raise ValueError(f"{unknown[0]}; known: {', '.join(DTYPES)}")
    arrays = {
        name: np.frombuffer(view["data"], jnp.dtype(DTYPES[view["dtype"]])).reshape(view["shape"])
        for name, view in found
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # which has been found to be sound
    _verify(header.get("__metadata__") or {}, arrays)
    return arrays


def _verify(about: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Against the digests that :func:`write` puts into a file; a file from elsewhere has none."""
    if not any(key.startswith(RECORD) for key in about):
        return
    record = about.get(RECORD, "")
    if _sha256(record) != about.get(DIGEST):
        raise ValueError("damaged: what is written in it about the weights is not what was (sha256); get it again")
    if json.loads(record)["fingerprint"] != fingerprint(arrays):
        raise ValueError("damaged: its arrays are not those that were written (sha256); get it again")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        if path.read_bytes()[:1] == b"\x80":
            raise ValueError(f"not an .npz file inside, and {_can_execute('pickles')}") from None
        raise ValueError(f"no whole .npz file ({error}); get it again") from None
    with archive:
        members = archive.infolist()
        for member in members:
            if not member.filename.endswith(".npy"):
                what = _can_execute("archives with other things")
                raise ValueError(f"its member {member.filename[:80]!r} is no array, and {what}")
        claimed, size = sum(member.file_size for member in members), path.stat().st_size
        if claimed > max(UNPACKED, RATIO * size):
            raise ValueError(f"its {size} bytes claim to unpack to {claimed}; write it with numpy.savez")
        try:
            return {member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members}
        except zipfile.BadZipFile as error:
            raise ValueError(f"damaged ({error}); get it again") from None


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, whose header has been compared with the member's length before anything is allocated for it."""
    name = member.filename
    with archive.open(member) as file:
        major, _ = np.lib.format.read_magic(file)
        reads = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        if major not in reads:
            raise ValueError(f"{name} is of version {major} of the .npy format; write it with numpy.savez")
        shape, _, dtype = reads[major](file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, and {_can_execute('these')}")
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} is of dtype {dtype}; .npz holds plain numbers (bfloat16 needs .safetensors)")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{name} claims the shape {shape}, and is not so long; get it again")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


READERS = {".safetensors": _read_safetensors, ".npz": _read_npz}
