"""Makes two_views.npz: values and gradients of the losses of SimSiam, Barlow Twins and VICReg by lightly 1.6.0.

Run: pip install torch torchvision lightly && python tests/oracles/make_two_views.py
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

from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, VICRegLoss


def main() -> None:
    rng = np.random.default_rng(0)
    # Dimensions of their own scales and centres that have something in common, so that every term counts.
    z1 = rng.normal(size=(12, 6)) @ rng.normal(size=(6, 6)) * 0.4 + rng.normal(size=6)
    z2 = z1 + 0.5 * rng.normal(size=(12, 6))
    out: dict[str, np.ndarray] = {"z1": z1, "z2": z2}
    cases = {
        "simsiam": lambda a, b: (NegativeCosineSimilarity()(a, z[1]) + NegativeCosineSimilarity()(b, z[0])) / 2,
        "barlow_twins": BarlowTwinsLoss(lambda_param=0.0051),
        "barlow_twins/0.3": BarlowTwinsLoss(lambda_param=0.3),
        "vicreg": VICRegLoss(),
        "vicreg/3,7,2": VICRegLoss(lambda_param=3.0, mu_param=7.0, nu_param=2.0),
    }
    for name, loss in cases.items():
        z = [torch.tensor(x, dtype=torch.float64) for x in (z1, z2)]
        a, b = (x.clone().requires_grad_() for x in z)
        value = loss(a, b)
        value.backward()
        out |= {f"{name}/loss": value.item(), f"{name}/grad1": a.grad.numpy(), f"{name}/grad2": b.grad.numpy()}
    np.savez_compressed(Path(__file__).with_name("two_views.npz"), **out)


if __name__ == "__main__":
    main()
