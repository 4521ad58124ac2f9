"""Makes solo.npz: NNCLR's and MoCo v3's losses by solo-learn in float64, and the gradients of what is predicted.

pip install torch && pip install --no-deps solo-learn==1.0.2 && python tests/oracles/make_solo.py MOCOV3

The release lacks MoCo v3: MOCOV3 is solo/losses/mocov3.py of https://github.com/vturrisi/solo-learn at 43ce4a6. Without
a process group it takes itself for the second process, hence the group of one.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import numpy as np
import torch
import torch.distributed as dist

CASES = ((0.1, 16, 8), (0.2, 5, 12), (1.0, 7, 3))  # temperature, batch, dimension
QUEUE = 24


def main() -> None:
    release = Path(find_spec("solo").submodule_search_locations[0])  # not imported: its package needs lightning
    nnclr = run_path(str(release / "losses" / "nnclr.py"))["nnclr_loss_func"]
    moco_v3 = run_path(sys.argv[1])["mocov3_loss_func"]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rng = np.random.default_rng(0)
    out = {"temperatures": np.array([temperature for temperature, *_ in CASES])}
    for i, (temperature, batch, dim) in enumerate(CASES):
        z, p = rng.normal(size=(2, 2, batch, dim))  # of both views
        queue = rng.normal(size=(QUEUE, dim))
        queue /= np.linalg.norm(queue, axis=1, keepdims=True)
        out |= {f"z/{i}": z, f"p/{i}": p, f"queue/{i}": queue}
        neighbours = queue[(z @ queue.T).argmax(-1)]
        for view in (0, 1):  # what is predicted of this view against neighbours or keys of the other
            for name, loss, given in (
                ("nnclr", lambda p, other, t: nnclr(other, p, t), neighbours),
                ("moco_v3", moco_v3, z),
            ):
                predicted = torch.tensor(p[view], requires_grad=True)
                value = loss(predicted, torch.tensor(given[1 - view]), temperature)
                value.backward()
                out |= {f"{name}/loss/{i}/{view}": value.item(), f"{name}/gradient/{i}/{view}": predicted.grad.numpy()}
    dist.destroy_process_group()
    np.savez_compressed(Path(__file__).with_name("solo.npz"), **out)


if __name__ == "__main__":
    main()
