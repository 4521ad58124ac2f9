"""Wrong configs by the hundred: is every one refused in one line, before anything is compiled or written?

    python experiments/faults_configs.py --count 200 --out /tmp/faults_configs

Every config file is given a small set of images, and then one value that is certainly wrong. It survives if the command
returns 2 with one line "error: ..." and no traceback, made no folder and compiled no program.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import signal
import sys
import traceback
import zipfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax

from experiments import pretrain
from ssl_jax import configs, methods, models
from ssl_jax.configs.checks import COUNTS, POSITIVE
from ssl_jax.interop import weights
from ssl_jax.run import command, folder

HELPERS = ("jit(stage)", "jit(_threefry_seed)")  # compiled once in a process: a key, a table of colours
LONG = "a" * 5000
NOT_READ = ("data.data_dir", "data.train_split")  # by these data
WEIGHTS = ("x.pt", "x.pth", "x.ckpt", "x.bin", "x.pkl", "x.npy", "pickle.safetensors", "pickle.npz", "zip.safetensors")
WEIGHTS += ("cut.safetensors", "giant.safetensors", "none.safetensors", "other.safetensors", "other.npz", "objects.npz")
WEIGHTS += (
    "none.pt",
    "none.npz",
    "none",
    "empty",
    "x.txt",
    f"{LONG}.npz",
)  # in the folder of the data, see make_weights
SOURCES = (
    *(
        "tfds:../../etc",
        "tfds:/etc",
        "tfds:",
        "tfds:**",
        "tfds:[",
        "tfds:no_such_set",
        "tfds:x/../../y",
        "tfds:x:9.9.9",
    ),
    *(
        "folder:",
        "folder:../../no/such",
        "folder:/etc/passwd",
        "tar:",
        "tar:/etc/passwd",
        "tar:{0..9999999999}.tar",
        "tar:{[",
        f"tar:{LONG}",
        "arrayrecord:/etc",
        f"folder:{LONG}",
        "folder:~no_such_user/x",
        f"tfds:{LONG}",
    ),
    *("npz:", "npz:/etc/passwd", "npz:../../x.npz", "npz:~no_such_user/x.npz", f"npz:{LONG}"),
    *("", "digit", "digits:3", "http://x", "../../etc", "cifar10"),
)
SPECIAL = {
    "init_from": (
        "../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        LONG,
        "~no_such_user/x.npz",
        *(f"DATA/{w}" for w in WEIGHTS),
    ),
    "data.source": SOURCES,
    "data.mean": ("()", "('a',)", "(1,2)", "(1e999,)", "x", "none"),
    "data.std": ("()", "('a',)", "(0.0,)", "(-1.0,)", "(1,2)", "(1e999,)", "x", "none"),
    "data.image_size": ("1", "10**12"),
    "data.global_batch_size": ("1", "1000000000000", "65.5"),
    "data.val_fraction": ("1", "1.5", "0.99999"),
    "data.max_unreadable": ("1.5",),
    "data.max_pixels": ("0",),
    "data.value_range": ("5", "4,4", "4095,0", "0,1,2", "(0,'a')", "(0,1e999)", "x", "()", "{}", "true"),
    "data.num_examples": ("1", "0.5"),
    "seed": ("4294967296", "0.5"),
    "train.steps": ("0", "2147483648", "1e30"),
    "train.epochs": ("0", "1000000000000000000000000000000", "1e308", "2147483647", "1000000000"),
    "train.steps_per_dispatch": ("0", "7", "1000000000000"),
    "optim.momentum": ("1", "1.5"),
    "optim.warmup_epochs": ("1e308",),
    "optim.start": ("-0.1", "1.5"),
    "optim.end": ("-0.1", "1.5"),
    "optim.eta": ("0",),
    "optim.layer_decay": ("0", "1.5"),
    "optim.patch_rate": ("0",),
    "eval.knn_k": ("1000000000000",),
    "parallel.devices": ("0", "3", "1000000"),
    "model.widths": ("()", "(0,)", "(-8,)", "('a',)", "(8.5,)"),
    "model.strides": ("()", "(0,)", "('a',)"),
}


def wrong_values(key: str, kind: type) -> tuple[str, ...]:
    """Values that a key of this type cannot have."""
    if key in ("data.source", "data.mean", "data.std", "init_from"):
        return SPECIAL[key]
    special = SPECIAL.get(key, ())
    if kind is bool:
        return ("2", "maybe", "[]", "", "0.5", *special)
    if kind in (int, float):
        fraction = ("1.5",) if kind is int else ()
        zero = ("0",) if key in POSITIVE or key.endswith(COUNTS) else ()
        return ("abc", "", "nan", "1e999", "-1", "-1e999", "true", "[]", "{}", "(1,", *fraction, *zero, *special)
    if kind is str:
        empty = () if key == "parallel.xla_flags" else ("",)  # no flag is none too many
        return (*empty, "no_such_name", "../../etc/passwd", "-1", LONG, *special)
    return special


def misspelt(key: str, known: set[str], rng: np.random.Generator) -> str:
    """A key that lacks one letter, holds one twice, or lies in a group that is not there."""
    at = int(rng.integers(len(key)))
    made = (key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], f"no_such_group.{key}")[rng.integers(3)]
    return made if made not in known else f"{key}.no_such_key"


def types_of(config: Any) -> dict[str, type]:
    """Every key that an override may name and the type of its value, left out where the type is not known."""
    found = {}
    for key in configs.flatten(config):
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        found[key] = node.get_type(last)
    for name, parameter in methods.arguments(config.method.name).items():
        if isinstance(parameter.default, (bool, int, float, str)):
            found.setdefault(f"method.{name}", type(parameter.default))
    encoder = models.make(config.model.name)
    for name in models.arguments(config.model.name):
        if isinstance(getattr(encoder, name), bool):
            found.setdefault(f"model.{name}", bool)
    return {key: kind for key, kind in found.items() if key not in NOT_READ}


def make_weights(folder: Path) -> None:
    """Files that are no weights of any encoder here; the programs in them touch ``ran`` when they are opened."""
    (folder / "empty").mkdir(exist_ok=True)

    class Program:
        def __reduce__(self):
            return os.system, (f"touch '{folder / 'ran'}'",)

    program = pickle.dumps(Program())
    for name in (n for n in WEIGHTS if n.startswith(("x.", "pickle."))):
        (folder / name).write_bytes(program)
    with zipfile.ZipFile(folder / "zip.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    arrays = {"objects": np.array([Program()], dtype=object), "other": np.zeros(3, np.float32)}
    for name, array in arrays.items():
        np.savez(folder / f"{name}.npz", **{"params/x": array})  # pyright: ignore[reportArgumentType]: not allow_pickle
    weights.write(folder / "other.safetensors", {"x": np.zeros(3, np.float32)}, {}, {})
    whole = (folder / "other.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-1])
    (folder / "giant.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])


def mutated(path: Path, given: list[str], rng: np.random.Generator) -> list[str]:
    """The argument that is wrong: a value in three of four cases, else a key."""
    config = configs.load(path, given)
    kinds = types_of(config)
    if config.train.steps is not None:  # wins over epochs, however many
        kinds.pop("train.epochs", None)
    keys = [key for key, kind in kinds.items() if wrong_values(key, kind)]
    special = [key for key in keys if key in SPECIAL]
    draw = rng.random()
    if draw < 0.15:
        return [f"--config.{misspelt(keys[rng.integers(len(keys))], set(kinds), rng)}=1"]
    if draw < 0.25:
        words = (
            "--config.",
            "--config.=1",
            "--config.data=5",
            "--config.seed",
            "--config.seed.x=1",
            "--no_such=1",
            "x",
        )
        return [words[rng.integers(len(words))]]
    choice = special if draw < 0.55 else keys
    key = choice[rng.integers(len(choice))]
    values = wrong_values(key, kinds[key])
    return [f"--config.{key}={values[rng.integers(len(values))]}"]


def small(path: Path, data: Path) -> list[str]:
    """Overrides under which any config file is a small run."""
    given = [f"data.source=npz:{data}", "data.test_split=none", "data.global_batch_size=64", "eval.knn_k=20"]
    given += ["data.image_size=32", f"data.data_dir={data.parent}", "parallel.devices=none"]
    return given + (["method.queue_size=128"] if path.stem.startswith("moco") else [])


class Started(BaseException):
    """The run would have begun."""


def started(*_: Any, **__: Any) -> None:
    raise Started


def refused(arguments: list[str], place: Path, compiled: list[str]) -> str | None:
    """What is wrong with how the command refused; None if nothing is."""
    compiled.clear()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = pretrain.main([*arguments, "--workdir", str(place)])
    except Started:
        return "accepted"
    except SystemExit as stop:
        return f"exit {stop.code} from within: {said.getvalue().strip()[-200:]}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} in {Path(where.filename).name}:{where.lineno}"
    lines = said.getvalue().splitlines()
    if code != 2:
        return f"exit code {code}"
    # A changed method or model says on a line of its own what it left out.
    lines = [line for line in lines if not line.endswith("left out")]
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"{len(lines)} lines: {lines[:3]}"
    if place.exists():
        return "the workdir was made"
    return f"compiled {compiled[0]}" if compiled else None


def tried(count: int, out: Path, seed: int = 0) -> dict[str, Any]:
    """Give ``count`` wrong configs to the command, in this process.

    Returns:
      ``{"tried": int, "survived": int, "lost": int, "examples": up to 20 lines on the lost}``.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    data = out.resolve() / "images.npz"
    images = rng.integers(0, 256, (700, 32, 32, 3), np.uint8)
    np.savez(data, train_images=images, train_labels=np.arange(700) % 10)
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        if event.endswith("backend_compile_duration") and about.get("fun_name") not in HELPERS:
            compiled.append(str(about.get("fun_name")))

    files = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "common"))
    lost = []
    make_weights(data.parent)
    # All that the command does before it takes the run's folder; what it starts from is read then.
    lock, folder.lock = folder.lock, started
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for i in range(count):
            path = files[i % len(files)]
            given = small(path, data)
            wrong = mutated(path, given, rng)
            wrong = [word.replace("DATA", str(data.parent)) for word in wrong]
            arguments = ["--config", str(path), *(f"--config.{g}" for g in given), *wrong]
            what = refused(arguments, out / f"run_{i}", compiled)
            if what:
                lost.append(f"{path.stem} {wrong[0][:80]}: {what}")
            if (data.parent / "ran").exists():
                lost.append(f"{path.stem} {wrong[0][:80]}: a program ran")
                (data.parent / "ran").unlink()
    finally:
        folder.lock = lock
        jax.monitoring.unregister_event_duration_listener(listen)
    return {"tried": count, "survived": count - len(lost), "lost": len(lost), "examples": lost[:20]}


def main(arguments: list[str]) -> int:
    parser = command.Parser("Wrong configs through the command.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_path("--out", required=True, help="a folder for the images and the runs that must not be")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = tried(options.count, Path(options.out), options.seed)
    print(json.dumps(found, indent=2))
    return 1 if found["lost"] else 0


if __name__ == "__main__":
    command.run(main)
