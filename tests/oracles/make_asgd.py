"""Makes asgd.npz: torch's SGD and then its ASGD(t0=0, lambd=0), as AWD-LSTM has them, on given gradients in float64.

    pip install torch && python tests/oracles/make_asgd.py

``params`` and ``averages`` ``[steps, n]`` are those after each step; ASGD has the steps from ``begin`` on, counted from
0. It takes its first two as they are (mu is computed behind the mean that it is for), so that after step s its average
is the mean of the parameters after the steps ``begin + 1`` to s, and after step ``begin`` the parameters themselves;
to 1e-8, for its mu is float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

STEPS, SIZE, BEGIN, RATE = 10, 4, 3, 0.5


def main() -> None:
    rng = np.random.default_rng(0)
    first, gradients = rng.normal(size=SIZE), rng.normal(size=(STEPS, SIZE))
    x = torch.tensor(first, requires_grad=True)
    tx: torch.optim.Optimizer = torch.optim.SGD([x], lr=RATE)
    params, averages = [], []
    for step, gradient in enumerate(gradients):
        if step == BEGIN:
            tx = torch.optim.ASGD([x], lr=RATE, t0=0, lambd=0.0)
        x.grad = torch.tensor(gradient)
        tx.step()
        params.append(x.detach().numpy().copy())
        averages.append((tx.state[x]["ax"] if step >= BEGIN else x.detach()).numpy().copy())
    out = {"params0": first, "gradients": gradients, "lr": RATE, "begin": BEGIN, "params": params, "averages": averages}
    np.savez_compressed(Path(__file__).with_name("asgd.npz"), **out)


if __name__ == "__main__":
    main()
