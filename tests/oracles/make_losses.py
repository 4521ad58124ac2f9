"""Makes losses.npz: values and gradients of the contrastive and regression losses by lightly 1.6.0 and torch 2.13.0.

Run: pip install torch torchvision lightly && python tests/oracles/make_losses.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

if torch.__version__.endswith("+cpu"):
    # The default torchvision build does not load its operators beside a CPU-only torch; their schemas are enough here.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lightly.loss import NTXentLoss


def leaf(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def main() -> None:
    rng = np.random.default_rng(0)
    out: dict[str, np.ndarray] = {}

    for n, dim in ((8, 16), (32, 5)):
        z1, z2 = rng.normal(size=(2, n, dim)) * 3.0
        out |= {f"nt_xent/{n}/z1": z1, f"nt_xent/{n}/z2": z2}
        for temperature in (0.07, 0.1, 0.5):
            a, b = leaf(z1), leaf(z2)
            loss = NTXentLoss(temperature=temperature)(a, b)
            loss.backward()
            case = f"nt_xent/{n}/{temperature}/"
            out |= {case + "loss": loss.item(), case + "grad1": a.grad.numpy(), case + "grad2": b.grad.numpy()}

    n, dim, rows = 8, 16, 64
    q, k = rng.normal(size=(2, n, dim)) * 2.0
    queue = rng.normal(size=(rows, dim))
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    out |= {"info_nce_queue/q": q, "info_nce_queue/k": k, "info_nce_queue/queue": queue}
    for temperature in (0.07, 0.2):
        a = leaf(q)
        criterion = NTXentLoss(temperature=temperature, memory_bank_size=(rows, dim))
        criterion.memory_bank.bank = torch.tensor(queue)
        criterion.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.int64)
        loss = criterion(a, torch.tensor(k))
        loss.backward()

        b = leaf(q)
        unit_q, unit_k = F.normalize(b), F.normalize(torch.tensor(k))
        logits = torch.cat([(unit_q * unit_k).sum(1, keepdim=True), unit_q @ torch.tensor(queue).T], 1) / temperature
        entropy = F.cross_entropy(logits, torch.zeros(n, dtype=torch.int64))
        entropy.backward()

        case = f"info_nce_queue/{temperature}/"
        out |= {case + "loss": loss.item(), case + "grad": a.grad.numpy()}
        out |= {case + "torch_loss": entropy.item(), case + "torch_grad": b.grad.numpy()}

    p, z = rng.normal(size=(2, n, dim))
    z[0], z[1] = 2.0 * p[0], -0.5 * p[1]  # parallel and opposite
    a = leaf(p)
    loss = (2 - 2 * F.cosine_similarity(a, torch.tensor(z))).mean()
    loss.backward()
    out |= {"byol/p": p, "byol/z": z, "byol/loss": loss.item(), "byol/grad": a.grad.numpy()}

    np.savez_compressed(Path(__file__).with_name("losses.npz"), **out)


if __name__ == "__main__":
    main()
