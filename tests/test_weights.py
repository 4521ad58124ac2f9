"""Weights in files: the same bits again, and nothing else is taken; nothing that is read ever runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import runs
import safetensors.numpy

from experiments import export as command
from experiments import pretrain
from ssl_jax import experiment, train
from ssl_jax.interop import weights
from ssl_jax.interop.leaves import by_name
from ssl_jax.run import checkpoint, processes
from ssl_jax.run.open import load_given

RNG = np.random.default_rng(0)
PARAMS = {"conv": {"kernel": RNG.normal(size=(3, 3, 1, 4)).astype(np.float32)}, "scale": np.float32(2.5)}
STATE = {"batch_stats": {"norm": {"mean": np.arange(4, dtype=np.float32), "count": np.array(7, np.int32)}}}
SUFFIXES = [*weights.EXECUTABLE, *weights.READERS]


def fit(folder, method, init_from):
    """Two steps, without the measurements at the end."""
    config = runs.config(method, init_from=init_from, train__steps=2, train__eval_every=0)
    with runs.no_pictures():
        return train.fit(experiment.build(config), folder, test=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    fit(folder, "simclr", init_from=None)
    return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "simclr.safetensors"
    assert command.main(["--workdir", str(workdir), "--out", str(path)]) == 0
    return path


def by_hand(data):
    """A .safetensors file read by its specification: 8 bytes of length, JSON, the arrays one after the other."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = header.pop("__metadata__", {})
    types = {"F32": np.float32, "I32": np.int32, "F64": np.float64}
    found = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return found, about


def make(header, data=b"", about=None):
    """A .safetensors file by its specification."""
    text = json.dumps(header | ({"__metadata__": about} if about else {})).encode()
    return struct.pack("<Q", len(text)) + text + data


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape, np.asarray(x).tobytes()) == (y.dtype, y.shape, np.asarray(y).tobytes())


def refused(path, words=None):
    with pytest.raises(ValueError, match=words) as error:
        weights.read(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_an_exported_trunk_is_the_checkpoints_bit_for_bit(workdir, exported):
    tree, record = checkpoint.restore_variables(workdir)
    params, state = weights.read(exported)
    same((params, state), (tree["params"]["encoder"], tree["model_state"]["encoder"]))
    arrays, about = by_hand(exported.read_bytes())
    assert "params/stem_conv/kernel" in arrays
    np.testing.assert_array_equal(arrays["params/stem_conv/kernel"], params["stem_conv"]["kernel"])
    said = json.loads(about["ssl_jax"])
    stored = json.loads((workdir / "config.json").read_text())
    assert (said["step"], said["config"], said["commit"]) == (
        record["step"],
        stored["config"],
        stored["resolved"]["commit"],
    )
    assert said["fingerprint"] == checkpoint.fingerprint({"params": params, "model_state": state})
    assert said["version"]


def test_files_of_the_specification_are_read(tmp_path):
    kernel = PARAMS["conv"]["kernel"]
    header = {
        "params/conv/kernel": {"dtype": "F32", "shape": [3, 3, 1, 4], "data_offsets": [0, 144]},
        "model_state/half": {"dtype": "BF16", "shape": [2], "data_offsets": [144, 148]},
    }
    half = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16  # bfloat16 is the upper half of a float32
    path = tmp_path / "x.safetensors"
    path.write_bytes(make(header, kernel.tobytes() + half.astype(np.uint16).tobytes(), {"format": "pt"}))
    params, state = weights.read(path)
    same(params, {"conv": {"kernel": kernel}})
    assert state["half"].dtype == ml_dtypes.bfloat16
    assert state["half"].astype(np.float32).tolist() == [1.5, -2.0]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int8", "uint64", "bool"])
def test_every_dtype_shape_and_layout_comes_back(dtype, tmp_path):
    array = RNG.integers(0, 2, (3, 4, 5)).astype(jax.numpy.dtype(dtype))
    params = {"turned": array.T, "step": array[::2, :, 1], "empty": array[:0], "none": array[0, 0, 0].reshape(())}
    weights.write(tmp_path / "x.safetensors", params, {}, {})
    found, state = weights.read(tmp_path / "x.safetensors")
    assert state == {}
    same(found, params)


def test_npz_is_read_as_numpy_writes_it(tmp_path):
    named = {"params/conv/kernel": np.asfortranarray(PARAMS["conv"]["kernel"]), "params/scale": PARAMS["scale"]}
    named |= {f"model_state/batch_stats/norm/{k}": v for k, v in STATE["batch_stats"]["norm"].items()}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **named)
        params, state = weights.read(tmp_path / "x.npz")
        same((params, state), (jax.tree.map(np.asarray, PARAMS), STATE))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pickled(kind, mark):
    """A program that touches ``mark``, as bytes of several formats."""
    if kind == "protocol 0":
        return pickle.dumps(Bomb(mark), protocol=0)
    program = pickle.dumps(Bomb(mark))
    if kind == "pickle":
        return program
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    elif kind == "npz":
        np.savez(file, **{"params/x": np.array([Bomb(mark)], dtype=object)})
    else:  # as torch.save writes it
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/version", "3")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "protocol 0", "npy", "npz", "torch"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_program_never_runs(suffix, kind, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / f"x{suffix}"
    path.write_bytes(pickled(kind, mark))
    text = refused(path)
    assert not mark.exists()
    if suffix in weights.EXECUTABLE:
        assert "can execute code" in text
        assert text.endswith(f"which executes nothing, and name that: ssl-jax import {path} --out runs/x")
    elif kind in ("pickle", "npz", "torch"):
        assert "can execute code" in text
        assert "safetensors.numpy.save_file" in text
    if kind == "pickle":  # and it would have
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize("suffix", [".PT", ".h5", ".txt", ""])
def test_other_names_are_refused(suffix, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(b"")
    refused(tmp_path / f"x{suffix}", "can execute code" if suffix == ".PT" else r"known: .safetensors, .npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".msgpack", ".h5", ".th"])
def test_a_file_of_another_library_is_sent_to_the_import(suffix, tmp_path):
    path = tmp_path / f"my resnet{suffix}"
    path.write_bytes(safetensors.numpy.save({"conv1.weight": np.ones((2, 2), np.float32)}))
    assert refused(path).endswith(f", and name that: ssl-jax import '{path}' --out 'runs/my resnet'")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5"])
def test_addresses_and_files_that_are_not_there_are_not_sent_to_the_import(suffix, tmp_path):
    with pytest.raises(ValueError, match=rf"^https://x\.org/x{suffix} is an address, .*; download it first"):
        weights.read(f"https://x.org/x{suffix}")
    with pytest.raises(ValueError, match=r"is not there|cannot be read"):
        weights.read(tmp_path / f"gone{suffix}")


def test_every_cut_and_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.write(path, PARAMS, STATE, {"config": {"seed": 3}})
    whole = path.read_bytes()
    weights.read(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        refused(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_cut_or_changed_npz_is_never_taken_for_other_weights(compressed, tmp_path):
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **{"params/kernel": PARAMS["conv"]["kernel"]})
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        refused(path)
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            params, _ = weights.read(path)
        except ValueError:
            refused(path)
        else:  # a flag or a date that means nothing
            np.testing.assert_array_equal(params["kernel"], PARAMS["conv"]["kernel"])


def huge():
    """Files of some hundred bytes that claim terabytes, or gigabytes that deflate can hold."""
    tera = 1 << 40
    yield "header.safetensors", struct.pack("<Q", tera) + b"{}", "no whole .safetensors"
    entry = {"dtype": "F32", "shape": [tera], "data_offsets": [0, 4 * tera]}
    yield "array.safetensors", make({"params/x": entry}), "no whole .safetensors"
    entry = {"dtype": "F32", "shape": [tera], "data_offsets": [0, 4]}
    yield "shape.safetensors", make({"params/x": entry}, b"1234"), "no whole .safetensors"
    entry = {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 0]}
    yield "overflow.safetensors", make({"params/x": entry}), "no whole .safetensors"
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"shape": (tera,), "fortran_order": False, "descr": "<f4"})
    for name, rest, words in (
        ("shape.npz", b"1234", "claims the shape"),
        ("bomb.npz", bytes(200 << 20), "claim to unpack"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("params/x.npy", member.getvalue() + rest)
        yield name, file.getvalue(), words


def test_what_claims_to_be_huge_is_refused_before_anything_is_allocated(tmp_path):
    files = list(huge())
    for name, data, _ in files:
        (tmp_path / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, _, words in files:
        refused(tmp_path / name, words)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def f32(values):
    return np.asarray(values, np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"encoder/x": f32([1])}, "called neither params/... nor model_state/"),
        ({"../x": f32([1])}, "called neither params/... nor model_state/"),
        ({"params/x": f32([1]), "params/x/y": f32([1])}, "params/x/y lies below another array"),
        ({"params/x": f32([1, np.nan, np.inf])}, "2 of the 3 numbers of params/x are not finite"),
        ({"params/x": np.array(["a"])}, "of dtype <U1"),
        ({"params/x": np.array([1.5], ml_dtypes.bfloat16)}, "bfloat16 needs .safetensors"),
        ({"params/x": np.array([1j])}, "of dtype complex128"),
    ],
)
def test_arrays_that_are_no_weights(arrays, words, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    refused(tmp_path / "x.npz", words)


def test_not_finite_and_unknown_numbers_in_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.write(path, {"x": np.array([np.inf, 1], ml_dtypes.bfloat16)}, {}, {})
    refused(path, "1 of the 2 numbers of params/x are not finite")
    path.write_bytes(make({"params/x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"1"))
    refused(path, "params/x is F8_E4M3; known: ")


# ------------------------------------------------------------------------------------------------------ init_from


@pytest.mark.parametrize("method", ["supervised", "moco"])
def test_a_file_gives_the_trunk_that_the_workdir_gives(method, workdir, exported, tmp_path):
    params, state = weights.read(exported)
    named = {f"params/{k}": v for k, v in by_name(params).items()}
    named |= {f"model_state/{k}": v for k, v in by_name(state).items()}
    np.savez(tmp_path / "x.npz", **named)
    made = experiment.build(runs.config(method))
    want, *found = (
        load_given({"encoder": str(path)}, made.method, made.modality, made.config, made.plan)[0]["encoder"]
        for path in (workdir, exported, tmp_path / "x.npz")
    )
    for trunk in found:
        same(trunk, want)


@pytest.fixture(scope="module")
def from_file(exported, tmp_path_factory):
    """A run from a file that is gone since: (folder, file, summary)."""
    folder = tmp_path_factory.mktemp("from_file")
    given = folder / "x.safetensors"
    given.write_bytes(exported.read_bytes())
    summary = fit(folder / "run", "supervised", str(given))
    given.unlink()
    return folder / "run", given, summary


@pytest.mark.slow
def test_a_run_from_a_file_is_the_run_from_the_workdir(workdir, from_file, tmp_path):
    summary = fit(tmp_path, "supervised", str(workdir))
    assert summary["params_fingerprint"] == from_file[2]["params_fingerprint"]


@pytest.mark.slow
def test_a_run_goes_on_when_the_file_is_gone(from_file, tmp_path):
    folder, given, first = from_file
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "summary.json").unlink()
    again = fit(run, "supervised", str(given))
    assert again["params_fingerprint"] == first["params_fingerprint"]


def changed(params, state, how):
    params = jax.tree.map(np.asarray, params)
    kernel = params["stem_conv"].pop("kernel")
    new = {
        "shape": {"kernel": kernel[..., :-1]},
        "dtype": {"kernel": kernel.astype(ml_dtypes.bfloat16)},
        "missing": {},
        "extra": {"kernel": kernel, "kernel2": kernel},
    }[how]
    params["stem_conv"] |= new
    return params, state


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("shape", r"params/stem_conv/kernel is float32\[3, 3, 1, 7\] there and float32\[3, 3, 1, 8\] here"),
        ("dtype", r"params/stem_conv/kernel is bfloat16\[3, 3, 1, 8\] there and float32"),
        ("missing", r"params/stem_conv/kernel is nothing there and float32"),
        ("extra", r"params/stem_conv/kernel2 is float32\[3, 3, 1, 8\] there and nothing here"),
    ],
)
def test_weights_of_another_encoder_are_refused_before_the_folder_is_made(how, words, exported, tmp_path):
    path = tmp_path / "x.safetensors"
    weights.write(path, *changed(*weights.read(exported), how), {})
    with pytest.raises(train.Refused, match=f"init_from={path} holds another architecture: {words}") as error:
        fit(tmp_path / "run", "supervised", str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_a_program_in_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    mark = tmp_path / "mark"
    for name in ("x.pt", "x.safetensors", "gone.pkl", "gone.npz"):
        if not name.startswith("gone"):
            (tmp_path / name).write_bytes(pickled("pickle", mark))
        arguments = ["--workdir", str(tmp_path / "run"), f"--config.init_from={tmp_path / name}"]
        assert pretrain.main(arguments) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / name}")
    for name, words in (("a" * 5000 + ".npz", "cannot be read"), ("a" * 5000, "holds no run")):
        assert pretrain.main(["--workdir", str(tmp_path / "run"), f"--config.init_from={name}"]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert words in line
    assert not mark.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [("x.pt", "written as .safetensors"), ("file/x.safetensors", "cannot be written"), ("", "is not called so")],
)
def test_the_export_command_refuses_in_one_line(out, words, workdir, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert command.main(["--workdir", str(workdir), "--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert command.main(["--workdir", str(tmp_path), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
