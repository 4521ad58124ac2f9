"""word2vec: one epoch over a corpus of words, host and device, against gensim on as many threads as there are cores."""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Benchmark

from ssl_jax import methods, models, optim, parallel
from ssl_jax.data.text import windows
from ssl_jax.evals.words import neighbours
from ssl_jax.step import compile_step, init_state
from ssl_jax.types import Plan, Vocab

WIDTH, WINDOW, NEGATIVES, SUBSAMPLE = 100, 5, 5, 1e-3
TOPICS, WORDS, LENGTH = 200, 20_000, 200  # of the corpus: a document is of two topics
ROWS, CENTRES, NOISE, RATE = 64, 32, 32, 1e-2
ASKED, KNOWN, NEAR = 1_000, 2_000, 5  # neighbours of the most frequent words among the more frequent


def documents(number: int) -> list[np.ndarray]:
    """Words, numbered from 1, whose frequencies follow Zipf's law; half of a document's are of its topics."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, WORDS + 1)
    common = np.cumsum(shares / shares.sum())
    found = []
    for _ in range(number):
        words = np.searchsorted(common, rng.random(LENGTH))
        topic = rng.choice(rng.integers(TOPICS, size=2), LENGTH)
        own = words // TOPICS * TOPICS + topic  # of as many words, as frequent, the one of the topic
        found.append((np.where(rng.random(LENGTH) < 0.5, own, words) % WORDS + 1).astype(np.int32))
    return found


def word2vec(quick: bool) -> Benchmark:
    """Skip-gram with the same sizes and as many words; how much each learns of them stands in the details."""
    text = documents(2_500 if quick else 5_000)
    words = sum(map(len, text))

    def ours():
        sizes = windows.Sizes(CENTRES, WINDOW, NOISE)
        corpus = windows.corpus(text, window=WINDOW, subsample=SUBSAMPLE, vocab=WORDS + 1, special=[0])
        feed = windows.feed(corpus, sizes, seed=0, global_batch_size=ROWS)
        state = jax.tree.map(jnp.copy, begun)  # the step takes it
        for batch in feed.batches(total_steps=feed.steps_per_epoch):
            state, _ = step(state, step.place(batch))
        return np.asarray(state.params["encoder"]["stem_embedding"])[1:]

    encoder = models.make("embedding", vocab=WORDS + 1, width=WIDTH)
    plan = Plan(1, 1, words, (CENTRES,), ROWS, vocab=Vocab(WORDS + 1))
    method = methods.get("word2vec")(encoder, plan=plan, negatives=NEGATIVES)
    tx = optim.make("adamw", learning_rate=RATE, weight_decay=0.0)
    mesh = parallel.make_mesh(1)
    step = compile_step(method, tx, mesh)
    corpus = windows.corpus(text[:100], window=WINDOW, subsample=0, vocab=WORDS + 1, special=[0])
    first = next(windows.feed(corpus, windows.Sizes(CENTRES, WINDOW, NOISE), seed=0, global_batch_size=ROWS).batches())
    begun = init_state(method, tx, jax.random.key(0), step.place(first), mesh)

    def gensim_peer():
        from gensim.models import Word2Vec

        sentences = [[str(word) for word in document] for document in text]
        sizes = {"vector_size": WIDTH, "window": WINDOW, "negative": NEGATIVES, "sample": SUBSAMPLE, "sg": 1}

        def run():
            model = Word2Vec(sentences, min_count=1, epochs=1, workers=os.cpu_count() or 1, seed=0, **sizes)
            found = np.zeros((WORDS, WIDTH), np.float32)
            found[[int(word) - 1 for word in model.wv.index_to_key]] = model.wv.vectors
            return found

        return run

    details: dict[str, float] = {}

    def same(mine, theirs):
        """Neighbours of frequent words are words of their topic, as often in the one as in the other."""
        asked = np.arange(ASKED)
        near = [neighbours(v[:KNOWN], v[:ASKED], NEAR, without=asked[:, None])[0] for v in (mine, theirs)]
        topics = [float((rows % TOPICS == asked[:, None] % TOPICS).mean()) for rows in near]
        common = np.mean([len(set(a) & set(b)) / NEAR for a, b in zip(*near, strict=True)])
        details.update({"of_the_topic": round(topics[0], 3), "of_the_topic_gensim": round(topics[1], 3)})
        details.update({"neighbours_in_common": round(float(common), 3)})
        return None if topics[1] > 20 / TOPICS else f"{topics[1]:.1%} of its neighbours are of the topic"

    return Benchmark(ours, {"gensim": gensim_peer}, same, items=words, unit="words/s", details=details)
