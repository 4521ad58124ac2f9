"""Makes lab.npz: colours in Lab and back by scikit-image 0.26.0.

Run: pip install scikit-image && python tests/oracles/make_lab.py
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from skimage.color import lab2rgb, rgb2lab


def main() -> None:
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*3 * [[0.0, 1.0]], indexing="ij"), -1).reshape(-1, 3)
    dark = rng.random((100, 3)) * 0.05  # about both straight ends of the curves
    rgb = np.concatenate([corners, dark, rng.random((300, 3)), np.repeat(np.linspace(0, 1, 50)[:, None], 3, 1)])
    # What a network may say, most of it outside sRGB.
    lab = rng.random((300, 3)) * [100, 220, 220] - [0, 110, 110]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values without a colour, which become zero
        out = {"rgb": rgb, "rgb_lab": rgb2lab(rgb), "lab": lab, "lab_rgb": lab2rgb(lab)}
    np.savez_compressed(Path(__file__).with_name("lab.npz"), **out)


if __name__ == "__main__":
    main()
