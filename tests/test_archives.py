"""Any file of weights: torch's numbers, those of other libraries, and what is refused; nothing in one ever runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import flax.serialization
import h5py
import hostile_files
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ssl_jax.interop import archives
from ssl_jax.interop.constructors import Placeholder

HERE = Path(__file__).parent / "oracles"
BOTH = {"archives.pth": "torch zip", "archives_legacy.pth": "torch legacy"}


def arrays(tree, path=""):
    if isinstance(tree, np.ndarray):
        return {path[1:]: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return {name: array for key, item in items for name, array in arrays(item, f"{path}/{key}").items()}


def refused(path, words=None):
    with pytest.raises(ValueError, match=words) as error:
        archives.read(path)
    text = str(error.value)
    assert text.startswith(f"{path}")
    assert len(text.splitlines()) == 1
    assert ";" in text  # what to do
    assert len(text) < len(str(path)) + 420
    return text


# ----------------------------------------------------------------------------------------------------------- torch's


@pytest.mark.parametrize("name", BOTH)
def test_every_tensor_is_torchs(name):
    found = archives.read(HERE / name)
    assert found.kind == BOTH[name]
    assert found.sha256 == hashlib.sha256((HERE / name).read_bytes()).hexdigest()
    with np.load(HERE / "archives.npz") as want:
        have = arrays(found.tree)
        assert set(have) == set(want.files)
        for key, array in have.items():
            odd = array.dtype.name in ("bfloat16", "float8_e4m3fn")
            assert (array.astype(np.float32) if odd else array).dtype == want[key].dtype
            np.testing.assert_array_equal(array.astype(np.float32) if odd else array, want[key], strict=True)
            assert array.flags.c_contiguous
            assert array.flags.aligned
    assert found.tree["dtypes"]["bfloat16"].dtype == ml_dtypes.bfloat16
    assert found.tree["new"]["uint16"].dtype == np.uint16


@pytest.mark.parametrize("name", BOTH)
def test_what_is_no_tensor(name):
    found = archives.read(HERE / name)
    assert found.passed_over == {"argparse.Namespace": 1, "torch.float32": 1}
    args = found.tree["args"]
    assert isinstance(args, Placeholder)
    assert args.name == "argparse.Namespace"
    assert args.state["lr"] == 0.1
    assert found.tree["size"] == [5, 6]
    assert found.tree["epoch"] == 3
    assert found.tree["optimizer"]["param_groups"][0]["params"] == [0, 1, 2, 3, 4, 5]


def test_the_name_says_nothing(tmp_path):
    for i, (name, kind) in enumerate(BOTH.items()):
        path = tmp_path / ("x.safetensors", "x")[i]
        path.write_bytes((HERE / name).read_bytes())
        assert archives.read(path).kind == kind


@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet32-d509ac18.th"])
def test_real_weights(name, data_dir):
    path = data_dir / "weights" / "cifar_resnet" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    found = archives.read(path)
    assert (found.kind, found.passed_over) == ("torch legacy", {})
    assert f"-{found.sha256[:8]}." in name
    state = found.tree["state_dict"]
    with np.load(HERE / "archives_real.npz") as want:
        assert list(state) == want[f"{name}/names"].tolist()
        for array, sums in zip(state.values(), want[f"{name}/sums"], strict=True):
            flat = array.astype(np.float64).reshape(-1)
            have = [flat.sum(), flat @ np.sin(np.arange(1, len(flat) + 1, dtype=np.float64))]
            np.testing.assert_allclose(have, sums, rtol=1e-9, atol=1e-9)


def test_parts_of_storages_as_torch_wrote_them_in_2017(tmp_path):
    number, text = hostile_files.number, hostile_files.text
    data = np.arange(6, dtype=np.float32)

    def part(offset, size):
        view = b"(" + text("part") + number(offset) + number(size) + b"t"
        pid = b"(" + text("storage") + hostile_files.FLOATS + text("0") + text("cpu") + number(6) + view + b"tQ"
        tensor = hostile_files.tensor(0, 1, (2,), (1,), storage=pid)
        return hostile_files.legacy(hostile_files.state(tensor), data.tobytes(), 6)

    (tmp_path / "x").write_bytes(part(2, 3))
    np.testing.assert_array_equal(archives.read(tmp_path / "x").tree["t0"], data[3:5], strict=True)
    (tmp_path / "x").write_bytes(part(2, 2))
    refused(tmp_path / "x", "ends at number 3 of 2")
    (tmp_path / "x").write_bytes(part(2, 5))
    refused(tmp_path / "x", "longer than the whole")


def test_numbers_that_are_not_finite_are_read(tmp_path):
    nan = np.array([np.nan, np.inf, 0, 1], np.float32)
    body = hostile_files.state(hostile_files.tensor(4, 0, (4,), (1,)))
    (tmp_path / "x.pth").write_bytes(hostile_files.torch_zip(body, nan.tobytes()))
    np.testing.assert_array_equal(archives.read(tmp_path / "x.pth").tree["t0"], nan)


# ----------------------------------------------------------------------------------------------------------- others'


TREE = {"params": {"conv": {"kernel": np.arange(12, dtype=np.float32).reshape(2, 2, 3)}}, "step": np.array(7)}
TREE["params"]["half"] = np.array([1.5, -2], ml_dtypes.bfloat16)


def same(tree, want):
    have, want = arrays(tree), arrays(want)
    assert set(have) == set(want)
    for name, array in want.items():
        np.testing.assert_array_equal(have[name], array, strict=True)


def test_safetensors_and_its_metadata(tmp_path):
    flat = {name.replace("/", "."): array for name, array in arrays(TREE).items()}
    safetensors.numpy.save_file(flat, tmp_path / "x.pth", {"format": "pt"})
    found = archives.read(tmp_path / "x.pth")
    assert (found.kind, found.metadata) == ("safetensors", {"safetensors": {"format": "pt"}})
    same(found.tree, flat)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_the_bfloat16_that_numpy_cannot_name(save, tmp_path):
    flat = arrays(TREE)
    save(tmp_path / "x.npz", **flat)
    found = archives.read(tmp_path / "x.npz")
    assert found.kind == "npz"
    assert list(found.tree) == list(flat)
    for name, array in flat.items():
        np.testing.assert_array_equal(found.tree[name], array, strict=True)


@pytest.mark.parametrize("pieces", [False, True])
def test_msgpack_as_flax_writes_it(pieces, tmp_path, monkeypatch):
    if pieces:
        monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    (tmp_path / "x").write_bytes(flax.serialization.msgpack_serialize(TREE | {"list": {"0": 1.5}, "z": 2 + 1j}))
    found = archives.read(tmp_path / "x")
    assert found.kind == "msgpack"
    same(found.tree, TREE)
    assert (found.tree["list"]["0"], found.tree["z"]) == (1.5, 2 + 1j)


def test_keras_h5(tmp_path):
    with h5py.File(tmp_path / "x", "w") as file:
        file["layers/conv/vars/0"] = TREE["params"]["conv"]["kernel"]
        file.create_dataset("half", data=np.arange(4, dtype=np.float16), compression="gzip", chunks=(2,))
        file["names"] = [b"a", b"b"]
        file["again"] = h5py.SoftLink("/half")
        file.attrs["backend"] = "tensorflow"
        file.attrs["numbers"] = np.ones(2)
    found = archives.read(tmp_path / "x")
    assert (found.kind, found.metadata) == ("keras h5", {"h5": {"backend": "tensorflow"}})
    same(found.tree, {"layers/conv/vars/0": TREE["params"]["conv"]["kernel"], "half": np.arange(4, dtype=np.float16)})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tf = pytest.importorskip("tensorflow")
    prefix = tmp_path_factory.mktemp("tf") / "model.ckpt-5"
    kernel = TREE["params"]["conv"]["kernel"]
    names = ["base_model/conv2d/kernel", "base_model/conv2d/kernel/Momentum", "global_step", "note"]
    tensors = [tf.constant(kernel), tf.constant(-kernel), tf.constant(5, tf.int64), tf.constant("x")]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * 4, tensors=tensors)
    (prefix.parent / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')
    return prefix


def test_checkpoint_of_tensorflow(checkpoint):
    kernel = TREE["params"]["conv"]["kernel"]
    want = {"base_model/conv2d/kernel": kernel, "base_model/conv2d/kernel/Momentum": -kernel}
    want |= {"global_step": np.array(5)}
    digests = set()
    for path in (checkpoint, f"{checkpoint}.index", f"{checkpoint}.data-00000-of-00001", checkpoint.parent):
        found = archives.read(path)
        assert (found.kind, found.passed_over) == ("tf checkpoint", {"tensorflow.string": 1})
        digests.add(found.sha256)
        assert set(found.tree) == set(want)
        for name, array in want.items():
            np.testing.assert_array_equal(found.tree[name], array, strict=True)
    assert len(digests) == 1


def test_a_folder_with_a_checkpoint_that_nothing_names(checkpoint, tmp_path):
    for name in ("m.ckpt", "m.ckpt-7"):
        for end in ("index", "data-00000-of-00001"):
            (tmp_path / f"{name}.{end}").write_bytes(checkpoint.with_name(f"{checkpoint.name}.{end}").read_bytes())
        refused(tmp_path, f"without the file .checkpoint. that names it; give its prefix, .*{tmp_path}/{name}$")
    assert archives.read(tmp_path / "m.ckpt").kind == "tf checkpoint"


def test_checkpoint_of_tensorflow_that_is_cut(checkpoint, tmp_path, monkeypatch):
    index, data = (checkpoint.with_name(f"model.ckpt-5.{end}").read_bytes() for end in ("index", "data-00000-of-00001"))
    (tmp_path / "m.index").write_bytes(index)
    refused(tmp_path / "m", "it has no m.data-00000-of-00001")
    for cut in (10, len(data) // 2):  # the text at the end is not read
        (tmp_path / "m.data-00000-of-00001").write_bytes(data[:cut])
        refused(tmp_path / "m", "checkpoint of TensorFlow|which its files have not")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(archives, "tensorflow", archives.tensorflow.__wrapped__)  # which is asked once a process
    refused(tmp_path / "m", "pip install tensorflow-cpu")


def test_folders_of_hugging_face(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    flat = {"a.weight": np.ones((2, 3), np.float32), "b.weight": np.zeros(4, np.float16)}
    parts = {f"model-0000{i + 1}-of-00002.safetensors": {name: flat[name]} for i, name in enumerate(flat)}
    for name, part in parts.items():
        safetensors.numpy.save_file(part, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    found = archives.read(tmp_path)
    assert (found.kind, found.metadata["config"]) == ("safetensors", {"model_type": "vit"})
    assert found.tree.keys() == flat.keys()
    for wrong, words in (
        ({"a.weight": "../x"}, "no file beside it"),
        ({"a.weight": list(parts)[1]}, "does not hold the arrays"),
        ({"a.weight": "gone"}, "1 of its 1 shards not in the folder: gone; get"),
        ({}, "no weight_map"),
        ({"a.weight": 3}, "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ValueError, match=words):
            archives.read(tmp_path)
    index.write_text("[" * 100_000)
    refused(tmp_path, "no JSON that can be read")
    safetensors.numpy.save_file(flat, tmp_path / "model.safetensors")
    found = archives.read(tmp_path)
    assert found.metadata["config"] == {"model_type": "vit"}
    assert found.tree.keys() == flat.keys()


# ---------------------------------------------------------------------------------------------------------- hostile


MARK = "the_mark_of_a_program"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["programs", "bombs", "lies"])
def test_hostile_files(kind, here):
    """None runs, none hangs, none takes memory, and each gets one line."""
    files = hostile_files.programs(MARK) if kind == "programs" else getattr(hostile_files, kind)()
    count = 0
    for name, data, words in files:
        path = here / name
        path.write_bytes(data)
        start = time.process_time()
        refused(path, words)
        assert time.process_time() - start < 10, name  # of a slow machine; each takes less than half a second
        tracemalloc.start()
        try:
            if len(data) < 1 << 20:  # tracing makes it slow
                refused(path, words)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < (2 << 20) + 20 * len(data), (name, peak, len(data))
        assert not (here / MARK).exists(), name
        count += 1
    assert count > 30


def test_of_a_program_it_is_said_that_it_must_not_be_loaded(here):
    """And of what holds harmless objects alone that it may be, where its maker is trusted."""
    said = {}
    for name, data, _ in hostile_files.programs(MARK):
        (here / name).write_bytes(data)
        said[name] = refused(here / name)
    for name in ("system", "eval", "inst", "obj", "newobj_ex", "stack_global", "chain", "zip", "pid_called", "legacy"):
        assert re.search(
            r"; it would run a command when it is loaded \((os|builtins|subprocess)\..*\): do not", said[name]
        )
        assert "trust it" not in said[name], name
    (here / "posix").write_bytes(pickle.dumps(os.system))  # as it is called where a pickle is made
    refused(here / "posix", r"loaded \((posix|nt)\.system\): do not load it$")
    (here / "objects").write_bytes(pickle.dumps(argparse.Namespace(lr=1)))
    assert "do not load it" not in refused(here / "objects", "; load it where you trust it")


def test_a_program_would_have_run(here):
    name, data, _ = next(hostile_files.programs(MARK))
    assert name == "system"
    pickle.loads(data)
    assert (here / MARK).exists()


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "there is 'nothing'")
    (tmp_path / "folder" / "notes.txt").write_text("x")
    refused(tmp_path / "folder", "there is 'notes.txt'")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "cannot be read")
    refused(tmp_path / "gone", "cannot be read")
    refused(tmp_path / ("a" * 5000), "cannot be read")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "it is no file")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/etc/passwd"\n')
    refused(tmp_path, "a folder without")


@pytest.mark.parametrize("name", BOTH)
def test_every_cut_is_noticed(name, tmp_path):
    whole = (HERE / name).read_bytes()
    path = tmp_path / "x"
    for size in range(0, len(whole), 53):
        path.write_bytes(whole[:size])
        refused(path)


def small(folder):
    """Small files of the kinds that are parsed here."""
    for name in BOTH:
        yield (HERE / name).read_bytes()
    yield pickle.dumps(TREE, 2)
    yield pickle.dumps(TREE, 5)
    yield flax.serialization.msgpack_serialize(TREE)
    yield safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays(TREE).items()})
    for save in (np.savez, np.savez_compressed):
        save(folder / "x.npz", **arrays(TREE))
        yield (folder / "x.npz").read_bytes()


def test_flipped_and_cut_bytes_end_in_a_value_or_one_line(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    read, said = 0, []
    for whole in list(small(tmp_path)):
        for _ in range(60):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                data[at] = rng.integers(256)
            path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.2 else data)
            try:
                archives.read(path)
                read += 1
            except ValueError as error:
                said.append(str(error))
    assert read > 20  # what was flipped were numbers
    assert all(text.startswith(f"{path}") and len(text.splitlines()) == 1 for text in said)


def test_a_damaged_number_in_a_zip_is_noticed(tmp_path):
    whole = bytearray((HERE / "archives.pth").read_bytes())
    with zipfile.ZipFile(HERE / "archives.pth") as archive:
        (member,) = (m for m in archive.infolist() if m.filename.endswith("/data/0"))
    begin = whole.index(b"\x50\x4b\x03\x04", member.header_offset) + 30 + len(member.filename)
    extra = int.from_bytes(whole[member.header_offset + 28 : member.header_offset + 30], "little")
    whole[begin + extra] ^= 1
    (tmp_path / "x").write_bytes(whole)
    refused(tmp_path / "x", "checksum")
