"""Write the ImageNet weights of SqueezeNet 1.0 that Deep Compression published as one .safetensors file.

    python experiments/squeezenet_weights.py PATH/compressed_SqueezeNet.net --out squeezenet1_0.safetensors
    python experiments/import_weights.py squeezenet1_0.safetensors --out runs/squeezenet

The file (Han et al. 2016, songhan/SqueezeNet-Deep-Compression, BSD-2) holds for each of 26 convolutions, in the
order of the network, the number of stored weights (uint32, all 26 first), then 256 values (float32), the biases
(float32), for each stored weight the number of its value (8 bits) and how many zeros stand before it (4 bits, the lower
ones first). It was trained by Caffe on 0 to 255, blue first, less 104, 117, 123: here that is in the first
convolution, which has no padding, so that it takes images as torchvision's networks do.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import safetensors.numpy

from ssl_jax.run import command

VALUES = 256
FIRE = {3: 16, 4: 16, 5: 32, 7: 32, 8: 48, 9: 48, 10: 64, 12: 64}  # place in torchvision's features -> squeeze width
CAFFE = np.array([104.0, 117.0, 123.0])  # blue, green, red
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def layers():
    """(torchvision's name, shape [out, in, h, w]) of each convolution, in the order of the file."""
    yield "features.0", (96, 3, 7, 7)
    width = 96
    for place, squeeze in FIRE.items():
        yield f"features.{place}.squeeze", (squeeze, width, 1, 1)
        yield f"features.{place}.expand1x1", (4 * squeeze, squeeze, 1, 1)
        yield f"features.{place}.expand3x3", (4 * squeeze, squeeze, 3, 3)
        width = 8 * squeeze
    yield "classifier.1", (1000, width, 1, 1)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of the file by torchvision's names, as they take images normalised by ImageNet's mean and deviation.

    Raises:
      ValueError: the file has another length than its own counts give.
    """
    data, known = Path(path).read_bytes(), list(layers())
    counts = np.frombuffer(data, "<u4", min(len(known), len(data) // 4)).astype(int)
    sizes = [4 * VALUES + 4 * shape[0] + n + (n + 1) // 2 for n, (_, shape) in zip(counts, known, strict=False)]
    if len(counts) < len(known) or len(data) != 4 * len(known) + sum(sizes):
        raise ValueError(f"{path} is not compressed_SqueezeNet.net, or not whole; get it again")
    found, at = {}, 4 * len(known)
    for n, size, (name, shape) in zip(counts, sizes, known, strict=True):
        numbers = np.frombuffer(data, "<f4", VALUES + shape[0], at)
        codes = np.frombuffer(data, np.uint8, n, at + numbers.nbytes)
        pairs = np.frombuffer(data, np.uint8, (n + 1) // 2, at + numbers.nbytes + n)
        gaps = np.stack([pairs % 16, pairs // 16], 1).reshape(-1)[:n].astype(int)
        weights = np.zeros(int(np.prod(shape)), np.float32)
        weights[np.cumsum(gaps + 1) - 1] = numbers[codes]
        found |= {f"{name}.weight": weights.reshape(shape), f"{name}.bias": numbers[VALUES:].copy()}
        at += size
    first = found["features.0.weight"].astype(float)
    shift = (first * (255 * MEAN[::-1] - CAFFE)[None, :, None, None]).sum((1, 2, 3))
    scaled = first * (255 * STD[::-1])[None, :, None, None]
    found["features.0.weight"] = np.ascontiguousarray(scaled[:, ::-1]).astype(np.float32)
    found["features.0.bias"] = (found["features.0.bias"] + shift).astype(np.float32)
    return found


def main(arguments: list[str]) -> int:
    parser = command.Parser("Write SqueezeNet's published weights as .safetensors.")
    parser.add_path("source", help="compressed_SqueezeNet.net")
    parser.add_path("--out", required=True, help="a file that ends in .safetensors")
    options = parser.parse_args(arguments)
    try:
        arrays = read(options.source)
        safetensors.numpy.save_file(arrays, options.out, {"format": "pt"})
    except (ValueError, OSError) as error:
        return command.refuse(ValueError(error))
    print(f"{options.out}: {len(arrays)} arrays, {sum(int((a != 0).sum()) for a in arrays.values()):,} numbers not 0")
    return 0


if __name__ == "__main__":
    command.run(main)
