"""Makes words.npz: neighbours, analogies and accuracy of small vectors by gensim 4.4.0.

Run: pip install gensim && python tests/oracles/make_words.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from gensim.models import KeyedVectors


def main() -> None:
    rng = np.random.default_rng(0)
    kinds, size = 20, 8
    base = rng.normal(size=(kinds, size))
    offset = rng.normal(size=size)
    vectors = np.concatenate([base, base + offset + rng.normal(size=base.shape) * 0.7]).astype(np.float32)
    words = [f"w{i}" for i in range(2 * kinds)]
    pairs = [(i, j) for i in range(kinds) for j in range(kinds) if i != j]
    questions = np.array([(i, i + kinds, j, j + kinds) for i, j in pairs])
    found = KeyedVectors(size)
    found.add_vectors(words, vectors)
    out = {"vectors": vectors, "questions": questions}
    near = [found.most_similar(words[i], topn=5) for i in range(10)]
    out["neighbours"] = np.array([[words.index(word) for word, _ in row] for row in near])
    out["cosines"] = np.array([[cosine for _, cosine in row] for row in near])
    best = [
        found.most_similar(positive=[words[b], words[c]], negative=[words[a]], topn=3) for a, b, c, _ in questions[:40]
    ]
    out["answers"] = np.array([[words.index(word) for word, _ in row] for row in best])
    out["answer_cosines"] = np.array([[cosine for _, cosine in row] for row in best])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.txt"
        lines = [" ".join(words[i] for i in row) for row in questions]
        path.write_text("\n".join([": first", *lines[:200], ": second", *lines[200:]]) + "\n")
        total, sections = found.evaluate_word_analogies(str(path))
    out["accuracy"] = np.array([total, *(len(s["correct"]) / len(s["correct"] + s["incorrect"]) for s in sections[:2])])
    np.savez_compressed(Path(__file__).with_name("words.npz"), **out)
    print({name: value.shape for name, value in out.items()}, out["accuracy"])


if __name__ == "__main__":
    main()
