"""Weights as one file: the trunk of a run written as ``.safetensors``, and read back, from ``.npz`` as well.

Arrays are called by their path, "params/stem_conv/kernel", "model_state/batch_stats/stem_norm/mean". Nothing that is
read can execute code: formats made of pickle, which run a program when they are opened, are refused by name, and what
hides under another name is refused because it does not parse. Sizes are checked before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from ssl_jax.interop import plain, sound
from ssl_jax.interop.files import whole
from ssl_jax.interop.leaves import fingerprint
from ssl_jax.interop.plain import can_execute, check_local
from ssl_jax.types import Tree

EXECUTABLE = (".pt", ".pth", ".pt2", ".pkl", ".pickle", ".p", ".ckpt", ".bin", ".npy", ".joblib", ".dill", ".tar")
IN_PLACE_OF_FLAX = "use the file of `ssl-jax export RUN --out X.safetensors`, without --format"
RECORD, DIGEST = "ssl_jax", "ssl_jax_sha256"  # two keys, so that a flipped bit in one of their names is noticed


def is_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a path means a file of weights and not the folder of a run."""
    path = os.path.expanduser(path)
    named_so = Path(path).suffix.lower() in (*READERS, *EXECUTABLE)
    return os.path.isfile(path) or (named_so and not os.path.isdir(path))  # Path's raise where a name is too long


def check_name(path: str | os.PathLike[str]) -> Path:
    """The path of a file to write; a ValueError of one line where it does not end in .safetensors."""
    path = Path(os.path.expanduser(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors and {path} is not called so; rename it")
    return path


def write(path: str | os.PathLike[str], params: Tree, model_state: Tree, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write two trees of arrays in nested dicts, and JSON about them; returns that with their fingerprint.

    Raises:
      ValueError: the name does not end in .safetensors, or the file cannot be written.
    """
    path = check_name(path)
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
    check_local(path)
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if suffix not in READERS and not os.path.isfile(path):
        raise ValueError(f"{path} is not there; name another file")
    if suffix in EXECUTABLE:
        raise ValueError(
            f"{path} is not opened, as {suffix} files can execute code when they are; make a run of it, which executes "
            f"nothing, and name that: {_import(path)}"
        )
    if suffix == ".msgpack":
        raise ValueError(
            f"{path} is in Flax's form; {IN_PLACE_OF_FLAX}, or of another library make a run of it, and name that: "
            f"{_import(path)}"
        )
    if suffix not in READERS:
        raise ValueError(
            f"{path} is no file of weights that is taken as it is; known: {', '.join(READERS)}; of another one make a "
            f"run, and name that: {_import(path)}"
        )
    try:
        arrays = READERS[suffix](path)
        _check(arrays, path)
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


def _import(path: str | Path) -> str:
    """The command that makes a run of a file of another library."""
    return shlex.join(["ssl-jax", "import", str(path), "--out", f"runs/{Path(path).name.split('.')[0] or 'imported'}"])


def _check(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """What names and numbers must be, wherever the file is from."""
    for name, array in arrays.items():
        if name.startswith(("batch_stats/", "classifier/")):
            raise ValueError(f"its array {name[:80]!r} is called as in --format flax; {IN_PLACE_OF_FLAX}")
        if not name.startswith(("params/", "model_state/")):
            raise ValueError(
                f"its array {name[:80]!r} is called neither params/... nor model_state/...; if it is of another "
                f"library, make a run of it, and name that: {_import(path)}"
            )
        words = name.split("/")
        if any("/".join(words[:i]) in arrays for i in range(1, len(words))):
            raise ValueError(f"{name} lies below another array of the file; rename one of them")
        if wrong := sound.wrong(name, array):
            raise ValueError(f"{wrong.format(name)}; use other weights")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    try:
        arrays, about = plain.read_safetensors(data)
    except plain.Unreadable:
        if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04":
            what = can_execute("pickles and archives")
            raise ValueError(f"not a .safetensors file inside, and {what}") from None
        raise
    _verify(about, arrays)
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
    data = path.read_bytes()
    try:
        return plain.read_npz(data)
    except plain.Unreadable:
        if data[:1] == b"\x80":
            raise ValueError(f"not an .npz file inside, and {can_execute('pickles')}") from None
        raise


READERS = {".safetensors": _read_safetensors, ".npz": _read_npz}
