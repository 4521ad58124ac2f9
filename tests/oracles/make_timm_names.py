"""Makes timm_names.npz: names and shapes of timm's VGG, DenseNet-121 and MobileNetV2 with a classifier of 3 classes.

pip install torch torchvision timm
python tests/oracles/make_timm_names.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm  # pyright: ignore[reportMissingImports]

NAMES = ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "densenet121", "mobilenetv2_100")


def main() -> None:
    found = {}
    for name in NAMES:
        arrays = timm.create_model(name, num_classes=3).state_dict()
        found[name] = np.array([f"{key} {'x'.join(map(str, array.shape))}" for key, array in arrays.items()])
    np.savez_compressed(Path(__file__).with_name("timm_names.npz"), version=np.array(timm.__version__), **found)


if __name__ == "__main__":
    main()
