"""Makes consistency.npz: UDA's loss of images by torch.nn.functional.kl_div in float64, and its gradient.

pip install torch && python tests/oracles/make_consistency.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CASES = ((1.0, 0.0), (0.4, 0.8), (2.0, 0.3))  # temperature, threshold


def main() -> None:
    rng = np.random.default_rng(0)
    plain, augmented = rng.normal(0, 2, (2, 24, 5))
    out = {"plain": plain, "augmented": augmented, "cases": np.array(CASES)}
    for i, (temperature, threshold) in enumerate(CASES):
        u, v = torch.tensor(plain), torch.tensor(augmented, requires_grad=True)
        confident = F.softmax(u, -1).amax(-1) > threshold
        target = F.log_softmax(u / temperature, -1)
        each = F.kl_div(F.log_softmax(v, -1), target, reduction="none", log_target=True).sum(-1)
        loss = (each * confident).mean()
        loss.backward()
        out |= {
            f"loss/{i}": loss.item(),
            f"share/{i}": confident.double().mean().item(),
            f"gradient/{i}": v.grad.numpy(),
        }
    np.savez_compressed(Path(__file__).with_name("consistency.npz"), **out)


if __name__ == "__main__":
    main()
