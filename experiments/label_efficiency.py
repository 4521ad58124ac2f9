"""The label-efficiency tables of several pretraining seeds as one: mean and spread over seeds.

    for seed in 0 1 2; do make pretrain ARGS="--workdir=runs/digits_$seed --config.seed=$seed"; done
    python experiments/label_efficiency.py --runs runs/digits_0 runs/digits_1 runs/digits_2

A cell is the mean over seeds of the mean over label draws; for the pretrained and the random encoder +- is the standard
deviation over seeds, for raw pixels, which have no seed, over label draws.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from ssl_jax.run import command


def main(arguments: list[str]) -> int:
    parser = command.Parser("Label efficiency over seeds.")
    parser.add_path("--runs", nargs="+", required=True, help="workdirs of finished runs")
    options = parser.parse_args(arguments)
    summaries = [Path(run) / "summary.json" for run in command.folders(options.runs)]
    tables = [json.loads(summary.read_text())["label_efficiency"] for summary in summaries]
    rows = list(next(iter(tables[0].values())))
    print(f"| labels per class | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
    for count in tables[0]:
        cells = []
        for row in rows:
            means, spreads = np.array([table[count][row] for table in tables], float).T
            spread = spreads[0] if row == "raw" else means.std()
            cells.append(f"{100 * means.mean():.1f}" + f" ± {100 * spread:.1f}" * bool(np.isfinite(spread)))
        print(f"| {count} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    command.run(main)
