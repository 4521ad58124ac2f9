"""Everything that has waited for an accelerator, in order of worth, in the minutes that one is lent for.

    python experiments/accelerator.py --out runs/accelerator --minutes 30 --data cifar10.npz
    JAX_PLATFORMS=cpu python experiments/accelerator.py --out /tmp/rehearsal --minutes 30 --toy   # all of it, small

What the device is and reaches; every method's step against the CPU's; steps in bfloat16 with images/s, augmentation's
share, memory and time by kernel beside the planner's roofline; the same step in PyTorch; kill -9 and the same command
again; steps as one CUDA graph and ten to a program; CIFAR-10 towards the published kNN, where data are given.

Each part is a process of its own. After each ``OUT/accelerator.json`` and ``OUT/accelerator.md`` are written, all that
is needed to go on: the same command makes what is missing. What failed is told, with the end of its log, and made
again with ``--retry``. A part is left out where less time is left than it is thought to take. Logs and the folders of
runs lie in ``--work``, ``OUT/work`` by default. On a CPU all is small (``--toy``). Neither TensorFlow nor a network is
needed; ``--wheels`` is a folder of wheels in pure Python for a machine that lacks them (``pip download --no-deps -d
FOLDER ml_collections``).

Where commands end after ten minutes, and only a few small files of one folder come back:

    python experiments/accelerator.py --out $OUT --work /tmp/work --minutes 9 --wheels FOLDER

and to go on, on another machine of the kind, too, ``cp accelerator.json $OUT`` first: the one that came back, which may
be read-only, carried there.

Of CIFAR-10 only what ``--work`` still holds goes on: ``--only cifar10_simclr --minutes 9`` gives it all of the time.

Exit code 0 if every part that was begun ended well, 1 if one did not, 2 for a refusal.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

GRAPH = "--xla_gpu_enable_command_buffer=+WHILE,+CONVOLUTION,+COLLECTIVES"
TOY_SECONDS = 15  # that a part takes at toy size, about
PATIENCE = 4  # times as long as it is thought to take, a part stands still
TAIL = 2000  # characters of a failed part's log that are kept
NEEDED = ("jax", "flax", "optax", "ml_collections", "orbax.checkpoint", "numpy", "scipy", "tokenizers")
PROBE = """import json, jax
from ssl_jax.run import processes
processes.without_tpu()
print(json.dumps([jax.devices()[0].platform, jax.devices()[0].device_kind, jax.device_count()]))"""


class Part(NamedTuple):
    """What is measured: ``benchmarks.accelerator_MODULE.FUNCTION(name, ...)``.

    Attributes:
      seconds: that it is thought to take on a GPU, compiling included; nothing was measured yet.
      flags: of XLA.
      environment: of its process.
      open_ended: it uses the time that is left, keeps what it has, and goes on next time.
    """

    module: str
    function: str
    seconds: float
    flags: str = ""
    environment: Mapping[str, str] = {}
    open_ended: bool = False


SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # another framework, or another process, is on the card, too
STEPS = {  # program -> seconds
    **{"simclr_cifar": 120, "byol_cifar": 120, "moco_cifar": 120, "simclr_resnet50": 180, "jepa_vit_b": 180},
    **{"language_model": 120, "bert_base": 150},
}
PARTS = {
    "device": Part("device", "facts", 45),
    **{
        f"parity_{group}": Part("parity", "compare", 120)
        for group in ("contrastive", "pretext", "predictive", "modern", "text")
    },
    **{f"step_{name}": Part("steps", "measure", seconds) for name, seconds in STEPS.items()},
    "torch_resnet18_cifar": Part("torch", "compare", 150, environment=SHARED),
    "torch_resnet50_224": Part("torch", "compare", 210, environment=SHARED),
    "kill_and_resume": Part("runs", "kill_and_resume", 240),
    **{
        f"step_{name}+{variant}": Part("steps", "measure", 90, flags)
        for variant, flags in (("graph", GRAPH), ("dispatch", ""))
        for name in ("simclr_cifar", "language_model")
    },
    "cifar10_simclr": Part("runs", "cifar10", 180, open_ended=True),
    "cifar10_moco": Part("runs", "cifar10", 180, open_ended=True),
}


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        return child(json.loads(arguments[1]))
    try:
        options = parsed(arguments)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    out = Path(options.out).absolute()
    file = out / "accelerator.json"
    try:
        found = json.loads(file.read_text()) if file.is_file() else {"toy": None, "parts": {}, "left_out": {}}
        begin(found, options)
    except ValueError as error:
        sys.stderr.write(f"error: {file}: {error}\n")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    end, failed = options.began + 60 * options.minutes, False
    found["left_out"] = {}
    for name in options.only:
        before = found["parts"].get(name)
        if before and not ("error" in before and options.retry):
            continue
        if why := left_out(name, options, found["toy"], end - time.monotonic()):
            found["left_out"][name] = why
        else:
            print(f"{name} ...", end=" ", flush=True)
            began = time.monotonic()
            result = run(name, options, found, end)
            print(
                f"{time.monotonic() - began:.0f} s {result.get('error') or result.get('unfinished') or ''}", flush=True
            )
            failed |= "error" in result
            if "unfinished" in result:
                found["left_out"][name] = result["unfinished"]
            else:
                found["parts"][name] = result | {"took": round(time.monotonic() - began, 1)}
        write(out, found)
    write(out, found)
    print("\n" + (out / "accelerator.md").read_text())
    return int(failed)


def parsed(arguments: list[str]) -> Any:
    """The words of the command.

    Raises:
      ValueError: one line, also where a package is missing.
    """
    import argparse

    parser = argparse.ArgumentParser(description="Everything that has waited for an accelerator.", allow_abbrev=False)
    parser.add_argument("--wheels", help="folder of wheels in pure Python that this machine lacks")
    known, _ = parser.parse_known_args([word for word in arguments if word not in ("-h", "--help")])
    environment = dict(os.environ)
    if known.wheels is not None:
        wheels = sorted(Path(known.wheels).expanduser().absolute().glob("*.whl"))
        if not wheels:
            raise ValueError(
                f"--wheels {known.wheels} holds no wheel; pip download --no-deps -d {known.wheels} PACKAGE"
            )
        sys.path += map(str, wheels)
        parts = [environment.get("PYTHONPATH", ""), *map(str, wheels)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
    if missing := [name for name in NEEDED if not _is_there(name)]:
        names = " ".join(name.partition(".")[0] for name in missing).replace("orbax", "orbax-checkpoint")
        raise ValueError(
            f"{', '.join(missing)} cannot be imported; pip install {names}, or, where that is not possible, carry what "
            f"is pure Python: pip download --no-deps -d FOLDER {names} elsewhere, and --wheels FOLDER here"
        )
    from ssl_jax.run import command

    parser = command.Parser("Everything that has waited for an accelerator.")
    parser.add_path("--out", required=True, help="folder of accelerator.json and accelerator.md")
    parser.add_path("--work", help="folder of logs and runs; OUT/work by default")
    parser.add_argument("--minutes", type=float, required=True, help="that there are; nothing is begun that needs more")
    parser.add_path("--data", help="CIFAR-10: a .npz file, or the folder of TFDS where TensorFlow is installed")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated; known: {', '.join(PARTS)}")
    parser.add_argument("--toy", action="store_true", help="all of it small; the default on a CPU")
    parser.add_argument("--retry", action="store_true", help="what failed before is tried again")
    parser.add_path("--wheels", help="folder of wheels in pure Python that this machine lacks")
    options = parser.parse_args(arguments)
    options.began, options.environment = time.monotonic(), environment
    if not 0 <= options.minutes < float("inf"):
        raise ValueError(f"--minutes {options.minutes} is no span of time; use 9, say")
    options.only = options.only.split(",")
    if unknown := [name for name in options.only if name not in PARTS]:
        raise ValueError(f"--only {','.join(unknown)} is unknown; known: {', '.join(PARTS)}")
    if options.data is not None:
        options.data = str(Path(options.data).absolute())
        if not os.path.exists(options.data):
            raise ValueError(f"--data {options.data} is not there; name a .npz file or the folder of TFDS")
        if not options.data.endswith(".npz") and not _is_there("tensorflow_datasets"):
            raise ValueError(f"--data {options.data} needs tensorflow-datasets, which is not here; give a .npz file")
    options.work = Path(options.work or Path(options.out) / "work").absolute()
    for name, path in (("out", Path(options.out)), ("work", options.work)):
        if path.exists() and not path.is_dir():
            raise ValueError(f"--{name} {path} is a file; name a folder")
    return options


def _is_there(name: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        return find_spec(name) is not None
    return False


def begin(found: dict[str, Any], options: Any) -> None:
    """Put down what the parts run on, which decides how large they are.

    Raises:
      ValueError: the folder holds what was made on another kind of device, or at another size.
    """
    if not isinstance(found, dict) or "parts" not in found:
        raise ValueError("is not of this script; name another folder")
    if options.minutes == 0:  # nothing is begun
        found.setdefault("device", None)
        return
    command = [sys.executable, "-c", PROBE]
    asked = subprocess.run(command, capture_output=True, text=True, env=options.environment, cwd=ROOT, check=False)
    if asked.returncode:
        raise ValueError(f"JAX has no device: {(asked.stderr.strip().splitlines() or ['?'])[-1][:300]}")
    platform, kind, number = json.loads(asked.stdout.strip().splitlines()[-1])
    toy = options.toy or platform == "cpu"
    if found["toy"] not in (None, toy):
        raise ValueError(f"holds parts of {'toy' if found['toy'] else 'full'} size; name another folder")
    if found.get("device") not in (None, kind):
        raise ValueError(f"holds parts of {found['device']} and this is {kind}; name another folder")
    if toy and not options.toy:
        print("on a CPU: all is at toy size, a rehearsal")
    found |= {"toy": toy, "device": kind, "devices": number, "platform": platform}
    if platform == "cpu":
        soon(options.environment)
    elif "cpu" not in (platforms := options.environment.get("JAX_PLATFORMS", "cpu")):
        options.environment["JAX_PLATFORMS"] = f"{platforms},cpu"  # with which others are compared


def soon(environment: dict[str, str]) -> None:
    """Compile for a CPU in a tenth of the time: what a rehearsal measures means nothing."""
    environment.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # a flag that XLA does not know ends the process
        environment.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")


def left_out(name: str, options: Any, toy: bool | None, left: float) -> str | None:
    """Why a part is not begun, None if it is."""
    part = PARTS[name]
    if part.open_ended and options.data is None:
        return "--data is not given"
    if part.module == "torch" and (missing := [name for name in ("torch", "torchvision") if not _is_there(name)]):
        return f"not installed: {', '.join(missing)}"
    needed = TOY_SECONDS if toy else part.seconds
    return f"needs about {needed:.0f} s, and {max(left, 0):.0f} s were left" if needed > left else None


def run(name: str, options: Any, found: Mapping[str, Any], end: float) -> dict[str, Any]:
    """A part in a process of its own: its result, ``{"error": ...}``, or ``{"unfinished": ...}``."""
    part = PARTS[name]
    left = end - time.monotonic()
    patience = left if part.open_ended else min(left, 120 + PATIENCE * part.seconds)
    result = options.work / f"{name}.json"
    result.unlink(missing_ok=True)
    known = found["parts"].get("device")
    given = {"name": name, "work": str(options.work), "toy": found["toy"], "data": options.data, "left": patience}
    given |= {"known": None if known is None or "error" in known else known, "result": str(result)}
    environment = options.environment | part.environment
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "accelerator"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {part.flags}".strip()
    log = options.work / f"{name}.log"
    with log.open("w") as lines:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(given)]
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=environment, start_new_session=True)
        try:
            code = process.wait(max(patience, 1))
        except subprocess.TimeoutExpired:
            code = None
        finally:  # all that it started, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0 and result.is_file():
        return json.loads(result.read_text())
    if code is None and patience == left:
        return {"unfinished": f"did not end in the {left:.0f} s that were left"}
    said = log.read_text(errors="replace").strip()
    ended = f"stood still for {patience:.0f} s" if code is None else f"exit code {code}"
    return {"error": f"{ended}: {said.rpartition(chr(10))[2].strip()[:300]}", "log": said[-TAIL:]}


def child(given: dict[str, Any]) -> int:
    """A part in this process; its result is a file."""
    warnings.simplefilter("ignore")
    from ssl_jax.run import processes

    processes.without_tpu()
    name = given.pop("name")
    result, part = Path(given.pop("result")), PARTS[name]
    module = importlib.import_module(f"benchmarks.accelerator_{part.module}")
    made = getattr(module, part.function)(name, **(given | {"work": Path(given["work"])}))
    aside = result.with_suffix(".tmp")
    aside.write_text(json.dumps(made))
    aside.replace(result)
    return 0


def write(out: Path, found: Mapping[str, Any]) -> None:
    """The JSON, never half of it, and the tables."""
    from benchmarks import accelerator_table

    for name, text in (
        ("accelerator.json", json.dumps(found, indent=1)),
        ("accelerator.md", accelerator_table.markdown(found)),
    ):
        aside = out / f"{name}.tmp"
        aside.write_text(text + "\n")
        aside.replace(out / name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(main(sys.argv[1:]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # what was measured is written
        sys.exit(130)
