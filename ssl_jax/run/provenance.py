"""Where a number comes from: the code, the versions, the hardware and the data behind it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ssl_jax import configs, evals, names, parallel
from ssl_jax.configs import Config, to_json
from ssl_jax.data import readers, recipes
from ssl_jax.data.images.values import own_operations
from ssl_jax.data.source import identity
from ssl_jax.experiment import Experiment
from ssl_jax.run import origins

VERSIONED = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu", "tensorflow-datasets"),
    *("libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
)


def describe(experiment: Experiment) -> dict[str, Any]:
    """What a config became on this machine: plan, data, versions, hardware. Stored with the run."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in experiment.modality.files.items()}
    begun = origins.began_with(to_json(experiment.config).get("init_from"))
    return {
        "plan": experiment.plan._asdict(),
        "data": identity(experiment.splits) | ({"files": files} if files else {}),
        "devices": parallel.device_count(experiment.config.parallel.devices),
        "own": own(experiment.config, experiment.recipe),
        "recipe": recipes.plain(experiment.recipe),
        **({"origins": begun} if begun else {}),
        **machine(),
    }


def own(config: Config, recipe: Any) -> dict[str, dict[str, Any]]:
    """The parts of a run that are not of this package: key of the config -> what :func:`source_of` says of it.

    Operations of the recipe are called ``operation.NAME``.
    """
    named = {key: config[key.partition(".")[0]].get(key.partition(".")[2]) for key in names.WORDS if "." in key}
    ours = {"data.source"} if not readers.is_own(config.data.source) else set()
    found = {key: source_of(name, key) for key, name in named.items() if key not in ours and names.is_imported(name)}
    ops = {f"operation.{called}": (op.name, "operation") for called, op in own_operations(recipe).items()}
    during = evals.called(config.eval.get("during") or ())
    ops |= {f"eval.during.{word}": (name, "evaluator") for word, name in during.items() if names.is_imported(name)}
    return found | {key: source_of(*named) for key, named in ops.items()}


def source_of(name: str, key: str) -> dict[str, Any]:
    """{"name", "path", "sha256"} of the file that a part of one's own is read from; None of what has no file."""
    _, path, digest = names.own(name, key)
    return {"name": name, "path": path and str(path), "sha256": digest}


def machine() -> dict[str, Any]:
    """Commit, versions and hardware of this process."""
    return {
        "processes": jax.process_count(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "commit": commit(),
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS") or None,
        "matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        "versions": {name: v for name in VERSIONED if (v := version(name))},
    }


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_NUMBERS = {"cpu family": "family", "model": "model", "stepping": "stepping"}


def _cpu_model() -> str:
    """With family, model and stepping, since a cloud may call several generations by one name."""
    with contextlib.suppress(OSError):
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        about = {key.strip(): value.strip() for key, _, value in lines}
        if name := about.get("model name"):
            numbers = [f"{key} {about[word]}" for word, key in _NUMBERS.items() if word in about]
            return f"{name} ({', '.join(numbers)})" if numbers else name
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Git commit of the code that runs, with "+" when it is not what the commit holds; None outside a checkout.

    Files that git does not know count where they may be code that runs.
    """

    def git(*arguments):
        here = Path(__file__).resolve().parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        code = [f":/{name}" for name in ("ssl_jax", "configs", "experiments")]
        changed = git("status", "--porcelain", "--untracked-files=no") or git("status", "--porcelain", "--", *code)
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    return None


def short(commit: str | None) -> str:
    """Twelve digits of a commit, with the "+" of changed files."""
    return str(commit)[:12] + "+" * str(commit).endswith("+")


def settings(config: Config) -> dict[str, Any]:
    """What a config is: the keys that matter and are not null, data by name; of all seeds and machines the same."""
    flat = configs.flatten(to_json(config))
    found = {key: value for key, value in flat.items() if configs.matters(key) and value is not None}
    return found | {"data.source": configs.placeless(found["data.source"])}


def config_hash(config: Config) -> str:
    """Twelve hex digits of the sha256 of a config's :func:`settings`."""
    return hashlib.sha256(json.dumps(settings(config), sort_keys=True, default=str).encode()).hexdigest()[:12]


def peak_memory() -> dict[str, int | None]:
    """``{"host", "device"}``: the most bytes that this process held, and the most of one of its devices, if it tells.

    A CPU's memory is the host's.
    """
    used = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    return {"host": _peak_of_host(), "device": max((stats.get("peak_bytes_in_use", 0) for stats in used), default=None)}


def _peak_of_host() -> int | None:
    with contextlib.suppress(OSError):  # getrusage also counts the process that this one was forked from
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return None
