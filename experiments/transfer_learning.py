"""Transfer learning, the classic comparison: a frozen network, a fine-tuned one and one from scratch, by epochs.

    python experiments/transfer_learning.py --source folder:PATH/hymenoptera --out runs/transfer \
        --start squeezenet=runs/squeezenet simclr=runs/simclr_caltech

Each start is a run, trained here or imported (import_weights.py). Of each come three rows: "extract", a new linear
classifier on the network as it is, statistics of BatchNorm included; "tune", all of it learns; "scratch", the same
network from random weights. A part of train decides which epoch is kept; test is read once for each row and seed.
--recipe tutorial is that of PyTorch's tutorial on torchvision's networks: SGD at a constant .001, momentum .9, batches
of 8, for every network and row; house: a cosine from .1 times N / 256 with Nesterov's momentum, batches of 32.
Features differ in scale by network, and one rate need not suit a new classifier and what lies below it: --head_rate.

Every row is an ordinary run: the same command goes on where it stopped, and other starts, rows, seeds or rates are
added to what the folder holds. DIR/transfer.json, transfer.md, curves.png.
"""

from __future__ import annotations

import json
import operator
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from ml_collections import ConfigDict

from ssl_jax import evaluation
from ssl_jax.configs import to_json
from ssl_jax.data import source
from ssl_jax.data.from_config import load_splits
from ssl_jax.evals import Diverged, best_fit, finetune
from ssl_jax.evals.shared import curves
from ssl_jax.interop.files import write_json
from ssl_jax.run import command, processes, signals
from ssl_jax.run.open import Run, open_run
from ssl_jax.run.provenance import machine
from ssl_jax.run.writer import METRICS, read_metrics
from ssl_jax.types import Config

KEY = operator.itemgetter("start", "mode", "seed")  # of a row
MODES = ("extract", "tune", "scratch")
TUTORIAL = {"optim.schedule": "constant", "optim.scale": "none", "optim.nesterov": False, "optim.weight_decay": 0.0}
RECIPES: dict[str, tuple[int, float, Mapping[str, Any]]] = {  # batch, rate, what else differs from finetune's
    "tutorial": (8, 1e-3, TUTORIAL),
    "house": (32, finetune.RATE, {}),
}


def main(arguments: list[str]) -> int:
    parser = command.Parser("Feature extraction, fine-tuning and training from scratch, of several networks.")
    parser.add_argument("--source", required=True, help="labelled images with a test split, as in data.source")
    parser.add_path("--out", required=True, help="folder of the runs, of transfer.json, transfer.md and curves.png")
    parser.add_argument("--start", nargs="+", required=True, metavar="NAME=WORKDIR", help="runs to start from")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--recipe", default="tutorial", choices=list(RECIPES))
    parser.add_argument(
        "--learning_rate", type=float, nargs="+", help="in place of the recipe's; of several, validation chooses"
    )
    parser.add_argument(
        "--head_rate", type=float, default=1.0, help='of "tune": the new classifier learns at this times the rate'
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held_out", type=float, default=0.2, help="share of train by which the epoch is chosen")
    options = parser.parse_args(arguments)
    processes.configure(None)
    try:
        starts = {name: Path(at) for name, _, at in (word.partition("=") for word in options.start)}
        if not all(str(at) != "." for at in starts.values()) or len(starts) < len(options.start):
            raise ValueError("--start takes NAME=WORKDIR, each name once")
        if not options.head_rate > 0:
            raise ValueError(f"--head_rate {options.head_rate:g} must be positive; 1 is one rate for all")
        known = earlier(options)
        runs = {name: opened(at) for name, at in starts.items()}
        rows = [row for name, run in runs.items() for row in of_start(options, name, run)]
    except ValueError as error:
        return command.refuse(error)
    except Diverged as error:
        print(f"{error}; or name a lower --learning_rate beside it", file=sys.stderr)
        return 1
    except signals.Interrupted as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return stopped.exit_code
    out = Path(options.out)
    new = {KEY(row) for row in rows}
    rows = [row for row in known if KEY(row) not in new] + rows
    write_json(out / "transfer.json", {"settings": settings(options), "rows": rows, "machine": machine()})
    text = "\n".join(table(rows, settings(options)))
    (out / "transfer.md").write_text(text + "\n")
    draw(rows, out / "curves.png")
    print(f"\n{text}")
    return 0


def settings(options: Any) -> dict[str, Any]:
    """What all rows of a table share."""
    return {key: getattr(options, key) for key in ("source", "recipe", "epochs", "held_out")}


def earlier(options: Any) -> list[dict[str, Any]]:
    """Rows that the folder holds; ValueError where they were made otherwise."""
    path = Path(options.out) / "transfer.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    for key, value in settings(options).items():
        if found["settings"].get(key) != value:
            raise ValueError(
                f"{path} holds rows with {key}={found['settings'].get(key)!r}, not {value!r}; use another --out"
            )
    return found["rows"]


def opened(workdir: Path) -> Run:
    """A network of images; ValueError where it is another."""
    run = open_run(workdir)
    if run.modality.vocab is not None or len(run.modality.input_shape) != 3:
        raise ValueError(
            f"{workdir} is a run on text or other data, and this compares networks of images; use ssl-jax evaluate "
            f"--workdir {workdir} --evals finetune --eval.finetune.modes=extract,tune,scratch"
        )
    return run


def of_start(options: Any, name: str, run: Run) -> Iterable[dict[str, Any]]:
    """A row of results for every mode and seed of one network."""
    config: Config = ConfigDict(to_json(run.config))
    keep = ("train_split", "test_split", "num_examples", "unlabelled", "labelled")
    config.data.update({"source": options.source} | {key: None for key in keep if key in config.data})
    splits = load_splits(config)
    for note in splits.notes:
        print(note)
    for part in splits:
        run.modality.accepts(part)
    splits = source.Splits(*(source.with_channels(part, run.plan.input_shape[-1]) for part in splits))
    known = source.join(splits.train, splits.val)
    batch, rate, others = RECIPES[options.recipe]
    for mode in options.modes:
        for seed in options.seeds:
            parts = finetune.split(known, splits.test, held_out=options.held_out, seed=seed)
            place = Path(options.out) / name
            fit = evaluation.make_fit(run, config, place, lambda line: print(line, flush=True))
            fits = {}
            for one in options.learning_rate or [rate]:
                changes = finetune.overrides(
                    mode,
                    **{"epochs": options.epochs, "batch_size": batch, "seed": seed},
                    **{"learning_rate": one, "head_rate": options.head_rate},
                )
                fits[one] = partial(fit, f"{mode}_seed{seed}", parts, changes | dict(others))
            chosen, fitted = best_fit(fits)
            assert fitted.workdir is not None  # make_fit names it
            yield {
                **{"start": name, "mode": mode, "seed": seed, "test_top1": float(fitted.hits.mean())},
                **{"test_examples": len(fitted.hits), "val_examples": len(parts.val), "steps": fitted.steps},
                "train_examples": len(parts.train),
                **{"val_top1": fitted.val_top1, "seconds": round(fitted.seconds, 1), "learning_rate": chosen},
                **({"head_rate": options.head_rate} if mode == "tune" else {}),
                "curve": curve(fitted.workdir),
            }


def curve(workdir: Path) -> dict[str, list[float]]:
    """Validation accuracy by epoch of one run."""
    lines = [line for line in read_metrics(workdir / METRICS) if "val_top1" in line]
    return {"epoch": [line["epoch"] for line in lines], "val_top1": [line["val_top1"] for line in lines]}


def grouped(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of the same network and mode."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["start"], row["mode"]), []).append(row)
    return found


def cells(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    """The table: accuracies in %, mean and standard deviation over seeds; which epoch was kept, and the last one."""
    test = f"test top-1, % ({rows[0]['test_examples']} images)"
    yield ["start, row", test, "validation, %", "at the last epoch, %", "epoch kept", "rate", "seconds"]
    for (start, mode), several in grouped(rows).items():
        yield [
            f"{start}, {mode}",
            _spread([100 * row["test_top1"] for row in several]),
            _spread([100 * row["val_top1"] for row in several]),
            _spread([100 * row["curve"]["val_top1"][-1] for row in several]),
            ", ".join(f"{kept(row):g}" for row in several),
            ", ".join(dict.fromkeys(rate(row) for row in several)),
            f"{np.mean([row['seconds'] for row in several]):.0f}",
        ]


def kept(row: dict[str, Any]) -> float:
    """The epoch whose weights were read on test: the last of those with the best validation accuracy."""
    return max(zip(row["curve"]["val_top1"], row["curve"]["epoch"], strict=True))[1]


def rate(row: dict[str, Any]) -> str:
    """The learning rate of a row; the classifier's own beside it."""
    own = row.get("head_rate", 1.0)
    return f"{row['learning_rate']:g}" + (f", classifier {own * row['learning_rate']:g}" if own != 1 else "")


def table(rows: list[dict[str, Any]], settings: Mapping[str, Any]) -> Iterable[str]:
    """Markdown: :func:`cells`, and what the numbers are."""
    lines = list(cells(rows))
    for i, line in enumerate(lines):
        yield f"| {' | '.join(line)} |"
        if i == 0:
            yield "|" + "---|" * len(line)
    seeds = sorted({row["seed"] for row in rows})
    batch = RECIPES[settings["recipe"]][0]
    yield (
        f"\n{settings['source']}, recipe {settings['recipe']}: batches of {batch}, epochs: {settings['epochs']}, "
        f"seeds: {', '.join(map(str, seeds))}. The epoch with the best accuracy on validation, "
        f"{settings['held_out']:.0%} of train drawn by the seed, is kept and read on test once. "
        "Mean ± standard deviation over seeds (of the sample, n - 1); of one seed the value alone."
    )
    for n in sorted({row["train_examples"] for row in rows if "train_examples" in row}):  # older rows do not say
        each = min(batch, n)
        if left := n % each:
            yield (
                f"Of the {n} images that are trained on, {n - left} are seen in an epoch, {n // each} batches of "
                f"{each}; the other {left}, drawn anew for each epoch, would not fill a batch."
            )


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Validation accuracy by epoch, a panel for each network, mean and range over seeds of each row; and the table."""
    panels: dict[str, dict[str, list[tuple[Any, Any]]]] = {}
    for (start, mode), several in grouped(rows).items():
        drawn = [(row["curve"]["epoch"], row["curve"]["val_top1"]) for row in several]
        panels.setdefault(f"{start} val_top1", {})[mode] = drawn
    curves.learning_curves(panels, path, table=list(cells(rows)))


if __name__ == "__main__":
    command.run(main)
