"""Every method on one small encoder and one budget: kNN and linear accuracy at every stage, over seeds, in one table.

    python experiments/pretext_table.py --out docs/pretext_table --data_dir PATH/tfds
    python experiments/pretext_table.py --out runs/table --rows rotation,random --seeds 0 --steps 3000 --examples 45000
    python experiments/pretext_table.py --out docs/methods_hour --data_dir PATH/tfds --as_configured --seeds 0

Each run is its method's ``_cpu`` config on 5,000 images of CIFAR-10 for 300 steps of 128, minutes on two CPU cores, and
leaves one JSON in ``OUT/runs``. The same command again makes what is missing, so an interrupted table goes on; a run
made with other settings is made again. ``OUT/table.json`` and ``OUT/table.md`` hold what there is so far. For a longer
budget on an accelerator: ``--steps``, ``--examples``, ``--model resnet18``. With ``--as_configured`` each row has the
network, the images and the length of its config, up to an hour on two cores, and is compared with its own network
before training.

Features are pooled over places. The classifier is logistic regression on the labels of the images that the method was
trained on, its penalty chosen on held-out train images; test images are read once, at the end of each run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import configs, parallel, train
from ssl_jax.configs import to_json
from ssl_jax.evals import linear_probe
from ssl_jax.evals.shared import features
from ssl_jax.experiment import Experiment, build, zeros
from ssl_jax.run import command, measure, processes, signals
from ssl_jax.run.measure import Encoded
from ssl_jax.run.open import open_run
from ssl_jax.run.provenance import machine
from ssl_jax.run.writer import read_metrics
from ssl_jax.types import Variables

ROOT = Path(__file__).resolve().parent.parent

Spread = tuple[float, float | None]  # mean, and deviation where there are several


class Row(NamedTuple):
    """A line of the table: a config, parts that replace its own, whether it is trained, and its untrained row."""

    config: str
    parts: Mapping[str, Mapping[str, Any]] = {}
    trained: bool = True
    baseline: str = "random"


# Twelve million operations an image, as the small convolutional network.
VIT = {"model": {"name": "vit", "patch_size": 4, "width": 40, "depth": 3, "heads": 4}}
# The same of methods that need a class token, which is then what is measured.
VIT_CLS = {"model": VIT["model"] | {"cls_token": True, "pool": "cls"}}
# The network that the other rows have, with one vector as its code.
CONVOLUTIONAL = {
    "model": configs.load(ROOT / "configs" / "simclr_cifar10_cpu.py").model.to_dict(),
    "method": {"name": "autoencoder", "loss": "mse", "latent_dim": 128, "decoder_widths": (64, 32)},
}
MLP = {
    "model": {"name": "mlp", "widths": (128, 128), "latent_dim": 10},
    "method": {"name": "autoencoder", "loss": "bce"},
}

ROWS = {
    "random": Row("simclr_cifar10_cpu", trained=False),
    "supervised": Row("supervised_cifar10_cpu"),
    "simclr": Row("simclr_cifar10_cpu"),
    "byol": Row("byol_cifar10_cpu"),
    "moco": Row("moco_cifar10_cpu"),
    **{
        name: Row(f"{name}_cpu")
        for name in (
            *("instance_discrimination", "triplet", "latent_predictive", "rotation", "relative_patch", "jigsaw"),
            *("inpainting", "denoising_autoencoder", "simsiam", "barlow_twins", "vicreg", "swav", "moco_v3", "nnclr"),
            *("supcon", "lejepa", "deep_infomax"),
        )
    },
    "autoencoder": Row("autoencoder_cpu", CONVOLUTIONAL),
    # Encoders that see something else than the whole image, or in another way, beside their own untrained selves.
    **{
        name: row
        for method in ("colorization", "split_brain", "cpc", "corrupted_images")
        for name, row in {
            f"random_{method}": Row(f"{method}_cpu", trained=False),
            method: Row(f"{method}_cpu", baseline=f"random_{method}"),
        }.items()
    },
    "random_vit": Row("jepa_cpu", VIT, trained=False),
    "jepa": Row("jepa_cpu", VIT, baseline="random_vit"),
    "mae": Row("mae_cpu", VIT, baseline="random_vit"),
    "random_vit_cls": Row("dino_cpu", VIT_CLS, trained=False),
    "dino": Row("dino_cpu", VIT_CLS, baseline="random_vit_cls"),
    "ibot": Row("ibot_cpu", VIT_CLS, baseline="random_vit_cls"),
    "random_mlp": Row("autoencoder_cpu", MLP, trained=False),
    "autoencoder_mlp": Row("autoencoder_cpu", MLP, baseline="random_mlp"),
}
NOTES = {
    "random": "the small convolutional network",
    "random_colorization": "lightness only",
    "random_split_brain": "two networks of half the width",
    "random_cpc": "5 x 5 patches, normalised one by one",
    "random_corrupted_images": "last map of 8 x 8",
    "random_vit": "ViT of equal operations, untrained",
    "jepa": "ViT of equal operations",
    "mae": "ViT of equal operations",
    "random_vit_cls": "its class token, untrained",
    "dino": "class token",
    "ibot": "class token",
    "supcon": "labels of all images",
    "random_mlp": "fully connected, code of 10, untrained",
    "autoencoder_mlp": "fully connected, code of 10",
}


def main(arguments: list[str]) -> int:
    parser = command.Parser("One table of every method.")
    parser.add_path("--out", required=True, help="folder of the table and of one JSON for each run")
    parser.add_path("--data_dir", help="where TFDS datasets lie")
    parser.add_argument("--source", type=command.named, default="tfds:cifar10", help="as in data.source")
    parser.add_argument("--rows", help="comma-separated; default: all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--examples", type=int, default=5_000)
    parser.add_argument("--model", help="a ResNet for all rows with a convolutional encoder, e.g. resnet18")
    parser.add_argument("--as_configured", action="store_true", help="network, images and length of each config")
    options = parser.parse_args(arguments)
    trained = [name for name, row in ROWS.items() if row.trained or not options.as_configured]
    names = options.rows.split(",") if options.rows else trained
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        print(f"error: --rows {','.join(unknown)} is unknown; known: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    out = Path(options.out)
    try:
        wanted = {(name, seed): configure(ROWS[name], seed, options) for seed in seeds for name in names}
        processes.configure(max(config.parallel.devices or 1 for config in wanted.values()))
        for config in wanted.values():
            configs.check(config)
    except ValueError as error:
        return command.refuse(error)
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))  # seeds share their programs
    for number, ((name, seed), config) in enumerate(wanted.items(), 1):
        path, workdir = out / "runs" / f"{name}_{seed}.json", out / "unfinished" / f"{name}_{seed}"
        if path.is_file() and json.loads(path.read_text())["config"] == asked(config):
            continue
        print(f"\n{name}, seed {seed} ({number} of {len(wanted)})", flush=True)
        try:
            result = run(ROWS[name], config, workdir, with_untrained=options.as_configured)
        except signals.Interrupted as stop:
            print(f"{stop}; the same command goes on from here", file=sys.stderr)
            return stop.exit_code
        except (ValueError, train.NotFinite) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 2 if isinstance(error, ValueError) else 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"row": name, "seed": seed, **result}, indent=1) + "\n")
        shutil.rmtree(workdir, ignore_errors=True)  # others that were interrupted go on
        jax.clear_caches()
        write_table(out)
    print(write_table(out))
    return 0


def configure(row: Row, seed: int, options: argparse.Namespace) -> configs.Config:
    """The config of a run."""
    config = configs.load(ROOT / "configs" / f"{row.config}.py")
    if options.as_configured:
        config.seed, config.train.eval_every = seed, 0
        config.data.update({"source": options.source, "data_dir": options.data_dir})
        config.eval.update({"max_bank": None, "max_queries": None})
        return config
    chosen = {"model": {"name": options.model, "stem": "cifar"}} if options.model else {}
    with config.unlocked():
        for part, content in (chosen | dict(row.parts)).items():
            config[part] = ConfigDict(content)
    config.seed = seed
    config.data.update({"source": options.source, "data_dir": options.data_dir, "num_examples": options.examples})
    every = max(100, options.steps // 4)
    config.train.update({"steps": options.steps, "eval_every": 0, "checkpoint_every": every, "log_every": 50})
    config.train.keep_checkpoints = 1
    config.eval.update({"max_bank": None, "max_queries": None})
    if "autoencoder_steps" in config.method:
        config.method.autoencoder_steps = options.steps // 3
    return config


def asked(config: configs.Config) -> dict[str, Any]:
    """What decides a run: its config, but for where the data lie."""
    flat = configs.flatten(to_json(config))
    return {key: value for key, value in flat.items() if key != "data.data_dir"}


def run(row: Row, config: configs.Config, workdir: Path, *, with_untrained: bool = False) -> dict[str, Any]:
    """Train, then measure every stage of the encoder once on test, ``with_untrained`` of the first weights, too."""
    began, processor, whole = time.perf_counter(), time.process_time(), not workdir.exists()
    experiment = build(config)
    result: dict[str, Any] = {"collapsed": None, "train_loss": None, "task_accuracy": None}
    key = parallel.named_key(jax.random.key(config.seed), "init")  # the one that a run of this seed starts from
    if with_untrained or not row.trained:
        variables = jax.jit(experiment.method.init)(key, zeros(experiment))
    if with_untrained and row.trained:
        result["untrained"] = measured(experiment, variables)
    if row.trained:
        summary = train.fit(experiment, workdir, test=False)
        last = read_metrics(workdir / "metrics.jsonl")[-1]
        result |= {"collapsed": summary["collapsed"], "train_loss": last["train_loss"], "steps": summary["steps"]}
        result["task_accuracy"] = last.get("train_task_accuracy")
        variables = open_run(workdir).variables
    result |= measured(experiment, variables)
    images = jax.ShapeDtypeStruct((1, *experiment.plan.input_shape), np.float32)
    cost: Any = jax.jit(experiment.method.encode).lower(variables, images).cost_analysis()
    return result | {
        "encoder_mflop": round(cost["flops"] / 1e6, 1),
        # Of a run that goes on from an interruption nobody knows.
        "seconds": round(time.perf_counter() - began, 1) if whole else None,
        "processor_seconds": round(time.process_time() - processor, 1) if whole else None,
        **machine(),
        "config": asked(config),
    }


def measured(experiment: Experiment, variables: Variables) -> dict[str, dict[str, float]]:
    """Test accuracy of kNN and of logistic regression at every stage."""
    splits, found = experiment.splits, {"knn": {}, "linear": {}}
    known, held_out, test = (stages(experiment, variables, s) for s in (splits.train, splits.val, splits.test))
    for stage in known:
        found["knn"][stage] = measure.knn_top1(experiment, known[stage], test[stage])
        found["linear"][stage] = linear(known[stage], held_out[stage], test[stage])
    return found


def stages(experiment: Experiment, variables: Variables, source) -> dict[str, Encoded]:
    """The pooled output of every stage of the encoder for every example of a source."""
    mesh = parallel.make_mesh(1)
    batches = experiment.modality.inputs(source, global_batch_size=500)
    encode = jax.jit(experiment.method.encode)
    rows = features.extract(encode, variables, batches, place=lambda batch: parallel.place(batch, mesh))
    left_out = ("label", "index", "projections")
    return {name: Encoded(a, rows["label"]) for name, a in rows.items() if name not in left_out}


def linear(known: Encoded, held_out: Encoded, test: Encoded) -> float:
    """Test accuracy of logistic regression on standardised features, its penalty chosen on held-out train images."""
    classes = int(known.labels.max()) + 1
    fitted, chosen_on, asked_of = linear_probe.standardise(known.features, held_out.features, test.features)
    l2 = linear_probe.choose_l2(
        linear_probe.fit_logistic_path,
        fitted,
        known.labels,
        chosen_on,
        held_out.labels,
        num_classes=classes,
        grid=(1e-1, 1e-2, 1e-3, 1e-4),
    )
    found = linear_probe.fit_logistic(fitted, known.labels, l2=l2, num_classes=classes)
    return float(np.mean(linear_probe.ranks(found, asked_of, test.labels) == 0))


def write_table(out: Path) -> str:
    """``table.json`` and ``table.md`` of all runs there are; returns the latter. A row without any stays as it was."""
    runs: dict[str, list[dict]] = {name: [] for name in ROWS}
    for path in sorted((out / "runs").glob("*.json")):
        found = json.loads(path.read_text())
        runs[found["row"]].append(found)
    rows = {name: summarise(found) for name, found in runs.items() if found}
    for name, row in rows.items():
        baseline = {r["seed"]: r for r in runs[ROWS[name].baseline]}
        before = [(r, r.get("untrained") or baseline.get(r["seed"])) for r in runs[name] if ROWS[name].trained]
        pairs = [(r, b) for r, b in before if b]
        for kind in ("knn", "linear"):
            gains = [r[kind]["features"] - b[kind]["features"] for r, b in pairs]
            row[f"{kind}_gain"] = spread(gains) if gains else None
    had = json.loads((out / "table.json").read_text()) if (out / "table.json").is_file() else {}
    rows = {name: found for name in ROWS if (found := rows.get(name) or had.get(name))}
    (out / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = markdown(rows)
    (out / "table.md").write_text(text)
    return text


def spread(values: list[float]) -> Spread:
    """Mean, and sample standard deviation of more than one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def summarise(runs: list[dict]) -> dict[str, Any]:
    """What the seeds of one row found: [mean, deviation] of everything."""
    row: dict[str, Any] = {"seeds": [r["seed"] for r in runs]}
    for kind in ("knn", "linear"):
        row[kind] = {stage: spread([r[kind][stage] for r in runs]) for stage in runs[0][kind]}
    if runs[0]["task_accuracy"] is not None:
        row["task_accuracy"] = spread([r["task_accuracy"] for r in runs])
    row["collapsed"] = sum(bool(r["collapsed"]) for r in runs)
    for key in ("encoder_mflop", "seconds", "processor_seconds"):
        known = [r[key] for r in runs if r[key] is not None]
        row[key] = float(np.mean(known)) if known else None
    if "untrained" in runs[0]:  # a network of its own
        row["network"] = runs[0]["config"]["model.name"]
    return row | {key: runs[0][key] for key in ("cpu", "cores", "device_kind", "commit")}


def markdown(rows: Mapping[str, dict[str, Any]]) -> str:
    head = ["row", "kNN", "gain over untrained", "linear", "gain over untrained", "kNN by stage", "linear by stage"]
    head += ["minutes of processor", "seeds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]

    def cell(value: Spread, sign: str = "") -> str:
        mean, deviation = value
        return f"{100 * mean:{sign}.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")

    def by_stage(values: Mapping[str, Spread]) -> str:
        return " / ".join(f"{100 * mean:.0f}" for stage, (mean, _) in values.items() if stage != "features")

    def order(values: Mapping[str, Spread]) -> dict[str, Spread]:
        return dict(sorted(values.items(), key=lambda item: (item[0] != "stem", item[0])))

    for name, row in rows.items():
        note = row.get("network", NOTES.get(name))
        title = f"{name} ({note})" if note else name
        cells = [title]
        for kind in ("knn", "linear"):
            gain = row[f"{kind}_gain"]
            cells += [cell(row[kind]["features"]), cell(gain, "+") if gain else ""]
        cells += [by_stage(order(row[kind])) for kind in ("knn", "linear")]
        minutes = row["processor_seconds"]
        cells += ["" if minutes is None else f"{minutes / 60:.1f}", str(len(row["seeds"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)
