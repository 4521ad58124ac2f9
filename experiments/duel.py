"""Ours against lightly (PyTorch): the same images, views, initial weights, optimizer and steps; curves, kNN, seconds.

    python experiments/duel.py --out runs/duel --config.data.data_dir=PATH/tfds              # pip install '.[peers]'
    python experiments/duel.py --out runs/duel --methods simclr --seeds 1 --config.train.epochs=1

One pipeline, ours, makes the views of both, so that a pair of runs sees the very same arrays and differs in what is
compared here: networks in training, loss, BatchNorm, average, queue, optimizer. That the views follow torchvision's law
is tested elsewhere. The first steps are compared in float64, to ``SAME`` of the largest: the loss and every gradient of
the first, then losses, weights and BatchNorm's running statistics, those of the slow copy, DINO's centre and MoCo's
queue; what is apart later is rounding that grew.

Then both train in float32, epoch by epoch in turn on all cores, and one kNN, ours, measures the features of both: on
validation examples while they train, on test examples once. The table says whether the means differ by more than seeds
do, the pooled standard deviation over them; runs of a seed are a pair, and a paired t test stands beside it. Seconds
are those of steps on views that lie ready, normalised for torch, on all cores: of a machine that nothing else uses.

DINO has two global views and no small ones. Its last layer is frozen in the first epoch, so in the first steps, too.
Its optimizer is AdamW, where the others have SGD: with SGD the teacher became uniform in 3 epochs of 4,000 images at
all of six settings tried on our side (rates .005 to .2, T_t 1/16 and 1/32, tau .97 and .99), and two collapsed runs
agree whatever else differs.

Writes METHOD_SEED.json of each pair, ``duel.json``, ``duel.md`` and ``duel.png``. The same command goes on with the
pairs that are missing; one that was cut short begins anew. Table and picture are of the pairs that were asked for, all
of one commit, whatever else is in the folder.
Exit codes: 0 done, 1 first steps are not the same, 2 refused, 130 stopped.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# torch's threads spin while they wait for each other: beside other jobs for most of a step, which counts as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from benchmarks import lightlies
from benchmarks.duel_pair import pair
from benchmarks.duel_table import SAME, SIDES, drawn, ends, markdown, table

from configs.common import base, cifar10_cpu
from ssl_jax import configs, methods
from ssl_jax.configs import to_json
from ssl_jax.data.from_config import load_splits
from ssl_jax.evals.shared import curves
from ssl_jax.experiment import build
from ssl_jax.interop.files import write_json
from ssl_jax.run import command, folder, processes, provenance

# Small, and without what lightly has not: groups of BatchNorm, rates of parts, an average that slows down.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.2, "projector_hidden": 256, "projector_dim": 128},
    "byol": {"tau": 0.97, "tau_schedule": "constant", "hidden": 512, "projector_dim": 128},
    "moco": {"temperature": 0.1, "momentum": 0.99, "queue_size": 4096, "projector_version": 2, "bn_groups": 1},
    "simsiam": {"projector_dim": 512, "projector_layers": 2, "predictor_rate": "scheduled"},
    "barlow_twins": {"off_diagonal": 0.0051, "scale": 0.1, "projector_dim": 512},
    "vicreg": {"projector_dim": 512},
    "dino": {  # .0625 is a float32 as it stands, which lightly makes of it
        **{"tau": 0.97, "temperature": 0.1, "teacher_temperature": 0.0625, "centre_momentum": 0.9},
        **{"out_dim": 1024, "hidden": 512, "bottleneck": 128, "norm_last_layer": True, "freeze_last_layer": 1.0},
    },
}
OPTIM: dict[str, dict[str, Any]] = {
    "simclr": {"learning_rate": 0.4},
    "barlow_twins": {"learning_rate": 0.05},
    "vicreg": {"learning_rate": 0.02},
    "dino": {"name": "adamw", "learning_rate": 1e-3},
}


def main(arguments: list[str]) -> int:
    parser = command.Parser(
        "Ours against lightly, pair by pair.", epilog="--config.KEY=VALUE changes both sides alike."
    )
    parser.add_path("--out", required=True, help="folder of the pairs, the table and the picture")
    there = [name for name in lightlies.METHODS if name in methods.names()]
    parser.add_argument("--methods", default=",".join(there), help="with commas between; default: all there are")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of each method, from seed 0 on")
    try:
        options, changes = parser.parse_changes(arguments)
        out, names = Path(folder.check(options.out, "--out")), options.methods.split(",")
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds} is below 1")
        for name in names:
            if name not in there:
                raise ValueError(f"--methods {name} has no counterpart in lightly here; there are {', '.join(there)}")
        if missing := lightlies.available():
            raise ValueError(f"lightly cannot be used ({missing}); pip install '.[peers]'")
        wanted = {(name, seed): config_of(name, seed, changes) for seed in range(options.seeds) for name in names}
        for config in wanted.values():
            configs.check(config)
            lightlies.check(config.method.name, config.method, config.optim)
        commit = provenance.commit()
        check_there(out, wanted, commit)
        processes.configure_as(next(iter(wanted.values())).parallel)
        out.mkdir(parents=True, exist_ok=True)
        splits = None
        for number, ((name, seed), config) in enumerate(wanted.items(), 1):
            if (path := path_of(out, name, seed)).is_file():
                continue
            print(f"--- {number} of {len(wanted)}: {name}, seed {seed}", file=sys.stderr, flush=True)
            splits = splits or load_splits(config)
            made = pair(build(config, splits, asked=changes))
            made["machine"]["commit"] = commit  # of the code that runs, whatever was committed meanwhile
            write_json(path, made)
    except ValueError as error:
        return command.refuse(error)
    pairs = [json.loads(path_of(out, *key).read_text()) for key in wanted]
    rows = table(pairs)
    machines = [one["machine"] for one in pairs]
    machines = [machine for number, machine in enumerate(machines) if machine not in machines[:number]]
    write_json(out / "duel.json", {"rows": rows, "curves": drawn(pairs), "machines": machines})
    (out / "duel.md").write_text(markdown(rows, pairs))
    title = f"ssl_jax and lightly, {len(pairs)} pairs of runs: means, between the least and the most of the seeds"
    curves.learning_curves(drawn(pairs), out / "duel.png", title, columns=2, dashed=SIDES[1:], notes=ends(rows))
    print(markdown(rows, pairs))
    return int(any(not row["first_steps"] <= SAME for row in rows))


def path_of(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}_{seed}.json"


def check_there(out: Path, wanted: Mapping[tuple[str, int], configs.Config], commit: str | None) -> None:
    """Refuse pairs that cannot stand in one table.

    Args:
      commit: of this code, which makes the pairs that are missing.

    Raises:
      ValueError: a pair is of another config than is asked for, or of another commit than the rest.
    """
    commits: dict[str | None, str] = {}  # -> one that is of it
    for key, config in wanted.items():
        path = path_of(out, *key)
        if not path.is_file():
            commits.setdefault(commit, "this code")
            continue
        there = json.loads(path.read_text())
        had, has = (configs.flatten(one) for one in (there["config"], to_json(config)))
        if other := [key for key in had | has if configs.matters(key) and had.get(key) != has.get(key)]:
            raise ValueError(f"{path} is of another config ({', '.join(other)}); use another --out")
        commits.setdefault(there["machine"]["commit"], str(path))
    if len(commits) > 1:
        one, other = [f"{what} is of commit {provenance.short(of)}" for of, what in commits.items()][:2]
        raise ValueError(f"{one} and {other}, and a table is of one commit; use another --out")


def config_of(name: str, seed: int, changes: Sequence[str] = ()) -> configs.Config:
    """The config of both sides."""
    config = cifar10_cpu(base())
    config.method.update({"name": name, **ARGUMENTS[name]})
    config.data.update({"recipe": "simclr_cifar", "num_examples": 10_000})
    config.optim.update({"learning_rate": 0.2, "decay_bias_and_norm": True, "warmup_epochs": 1.0} | OPTIM.get(name, {}))
    config.train.epochs, config.seed, config.eval.probe = 10, seed, False
    config.parallel.devices = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return configs.change(config, changes)


if __name__ == "__main__":
    command.run(main)
