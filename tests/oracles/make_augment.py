"""Makes augment.npz: what torchvision 0.28 (torch 2.13) does to a few small images, and where it crops.

pip install torch==2.13.0 numpy && pip install torchvision==0.28.0 --no-deps
python tests/oracles/make_augment.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

if torch.__version__.endswith("+cpu"):
    # The default torchvision build does not load its operators beside a CPU-only torch; their schemas are enough here.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

FACTORS = (0.0, 0.2, 0.7, 1.0, 1.4, 1.8)
HUES = (-0.5, -0.2, 0.0, 0.1, 0.5)
ORDERS = ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1))
JITTER = (1.3, 0.6, 1.5, -0.15)  # brightness, contrast, saturation, hue
SIGMAS = (0.1, 0.5, 1.0, 2.0)
RADII = (1, 3, 8)
SHAPES = ((32, 32), (224, 224), (60, 300), (200, 48))
AREA, ASPECT, DRAWS = (0.08, 1.0), (3 / 4, 4 / 3), 50_000
LEVELS = np.linspace(0.0, 1.0, 101)


def images() -> np.ndarray:
    """A smooth image, one with a colour cast, and noise: float32 [3, 12, 14, 3]."""
    y, x = np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 1, 14), indexing="ij")
    smooth = np.stack([x, y, (x + y) / 2], -1)
    cast = 0.15 + 0.5 * np.stack([0.9 + 0.1 * x, 0.3 * y, 0.2 * x * y], -1)
    noise = np.random.default_rng(0).random((12, 14, 3))
    return np.stack([smooth, cast, noise]).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, -3).copy())


def nhwc(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.numpy(), -3, -1)


def cdf(values: np.ndarray) -> np.ndarray:
    """Rows: quantiles, and the share of draws not above each: float64 [2, 101]."""
    at = np.quantile(values, LEVELS, method="inverted_cdf")
    return np.stack([at, np.searchsorted(np.sort(values), at, side="right") / len(values)])


def boxes(height: int, width: int) -> np.ndarray:
    image = torch.zeros(3, height, width)
    return np.array([RandomResizedCrop.get_params(image, AREA, ASPECT) for _ in range(DRAWS)])


def main() -> None:
    torch.manual_seed(0)
    x = images()
    out: dict[str, np.ndarray] = {"images": x}
    apply = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for f, name in zip(apply, ("brightness", "contrast", "saturation", "hue"), strict=True):
        values = HUES if name == "hue" else FACTORS
        out[name] = np.stack([nhwc(torch.stack([f(i, v) for i in nchw(x)])) for v in values])
    jittered = []
    for order in ORDERS:
        y = nchw(x)
        for k in order:
            y = torch.stack([apply[k](i, JITTER[k]) for i in y])
        jittered.append(nhwc(y))
    out["jitter"] = np.stack(jittered)
    out["gray"] = nhwc(F.rgb_to_grayscale(nchw(x), 3))
    out["contrast_gray"] = np.stack([nhwc(F.adjust_contrast(nchw(x[2, :, :, :1]), v)) for v in FACTORS])
    blurred = [[nhwc(F.gaussian_blur(nchw(x), [2 * r + 1] * 2, [s] * 2)) for s in SIGMAS] for r in RADII]
    out["blur"] = np.stack([np.stack(b) for b in blurred])
    for name in ("bilinear", "bicubic"):
        y = F.resize(nchw(x), [9], InterpolationMode(name), antialias=True)
        out[f"resize_crop_{name}"] = nhwc(F.center_crop(y, [7, 7]))
    for height, width in SHAPES:
        b = boxes(height, width)
        y, left, h, w = b.T
        parts = {"y": y, "x": left, "h": h, "w": w, "area": h * w / (height * width), "aspect": w / h}
        for part, values in parts.items():
            out[f"box_{height}_{width}_{part}"] = cdf(values)
        out[f"box_{height}_{width}_mean_area"] = np.array(parts["area"].mean())
    np.savez_compressed(Path(__file__).with_name("augment.npz"), **out)
    print({k: v.shape for k, v in out.items()}, torch.__version__, torchvision.__version__)


if __name__ == "__main__":
    main()
