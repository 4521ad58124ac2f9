"""Makes swav.npz: Sinkhorn's assignments and SwAV's loss by lightly in float64, and its gradient.

pip install lightly && python tests/oracles/make_swav.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightly.loss.swav_loss import SwaVLoss, sinkhorn

CASES = ((0.05, 3), (0.03, 10), (0.5, 1))  # epsilon, iterations
ROWS, QUEUE, PROTOTYPES, LARGE, SMALL = 12, 24, 7, 2, 3


def main() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, (ROWS, LARGE + SMALL, PROTOTYPES))
    queue = rng.uniform(-1, 1, (LARGE, QUEUE, PROTOTYPES))
    out = {"scores": scores, "queue": queue, "cases": np.array(CASES)}
    for i, (epsilon, iterations) in enumerate(CASES):
        out[f"q/{i}"] = sinkhorn(torch.tensor(scores[:, 0]), iterations, epsilon).numpy()
    for name, earlier in (("alone", None), ("queue", [torch.tensor(q) for q in queue])):
        s = torch.tensor(scores, requires_grad=True)
        views = [s[:, v] for v in range(LARGE + SMALL)]
        loss = SwaVLoss(temperature=0.1)(views[:LARGE], views[LARGE:], earlier)
        loss.sum().backward()
        out |= {f"loss/{name}": loss.item(), f"gradient/{name}": s.grad.numpy()}
    np.savez_compressed(Path(__file__).with_name("swav.npz"), **out)


if __name__ == "__main__":
    main()
