"""What the unlabelled examples are worth: a method, or a pretrained start, against the same labels alone, over seeds.

    python experiments/few_labels.py --config configs/uda_digits.py --out runs/few_digits
    python experiments/few_labels.py --config configs/uda_cifar10.py --out runs/few_cifar --labelled 400 4000 \
        --config.data.data_dir=PATH/tfds
    python experiments/few_labels.py --config configs/ulmfit_classifier_cpu.py --start runs/ulmfit/target \
        --out runs/few_ulmfit --labelled 100 1000 --config.data.data_dir=PATH/tfds --config.train.steps=200

Each seed draws its labels (``data.labelled``), network and order; both rows of a seed have the same three. The
supervised one is the config with ``method.name=supervised``: as many steps on the labelled part of its batches alone.
With ``--start RUN`` both rows are the config: one from scratch, one from RUN's encoder (``init_from``), both with RUN's
tokenizer where it has one. ``--set_second`` changes keys of the second row alone, such as rates by layer.
Each run is an ordinary one: the same command goes on where it stopped. ``OUT/few_labels.json`` holds all results of the
folder: test accuracy of the classifier by labels, row and seed, mean, spread and the paired difference. A folder holds
one comparison; the changes of each command stand beside its runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from ssl_jax import configs, train
from ssl_jax.experiment import build
from ssl_jax.run import command, processes, signals
from ssl_jax.run.provenance import machine


def main(arguments: list[str]) -> int:
    parser = command.Parser("A method against supervised training on the same few labels.")
    parser.add_path("--config", required=True, help="of the method, with data.labelled and train.steps")
    parser.add_path("--out", required=True, help="folder of the runs and of few_labels.json")
    parser.add_argument("--labelled", type=int, nargs="+", help="numbers of labels; default: the config's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_path("--start", help="run whose encoder the second row starts from; the first is from scratch")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="the same as --config.KEY=VALUE")
    parser.add_argument("--set_second", nargs="+", default=[], metavar="KEY=VALUE", help="of the second row alone")
    processes.configure(None)
    try:
        options, changes = parser.parse_changes(arguments)
        options.set = [*options.set, *changes]
        config = configs.load(options.config, options.set)
        numbers = options.labelled or [config.data.labelled]
        if None in numbers:
            raise ValueError("the config gives all labels; say how many with --labelled")
        if config.train.steps is None:
            raise ValueError("the config counts epochs, which are others of few labels; give --config.train.steps=N")
        names = ("scratch", "pretrained") if options.start else ("supervised", "method")
        file = Path(options.out) / "few_labels.json"
        known = json.loads(file.read_text())["runs"] if file.is_file() else []
        if known and not set(names) <= set(known[0]):
            raise ValueError(f"{file} holds another comparison than {' and '.join(names)}; give another --out")
        results = [run(options, number, seed) for number in numbers for seed in options.seeds]
    except ValueError as error:
        return command.refuse(error)
    except signals.Interrupted as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return stopped.exit_code
    runs = {(entry["labelled"], entry["seed"]): entry for entry in (*known, *results)}
    shown = [table(runs.values(), number, names) for number in sorted({number for number, _ in runs})]
    content = {"config": Path(options.config).name, "tables": shown}
    content |= {"runs": [runs[key] for key in sorted(runs)], "machine": machine()}
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)
    second = "pretrained" if options.start else config.method.name
    print(f"\n| labels | {names[0]} | {second} | difference |\n|---|---|---|---|")
    for row in shown:
        cells = [row[name]["text"] for name in (*names, "paired")]
        print(f"| {row['labelled']:,} | {' | '.join(cells)} |")
    return 0


def run(options: Any, number: int, seed: int) -> dict[str, Any]:
    """Both runs of a seed, made, gone on with or read again."""
    second = [*options.set, *options.set_second]
    if options.start:
        tokenizer = Path(options.start) / "tokenizer.json"
        shared = [f"data.tokenizer.file={tokenizer}"] if tokenizer.is_file() else []
        rows = {"scratch": [*shared, *options.set], "pretrained": [*shared, *second, f"init_from={options.start}"]}
    else:
        others = [change for change in options.set if not change.startswith("method.")]
        rows = {"supervised": [*others, "method.name=supervised"], "method": second}
    found: dict[str, Any] = {"labelled": number, "seed": seed, "set": options.set, "set_second": options.set_second}
    for row, changes in rows.items():
        config = configs.load(options.config, [*changes, f"data.labelled={number}", f"seed={seed}"])
        workdir = Path(options.out) / f"{row}-{number}-seed{seed}"
        print(f"--- {workdir.name}", flush=True)
        summary = train.fit(build(config, folder=workdir), workdir)
        if summary.get("test_top1") is None:
            raise ValueError(f"method.name={config.method.name!r} is no classifier, or there are no test labels")
        found[row] = {k: summary[k] for k in ("test_top1", "steps", "seconds", "params_fingerprint")}
    return found


def table(results: Iterable[dict[str, Any]], number: int, names: Sequence[str]) -> dict[str, Any]:
    """Mean and spread over seeds, in %, of each row and of the differences between the two of a seed."""
    own = [entry for entry in results if entry["labelled"] == number]
    accuracies = {row: 100 * np.array([entry[row]["test_top1"] for entry in own]) for row in names}
    accuracies["paired"] = accuracies[names[1]] - accuracies[names[0]]
    found: dict[str, Any] = {"labelled": number, "seeds": [entry["seed"] for entry in own]}
    for row, values in accuracies.items():
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        sign = "+" if row == "paired" and values.mean() > 0 else ""
        text = f"{sign}{values.mean():.1f}" + (f" ± {spread:.1f}" if spread is not None else "")
        found[row] = {"mean": float(values.mean()), "spread": spread, "text": text}
    return found


if __name__ == "__main__":
    command.run(main)
