"""Makes lstm.npz: torch.nn.LSTM of two layers behind an embedding, over three windows of carried state, in float64.

    pip install torch && python tests/oracles/make_lstm.py

Gradients are of the sum of squares of the third window's outputs; they end where the window begins.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

VOCAB, WIDTH, LAYERS, ROWS, LENGTH, WINDOWS = 11, 6, 2, 3, 5, 3


def main() -> None:
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(VOCAB, WIDTH).double()
    lstm = torch.nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True).double()
    tokens = torch.randint(1, VOCAB, (WINDOWS, ROWS, LENGTH))
    out: dict[str, np.ndarray] = {"tokens": tokens.numpy().astype(np.int32)}
    state, hidden = None, torch.zeros(0)
    for i, window in enumerate(tokens):
        state = None if state is None else tuple(part.detach() for part in state)
        hidden, state = lstm(embedding(window), state)
        out |= {f"outputs/{i}": hidden.detach().numpy()}
        out |= {f"{name}/{i}": part.detach().numpy() for name, part in zip("hc", state, strict=True)}
    hidden.square().sum().backward()
    parameters = {"embedding": embedding.weight, **dict(lstm.named_parameters())}
    out |= {f"weights/{name}": value.detach().numpy() for name, value in parameters.items()}
    out |= {f"gradients/{name}": value.grad.numpy() for name, value in parameters.items()}
    np.savez_compressed(Path(__file__).with_name("lstm.npz"), **out)


if __name__ == "__main__":
    main()
