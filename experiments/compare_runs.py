"""One table and one picture of several runs on the same data: rows by the keys that differ, seeds as mean and spread.

    ssl-jax compare --runs runs/a runs/b --out runs/table
    ssl-jax compare --runs runs/simclr_cifar10_cpu runs/byol_cifar10_cpu --out runs/table --split test --baselines

A row is called by the keys in which its config differs from the others'; runs that differ in their seed alone are one
row, mean ± standard deviation. Scores are of validation, from each run's last measurement; ``--split test`` shows those
of the runs' ends. ``--baselines`` adds raw pixels, and the encoder of the first run before training, by kNN with that
run's settings. ``--reference FILE`` keeps the curves of one config over its seeds, as `ssl-jax pretrain --compare FILE`
reads them. Writes ``table.json``, ``table.md`` and ``curves.png``. Exit codes: 0 done, 2 refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from ssl_jax import parallel
from ssl_jax.data.source import Source
from ssl_jax.evals.shared import curves
from ssl_jax.experiment import build, zeros
from ssl_jax.interop.files import write_json
from ssl_jax.run import command, measure, reference, several
from ssl_jax.run.open import read_run
from ssl_jax.step import init_state


def main(arguments: list[str]) -> int:
    parser = command.Parser("Compare runs on the same data.")
    parser.add_path("--runs", nargs="+", required=True, help="workdirs of runs on the same data")
    parser.add_path("--out", required=True, help="folder for the table and the picture")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="whose scores the table has")
    parser.add_argument("--baselines", action="store_true", help="add raw pixels and the network before training")
    parser.add_path("--data_dir", help="where TFDS datasets lie, if not where the first run found them")
    parser.add_path("--reference", help="file for the curves of one config over its seeds; see pretrain --compare")
    options = parser.parse_args(arguments)
    try:
        runs = [several.read(Path(run)) for run in command.folders(options.runs)]
        several.refuse_other_data(runs, options.split)
        rows = several.rows(runs)
        table = several.scores(rows, options.split)
        curves_of_seeds = reference.make(runs) if options.reference else None
        known = baselines(runs[0].folder, options.split, options.data_dir) if options.baselines else []
    except ValueError as error:
        return command.refuse(error)
    if curves_of_seeds:
        write_json(Path(options.reference), curves_of_seeds)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps({"split": options.split, "rows": [*known, *table]}, indent=2) + "\n")
    text = several.markdown([*known, *table], options.split)
    (out / "table.md").write_text(text)
    curves.learning_curves(several.curves(rows), out / "curves.png", several.title(runs))
    print(text)
    return 0


def labels(source: Source) -> np.ndarray:
    return np.full(len(source), -1, np.int32) if source.labels is None else source.labels


def baselines(run: Path, split: str, data_dir: str | None) -> list[dict]:
    """kNN on raw pixels, with and without centring, and on the encoder before training.

    Of validation examples the bank is train, of test examples train and validation.

    Raises:
      ValueError: the run is not of images.
    """
    config, _ = read_run(run)
    config.parallel.devices, config.init_from = 1, None
    config.data.data_dir = data_dir or config.data.data_dir
    experiment = build(config)
    raw = experiment.modality.raw
    if raw is None:
        raise ValueError(f"{run}: {experiment.modality.unit} are no features by themselves; leave --baselines out")
    mesh = parallel.make_mesh(1)
    batch = parallel.place(zeros(experiment), mesh)
    state = init_state(experiment.method, experiment.tx, jax.random.key(config.seed), batch, mesh)
    splits = experiment.splits
    known, asked = ([splits.train, splits.val], splits.test) if split == "test" else ([splits.train], splits.val)
    extract = measure.extractor(experiment, mesh)
    variables = measure.variables_of(state)
    bank, queries = (
        measure.Encoded(np.concatenate([raw(s) for s in parts]), np.concatenate([labels(s) for s in parts]))
        for parts in (known, [asked])
    )
    plain = experiment._replace(config=config.copy_and_resolve_references())
    plain.config.eval.knn_centre = False
    found = {
        "raw pixels, not centred": measure.knn_top1(plain, bank, queries),
        "raw pixels": measure.knn_top1(experiment, bank, queries),
        "before training": measure.knn_top1(experiment, extract(variables, known), extract(variables, [asked])),
    }
    return [several.baseline(name, {"knn_top1": value}) for name, value in found.items()]


if __name__ == "__main__":
    command.run(main)
