"""An encoder as ONNX, compared in onnxruntime with what it gives here before anyone gets the file.

The converter (jax2onnx) leaves out the padding of a max-pool without a word; ``models/pool.py`` therefore pads by
itself where the number of images is open. What else it may get wrong, the comparison finds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import parallel
from ssl_jax.types import Array

TOLERANCE = 1e-4  # of the largest feature, or absolute where that is below 1
BATCHES = (1, 3)  # that are compared
FILE = "model.onnx"


def check() -> None:
    """Refuse where the converter or the runtime is not installed."""
    for package in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"ONNX is written with {package}, which is not installed; pip install 'ssl_jax[onnx]', then "
                "pip install --no-deps 'jax2onnx>=0.17.1,<0.18', which excludes this Orbax without need"
            )


def write(folder: Path, encode: Callable[[Array], Array], shape: tuple[int, ...]) -> float:
    """``model.onnx``: "images" ``[B, h, w, c]``, float32 in [0, 1], to "features" ``[B, d]``; B is open.

    Returns:
      The largest difference that was found between onnxruntime's features and ours.

    Raises:
      ValueError: it cannot be converted, or computes something else; no file is left.
    """
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    path = folder / FILE
    try:
        with parallel.compiling_for("cpu"):
            to_onnx(
                encode,
                [("B", *shape)],
                model_name="encode",
                return_mode="file",
                output_path=str(path),
                input_names=["images"],
                output_names=["features"],
            )
        return compare(path, encode, shape)
    except Exception as error:  # whatever a converter and a runtime make of a network
        path.unlink(missing_ok=True)
        said = (str(error).splitlines() or [""])[0]
        if isinstance(error, ValueError) and said.startswith("onnxruntime"):
            raise
        raise ValueError(f"this network cannot be written as ONNX ({type(error).__name__}: {said[:200]})") from error


def compare(path: Path, encode: Callable[[Array], Array], shape: tuple[int, ...]) -> float:
    """The largest difference of features on random images.

    Raises:
      ValueError: it is above :data:`TOLERANCE`.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst, rng = 0.0, np.random.default_rng(0)
    for b in BATCHES:
        images = rng.random((b, *shape), np.float32)
        want = np.asarray(jax.jit(encode)(jnp.asarray(images)), np.float64)
        got = np.asarray(session.run(["features"], {"images": images})[0], np.float64)
        if got.shape != want.shape:
            raise ValueError(f"onnxruntime gives features {list(got.shape)}, and here they are {list(want.shape)}")
        difference, scale = float(np.abs(got - want).max()), max(1.0, float(np.abs(want).max()))
        if not difference <= TOLERANCE * scale:
            raise ValueError(
                f"onnxruntime computes other features of {b} images, by {difference:.2g} where they reach {scale:.2g} "
                f"(allowed: {TOLERANCE * scale:.1g}); nothing was written"
            )
        worst = max(worst, difference)
    return worst
