"""A suite of configs, each over several seeds: run, evaluated, and put beside what is published, in one table.

    python experiments/reproduce.py --suite cpu --seeds 3 --out runs/cpu --config.data.data_dir=PATH/tfds
    python experiments/reproduce.py --suite cifar10 --rows simclr_200,byol_200 --out runs/cifar10
    python experiments/reproduce.py --suite imagenet --out runs/imagenet --show      # the table of what OUT holds
    python experiments/reproduce.py --list

Each run is `ssl-jax pretrain` and then `ssl-jax evaluate` on its last checkpoint, in processes of their own: one at a
time on each GPU, on each group of as many cores as the suite says, or on all chips of a TPU host. The same command goes
on where it was stopped and skips what is done; a run that fails is told, and tried again by the next one.
``OUT/table.md`` and ``table.json`` hold what there is so far, written after every run; ``OUT/curves`` the curves that
`ssl-jax pretrain --compare` reads; ``OUT/runs`` the runs and the logs of those that failed. Rows that need another
machine, or have no run yet, are listed as not run, with command and cost: ``--show`` reads runs that were made by hand.

A table is of one commit: a checkout with changed files is refused (``--dirty``: a try, which the table says), and so is
OUT where its runs are of another. Exit codes: 0 done, 1 a run failed, 2 refused, 130 and 143 interrupted and saved.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.suites import rows as suites
from experiments.suites import table, workers
from experiments.suites.rows import Row, Suite
from ssl_jax import configs
from ssl_jax.run import command, folder, provenance, several
from ssl_jax.run.open import read_run


def main(arguments: list[str]) -> int:
    parser = command.Parser("Run a suite over seeds, and put it beside what is published.")
    parser.add_argument("--suite", help="one of --list, or a file like those of experiments/suites")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_path("--out", help="folder of the runs and the table; default: runs/SUITE")
    parser.add_argument("--rows", type=command.named, help="comma-separated; default: all")
    parser.add_path("--path", help="what PATH in rows stands for: the folder of data that TFDS does not have")
    parser.add_argument("--cores", type=int, help="of each run on a CPU; default: as the suite says")
    parser.add_argument("--show", action="store_true", help="run nothing: the table of what OUT holds")
    parser.add_argument("--anyway", action="store_true", help="run rows on a lesser machine than they need")
    parser.add_argument("--dirty", action="store_true", help="a try with changed files; the table says so")
    parser.add_argument("--list", action="store_true", help="show the suites and their rows")
    try:
        options, changes = parser.parse_changes(arguments)
        if options.list:
            return list_suites()
        if options.suite is None:
            raise ValueError(f"--suite is missing; known: {', '.join(suites.known())}")
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds} is below 1")
        if any(change.startswith("seed=") for change in changes):
            raise ValueError("--config.seed is not for a suite; --seeds N makes those from 0 on")
        suite = suites.read(options.suite, options.path)
        out = folder.check(options.out or Path("runs") / suite.name, "--out")
        before = table.last(out)
        if before.get("suite", suite.name) != suite.name:
            raise ValueError(f"{out} holds the table of the suite {before['suite']}; give another --out")
        if options.show:
            changes = changes or before.get("changed", [])
        asked = [row for row in suite.rows if options.rows is None or row.name in options.rows.split(",")]
        if options.rows and (unknown := set(options.rows.split(",")) - {row.name for row in suite.rows}):
            names = ", ".join(row.name for row in suite.rows)
            raise ValueError(f"--rows {','.join(sorted(unknown))} is unknown; known: {names}")
        began = provenance.commit()
        if not (options.dirty or options.show):
            table.refuse_dirty(began)
        refuse_others(out, suite, options, changes, began)
        cores = suite.cores if options.cores is None else options.cores
        platform, places = ("none", []) if options.show else workers.here(cores)
        left_out = {row.name: why for row in suite.rows if (why := why_not(row, asked, platform, options))}
        jobs = [
            workers.Job(row, seed) for seed in range(options.seeds) for row in suite.rows if row.name not in left_out
        ]
        if not options.show and not jobs:
            names = ((why, [row.name for row in asked if left_out[row.name] == why]) for why in left_out.values())
            said = "; ".join(f"{', '.join(of)}: {why}" for why, of in dict(names).items() if of)
            raise ValueError(f"nothing of suite {suite.name} is run here ({said}); --show writes the table of OUT")
        made = f"python experiments/reproduce.py {shlex.join(a for a in arguments if a != '--show')}"
        if options.show:  # which makes no run
            made = before.get("command", made)

        def write() -> str:
            return table.write(suite, out, left_out, changes, options.dirty, made)

        write()  # what is refused of the runs that are there is refused now
        known, jobs = len(jobs), [job for job in jobs if table.why_not_done(out / "runs" / job.name, job.row)]
        if jobs:
            print(f"{known - len(jobs)} of {known} runs are done; {len(places)} at a time", file=sys.stderr)
        failed = workers.run(jobs, places, out, changes, write, lambda: options.dirty or refuse_moved(began))
        print(write())
    except ValueError as error:
        return command.refuse(error)
    except BrokenPipeError:  # nothing that could not be written: nobody reads on
        raise
    except OSError as error:
        print(f"the suite ended: {error}", file=sys.stderr)
        return 1
    except workers.Stopped as stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 128 + stopped.args[0]
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(failed)}; their logs are in {out / 'runs'}", file=sys.stderr)
    return 1 if failed else 0


def list_suites() -> int:
    for name in suites.known():
        suite = suites.read(name)
        print(f"{name}: {suite.about}")
        for row in suite.rows:
            print(f"    {row.name:24} {row.config} ({row.needs}; {row.cost})")
    return 0


def refuse_moved(began: str | None) -> None:
    """One line where the checkout is no longer what it was when the suite began."""
    if (now := provenance.commit()) != began:
        raise ValueError(
            f"the suite began at commit {provenance.short(began)} and this is {provenance.short(now)}: check that one "
            "out and give the same command; what is done stays"
        )


def refuse_others(out: Path, suite: Suite, options: Any, changes: list[str], now: str | None) -> None:
    """One line where a folder has runs of other configs or commits than those that would join them."""
    for row in suite.rows:
        for seed in sorted({*range(options.seeds), *table.seeds_of(out, row)}):
            workdir = out / "runs" / f"{row.name}-{seed}"
            if not (workdir / "config.json").is_file():
                if suites.there_is(row):
                    suites.config(row, seed, changes)
                continue
            stored, resolved = read_run(workdir)
            refused, free = configs.differences(stored.to_dict(), suites.config(row, seed, changes))
            other = [*refused, *(key for key in free if configs.matters(key) and key != "data.source")]  # it moved
            if other and not row.command:  # which says more than the row
                raise ValueError(f"{workdir} is a run of another config ({', '.join(other)}); give another --out")
            made = {str(one.get("commit")) for one in (resolved, *several.resumptions(workdir))}
            if not options.show and (others := made - {str(now)}):
                raise ValueError(
                    f"{workdir} was made at commit {', '.join(map(provenance.short, sorted(others)))} and this is "
                    f"{provenance.short(now)}: check that one out, or give another --out"
                )


def why_not(row: Row, asked: Sequence[Row], platform: str, options: Any) -> str | None:
    """Why a row is not run here; None if it is."""
    if not suites.there_is(row):
        return f"there is no config {row.config} yet"
    if row.command:
        return "it has a command of its own"
    if any("PATH" in change for change in row.set):
        return "it needs --path"
    if row not in asked:
        return "it was not asked for"
    have = {"none": -1, "cpu": 0, "tpu": 2}.get(platform, 1)
    if suites.NEEDS.index(row.needs) > have and not (options.anyway and not options.show):
        return "not yet" if options.show else f"it needs {'a TPU' if row.needs == 'tpu' else 'an accelerator'}"
    return None


if __name__ == "__main__":
    command.run(main)
