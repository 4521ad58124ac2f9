"""Makes distillation.npz: losses of DINO, iBOT and KoLeo by lightly 1.6.0, weight normalisation by torch 2.13.0.

Run: pip install torch torchvision lightly && python tests/oracles/make_distillation.py
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

from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss


def leaf(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def main() -> None:
    rng = np.random.default_rng(0)
    out: dict[str, np.ndarray] = {}

    rows, g, v, k = 4, 2, 5, 7
    criterion = DINOLoss(k, teacher_temp=0.05, student_temp=0.1, center_momentum=0.9).double()
    for step in range(2):  # the second has a centre that is not zero
        teacher, student = 0.3 * rng.normal(size=(rows, g, k)), 0.3 * rng.normal(size=(rows, v, k))
        a = leaf(student)
        loss = criterion(list(torch.tensor(teacher).unbind(1)), list(a.unbind(1)), teacher_temp=0.05)
        loss.backward()
        case = f"dino/{step}/"
        out |= {case + "teacher": teacher, case + "student": student, case + "loss": loss.item()}
        out |= {case + "grad": a.grad.numpy(), case + "centre": criterion.center.numpy().ravel().copy()}

    grid = (3, 3)
    mask = rng.random((rows, *grid)) < np.array([0.6, 0.0, 0.2, 0.9])[:, None, None]
    count = int(mask.sum())
    teacher, student = 0.3 * rng.normal(size=(2, count, k))
    a = leaf(student)
    loss = IBOTPatchLoss(k, teacher_temp=0.05, student_temp=0.1).double()(torch.tensor(teacher), a, torch.tensor(mask))
    loss.backward()
    out |= {"ibot/mask": mask, "ibot/teacher": teacher, "ibot/student": student}
    out |= {"ibot/loss": loss.item(), "ibot/grad": a.grad.numpy()}

    x = rng.normal(size=(6, 5))
    a = leaf(x)
    loss = KoLeoLoss().double()(a)
    loss.backward()
    out |= {"koleo/x": x, "koleo/loss": loss.item(), "koleo/grad": a.grad.numpy()}

    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, k, bias=False).double())
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    with torch.no_grad():
        g.copy_(torch.tensor(rng.uniform(0.5, 2, size=g.shape)))
    a, weights = leaf(rng.normal(size=(rows, 5))), torch.tensor(rng.normal(size=(rows, k)))
    y = layer(a)
    (y * weights).sum().backward()
    out |= {"norm/x": a.detach().numpy(), "norm/g": g.detach().numpy()[:, 0], "norm/v": v.detach().numpy().T}
    out |= {"norm/y": y.detach().numpy(), "norm/weights": weights.numpy(), "norm/grad_x": a.grad.numpy()}
    out |= {"norm/grad_g": g.grad.numpy()[:, 0], "norm/grad_v": v.grad.numpy().T}

    np.savez_compressed(Path(__file__).with_name("distillation.npz"), **out)


if __name__ == "__main__":
    main()
