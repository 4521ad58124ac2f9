"""ULMFiT: a general language model, fine-tuned on the texts of a task, then made its classifier.

    python experiments/ulmfit.py --out runs/ulmfit --general text:PATH/wikitext-103 --target tfds:imdb_reviews \
        --data_dir PATH/tfds
    python experiments/ulmfit.py --size cpu --out runs/ulmfit --general text:PATH/wikitext-2 \
        --target tfds:imdb_reviews --data_dir PATH/tfds --labelled 100 --seeds 0 1 2

1. ``OUT/general``: a language model of ``--general``, once. 2. ``OUT/target*``: it goes on with the target's texts, the
unlabelled ones too; words take their rows along into the target's vocabulary. 3. ``OUT/classifier*``: its encoder under
a new head, on the labels that are given. Each stage is a run: the same command goes on where it stopped, and a stage
that is finished is not run again. ``OUT/ulmfit.json`` holds all results of the folder, one for each classifier.

The ladder of Howard and Ruder 2018, tables 5 to 7, by ``--without``: ``general`` (no stage 1), ``target`` (no stage 2),
both (from scratch), ``discriminative`` (one rate for all layers, stages 2 and 3), ``slanted`` (a constant rate there),
``unfreezing`` (all of stage 3 learns at once); ``--last`` lets nothing but the head learn.
``--set KEY=VALUE`` changes keys of all stages, ``--set_general``, ``--set_target``, ``--set_classifier`` those of one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from ssl_jax import configs, train
from ssl_jax.configs import Config
from ssl_jax.experiment import build
from ssl_jax.run import command, processes, signals
from ssl_jax.run.provenance import machine
from ssl_jax.run.writer import read_metrics

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("general", "target", "discriminative", "slanted", "unfreezing")
SIZES = {"paper": "", "cpu": "_cpu"}


def main(arguments: list[str]) -> int:
    parser = command.Parser("ULMFiT in three stages.")
    parser.add_path("--out", required=True, help="folder of the runs and of ulmfit.json")
    parser.add_argument("--target", required=True, type=command.named, help="data.source with labels, e.g. text:PATH")
    parser.add_argument("--general", type=command.named, help="data.source of stage 1; none with --without general")
    parser.add_path("--data_dir", help="where datasets lie")
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--labelled", type=int, help="so many labels of train are given; default: all")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of stage 3 and its labels; stages 1 and 2: 0"
    )
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[], help="what of ULMFiT is left out")
    parser.add_argument("--last", action="store_true", help="nothing but the head learns in stage 3")
    for stage in ("set", "set_general", "set_target", "set_classifier"):
        parser.add_argument(f"--{stage}", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the configs")
    options = parser.parse_args(arguments)
    if options.general is None and "general" not in options.without:
        return command.refuse(ValueError("--general names no text for stage 1; give it, or --without general"))
    processes.configure(None)
    try:
        results = [ulmfit(options, seed) for seed in options.seeds]
    except ValueError as error:
        return command.refuse(error)
    except signals.Interrupted as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return stopped.exit_code
    accuracies = 100 * np.array([result["test_top1"] for result in results])
    spread = f" ± {accuracies.std(ddof=1):.1f} over {len(results)} seeds" if len(results) > 1 else ""
    print(f"test accuracy {accuracies.mean():.1f} %{spread}")
    return 0


def ulmfit(options: Any, seed: int) -> dict[str, Any]:
    """The three stages with one seed of the last; returns its entry of ulmfit.json, which is written."""
    out, without = Path(options.out), set(options.without)
    name = "ulmfit_language_model" + SIZES[options.size]
    general = target = None
    tricks = {"optim.schedule": "constant"} if "slanted" in without else {}
    labelled = {"data.labelled": options.labelled} if options.labelled is not None else {}
    data = {"data.source": options.target, "seed": seed} | labelled
    if not (out / "ulmfit.json").is_file():  # what a later stage would refuse is refused before the first is trained
        print("--- looking at all stages", flush=True)
        alone = data | {"method.unfreeze_every": 0.0}
        build(load("ulmfit_classifier" + SIZES[options.size], alone, options, "classifier"))
        if "target" not in without:
            build(load(name, {"data.source": options.target}, options, "target"))
    if "general" not in without:
        general = out / "general"
        stage(load(name, {"data.source": options.general}, options, "general"), general, out, test=False)
    if "target" not in without:
        shared = [part for part in ("general", "discriminative", "slanted") if part in without]
        target = out / "-".join(["target", *(f"no_{part}" for part in shared)])
        changes = {"data.source": options.target} | tricks
        if general:
            changes["init_from"] = general
            changes["method.layer_decay"] = 1.0 if "discriminative" in without else 1 / 2.6
        stage(load(name, changes, options, "target"), target, out, test=False)
    start = target or general
    changes = data | tricks
    changes |= {"init_from": start} if start else {}
    changes |= {"data.tokenizer.file": target / "tokenizer.json"} if target else {}
    if "discriminative" in without or not start:
        changes["method.layer_decay"] = 1.0
    if "unfreezing" in without or not start or options.last:
        changes["method.unfreeze_every"] = 0.0
    if options.last:
        changes["method.frozen"] = "encoder"
    config = load("ulmfit_classifier" + SIZES[options.size], changes, options, "classifier")
    words = [f"no_{part}" for part in PARTS if part in without] + ["last"] * options.last
    labels = "all" if options.labelled is None else str(options.labelled)
    label = "-".join(["classifier", *words, labels, f"seed{seed}"])
    summary = stage(config, out / label, out)
    entry = {
        "without": sorted(without),
        "last": options.last,
        "labelled": options.labelled,
        "seed": seed,
        **{key: summary[key] for key in ("test_top1", "steps", "seconds", "params_fingerprint")},
        "machine": machine(),
    }
    for model in filter(None, (general, target)):
        lines = read_metrics(model / "metrics.jsonl")
        entry[f"{model.name}_val_perplexity"] = next(
            (line["val_perplexity"] for line in reversed(lines) if "val_perplexity" in line), None
        )
    file = out / "ulmfit.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(known | {label: entry}, indent=1, sort_keys=True) + "\n")
    temporary.replace(file)
    print(f"{label}: test accuracy {100 * summary['test_top1']:.1f} %")
    return entry


def load(name: str, changes: dict[str, Any], options: Any, stage: str) -> Config:
    """The config of a stage, with what the command changes of it."""
    given = [*options.set, *getattr(options, f"set_{stage}"), *(f"{key}={value}" for key, value in changes.items())]
    given += [f"data.data_dir={options.data_dir}"] if options.data_dir else []
    return configs.load(ROOT / "configs" / f"{name}.py", given)


def stage(config: Config, workdir: Path, out: Path, *, test: bool = True) -> dict[str, Any]:
    """A run, made or gone on with; its summary. The test texts are read by the classifier alone."""
    print(f"--- {workdir.relative_to(out)}", flush=True)
    return train.fit(build(config, folder=workdir), workdir, test=test)


if __name__ == "__main__":
    command.run(main)
