"""Every example once and in order: odd sizes, padding, several devices and two processes."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.data.source import from_arrays
from ssl_jax.evals.shared import features
from ssl_jax.evals.shared.encode import CachedEncode

ROOT = Path(__file__).resolve().parent.parent
IMAGES = np.random.default_rng(0).random((100, 4, 4, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)


def encode(variables, images):
    flat = images.reshape(len(images), -1)
    return {"features": jnp.tanh(flat @ variables), "stem": images.mean((1, 2))}


def batches(n, global_batch_size, process=0, process_count=1, seed=0):
    """This process's rows of shuffled, padded batches; the padding repeats example 0."""
    order = np.random.default_rng(seed).permutation(n)
    count = -(-n // global_batch_size)
    index = np.concatenate([order, np.zeros(count * global_batch_size - n, int)]).astype(np.int32)
    mask = np.arange(len(index)) < n
    local = global_batch_size // process_count
    for step in range(count):
        rows = slice(step * global_batch_size + process * local, step * global_batch_size + (process + 1) * local)
        chosen = index[rows]
        yield {"inputs": IMAGES[chosen], "label": chosen % 7, "index": chosen, "mask": mask[rows]}


def check(found, n):
    assert set(found) == {"features", "stem", "label", "index"}
    np.testing.assert_array_equal(found["index"], np.arange(n))
    np.testing.assert_array_equal(found["label"], np.arange(n) % 7)
    np.testing.assert_allclose(found["stem"], IMAGES[:n].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["features"], np.tanh(IMAGES[:n].reshape(n, -1) @ KERNEL), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "devices"), [(29, 8), (16, 8), (3, 8), (29, 1)])
def test_each_example_once_in_order(n, devices):
    mesh = parallel.make_mesh(devices)
    kernel = jax.device_put(KERNEL, parallel.replicated(mesh))
    found = features.extract(
        jax.jit(encode), kernel, batches(n, 8), place=lambda b: parallel.place(b, mesh), num_examples=n
    )
    check(found, n)


def test_errors():
    mesh = parallel.make_mesh(1)

    def extract(some, **kwargs):
        return features.extract(encode, jnp.asarray(KERNEL), some, place=lambda b: parallel.place(b, mesh), **kwargs)

    with pytest.raises(ValueError, match="no evaluation batches"):
        extract([])
    with pytest.raises(ValueError, match="came twice among 32"):
        extract([b | {"mask": np.ones(8, bool)} for b in batches(29, 8)])
    with pytest.raises(ValueError, match="16 examples came but the split has 29"):
        extract(list(batches(16, 8)), num_examples=29)


@pytest.mark.slow
def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).resolve())]
    workers = [subprocess.Popen([*command, str(i), str(port), str(tmp_path)], env=env) for i in range(2)]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    for process in range(2):
        check(np.load(tmp_path / f"{process}.npz"), 29)


def main(process: int, port: int, out: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    mesh = parallel.make_mesh()
    kernel = jax.make_array_from_process_local_data(parallel.replicated(mesh), KERNEL)
    rows = batches(29, 8, process, 2)
    found = features.extract(jax.jit(encode), kernel, rows, place=lambda b: parallel.place(b, mesh), num_examples=29)
    np.savez(Path(out) / f"{process}.npz", **found)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])


class Computing:
    """A function of rows that remembers what it was asked, and may be interrupted."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __call__(self, start, stop):
        if self.stop_at is not None and start >= self.stop_at:
            raise KeyboardInterrupt
        self.asked.append((start, stop))
        rows = np.arange(start, stop)
        return {"features": np.stack([rows, -rows], 1).astype(np.float32), "label": (rows % 3).astype(np.int32)}


@pytest.fixture
def shards_of_ten(monkeypatch):
    monkeypatch.setattr(features, "SHARD", 10)


SHAPES = {"features": (2,), "label": ()}


def check_cached(found):
    rows = np.arange(25)
    np.testing.assert_array_equal(found["features"], np.stack([rows, -rows], 1))
    np.testing.assert_array_equal(found["label"], rows % 3)
    assert (found["features"].dtype, found["label"].dtype) == (np.float32, np.int32)


@pytest.mark.usefixtures("shards_of_ten")
def test_cache_computes_once_and_resumes_after_the_last_whole_shard(tmp_path):
    said, interrupted = [], Computing(stop_at=20)
    with pytest.raises(KeyboardInterrupt):
        features.cached(tmp_path / "x", SHAPES, 25, interrupted, said.append)
    assert interrupted.asked == [(0, 10), (10, 20)]
    rest = Computing()
    check_cached(features.cached(tmp_path / "x", SHAPES, 25, rest, said.append))
    assert rest.asked == [(20, 25)]
    nothing = Computing(stop_at=0)
    check_cached(features.cached(tmp_path / "x", SHAPES, 25, nothing, said.append))
    more = Computing()  # another layer beside those that are there
    features.cached(tmp_path / "x", {"features": (2,)}, 25, nothing, said.append)
    features.cached(tmp_path / "y", {"features": (2,)}, 25, more, said.append)
    assert "0.0 MB in" in said[0]
    assert not any("damaged" in line for line in said)


@pytest.mark.usefixtures("shards_of_ten")
@pytest.mark.parametrize(
    ("harm", "words", "again"),
    [
        (lambda f: _flip(f, 128 + 12 * 8), "rows 10 to 20 are not what was written", [(10, 20), (20, 25)]),
        (lambda f: f.write_bytes(f.read_bytes()[:-40]), "damaged", [(0, 10), (10, 20), (20, 25)]),
        (lambda f: f.write_bytes(b"no array"), "damaged", [(0, 10), (10, 20), (20, 25)]),
        (lambda f: np.save(f, np.zeros((3, 2))), "holds float64 (3, 2)", [(0, 10), (10, 20), (20, 25)]),
        (lambda f: f.with_suffix(".json").write_text("[1"), "damaged", [(0, 10), (10, 20), (20, 25)]),
    ],
)
def test_damaged_cache_is_named_and_computed_again(tmp_path, harm, words, again):
    said, computing = [], Computing()
    features.cached(tmp_path, SHAPES, 25, Computing(), said.append)
    harm(tmp_path / "features.npy")
    check_cached(features.cached(tmp_path, SHAPES, 25, computing, said.append))
    assert computing.asked == again
    assert any(words in line and "features.npy" in line for line in said)


def _flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_features_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    free = features.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match="GB free"):
        features.cached(tmp_path / "x", SHAPES, 25_000, Computing(), print)
    assert not (tmp_path / "x").exists()


def test_labels_are_those_of_the_data_not_of_the_cache(tmp_path):
    """Only that an image could not be read is of the cache."""

    class Encode:
        mesh, modality, max_dim, seed = parallel.make_mesh(1), SimpleNamespace(input_shape=(8, 8, 1)), None, 0

        def layers_of(self, variables):
            return {"features": 2}

        def __call__(self, variables, source, *, layers, views):
            rows.append(len(source))
            label = source.labels.copy()
            label[3] = -1  # as that of an example that cannot be read
            return {"features": np.zeros((len(source), 2), np.float32), "label": label}

    rows, variables = [], {"w": np.ones(2, np.float32)}
    source = from_arrays(np.zeros((9, 8, 8), np.uint8), np.arange(9) % 3)
    other = dataclasses.replace(source, labels=(np.arange(9, dtype=np.int32) + 1) % 3)
    encode = CachedEncode(Encode(), variables, "recipe", tmp_path, print)
    for data in (source, other):
        found = encode(variables, data)["label"]
        assert found.dtype == np.int32
        assert found.tolist() == [-1 if i == 3 else k for i, k in enumerate(data.labels)]
    assert rows == [9]  # the features came from the cache
