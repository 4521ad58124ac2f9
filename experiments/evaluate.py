"""Evaluate finished runs: any evaluator, on the run's dataset or another, one report.

    ssl-jax evaluate --workdir runs/simclr_digits --evals knn,linear_probe,geometry
    ssl-jax evaluate --workdir runs/a runs/b --out runs/a_and_b --eval.knn.k=20,200
    ssl-jax evaluate --workdir runs/a --step 1000           # an earlier checkpoint, into runs/a/evaluation_1000
    ssl-jax evaluate --list

Exit codes: 0 done, 1 the evaluation failed, 2 refused before anything was computed, 130 interrupted: what was encoded
is kept, and the same command goes on from there.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax import configs, evals
from ssl_jax.names import hint
from ssl_jax.online.progress import phase
from ssl_jax.run import command, folder, processes
from ssl_jax.run.open import read_run
from ssl_jax.run.writer import plain_warnings

DEFAULT = ",".join(evals.DEFAULT)
FEATURES = ("max_dim",)
COLUMNS = ("label_column", "image_column", "text_column", "second_column")
DOWNLOAD = """fetch a dataset that is not there: of tfds:NAME TFDS fetches and prepares it, below --data_dir or else in
its own folder; of hf:USER/NAME Hugging Face's datasets does, from the Hub into its cache (HF_HOME); nothing else is
fetched"""
WORDS = (
    "--workdir",
    "--evals",
    "--outdir",
    "--out",
    "--step",
    "--source",
    "--data_dir",
    "--data.label_column",
    "--download",
    "--devices",
    "--list",
    "--help",
)


def main(arguments: list[str]) -> int:
    parser = command.Parser(
        "Evaluate finished runs.",
        epilog="Options of an evaluator: --eval.NAME.OPTION=VALUE, several values with commas; --list shows them.",
    )
    parser.add_path("--workdir", nargs="+", default=[], help="folders of finished runs; several are compared")
    said = "evaluators, comma-separated, your own by its file (./centroid.py) or dotted path; default: those of "
    said += f"{DEFAULT} that suit the data, and score and classify where the network has them"
    parser.add_argument("--evals", help=said)
    parser.add_path("--outdir", "--out", help="where everything goes; default: <workdir>/evaluation[_STEP]")
    parser.add_argument("--step", type=int, help="of a checkpoint that is kept; default: the last")
    parser.add_argument("--source", type=command.named, help="another dataset than the run's own, as in data.source")
    for name in COLUMNS:
        said = "of a table, where it is not that of the run's own data or has no usual name"
        parser.add_argument(f"--data.{name}", f"--config.data.{name}", dest=name, metavar="NAME", help=said)
    parser.add_path("--data_dir", help="where TFDS datasets lie, if not where the run found them")
    parser.add_argument("--download", action="store_true", help=DOWNLOAD)
    parser.add_argument("--devices", type=int, help="default: those of the run")
    parser.add_argument("--list", action="store_true", help="show the evaluators and their options")
    try:
        given, rest = parser.parse_known_args(arguments)
        if given.list:
            return list_evaluators()
        names = None if given.evals is None else [name for name in given.evals.split(",") if name]
        if names == []:
            raise ValueError(f"--evals names no evaluator; known: {', '.join(evals.names())}")
        options = read_options(rest, evals.called(names or (*evals.DEFAULT, "classify")))
        if given.outdir:
            given.outdir = folder.check(given.outdir, "--outdir")
        if not given.workdir:
            raise ValueError("--workdir is missing; name the folder of a finished run")
        given.workdir = command.folders(given.workdir)
        if given.step is not None and len(given.workdir) == 1:
            given.outdir = given.outdir or f"{given.workdir[0]}/evaluation_{given.step}"
        stored = [read_run(workdir)[0].parallel for workdir in given.workdir]
        processes.configure(
            given.devices or max(run.devices or 1 for run in stored),
            heartbeat_timeout=max(run.get("heartbeat_timeout", processes.HEARTBEAT_TIMEOUT) for run in stored),
            xla_flags=stored[0].get("xla_flags") or "",
            matmul_precision=stored[0].get("matmul_precision"),
        )
    except ValueError as error:
        return refuse(processes.tell(error))

    # Imported now: asking for simulated devices must come before the first use of a device.
    with phase("loading the libraries"):
        from ssl_jax.evals import Diverged
        from ssl_jax.evaluation import evaluate
        from ssl_jax.run.open import open_run
        from ssl_jax.run.signals import Interrupted

    places = {"outdir": given.outdir, "source": given.source, "data_dir": given.data_dir}
    places |= {"columns": {name: column for name in COLUMNS if (column := getattr(given, name)) is not None}}
    places |= {"download": given.download, "devices": given.devices}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from now on there is something to keep
        with processes.ending_together():
            runs = given.workdir if given.step is None else [open_run(workdir, given.step) for workdir in given.workdir]
            evaluate(runs, names, options, **places)
    except ValueError as error:
        return refuse(error)
    except (KeyboardInterrupt, Interrupted) as stop:
        print("stopped; what was computed is kept, and the same command goes on from there", file=sys.stderr)
        return getattr(stop, "exit_code", 130)
    except (Diverged, OSError) as error:
        print(f"the evaluation failed: {error}", file=sys.stderr)
        return 1
    return 0


def refuse(error: ValueError) -> int:
    text = str(error).replace("--config.data.download=True", "--download").replace("--config.data.", "--")
    return command.refuse(ValueError(text))


def read_options(rest: list[str], called: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """``--eval.knn.k=20,200`` as ``{"knn": {"k": (20, 200)}}``.

    Args:
      called: the evaluators, see :func:`ssl_jax.evals.called`.
    """
    found: dict[str, dict[str, Any]] = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--eval."):
            meant = hint(word.partition("=")[0], WORDS)
            raise ValueError(
                f"argument {word!r} is unknown; {meant}known: {', '.join(WORDS)}, --eval.NAME.OPTION=VALUE"
            )
        key, equals, text = word.removeprefix("--eval.").partition("=")
        text = text if equals else next(words, "")
        name, _, option = key.partition(".")
        known = list(FEATURES) if name == "features" else list(evals.options(called.get(name, name)))
        if option not in known:
            meant = hint(option, known, form=f"--eval.{name}.{{}}")
            raise ValueError(f"--eval.{name}.{option} is unknown; {meant}known: {', '.join(known)}")
        if name not in (*called, "features"):
            raise ValueError(f"--eval.{key} is given but {name} is not among --evals {','.join(called)}")
        if not text:
            raise ValueError(f"--eval.{key} has no value; write --eval.{key}=VALUE")
        found.setdefault(name, {})[option] = several(text)
    for name in called.values():
        evals.get(name)
    return found


def several(text: str) -> Any:
    """What ``--config`` would make of a value, and a tuple of what commas part."""
    value = configs.literal(text)
    return tuple(map(configs.literal, value.split(","))) if isinstance(value, str) and "," in value else value


def list_evaluators() -> int:
    """Every evaluator with the first line of its docstring and its options."""
    for name in evals.names():
        print(f"{name}: {(evals.get(name).__doc__ or '').strip().splitlines()[0]}")
        for option, default in evals.options(name).items():
            print(
                f"    --eval.{name}.{option}={','.join(map(str, default)) if isinstance(default, tuple) else default}"
            )
    print("of all of them:\n    --eval.features.max_dim=none  # stages on the finest grid with at most so many numbers")
    return 0


if __name__ == "__main__":
    plain_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr does, where a terminal lacks a letter
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
