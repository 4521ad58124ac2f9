"""Weights in an ONNX graph of one of transformers' ViTs, by the names that they have on disk."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file by the names of the modules that it was exported from.

    Exporters transpose the kernels of Linear layers into constants without a name, and part the table of positions into
    the class token's row and the patches'. Both are found by the nodes that read them: torch calls these by the module,
    ``/encoder/layer.0/mlp/fc1/MatMul``. What the file holds is data alone; no node of it is run.

    With ``safetensors.numpy.save_file(read(path), "model.safetensors")`` it is a file as any other.

    Raises:
      ValueError: the file is no ONNX graph, or has no weights.
    """
    import onnx  # pyright: ignore[reportMissingImports]

    theirs: Any = onnx  # and not the file beside this one

    try:
        graph = theirs.load(os.fspath(path), load_external_data=False).graph
        arrays = {each.name: theirs.numpy_helper.to_array(each) for each in graph.initializer}
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give an .onnx file") from None
    except Exception as error:  # of protobuf, which has no class of its own for it
        raise ValueError(f"{path} is no ONNX graph with its weights inside ({type(error).__name__})") from None
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
        raise ValueError(f"{path} holds no weights by name; export the network with them")
    return {name: np.ascontiguousarray(array) for name, array in found.items()}
