"""Exact weighted kNN: 50,000 x 512 in the bank, k = 200, against a matrix product with top-k and against faiss."""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

from typing import Any

import numpy as np
from benchmark import Benchmark

from ssl_jax.evals import knn

BANK, DIM, K, CLASSES, TEMPERATURE = 50_000, 512, 200, 10, 0.1


def knn_50k(quick: bool) -> Benchmark:
    """Classes of all queries; processor time, since faiss and torch wait in loops."""
    queries = 1_000 if quick else 10_000
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, BANK)
    centres = rng.normal(size=(CLASSES, DIM))
    bank = (rng.normal(size=(BANK, DIM)) + 0.1 * centres[labels]).astype(np.float32)
    asked = (rng.normal(size=(queries, DIM)) + 0.1 * centres[rng.integers(0, CLASSES, queries)]).astype(np.float32)
    settings = {"k": K, "temperature": TEMPERATURE, "num_classes": CLASSES}

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def torch_peer():
        import torch

        rows, known = torch.from_numpy(unit(bank)).T.contiguous(), torch.from_numpy(labels)

        def run():  # in blocks of queries, as lightly and DINO do it
            votes = []
            for part in torch.from_numpy(unit(asked)).split(256):
                near, where = (part @ rows).topk(K)
                one_hot = torch.zeros(len(part), CLASSES)
                votes.append(one_hot.scatter_add(1, known[where], (near / TEMPERATURE).exp()).argmax(1))
            return torch.cat(votes).numpy()

        return run

    def faiss_peer():
        import faiss

        def run():
            index: Any = faiss.IndexFlatIP(DIM)
            index.add(unit(bank))
            similarity, rows = index.search(unit(asked), K)
            return knn.vote(similarity, rows, labels, **settings)

        return run

    def sklearn_peer():
        from sklearn.neighbors import NearestNeighbors

        def run():
            found = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(bank)
            distance, rows = found.kneighbors(asked)
            return knn.vote(1 - distance, rows, labels, **settings)

        return run

    def same(ours, theirs):
        share = float(np.mean(ours == theirs))
        return None if share >= 0.999 else f"{1 - share:.1%} of its classes differ"

    return Benchmark(
        ours=lambda: knn.knn_predict(bank, labels, asked, **settings),
        peers={"torch": torch_peer, "faiss": faiss_peer, "sklearn": sklearn_peer},
        same=same,
        items=queries,
        unit="queries/s",
        processor=True,
        flop=2.0 * queries * BANK * DIM,
    )
