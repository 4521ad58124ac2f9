"""A grid of configs, each over several seeds: one table, the best chosen on validation, one picture of all curves.

    ssl-jax sweep --config simclr_digits --grid optim.learning_rate=.1,.2,.4 --seeds 3 --out runs/sweep
    ssl-jax sweep --config C --out O --grid optim.name=sgd,adamw method.temperature=.1,.5 --config.train.epochs=5

Every point of the grid is tried with every seed. Each is an ordinary run below OUT that leaves the test data unread:
the same command goes on where it stopped, and with more values or seeds it runs what is missing. ``OUT/table.md`` and
``table.json`` hold the last validation scores, mean ± standard deviation over seeds, of all that OUT holds, the best in
bold: by ``--score``, else by the first of the scores. ``OUT/curves.png`` shows them epoch by epoch. A point whose
run fails (a loss that is no number) is told and counted; the others go on.
Exit codes: 0 done, 1 a run failed, 2 refused, 130 and 143 interrupted and saved.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax import configs, train
from ssl_jax.evals.shared import curves
from ssl_jax.experiment import build
from ssl_jax.run import command, folder, processes, several, signals


def main(arguments: list[str]) -> int:
    parser = command.Parser("Try a grid of configs over seeds, and choose on validation.")
    parser.add_path("--config", required=True, help="a config file, or one of ours by name")
    parser.add_argument("--grid", nargs="+", required=True, metavar="KEY=VALUE,VALUE", help="values to try of each key")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from the config's on")
    parser.add_path("--out", required=True, help="folder of the runs, the table and the picture")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="the same as --config.KEY=VALUE, of all runs"
    )
    parser.add_argument("--score", help="what the best is chosen by, such as knn_top1; default: the first there is")
    try:
        options, changes = parser.parse_changes(arguments)
        out, changes = Path(options.out), [*options.set, *changes]
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds} is below 1")
        points = grid(options.grid)
        first = configs.load(options.config, changes).seed
        wanted = {
            name(point, seed): configs.load(options.config, [*changes, *point, f"seed={seed}"])
            for point, seed in itertools.product(points, range(first, first + options.seeds))
        }
        for config in wanted.values():  # all of them, before the first is run
            configs.check(config)
        for workdir in wanted:
            folder.check(out / workdir, "--out")
        processes.configure_as(next(iter(wanted.values())).parallel)
    except ValueError as error:
        return command.refuse(error)
    failed = {}
    try:
        for number, (workdir, config) in enumerate(wanted.items(), 1):
            asked = [*changes, *options.grid]
            print(f"--- {number} of {len(wanted)}: {workdir}", file=sys.stderr, flush=True)
            try:
                train.fit(build(config, folder=out / workdir, asked=asked), out / workdir, test=False)
            except train.Refused:
                raise
            except train.NotFinite as error:
                failed[workdir] = str(error)
                print(f"{workdir} failed: {error}", file=sys.stderr)
        show(out, options.score)
    except ValueError as error:
        return command.refuse(error)
    except signals.Interrupted as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return stopped.exit_code
    if failed:
        print(f"{len(failed)} of {len(wanted)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def grid(axes: Sequence[str]) -> list[list[str]]:
    """``["a=1,2", "b=x"]`` as ``[["a=1", "b=x"], ["a=2", "b=x"]]``; commas inside brackets or quotes part nothing.

    Raises:
      ValueError: no value, or a key or value twice.
    """
    parted = []
    for axis in axes:
        key, equals, text = axis.partition("=")
        values = _values(text)
        if not (key and equals and text.strip()):
            raise ValueError(f"--grid {axis!r} has no value; write KEY=VALUE,VALUE")
        if len(set(values)) < len(values):
            raise ValueError(f"--grid {axis!r} has a value twice; leave one out")
        parted.append([f"{key}={value}" for value in values])
    keys = [axis.partition("=")[0] for axis in axes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"--grid names {twice[0]} twice; give all its values at once")
    return [list(point) for point in itertools.product(*parted)]


def _values(text: str) -> list[str]:
    values, depth, quote = [""], 0, ""
    for letter in text:
        if letter in "\"'":
            quote = "" if letter == quote else quote or letter
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def name(point: Sequence[str], seed: int) -> str:
    """The folder of a run: its values by the last words of their keys, as far as a file name can have them."""
    words = [f"{change.partition('=')[0]}={change.partition('=')[2]}" for change in point]
    text = ",".join([*words, f"seed={seed}"])
    return "".join(letter if letter.isalnum() or letter in "=,._-+" else "_" for letter in text)


def show(out: Path, score: str | None) -> None:
    """The table and the picture of all runs below ``out``."""
    runs = [several.read(path.parent) for path in sorted(out.glob("*/config.json")) if _has_lines(path.parent)]
    if not runs:
        raise ValueError(f"no run in {out} has metrics")
    rows = several.rows(runs)
    table = several.scores(rows, "val")
    best = chosen(table, score)
    text = several.markdown(table, "val", best)
    content: dict[str, Any] = {"split": "val", "best": best, "rows": table}
    (out / "table.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "table.md").write_text(text)
    curves.learning_curves(several.curves(rows), out / "curves.png", several.title(runs))
    print(text)


def _has_lines(workdir: Path) -> bool:
    log = workdir / "metrics.jsonl"
    return log.is_file() and log.stat().st_size > 0


def chosen(table: Sequence[dict[str, Any]], score: str | None) -> str | None:
    """The row whose mean is the best by ``score``; None where nothing was measured.

    Raises:
      ValueError: no row has that score.
    """
    names = list(dict.fromkeys(known for row in table for known in row["scores"]))
    if score is not None and score.removeprefix("val_") not in names:
        raise ValueError(f"--score {score} is not measured on validation; there are {', '.join(names) or 'none'}")
    if not names:
        return None
    by = names[0] if score is None else score.removeprefix("val_")
    sign = -1 if several.lower_is_better(by) else 1
    measured = [row for row in table if by in row["scores"]]
    return max(measured, key=lambda row: sign * row["scores"][by]["mean"])["row"]


if __name__ == "__main__":
    command.run(main)
