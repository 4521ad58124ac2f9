"""An encoder as ONNX, compared in onnxruntime with what it gives here before anyone gets the file.

The converter (jax2onnx) leaves out the padding of a max-pool without a word; ``models/pool.py`` therefore pads by
itself where the number of images is open. What else it may get wrong, the comparison finds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import parallel
from ssl_jax.types import Array

Encode = Callable[[Array], Mapping[str, Array]]  # images in [0, 1] -> outputs
TOLERANCE = 1e-4  # of the largest number of an output, or absolute where that is below 1
BATCHES = (1, 3)  # that are compared
FILE = "model.onnx"
DATA = f"{FILE}.data"
LIMIT = 1_900_000_000  # bytes of weights in one file, of which protobuf holds less than 2**31


def check() -> None:
    """Refuse where the converter or the runtime is not installed."""
    for package in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"ONNX is written with {package}, which is not installed; pip install 'ssl_jax[onnx]', then "
                "pip install --no-deps 'jax2onnx>=0.17.1,<0.18', which excludes this Orbax without need"
            )


def write(
    folder: Path, encode: Encode, shape: tuple[int, ...], outputs: Sequence[str] = ("features",), *, size: int = 0
) -> float:
    """``model.onnx``: "images" ``[B, h, w, c]``, float32 in [0, 1], to outputs ``[B, d]`` by name; B is open.

    Args:
      outputs: which of those that ``encode`` gives.
      size: of the weights in bytes; above :data:`LIMIT` they lie beside the graph in ``model.onnx.data``.

    Returns:
      The largest difference that was found between onnxruntime's outputs and ours.

    Raises:
      ValueError: it cannot be converted, or computes something else; no file is left.
    """
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    path = folder / FILE
    try:
        with parallel.compiling_for("cpu"), _quiet():
            to_onnx(
                lambda images: _chosen(encode(images), outputs),
                [("B", *shape)],
                model_name="encode",
                return_mode="file",
                output_path=str(path),
                export_mode="standard" if size > LIMIT else "web",  # its word for one file
                input_names=["images"],
                output_names=list(outputs),
            )
        return compare(path, encode, shape, outputs)
    except Exception as error:  # whatever a converter and a runtime make of a network
        for left in (path, folder / DATA):
            left.unlink(missing_ok=True)
        said = (str(error).splitlines() or [""])[0]
        if isinstance(error, ValueError) and said.startswith("onnxruntime"):
            raise
        raise ValueError(f"this network cannot be written as ONNX ({type(error).__name__}: {said[:200]})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for every constant of the graph: what the converter gets wrong the comparison finds."""
    log = logging.getLogger("onnx_ir")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def compare(path: Path, encode: Encode, shape: tuple[int, ...], outputs: Sequence[str] = ("features",)) -> float:
    """The largest difference of outputs on random images.

    Raises:
      ValueError: that of one of them is above :data:`TOLERANCE`.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst, rng = 0.0, np.random.default_rng(0)
    for b in BATCHES:
        images = rng.random((b, *shape), np.float32)
        wanted = jax.jit(lambda x: _chosen(encode(x), outputs))(jnp.asarray(images))
        for name, want, got in zip(outputs, wanted, session.run(list(outputs), {"images": images}), strict=True):
            want, got = (np.asarray(a, np.float64) for a in (want, got))
            if got.shape != want.shape:
                raise ValueError(f"onnxruntime gives {name} {list(got.shape)}, and here they are {list(want.shape)}")
            difference, scale = float(np.abs(got - want).max()), max(1.0, float(np.abs(want).max()))
            if not difference <= TOLERANCE * scale:
                raise ValueError(
                    f"onnxruntime computes other {name} of {b} images, by {difference:.2g} where they reach "
                    f"{scale:.2g} (allowed: {TOLERANCE * scale:.1g}); nothing was written"
                )
            worst = max(worst, difference)
    return worst


def _chosen(outputs: Mapping[str, Array], names: Sequence[str]) -> tuple[Array, ...]:
    return tuple(outputs[name] for name in names)
