"""An encoder as StableHLO: a program that a process with JAX loads and runs without this package.

The weights are arguments of the program and lie beside it. So it stays tens of kB, is one file for every platform, and
who runs it can shard or replace them; inside, each of the programs would hold all of them as constants.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export

from ssl_jax import parallel
from ssl_jax.interop.files import write_json
from ssl_jax.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "weights.safetensors"
Encode = Callable[[Mapping[str, Any], Array], Mapping[str, Array]]  # (weights by name, images in [0, 1]) -> outputs


def check() -> None:
    """Refuse where what writes such programs is not installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("StableHLO is written with flatbuffers, which is not installed; pip install 'ssl_jax[export]'")


def write(folder: Path, encode: Encode, weights: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, Any]:
    """``encode_float32.stablehlo`` and ``encode_uint8.stablehlo``, their weights, and ``signature.json``, which is
    returned.

    Args:
      encode: normalises by itself.
      weights: what it may read; what it does read is written.
      shape: of an image; the number of images is left open.

    Raises:
      ValueError: of one line, an operation that not all platforms have.
    """
    read = _read_by(encode, weights, shape)
    programs, outputs, symbol = {}, {}, export.symbolic_shape("b")
    for dtype in ("float32", "uint8"):
        program = _program(encode, {name: weights[name] for name in read}, (*symbol, *shape), dtype, PLATFORMS)
        (folder / f"encode_{dtype}.stablehlo").write_bytes(program.serialize())
        programs[dtype] = f"encode_{dtype}.stablehlo"
        avals = jax.tree.unflatten(program.out_tree, program.out_avals)
        outputs = {name: ["b", *a.shape[1:], str(a.dtype)] for name, a in avals.items()}
    safetensors.numpy.save_file({name: weights[name] for name in read}, folder / WEIGHTS, {"format": "flax"})
    signature = {
        "call": "program.call(weights, images)",
        "programs": programs,
        "weights": WEIGHTS,
        "images": {"shape": ["b", *shape], "float32": "in [0, 1]", "uint8": "0 to 255"},
        "outputs": outputs,
        "platforms": PLATFORMS,
        "jax": jax.__version__,
        "calling_convention": program.calling_convention_version,
    }
    write_json(folder / "signature.json", signature)
    return signature


def _read_by(encode: Encode, weights: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[str]:
    """The names of those that ``encode`` reads: without symbols a program has no other arguments."""
    kept = _program(encode, weights, (2, *shape), "float32", ("cpu",)).module_kept_var_idx
    return [name for i, name in enumerate(sorted(weights)) if i in kept]  # a dict is flattened by sorted key


def _program(encode: Encode, weights: Mapping[str, Any], shape: tuple[Any, ...], dtype: str, platforms: Any) -> Any:
    def run(weights: Mapping[str, Any], images: Array) -> dict[str, Array]:
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / jnp.float32(255)
        return dict(encode(weights, images))

    specs = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in weights.items()}
    images = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    # As on a CPU, with shapes that are no numbers: there nothing is called that one platform alone has.
    with parallel.compiling_for("cpu"):
        return export.export(jax.jit(run), platforms=platforms)(specs, images)
