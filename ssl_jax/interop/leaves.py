"""The leaves of a tree by name, on the host, and what they hash to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ssl_jax.types import Tree


def fingerprint(tree: Tree) -> str:
    """sha256 (hex) over the leaves of a tree by sorted path: path, dtype, shape and bytes of each."""
    lines = (f"{name} {json.dumps(leaf)}\n" for name, leaf in sorted(manifest(host_leaves(tree)).items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def by_name(tree: Tree) -> dict[str, Any]:
    """Leaves by path, "params/encoder/conv/kernel", in the tree's own order."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(found) < len(flat):
        raise ValueError('two leaves of the state have the same path; a key must not contain "/"')
    return found


def dtype_name(leaf: Any) -> str:
    """ "float32"; for a typed key "key<threefry2x32>"."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.dtype(leaf.dtype).name
    names = []  # key_impl refuses a ShapeDtypeStruct and takes a tracer
    jax.eval_shape(lambda key: names.append(f"key<{jax.random.key_impl(key)}>"), leaf)
    return names[0]


def host_leaves(tree: Tree) -> dict[str, tuple[str, list[int], np.ndarray]]:
    """Leaf name -> dtype, shape, and an array that owns its memory (of a typed key: its words)."""
    named = {name: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for name, leaf in by_name(tree).items()}
    keys = {name for name, leaf in named.items() if dtype_name(leaf).startswith("key<")}
    raw = {name: jax.random.key_data(leaf) if name in keys else leaf for name, leaf in named.items()}
    for leaf in raw.values():
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()  # all transfers under way before the first is waited for
    return {name: (dtype_name(leaf), list(leaf.shape), host(raw[name])) for name, leaf in named.items()}


def host(leaf: Any) -> np.ndarray:
    """An array that owns its memory, whole, on every process; every process calls it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        everywhere = leaf.is_fully_replicated
        leaf = leaf.addressable_data(0) if everywhere else multihost_utils.process_allgather(leaf, tiled=True)
    return np.array(leaf, order="C")  # a copy: on a CPU np.asarray is a view of a buffer about to be donated


def manifest(leaves: Mapping[str, tuple[str, list[int], np.ndarray]]) -> dict[str, list[Any]]:
    """Leaf name -> [dtype, shape, sha256 of the bytes]."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib lets go of the interpreter lock
        digests = list(pool.map(lambda leaf: sha256(leaf[2]), leaves.values()))
    return {name: [*leaf[:2], digest] for (name, leaf), digest in zip(leaves.items(), digests, strict=True)}


def sha256(array: np.ndarray) -> str:
    """Of an array's bytes, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
