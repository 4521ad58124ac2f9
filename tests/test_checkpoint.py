"""Checkpoints: bit-exact, on other devices, after a kill, with flipped bits, on a full disk, from two processes."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import parallel
from ssl_jax.run import checkpoint
from ssl_jax.run.folder import lock
from ssl_jax.run.saver import open_saver
from ssl_jax.types import TrainState

ROOT = Path(__file__).resolve().parent.parent


class Queue(NamedTuple):
    keys: jax.Array
    head: jax.Array
    unused: None = None


class Fields(NamedTuple):
    z: np.ndarray
    m: dict[str, np.ndarray]


def make_state(step: int, key: jax.Array, width: int = 300) -> TrainState:
    params = {
        "encoder": {"kernel": jax.random.normal(key, (width, 400)), "half": jnp.full(3, 1.1, jnp.bfloat16)},
        "none": {"empty": jnp.zeros((0, 3))},
    }
    tx = optax.chain(optax.clip(1.0), optax.masked(optax.adam(0.1), {"encoder": True, "none": False}))
    return TrainState(
        step=jnp.int32(step),
        params=params,
        model_state={},
        opt_state=tx.init(params),
        aux={"queue": Queue(jax.random.normal(key, (16, 4)), jnp.int32(3)), "pair": (jnp.arange(3), jnp.array([True]))},
        rows=jnp.arange(16.0).reshape(16, 1),
        probe=None,
        bad=jnp.int32(-1),
        key=jax.random.fold_in(key, 7),
    )


def on_devices(step: int, devices: int, seed: int = 0) -> TrainState:
    mesh = parallel.make_mesh(devices)
    abstract = jax.eval_shape(lambda key: make_state(step, key), jax.random.key(0))
    shardings = jax.tree.map(lambda _: parallel.replicated(mesh), abstract).replace(rows=parallel.sharded(mesh))
    return jax.jit(lambda key: make_state(step, key), out_shardings=shardings)(jax.random.key(seed))


def numpy_leaves(tree) -> list[np.ndarray]:
    def host(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if is_key else leaf)

    return [host(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(numpy_leaves(a), numpy_leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


def save_all(workdir, states, **options) -> None:
    saver = open_saver(workdir, **options)
    for state in states:
        saver.save(state, {"config": {"lr": 0.1}})
    saver.close()


@pytest.mark.slow
def test_checkpoints_leave_no_thread_and_no_open_file_behind(tmp_path):
    """A run of some hundred checkpoints would run out of files, of which a process has 1,024."""
    state = make_state(0, jax.random.key(0), width=4)
    saver, counts = open_saver(tmp_path), []
    for step in range(1, 25):
        saver.save(state.replace(step=jnp.int32(step)), {})
        if step in (4, 24):
            saver.wait()
            counts.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    saver.close()
    (threads, files), (more_threads, more_files) = counts
    assert more_threads < threads + 10
    assert more_files < files + 30


def data_file(workdir, step: int) -> Path:
    """The file that holds the largest array of a checkpoint."""
    files = (workdir / "checkpoints" / str(step)).rglob("*")
    return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def run_python(code: str, *args, expect: int | None = 0) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert expect is None or done.returncode == expect, done.stderr[-3000:]
    return done


def test_saves_and_restores_every_bit_on_other_devices(tmp_path):
    state = on_devices(5, 8)
    saver = open_saver(tmp_path)
    assert saver.save(state, {"config": {"sizes": (1, 2)}, "commit": "abc"}, {"val_knn_top1": 0.5}) == 5
    saver.close()
    saver.close()
    for devices in (8, 1):
        wanted = on_devices(0, devices, seed=1)
        restored, record = checkpoint.restore(tmp_path, wanted)
        assert_same_bits(restored, state)
        assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, wanted)
    metadata = {"config": {"sizes": [1, 2]}, "commit": "abc"}
    assert record == {"step": 5, "metadata": metadata, "metrics": {"val_knn_top1": 0.5}}
    abstract = jax.eval_shape(lambda: make_state(0, jax.random.key(0)))
    replicated = parallel.replicated(parallel.make_mesh(2))
    restored, _ = checkpoint.restore(tmp_path, abstract, sharding=replicated)
    assert_same_bits(restored, state)
    assert restored.params["encoder"]["kernel"].sharding == replicated
    assert_same_bits(jax.random.uniform(restored.key, (4,)), jax.random.uniform(state.key, (4,)))


def test_leaves_are_copied_out_before_save_returns(tmp_path):
    state = on_devices(5, 8)
    before = numpy_leaves(state)
    step = jax.jit(
        lambda s: s.replace(params=jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s.params), rows=s.rows * 3.0),
        donate_argnums=0,
    )
    saver = open_saver(tmp_path)
    saver.save(state, {})
    for _ in range(5):
        state = step(state)
    jax.block_until_ready(state)
    saver.close()
    restored, _ = checkpoint.restore(tmp_path, state)
    for x, y in zip(numpy_leaves(restored), before, strict=True):
        np.testing.assert_array_equal(x, y)
    for _ in range(5):  # restored buffers are donated too: eight devices must not share one
        restored = step(restored)
    assert_same_bits(restored.params, state.params)
    assert_same_bits(restored.rows, state.rows)


def test_keeps_the_newest_and_the_best(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.3, 4: None, 5: float("nan"), 6: 0.4}
    saver = open_saver(tmp_path, keep=2, best="val_knn_top1")
    for step, score in list(scores.items())[:4]:
        saver.save(make_state(step, jax.random.key(0), 2), {}, None if score is None else {"val_knn_top1": score})
    saver.close()
    assert checkpoint.steps(tmp_path) == [2, 3, 4]
    saver = open_saver(tmp_path, keep=2, best="val_knn_top1")  # the scores are on the disk
    for step in (5, 6):
        saver.save(make_state(step, jax.random.key(0), 2), {}, {"val_knn_top1": scores[step]})
    saver.close()
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    assert checkpoint.latest(tmp_path) == 6
    assert checkpoint.best(tmp_path, "val_knn_top1") == (2, 0.9)
    with pytest.raises(ValueError, match="has val_top1"):
        checkpoint.best(tmp_path, "val_top1")
    assert checkpoint.restore_variables(tmp_path, 5)[1]["metrics"] == {}
    with pytest.raises(ValueError, match=r"train\.keep_checkpoints=0"):
        open_saver(tmp_path, keep=0)


def test_saving_a_step_again(tmp_path):
    first, second = make_state(3, jax.random.key(0), 2), make_state(3, jax.random.key(1), 2)
    saver = open_saver(tmp_path)
    saver.save(first, {})
    saver.save(second, {})  # the same step of the same run: nothing to do
    saver.wait()
    assert_same_bits(checkpoint.restore(tmp_path, first)[0], first)
    saver.save(first, {}, {"val_knn_top1": 0.5})
    saver.close()
    assert checkpoint.restore(tmp_path, first)[1]["metrics"] == {"val_knn_top1": 0.5}
    save_all(tmp_path, [second])  # a later run came here again, from an older checkpoint
    assert_same_bits(checkpoint.restore(tmp_path, first)[0], second)


def test_no_checkpoint(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.restore(tmp_path, make_state(0, jax.random.key(0), 2)) is None
    with pytest.raises(ValueError, match="no checkpoint under"):
        checkpoint.restore_variables(tmp_path)
    open_saver(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "record"])
def test_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, damage):
    states = [make_state(step, jax.random.key(step)) for step in (1, 2)]
    save_all(tmp_path, states)
    file = data_file(tmp_path, 2)
    if damage == "flip":
        flip_bit(file)
    elif damage == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file = tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
        assert '"lr": 0.1' in file.read_text()
        file.write_text(file.read_text().replace('"lr": 0.1', '"lr": 0.3'))
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged .* left where it is; using 1"):
        variables, record = checkpoint.restore_variables(tmp_path)
    assert record["step"] == 1
    assert_same_bits(variables["params"]["encoder"], states[0].params["encoder"])
    assert checkpoint.steps(tmp_path) == [1, 2]
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged .* set aside as damaged_2; using 1"):
        restored, _ = checkpoint.restore(tmp_path, states[0])
    assert_same_bits(restored, states[0])
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "damaged_2"]
    save_all(tmp_path, [states[1]])  # the run gets to step 2 again
    assert_same_bits(checkpoint.restore(tmp_path, states[0])[0], states[1])


def test_checkpoints_that_were_written_and_are_gone_are_missed_and_one_that_a_kill_lost_is_not(tmp_path):
    saver = open_saver(tmp_path)
    saver.save(make_state(1, jax.random.key(1)), {})  # in the background: killed now, the run may have nothing
    assert not (tmp_path / checkpoint.WRITTEN).exists()
    checkpoint.refuse_lost(tmp_path)
    saver.wait()
    checkpoint.refuse_lost(tmp_path)
    saver.close()
    checkpoint.refuse_lost(tmp_path)
    elsewhere = (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"has written checkpoints and \S+/checkpoints is not there \(.+; bring them"):
        checkpoint.refuse_lost(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"/checkpoints holds none \(a disk that is not mounted\?\); bring them back"):
        checkpoint.refuse_lost(tmp_path)
    (tmp_path / "checkpoints").rmdir()
    elsewhere.rename(tmp_path / "checkpoints")
    checkpoint.refuse_lost(tmp_path)


def test_a_first_checkpoint_that_could_not_be_written_leaves_no_mark(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    saver = open_saver(tmp_path)
    monkeypatch.setattr("orbax.checkpoint.v1.training.Checkpointer.save_checkpointables_async", full)
    with pytest.raises(OSError, match="No space left"):
        saver.save(make_state(1, jax.random.key(1)), {})
    saver.close()
    assert checkpoint.latest(tmp_path) is None
    checkpoint.refuse_lost(tmp_path)


def test_none_usable(tmp_path):
    states = [make_state(step, jax.random.key(step)) for step in (1, 2)]
    save_all(tmp_path, states)
    for step in (1, 2):
        flip_bit(data_file(tmp_path, step))
    for _ in range(2):  # nothing is set aside: the next start must not begin at step 0 unasked
        with pytest.raises(ValueError, match=r"no usable checkpoint under .*2: .*; 1: .*start anew") as error:
            checkpoint.restore(tmp_path, states[0])
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"no checkpoint of step 7 .* there are \[1, 2\]"):
        checkpoint.restore(tmp_path, states[0], step=7)


def test_why_none_is_usable_is_short_and_in_plain_words(tmp_path):
    states = [make_state(step, jax.random.key(step)) for step in range(1, 5)]
    save_all(tmp_path, states, keep=4)
    place = tmp_path / "checkpoints"
    shutil.rmtree(place / "1" / "variables")
    (place / "2" / "variables" / "manifest.ocdbt").unlink()
    shutil.rmtree(place / "3" / "training" / "d")
    os.truncate(data_file(tmp_path, 4), 100)
    with pytest.raises(ValueError, match="no usable checkpoint") as error:
        checkpoint.restore(tmp_path, states[0])
    text = str(error.value)
    assert "; 3: its files are missing; 2: its files are missing; 1: its files are missing);" in text
    newest = text.partition("(4: ")[2].partition("; 3: ")[0]
    assert "params/encoder/kernel" in newest or "params.encoder.kernel" in newest
    assert len(newest) <= 104


def test_misfit_names_the_first_differing_path(tmp_path):
    state = make_state(1, jax.random.key(0))
    save_all(tmp_path, [state])
    wider = jax.eval_shape(lambda: make_state(1, jax.random.key(0), 301))
    for wanted, text in (
        (wider, r"params/encoder/kernel is float32\[300, 400\] there and float32\[301, 400\] here"),
        (state.replace(aux=None), r"aux/pair/0 is int32\[3\] there and absent here"),
        (state.replace(probe=jnp.zeros(2)), r"probe is absent there and float32\[2\] here"),
        (state.replace(bad=jnp.float32(0)), r"bad is int32\[\] there and float32\[\] here"),
        (state.replace(key=jax.random.key(0, impl="rbg")), r"key is key<.*>\[\] there and key<rbg>\[\] here"),
    ):
        with pytest.raises(ValueError, match=text) as error:
            checkpoint.restore(tmp_path, wanted)
        assert "\n" not in str(error.value)
    assert checkpoint.steps(tmp_path) == [1]


def test_variables_without_knowing_the_optimizer(tmp_path):
    state = make_state(4, jax.random.key(0))
    save_all(tmp_path, [state])
    before = sorted((f, f.stat().st_mtime_ns) for f in tmp_path.rglob("*"))
    variables, record = checkpoint.restore_variables(tmp_path)
    assert sorted((f, f.stat().st_mtime_ns) for f in tmp_path.rglob("*")) == before
    assert record == {"step": 4, "metadata": {"config": {"lr": 0.1}}, "metrics": {}}
    assert sorted(variables) == ["aux", "model_state", "params", "rows"]
    assert variables["model_state"] == {}
    assert_same_bits(variables["params"], state.params)
    assert_same_bits(variables["rows"], state.rows)
    assert_same_bits(variables["aux"]["queue"]["keys"], state.aux["queue"].keys)
    assert_same_bits(variables["aux"]["pair"]["1"], state.aux["pair"][1])
    assert checkpoint.fingerprint(variables["params"]) == checkpoint.fingerprint(state.params)


def test_fingerprint_is_sha256_of_path_dtype_shape_and_bytes():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(3, np.int32)

    def line(name, x):
        return f'{name} ["{x.dtype}", {json.dumps(list(x.shape))}, "{hashlib.sha256(x.tobytes()).hexdigest()}"]\n'

    expected = hashlib.sha256((line("m/a", a) + line("z", b)).encode()).hexdigest()
    assert checkpoint.fingerprint({"z": jnp.asarray(b), "m": {"a": jnp.asarray(a)}}) == expected
    assert checkpoint.fingerprint({"m": {"a": np.asfortranarray(a)}, "z": b}) == expected
    assert checkpoint.fingerprint(Fields(z=b, m={"a": a})) == expected  # by path, not in the container's order
    for other in (
        {"m": {"a": a.reshape(3, 2)}, "z": b},
        {"m": {"a": a.view(np.int32)}, "z": b},
        {"m": {"A": a}, "z": b},
        {"m": {"a": np.nextafter(a, np.float32(9))}, "z": b},
    ):
        assert checkpoint.fingerprint(other) != expected
    assert checkpoint.fingerprint(jax.random.key(1)) != checkpoint.fingerprint(jax.random.key_data(jax.random.key(1)))


def test_kill_during_an_asynchronous_save(tmp_path):
    code = """
        import os, signal, sys, jax
        from ssl_jax.run import checkpoint
        from ssl_jax.run.saver import open_saver
        from test_checkpoint import make_state
        saver = open_saver(sys.argv[1])
        saver.save(make_state(1, jax.random.key(1)), {})
        saver.wait()
        saver.save(make_state(2, jax.random.key(2), width=20_000), {})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run_python(code, tmp_path, expect=-signal.SIGKILL)
    names = os.listdir(tmp_path / "checkpoints")
    assert "1" in names
    assert any("tmp" in name for name in names), "the kill came too late to prove anything"
    expected = make_state(1, jax.random.key(1))
    restored, _ = checkpoint.restore(tmp_path, expected)
    assert_same_bits(restored, expected)
    save_all(tmp_path, [make_state(3, jax.random.key(3), 2)])  # removes what the kill left
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "3"]


@pytest.mark.slow
def test_failed_write_is_one_oserror_and_the_last_good_one_stays(tmp_path):
    code = """
        import os, resource, signal, sys, jax
        from ssl_jax.run import checkpoint
        from ssl_jax.run.saver import open_saver
        from test_checkpoint import make_state
        saver = open_saver(sys.argv[1])
        saver.save(make_state(1, jax.random.key(1), 2), {})
        saver.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # every longer file fails, as on a full disk
        for attempt in range(2):
            try:
                saver.save(make_state(2, jax.random.key(2)), {})
                saver.wait()
            except OSError as error:
                print(error.errno, error.strerror)
                print(os.listdir(sys.argv[1] + "/checkpoints"))
        saver.save(make_state(3, jax.random.key(3), 2), {})
        saver.close()
        print(checkpoint.steps(sys.argv[1]))
    """
    done = run_python(code, tmp_path)
    *said, last = done.stdout.splitlines()
    errors, left = said[::2], said[1::2]
    assert len(errors) == 2, done.stdout
    assert left == ["['1']"] * 2  # what was written of it is gone: the disk is full
    for error in errors:
        assert error.startswith("27 checkpoint 2 could not be written to "), error
        assert error.endswith("File too large; the last good one is 1; free some space and start again"), error
    assert last == "[1, 3]"
    assert "orbax" not in done.stderr  # not one traceback from each of its threads


def test_lock_is_for_one_run_and_ends_with_it(tmp_path):
    code = """
        import sys
        from ssl_jax.run.folder import lock
        with lock(sys.argv[1]):
            print("held", flush=True)
            sys.stdin.read()
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"another run holds .*pid {holder.pid} on"),
            lock(tmp_path / "run"),
        ):
            pass
        holder.kill()
        holder.wait()
    for _ in range(2):
        with (
            lock(tmp_path / "run"),
            pytest.raises(ValueError, match=f"pid {os.getpid()} on"),
            lock(tmp_path / "run"),
        ):
            pass


@pytest.mark.slow
def test_two_processes(tmp_path):
    code = """
        import sys, warnings, jax
        warnings.simplefilter("error")
        jax.config.update("jax_num_cpu_devices", 2)
        process, port, workdir = int(sys.argv[1]), sys.argv[2], sys.argv[3]
        jax.distributed.initialize(f"localhost:{port}", 2, process)
        from ssl_jax.run import checkpoint
        from ssl_jax.run.saver import open_saver
        from ssl_jax.run.folder import lock
        from test_checkpoint import flip_bit, data_file, on_devices
        from pathlib import Path
        seen = []
        with lock(workdir):
            saver = open_saver(workdir, keep=2, best="v")
            for step in (2, 3):
                saver.save(on_devices(step, 4), {"processes": 2}, {"v": -step})
            saver.close()
            wanted = on_devices(0, 4, seed=1)
            restored, record = checkpoint.restore(workdir, wanted)
            assert restored.rows.sharding == wanted.rows.sharding and not restored.rows.is_fully_addressable
            seen.append(f"{record['step']} {checkpoint.fingerprint(restored)}")
            jax.experimental.multihost_utils.sync_global_devices("read")
            if process == 0:
                flip_bit(data_file(Path(workdir), 3))
            jax.experimental.multihost_utils.sync_global_devices("flipped")
            warnings.simplefilter("ignore")
            restored, record = checkpoint.restore(workdir, wanted)
            seen.append(f"{record['step']} {checkpoint.fingerprint(restored)}")
        Path(workdir, f"seen{process}").write_text("\\n".join(seen))
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax.experimental.multihost_utils\n" + textwrap.dedent(code)]
    processes = [
        subprocess.Popen(
            [*command, str(i), str(port), str(tmp_path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), [err[-3000:] for _, err in outs]
    expected = [f"{step} {checkpoint.fingerprint(on_devices(step, 4))}" for step in (3, 2)]
    for i in range(2):  # a file each: Gloo writes to stdout, into the middle of lines
        assert (tmp_path / f"seen{i}").read_text().split("\n") == expected
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "damaged_3"]
    restored, _ = checkpoint.restore(tmp_path, on_devices(0, 1))  # written by two, read by one
    assert_same_bits(restored, on_devices(2, 1))


def small_checkpoint(tmp_path) -> Path:
    save_all(tmp_path, [make_state(1, jax.random.key(1), 4)])
    return tmp_path / "checkpoints" / "1"


@pytest.mark.slow
def test_every_file_cut_emptied_flipped_or_gone_is_damage_or_does_no_harm(tmp_path):
    place, state = small_checkpoint(tmp_path), make_state(1, jax.random.key(1), 4)
    rng, noticed = np.random.default_rng(0), set()
    for number, file in enumerate(sorted(f for f in place.rglob("*") if f.is_file())):
        good = file.read_bytes()
        flipped = bytearray(good)
        flipped[rng.integers(len(good))] ^= 1 << rng.integers(8)
        ways = (None, good[: len(good) // 2], rng.bytes(len(good)), b"")
        for bad in (bytes(flipped), ways[number % 4]):
            if bad is None:
                file.unlink()
            else:
                file.write_bytes(bad)
            try:
                assert_same_bits(checkpoint.restore(tmp_path, state)[0], state)
            except ValueError as error:
                noticed.add((file.name, str(error).startswith("no usable checkpoint under ")))
            file.write_bytes(good)
    assert {(name, True) for name in ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt")} <= noticed
    assert all(in_our_words for _, in_our_words in noticed)
    assert checkpoint.steps(tmp_path) == [1]


def test_no_coroutine_of_orbax_is_left_for_the_garbage_collector_to_warn_of(tmp_path):
    """One is begun for the arrays of a known type before the unknown one is met."""
    place, state = small_checkpoint(tmp_path), make_state(1, jax.random.key(1), 4)
    file = place / "variables" / "_METADATA"
    before, known, after = file.read_text().rpartition("np.ndarray")
    assert known
    file.write_text(before + "np.odarray" + after)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"no usable checkpoint under .*np\.odarray"):
            checkpoint.restore(tmp_path, state)
        gc.collect()
    assert [str(one.message) for one in told] == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("No module named 'zarr'"), "zarr"),
        (MemoryError("12 GiB"), "12 GiB"),
        (PermissionError(13, "Permission denied"), "denied"),
        (OSError(116, "Stale file handle"), "Stale"),
        (TypeError("restore() got an unexpected keyword argument"), "unexpected"),
        (KeyboardInterrupt("Ctrl-C"), "Ctrl-C"),
        (ValueError("PERMISSION_DENIED: Error reading \"x\" [tensorstore_spec='{}'] [os_error_code='13']"), "DENIED"),
        (ValueError("FAILED_PRECONDITION: Error reading \"x\" [os_error_code='116']"), "FAILED_PRECONDITION"),
        (KeyError("SOME_ENV"), "SOME_ENV"),  # nothing can be read, not even what is sound for certain
        (ValueError("numpy.dtype size changed, may indicate binary incompatibility"), "size changed"),
    ],
)
def test_what_is_no_damage_is_raised_as_it_is_and_nothing_is_renamed(error, words, tmp_path, monkeypatch):
    states = [make_state(step, jax.random.key(step), 4) for step in (1, 2)]
    save_all(tmp_path, states)

    def load(*args, **kw):
        raise error

    monkeypatch.setattr(checkpoint.ocp, "load", load)
    kind = OSError if "os_error_code" in str(error) else type(error)
    for read in (lambda: checkpoint.restore(tmp_path, states[0]), lambda: checkpoint.restore_variables(tmp_path)):
        with pytest.raises(kind, match=words) as raised:
            read()
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 200
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("Error writing [os_error_code='28']")])
def test_damage_is_found_where_nothing_more_can_be_written(error, tmp_path, monkeypatch):
    states = [make_state(step, jax.random.key(step), 4) for step in (1, 2)]
    save_all(tmp_path, states)
    for file in (f for f in (tmp_path / "checkpoints" / "2" / "variables").rglob("*") if f.is_file()):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def save(*args, **kw):
        raise error

    monkeypatch.setattr(checkpoint.ocp, "save", save)
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged"):
        assert_same_bits(checkpoint.restore(tmp_path, states[0])[0], states[0])


def test_a_cause_that_is_no_damage_is_found_behind_what_looks_like_it(tmp_path, monkeypatch):
    small_checkpoint(tmp_path)

    def load(*args, **kw):
        try:
            raise OSError(5, "Input/output error")
        except OSError as error:
            raise ValueError("Failed to interpret path as a V0 Orbax PyTree") from error

    monkeypatch.setattr(checkpoint.ocp, "load", load)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.restore_variables(tmp_path)


def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch):
    place, opened = small_checkpoint(tmp_path), Path.open

    def refuse(path, *args, **kw):
        if path.name == "manifest.ocdbt":
            raise PermissionError(13, "Permission denied", str(path))  # the tests may run as root, who may
        return opened(path, *args, **kw)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"manifest\.ocdbt"):
        checkpoint.restore(tmp_path, make_state(1, jax.random.key(1), 4))
    assert place.is_dir()


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder of runs that a pattern would find, too."""
    place = tmp_path_factory.mktemp("names")
    for other in ("exp1", "star", "qx 50%"):
        save_all(place / other, [make_state(1, jax.random.key(2), 4)])
    return place


@pytest.mark.parametrize("name", ["exp[1]", "st*r", "q? 50%", "ünï 日本", 'it\'s "q" & $x; {y}#', "-x"])
def test_any_name_of_a_folder(name, beside):
    state = make_state(1, jax.random.key(1), 4)
    workdir = beside / name
    saver = open_saver(workdir, keep=1, best="v")
    for step, value in ((1, 0.5), (2, 0.1), (3, 0.2)):
        saver.save(state.replace(step=jnp.int32(step)), {}, {"v": value})
    saver.close()
    assert checkpoint.steps(workdir) == [1, 3]
    assert checkpoint.best(workdir, "v") == (1, 0.5)
    assert_same_bits(checkpoint.restore(workdir, state, step=1)[0], state)
