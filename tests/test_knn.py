"""kNN against scikit-learn and a brute-force vote in NumPy float64."""

from __future__ import annotations

import doctest
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ssl_jax import parallel
from ssl_jax.data.source import from_arrays
from ssl_jax.evals import Accuracy, knn
from ssl_jax.evals.shared import pictures

ROOT = Path(__file__).resolve().parent.parent


def examples(n=497, q=200, d=33, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    labels = rng.integers(0, classes, n + q)
    x = (centres[labels] + 2.5 * rng.normal(size=(n + q, d))).astype(np.float32)
    return x[:n], labels[:n], x[n:], labels[n:]


def cosine(bank, queries):
    bank, queries = (np.asarray(x, np.float64) for x in (bank, queries))
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(bank, axis=1)[None]
    return queries @ bank.T / np.where(norms > 0, norms, 1)


def brute_nearest(bank, queries, k, leave_one_out=False):
    similarity = cosine(bank, queries).round(12)  # equals stay equal
    if leave_one_out:
        np.fill_diagonal(similarity, -np.inf)
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, rows, axis=1), rows


def brute_vote(similarity, rows, labels, *, temperature, num_classes):
    predicted = []
    for near, found in zip(similarity, rows, strict=True):
        votes = np.zeros(num_classes)
        for s, row in zip(near, found, strict=True):
            votes[labels[row]] += np.exp(s / temperature)
        predicted.append(votes.argmax())
    return np.array(predicted)


def brute_force(bank, labels, queries, *, k, temperature, num_classes):
    found = brute_nearest(bank, queries, k)
    return brute_vote(*found, labels, temperature=temperature, num_classes=num_classes)


@pytest.mark.parametrize("devices", [None, 8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.07), (200, 0.1), (497, 1.0)])
def test_equals_brute_force_and_sklearn(k, temperature, devices):
    bank, labels, queries, _ = examples()
    mesh = devices and parallel.make_mesh(devices)
    ours = knn.knn_predict(bank, labels, queries, k=k, temperature=temperature, num_classes=5, mesh=mesh)
    assert ours.dtype == np.int32
    expected = brute_force(bank, labels, queries, k=k, temperature=temperature, num_classes=5)
    np.testing.assert_array_equal(ours, expected)
    assert len(np.unique(expected)) == 5
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    theirs.fit(bank.astype(np.float64), labels)
    np.testing.assert_array_equal(ours, theirs.predict(queries.astype(np.float64)))


SIZES = {
    "one chunk": {},
    "chunks": {"bank_chunk": 64},
    "odd chunks and blocks": {"bank_chunk": 37, "query_block": 50},
    "chunks of fewer rows than k": {"bank_chunk": 8, "query_block": 300},
}


@pytest.mark.parametrize("devices", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8))])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_neighbour_in_order(sizes, devices, monkeypatch):
    monkeypatch.setattr(knn, "QUERY_TILE", 16)
    bank, _, queries, _ = examples()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        similarity, rows = knn.nearest(
            bank.astype(np.float64), queries, k=30, mesh=parallel.make_mesh(devices), **SIZES[sizes]
        )
    expected, expected_rows = brute_nearest(bank, queries, 30)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-11)
    assert (similarity.dtype, rows.dtype) == (np.float64, np.int32)


@pytest.mark.parametrize("devices", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_leave_one_out(devices):
    bank, labels, _, _ = examples(n=97)
    bank[50] = bank[3]  # a copy is another example
    mesh = parallel.make_mesh(devices)
    for sizes in ({}, {"bank_chunk": 40, "query_block": 30}):
        similarity, rows = knn.nearest(bank, bank, k=96, mesh=mesh, leave_one_out=True, **sizes)
        expected, expected_rows = brute_nearest(bank, bank, 96, leave_one_out=True)
        np.testing.assert_allclose(similarity, expected, atol=1e-6)
        np.testing.assert_array_equal(np.sort(rows), np.sort(expected_rows))  # all others, each once
        assert (rows[3, 0], rows[50, 0]) == (50, 3)
    ours = knn.knn_predict(bank, labels, bank, k=9, temperature=0.1, num_classes=5, mesh=mesh, leave_one_out=True)
    found = brute_nearest(bank, bank, 9, leave_one_out=True)
    np.testing.assert_array_equal(ours, brute_vote(*found, labels, temperature=0.1, num_classes=5))
    with pytest.raises(ValueError, match="use a k from 1 to 96"):
        knn.nearest(bank, bank, k=97, leave_one_out=True)
    with pytest.raises(ValueError, match="97 rows and 90 queries"):
        knn.nearest(bank, bank[:90], k=5, leave_one_out=True)


@pytest.mark.parametrize("devices", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8))])
@pytest.mark.parametrize("bank_chunk", [65_536, 100, 24])
def test_of_equals_the_lower_row(devices, bank_chunk):
    bank, _, queries, _ = examples(n=61)
    bank = np.concatenate([bank, bank[::-1], bank, np.zeros_like(bank[:5])])
    queries = np.concatenate([queries, bank[:9], np.zeros_like(bank[:2])])
    similarity, rows = knn.nearest(bank, queries, k=40, mesh=parallel.make_mesh(devices), bank_chunk=bank_chunk)
    expected, expected_rows = brute_nearest(bank, queries, 40)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    np.testing.assert_array_equal(rows[-1], np.arange(40))  # a row of zeros is equally far from all


def test_of_equals_the_lower_class():
    similarity = np.array([[0.5, 0.5, 0.5], [0.9, 0.5, 0.5]])
    rows = np.array([[2, 0, 1], [2, 1, 0]])
    tie = knn.vote(similarity, rows, [3, 1, 2], k=3, temperature=0.1, num_classes=4)
    np.testing.assert_array_equal(tie, [1, 2])
    np.testing.assert_array_equal(knn.vote(similarity, rows, [3, 1, 2], k=1, temperature=0.1, num_classes=4), [2, 2])


@pytest.mark.parametrize("devices", [1, 8])
def test_padding_is_never_a_neighbour(devices):
    bank = np.eye(7, dtype=np.float32) - 9  # far from the query: a row of zeros would be nearer
    similarity, rows = knn.nearest(
        bank, np.ones((3, 7), np.float32), k=7, mesh=parallel.make_mesh(devices), bank_chunk=4
    )
    np.testing.assert_array_equal(np.sort(rows), np.tile(np.arange(7), (3, 1)))
    assert similarity.max() < -0.9


def test_compiles_once(monkeypatch):
    bank, _, queries, _ = examples()
    monkeypatch.setattr(knn, "KEPT_BLOCKS", 2)  # the others are placed again
    knn._visit.clear_cache()
    knn.nearest(bank, queries, k=3, bank_chunk=60, query_block=30)
    assert knn._visit._cache_size() == 1


def test_mapped_from_disk(tmp_path):
    bank, _, queries, _ = examples()
    np.save(tmp_path / "bank.npy", bank)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    for x, y in ((mapped, queries), (jnp.asarray(bank), jnp.asarray(queries))):
        for found, expected in zip(
            knn.nearest(x, y, k=9, centre=True, bank_chunk=300),
            knn.nearest(bank, queries, k=9, centre=True),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_many_classes_and_odd_sizes():
    bank, labels, queries, _ = examples(classes=480)
    ours = knn.knn_predict(bank, labels, queries, k=11, temperature=0.1, num_classes=480)
    np.testing.assert_array_equal(ours, brute_force(bank, labels, queries, k=11, temperature=0.1, num_classes=480))
    one = knn.knn_predict(bank[:1], labels[:1], queries[:3], k=1, temperature=0.1, num_classes=480)
    np.testing.assert_array_equal(one, np.full(3, labels[0]))
    assert knn.knn_predict(bank, labels, queries[:0], k=1, temperature=0.1, num_classes=480).shape == (0,)
    few = knn.nearest(bank[:3], queries[:1], k=2, mesh=parallel.make_mesh(8))  # some devices have nothing
    np.testing.assert_array_equal(few[1], brute_nearest(bank[:3], queries[:1], 2)[1])


def test_any_scale_and_small_temperature():
    bank, labels, queries, _ = examples()
    plain = knn.nearest(bank, queries, k=20)
    for scale in (1e-30, 1e30):
        for found, expected in zip(knn.nearest(bank * np.float32(scale), queries, k=20), plain, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
    cold = knn.vote(*plain, labels, k=20, temperature=1e-5, num_classes=5)
    np.testing.assert_array_equal(cold, labels[plain[1][:, 0]])


def test_dtypes():
    bank, labels, queries, _ = examples()
    low = [np.asarray(jnp.asarray(x, jnp.bfloat16)) for x in (bank, queries)]
    settings = {"k": 5, "temperature": 0.1, "num_classes": 5}
    found = knn.knn_predict(low[0], labels, low[1], **settings)
    rounded = [x.astype(np.float32) for x in low]
    np.testing.assert_array_equal(found, brute_force(rounded[0], labels, rounded[1], **settings))
    host = knn.knn_predict(bank.astype(np.float64), labels, queries, **settings)
    np.testing.assert_array_equal(host, brute_force(bank, labels, queries, **settings))


def test_accuracy_and_centring():
    bank, labels, queries, targets = examples()
    shifted = [x + np.float32(20) for x in (bank, queries)]
    kwargs = {"k": 20, "temperature": 0.1, "num_classes": 5}
    mean = bank.astype(np.float64).mean(0)
    expected = brute_force(bank - mean, labels, queries - mean, **kwargs) == targets
    found = knn.knn_accuracy(*shifted[:1], labels, shifted[1], targets, centre=True, **kwargs)
    assert isinstance(found, Accuracy)
    np.testing.assert_array_equal(found.hits, expected)
    assert found == pytest.approx(expected.mean())
    centred_bank, centred_queries = pictures.centred(*shifted)
    np.testing.assert_allclose(centred_bank.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(centred_queries, queries - mean, atol=1e-5)
    np.testing.assert_allclose(knn._mean(np.tile(bank, (40, 1))), mean, atol=1e-12)  # in several parts


def test_digits_and_permuted_labels():
    x, y = load_digits(return_X_y=True)
    split = x[:1000].astype(np.float32), x[1000:].astype(np.float32)
    settings = {"k": 5, "temperature": 0.1, "num_classes": 10}
    assert knn.knn_accuracy(split[0], y[:1000], split[1], y[1000:], **settings) > 0.94
    permuted = np.random.default_rng(0).permutation(y[:1000])
    assert 0.05 < knn.knn_accuracy(split[0], permuted, split[1], y[1000:], **settings) < 0.15


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 498}, "use a k from 1 to 497"),
        ({"k": 0}, "use a k from 1 to 497"),
        ({"temperature": 0.0}, "must be positive"),
        ({"temperature": float("nan")}, "must be positive"),
        ({"num_classes": 4}, "raise num_classes"),
        ({"labels": np.full(497, -1)}, "drop unlabelled"),
        ({"labels": np.zeros(496, int)}, "do not fit"),
        ({"queries": np.zeros((3, 15), np.float32)}, "do not fit"),
    ],
)
def test_errors(change, words):
    bank, labels, queries, _ = examples()
    call = {"bank": bank, "labels": labels, "queries": queries, "k": 5, "temperature": 0.1, "num_classes": 5} | change
    with pytest.raises(ValueError, match=words):
        knn.knn_predict(**call)
    with pytest.raises(ValueError, match="use a k from 1 to 7"):
        knn.vote(np.zeros((2, 7)), np.zeros((2, 7), int), labels, k=8, temperature=0.1, num_classes=5)


@pytest.mark.parametrize("centre", [False, True])
def test_what_is_not_finite_is_refused(centre):
    bank, _, queries, _ = examples()
    bank[300:302, 4], bank[310, :2] = np.nan, (np.inf, -np.inf)
    with pytest.raises(ValueError, match="3 of the bank rows 0 to 496 hold NaN or infinity"):
        knn.nearest(bank, queries, k=3, centre=centre)
    queries[7] = np.inf
    with pytest.raises(ValueError, match="1 of the query rows 0 to 199 hold NaN or infinity"):
        knn.nearest(queries[50:150], queries, k=3, centre=centre)


def test_doctest():
    assert doctest.testmod(knn).failed == 0


class Encode:
    """Features of images that are the features."""

    layers = {"features": 48, "stage1": 16}  # noqa: RUF012

    def __init__(self):
        self.mesh = parallel.make_mesh(8)

    def __call__(self, variables, source, *, layers=("features",), views=0):
        flat = source.columns["image"].reshape(len(source), -1).astype(np.float32)
        return {name: flat[:, : self.layers[name]] for name in layers} | {"label": source.labels}


def sources(n=90, q=40, unknown=7):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n + q).astype(np.int32)
    images = np.clip(rng.normal(100 + 10 * labels[:, None], 30, (n + q, 48)), 0, 255).astype(np.uint8)
    labels[:unknown] = -1
    images = images.reshape(-1, 4, 4, 3)
    return from_arrays(images[:n], labels[:n]), from_arrays(images[n:], labels[n:])


def test_evaluator():
    train, test = sources()
    evaluator = knn.Evaluator(
        Encode(), train=train, test=test, k=(20, 1), temperature=(0.1, 1), layers=("stage1", "features")
    )
    found = dict(evaluator.run(None))
    assert list(found) == [
        *(
            "knn_top1_stage1",
            "knn_top1_stage1_k20_t0.1",
            "knn_top1_stage1_k20_t1",
            "knn_top1_stage1_k1_t0.1",
            "knn_top1_stage1_k1_t1",
        ),
        *("knn_top1", "knn_top1_k20_t0.1", "knn_top1_k20_t1", "knn_top1_k1_t0.1", "knn_top1_k1_t1"),
    ]
    known = train.labels >= 0
    for name, layer, k, t in (
        ("knn_top1", 48, 20, 0.1),
        ("knn_top1_stage1_k20_t1", 16, 20, 1),
        ("knn_top1_k1_t1", 48, 1, 1),
    ):
        bank, queries = (s.columns["image"].reshape(len(s), -1)[:, :layer].astype(np.float64) for s in (train, test))
        bank, queries = bank[known] - bank[known].mean(0), queries - bank[known].mean(0)
        expected = brute_force(bank, train.labels[known], queries, k=k, temperature=t, num_classes=3)
        np.testing.assert_array_equal(found[name].hits, expected == test.labels)


def test_evaluator_leaves_one_out():
    train, test = sources(n=40, q=90)
    ((name, found),) = knn.Evaluator(
        Encode(), train=train, test=test, k=7, temperature=0.07, centre=False, leave_one_out=True
    ).run(None)
    assert name == "knn_loo_top1"
    x = test.columns["image"].reshape(len(test), -1)
    expected = brute_vote(*brute_nearest(x, x, 7, leave_one_out=True), test.labels, temperature=0.07, num_classes=3)
    np.testing.assert_array_equal(found.hits, expected == test.labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 84}, "eval.knn.k=84 but the bank has 83 labelled examples; use at most 83"),
        ({"k": (5, 40), "leave_one_out": True}, "eval.knn.k=40 but the bank has 40 labelled examples; use at most 39"),
        ({"k": (5, 0)}, "eval.knn.k=0 must be a whole number"),
        ({"k": 2.5}, "eval.knn.k=2.5 must be a whole number"),
        ({"k": ()}, "must each name one or more"),
        ({"k": 5, "temperature": (0.1, 0)}, "eval.knn.temperature=0.0 must be positive"),
        ({"k": 5, "temperature": "hot"}, "eval.knn.temperature=hot must be positive"),
        ({"k": 5, "layers": "stage2"}, "'stage2' is unknown; did you mean 'stage1'. known: features, stage1"),
    ],
)
def test_evaluator_refuses(options, words):
    train, test = sources()
    with pytest.raises(ValueError, match=words):
        knn.Evaluator(Encode(), train=train, test=test, **options)


def test_evaluator_needs_labels():
    train, test = sources()
    bare = from_arrays(train.columns["image"])
    for part, pair in (("train", (bare, test)), ("test", (train, bare))):
        with pytest.raises(ValueError, match=f"the {part} split has none"):
            knn.Evaluator(Encode(), train=pair[0], test=pair[1], k=5)


WORKER = """
import sys
import jax, numpy as np
from ssl_jax import parallel
from ssl_jax.evals import knn
process, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"localhost:{port}", 2, process)
with np.load(f"{out}/given.npz") as given:
    bank, queries = given["bank"], given["queries"]
similarity, rows = knn.nearest(bank, queries, k=30, mesh=parallel.make_mesh(), bank_chunk=100, query_block=64)
_, alone = knn.nearest(bank, queries, k=5)  # without a mesh each process searches for itself
np.savez(f"{out}/{process}.npz", similarity=similarity, rows=rows, alone=alone)
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    bank, _, queries, _ = examples()
    np.savez(tmp_path / "given.npz", bank=bank, queries=queries)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", WORKER]
    workers = [subprocess.Popen([*command, str(i), str(port), str(tmp_path)], env=env) for i in range(2)]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    similarity, rows = brute_nearest(bank, queries, 30)
    for process in range(2):
        found = np.load(tmp_path / f"{process}.npz")
        np.testing.assert_array_equal(found["rows"], rows)
        np.testing.assert_allclose(found["similarity"], similarity, atol=1e-6)
        np.testing.assert_array_equal(found["alone"], rows[:, :5])
