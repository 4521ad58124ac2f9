"""Makes sigreg.npz: values and gradients of LeJEPA's losses by lightly 1.6.0 and torch 2.13.0, with given directions.

Run: pip install torch torchvision lightly && python tests/oracles/make_sigreg.py
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

from lightly.loss.lejepa_loss import LeJEPALoss, SIGReg


def main() -> None:
    rng = np.random.default_rng(0)
    views, n, dim, slices = 5, 24, 6, 16
    z = rng.normal(size=(views, n, dim)) * np.linspace(0.1, 2.0, dim) + 0.3
    directions = rng.normal(size=(dim, slices))
    directions /= np.linalg.norm(directions, axis=0)
    out = {"z": z, "directions": directions}

    def fixed(self, device, dtype, num_features):
        return torch.tensor(directions, dtype=dtype)

    SIGReg._generate_unit_vectors = fixed
    for knots, t_max in ((17, 3.0), (9, 5.0)):
        a = torch.tensor(z[0], requires_grad=True)
        loss = SIGReg(knots=knots, t_max=t_max, num_vectors=slices).double()(a)
        loss.backward()
        out |= {f"sigreg/{knots}/loss": loss.item(), f"sigreg/{knots}/grad": a.grad.numpy()}

    a = torch.tensor(z, requires_grad=True)  # the first two views are global
    loss = LeJEPALoss(lambda_param=0.05, sigreg_num_vectors=slices).double()(local_proj=a[2:], global_proj=a[:2])
    loss.backward()
    out |= {"lejepa/loss": loss.item(), "lejepa/grad": a.grad.numpy()}
    np.savez_compressed(Path(__file__).with_name("sigreg.npz"), **out)


if __name__ == "__main__":
    main()
