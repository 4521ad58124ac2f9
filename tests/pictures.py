"""Image files made on the spot."""

from __future__ import annotations

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def noise(h=9, w=13, c=3, dtype=np.uint8):
    return np.squeeze(RNG.integers(0, np.iinfo(dtype).max, (h, w, c), dtype, endpoint=True))


def folder(root, classes=("a", "b"), n=10, nested=False):
    for name in classes:
        where = root / name / "deep" / "er" if nested else root / name
        where.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(noise()).save(where / f"{i:03}.png")
    return root
