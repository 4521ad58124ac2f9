"""Pretrain a method on a dataset: the one command.

    ssl-jax pretrain --config simclr_digits --workdir runs/digits --config.train.epochs=50
    ssl-jax pretrain --workdir runs/digits                    # goes on with what it was asked
    ssl-jax pretrain --workdir runs/digits --extend 100       # ... to 100 epochs in all
    ssl-jax pretrain --workdir runs/digits --compare simclr_digits    # is it on track? against a reference's band
    ssl-jax pretrain --list

In a checkout `python experiments/pretrain.py` is the same as `ssl-jax pretrain`.
Exit codes: 0 done, 1 the run failed, 2 refused before anything was done, 130 and 143 interrupted and saved.
"""

from __future__ import annotations

import ast
import io
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ssl_jax import configs, names
from ssl_jax.data import recipes
from ssl_jax.online.progress import phase
from ssl_jax.run import command, extend, folder, processes
from ssl_jax.run.writer import plain_warnings

DEFAULT = "simclr_digits"
EPILOG = f"""--config.KEY=VALUE changes a key: --help-config shows those of a config with what they mean.
--list shows the configs. Methods: {names.HERE / "methods"}, models: {names.HERE / "models"}, recipes:
--recipes, {names.HERE / "data"}/*/recipes.py. The same command on the same folder goes on where a run was stopped."""


def main(arguments: list[str]) -> int:
    parser = command.Parser("Pretrain a method on a dataset.", epilog=EPILOG)
    said = f"a config file, or one of --list by name; default: that of the run in --workdir, else {DEFAULT}"
    parser.add_path("--config", help=said)
    parser.add_path("--workdir", help="folder of the run; default: runs/<config name>")
    parser.add_argument("--list", action="store_true", help="show the configs there are")
    parser.add_argument("--no-test", action="store_true", help="a try: test data are not read, nothing is drawn")
    parser.add_argument("--extend", type=int, metavar="N", help="train a run longer: N epochs (or steps) in all")
    parser.add_argument(
        "--compare", metavar="FILE", help="is the run on track with a reference? or one of configs/curves"
    )
    parser.add_argument("--help-config", action="store_true", help="show the keys of the config: meaning, type, value")
    parser.add_argument("--recipes", action="store_true", help="show the recipes of augmentation, with their sources")
    try:
        options, changes = parser.parse_changes(arguments)
        if options.list:
            return list_configs()
        if options.recipes:
            print("\n".join(recipes.listed()))
            return 0
        workdir = folder.check(options.workdir or Path("runs") / Path(options.config or DEFAULT).stem)
        with folder.naming_copies(workdir):
            config = asked(options.config, options.workdir and workdir, changes)
            if options.extend is not None:
                config = extend.longer(config, options.extend)
            if options.help_config:
                return help_config(config)
            configs.check(config)
        given = None if options.compare is None else reference_of(options.compare, config)
        processes.configure_as(config.parallel)
    except ValueError as error:
        return command.refuse(processes.tell(error))

    # Imported now: asking for simulated devices and deterministic kernels must come before the first use of a device.
    with phase("loading the libraries"):
        import jax

        from ssl_jax import train
        from ssl_jax.experiment import build
        from ssl_jax.run import reference, signals

    again = command.again(arguments)
    try:
        with processes.ending_together(), processes.refusing_together(), folder.naming_copies(workdir):
            experiment = build(config, folder=workdir, asked=changes)
    except ValueError as error:
        return command.refuse(error)
    except OSError as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return 1
    try:
        with processes.ending_together():
            hooks = [] if given is None else [reference.watch(given, reference.lines_of(workdir), tell)]
            for line in () if given is None else reference.notes(given, experiment.config):
                tell(line)
            kept = {"test": not options.no_test, "extend": options.extend is not None}
            summary = train.fit(experiment, workdir, hooks=hooks, **kept)
    except train.Refused as error:
        return command.refuse(error)
    except signals.Interrupted as stop:
        onward = f"to continue: {again}" if jax.process_count() == 1 else "the same command on all hosts continues it"
        print(f"{stop}; {onward}", file=sys.stderr)
        if given is not None and jax.process_index() == 0:
            compare(given, experiment.config, workdir)
        return stop.exit_code
    except KeyboardInterrupt:
        print("stopped before anything could be saved", file=sys.stderr)
        return 130
    except (train.NotFinite, ValueError, OSError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return 1
    if jax.process_index() == 0:
        report(summary, workdir)
        if given is not None:
            compare(given, experiment.config, workdir)
    return 0


def reference_of(name: str, config: configs.Config) -> dict:
    from ssl_jax.run import reference

    found = reference.read(name)
    reference.refuse_another(found, config, name)
    return found


def tell(text: str) -> None:
    """To the human, from one of several processes."""
    import jax

    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def compare(given: dict, config: configs.Config, workdir: Path) -> None:
    """A run, as far as it is, against a reference: in words, as ``compare.json``, and as ``figures/compare.png``."""
    from ssl_jax.evals.shared import curves
    from ssl_jax.interop.files import write_json
    from ssl_jax.run import reference

    verdicts = reference.judge(given, reference.lines_of(workdir))
    print()
    for line in (*reference.notes(given, config), *map(reference.said, verdicts)):
        print(f"  {line}")
    found = reference.summary(given, config, verdicts)
    if verdicts and found["on_track"] is None:
        print("  whether the run is on track cannot be told: the band of every curve has room for one that never moves")
    write_json(workdir / "compare.json", found)
    drawn = {v.metric: (*v.band, v.values, v.on_track) for v in verdicts}
    if drawn:
        curves.against_bands(drawn, workdir / "figures" / "compare.png", f"{workdir.name} against the reference")
    else:
        print("  the run has none of the reference's curves")


def asked(path: str | None, workdir: Path | None, changes: list[str]) -> configs.Config:
    """The config of a command: the one that is named, or the one that the run in the folder was made with."""
    if path is None and workdir and (workdir / "config.json").is_file():
        from ssl_jax.run.open import read_run

        return configs.change(read_run(workdir)[0], changes)
    return configs.load(path or DEFAULT, changes)


def list_configs() -> int:
    """Every config file with the first line of its docstring."""
    files = configs.files()
    width = max(map(len, files))
    for name, path in files.items():
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        print(f"{name:{width}}  {lines[0] if lines else ''}")
    return 0


def help_config(config: configs.Config) -> int:
    """Every key of a config with its type, its value and what it means."""
    from configs.common import KEYS
    from ssl_jax.run import keys

    print("\n".join(keys.text(keys.described(config, KEYS))))
    return 0


def report(summary: dict, workdir: Path) -> None:
    """A finished run in a few lines."""

    whys = summary.get("not_measured", {})  # older runs have none

    def shown(key):
        value = summary[key]
        missing = f"not measured ({whys[key]})" if key in whys else "not measured"
        return missing if value is None else f"{value:.4f}" if isinstance(value, float) else value

    print(f"\n{workdir}")
    scores = [key for key in summary if key.startswith("test_")]
    rates = [key for key in summary if key.endswith("_per_sec")]
    for key in (*scores, "collapsed", "steps", "seconds", *rates):
        print(f"  {key:16} {shown(key)}")
    if "test" in whys:
        print(f"  {'test':16} not measured ({whys['test']}); the same command without --no-test measures it")
    if "label_efficiency" in whys:
        print(f"  {'label_efficiency':16} not measured ({whys['label_efficiency']})")
    table = summary.get("label_efficiency")
    if table:
        rows = list(next(iter(table.values())))
        print("\n  linear accuracy on test, mean +- standard deviation over draws of the labels")
        print("  " + "labels per class".ljust(18) + "".join(row.rjust(18) for row in rows))
        for count, cells in table.items():
            texts = [f"{mean:.3f}" + ("" if std is None else f" +- {std:.3f}") for mean, std in cells.values()]
            print("  " + count.ljust(18) + "".join(text.rjust(18) for text in texts))
    if "test" not in whys:
        print(f"\n  pictures: {workdir / 'figures'}")


if __name__ == "__main__":
    plain_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr does, where a terminal lacks a letter
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
