"""Weights in an ONNX graph of one of transformers' ViTs, by the names that they have on disk."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_jax.interop.plain import Unreadable


def read(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file's bytes by the names of the modules that it was exported from.

    Exporters transpose the kernels of Linear layers into constants without a name, and part the table of positions into
    the class token's row and the patches'. Both are found by the nodes that read them: torch calls these by the module,
    ``/encoder/layer.0/mlp/fc1/MatMul``. What the file holds is data alone; no node of it is run, and no other file that
    it names is opened.

    Raises:
      ValueError: the file is no ONNX graph, or has no weights; the package onnx is missing.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Unreadable("it is an .onnx file, which takes the package onnx: pip install onnx") from None

    theirs: Any = onnx  # and not the file beside this one

    try:
        graph = theirs.load_model_from_string(data).graph
        arrays = {each.name: theirs.numpy_helper.to_array(each) for each in graph.initializer}
    except Exception as error:  # of protobuf, which has no class of its own for it
        raise Unreadable(f"it is no ONNX graph with its weights inside ({type(error).__name__})") from None
    found = {name: array for name, array in arrays.items() if not name.startswith("onnx::")}
    positions = {}
    for node in graph.node:
        module = node.name.strip("/").rpartition("/")[0].replace("/", ".")
        for name in node.input:
            if name not in arrays or name in found:
                continue
            if node.op_type == "MatMul":
                found[f"{module}.weight"] = arrays[name].T
            elif arrays[name].ndim == 3 and module.endswith("embeddings"):
                positions.setdefault(module, []).append(arrays[name])
    for module, parts in positions.items():  # the class token's row first
        parts = np.concatenate(sorted(parts, key=lambda a: a.shape[1]), axis=1)
        found[f"{module}.position_embeddings"] = parts
    if not found:
        raise Unreadable("it is an .onnx file without weights by name; export the network with them")
    return {name: np.ascontiguousarray(array) for name, array in found.items()}
