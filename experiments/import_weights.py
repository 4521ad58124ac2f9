"""Turn weights of another library into a run that can be measured, embedded with, exported and started from.

    python experiments/import_weights.py moco_v2_800ep_pretrain.pth.tar --out runs/moco_v2
    python experiments/evaluate.py --workdir runs/moco_v2 --source folder:PATH

Whose they are is found by the names in the file; nothing in it is executed. --list shows the projects that are known.
Exit codes: 0 done, 1 it failed, 2 refused.
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

from ssl_jax import configs
from ssl_jax.interop import bert, importing, projects
from ssl_jax.interop.pickles import COMMANDS
from ssl_jax.run import command, imported, processes

MODEL = "--model."


def main(arguments: list[str]) -> int:
    parser = command.Parser(
        "Turn weights of another library into a run.",
        epilog="--model.KEY=VALUE sets a field of the network that its file does not tell, as --model.heads=12.",
    )
    parser.add_argument("weights", nargs="?", help="a file (.pth, .safetensors, .npz, ...) or a folder of Hugging Face")
    parser.add_path("--out", help="folder of the run that is made")
    parser.add_argument("--as", dest="project", help="whose weights they are, where the names do not tell: --list")
    parser.add_argument(
        "--prefix",
        help="what begins the names of the network, as errors show them, in place of where files of the project have "
        "it, as state_dict_ema/; whatever lies elsewhere is left aside",
    )
    parser.add_argument("--no-classifier", action="store_true", help="leave a classifier that lies there aside")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        help="regular expression of whole names that may be left over, as 'head\\..*'; may be given several times",
    )
    parser.add_argument("--mean", type=_numbers, help="of the channels, in [0, 1]: 0.485,0.456,0.406")
    parser.add_argument("--std", type=_numbers, help="of the channels: 0.229,0.224,0.225")
    parser.add_argument(
        "--size",
        type=int,
        help="of images in pixels; default: what a config.json beside it says, "
        "else that of its positions, 32 for networks with the stem for small images, 224 for others",
    )
    parser.add_argument("--list", action="store_true", help="show the projects that are known")
    options, rest = parser.parse_known_args(arguments)
    processes.without_tpu()
    try:
        if options.list:
            print("\n".join(f"{name:17}{project.source}" for name, project in projects.PROJECTS.items()))
            return 0
        if options.weights is None or options.out is None:
            raise ValueError("give the weights and --out FOLDER")
        if (options.mean is None) != (options.std is None):
            raise ValueError("--mean and --std belong together; give both")
        if is_bert(options.weights):
            given = [word.partition("=")[0] for word in arguments if word.startswith("--") and word[:5] != "--out"]
            if given:
                raise ValueError(
                    f"{given[0]} is of networks of images, and {options.weights} holds a BERT; leave it out"
                )
            return of_bert(options.weights, options.out)
        found = importing.read(
            options.weights,
            project=options.project,
            allow=options.allow,
            fields=dict(_field(word) for word in rest),
            statistics=None if options.mean is None else (options.mean, options.std),
            size=options.size,
            prefix=options.prefix,
            classifier=not options.no_classifier,
        )
        run = imported.write(found, options.out)
    except ValueError as error:
        return command.refuse(error)
    except OSError as error:
        print(f"the import failed: {error}", file=sys.stderr)
        return 1
    print("\n".join(told(found)))
    print(f"{run.workdir}: ssl-jax evaluate --workdir {run.workdir} --source folder:PATH")
    return 0


def is_bert(place: str) -> bool:
    """Whether a folder of Hugging Face's holds a BERT."""
    try:
        return json.loads(Path(place, "config.json").read_text()).get("model_type") == "bert"
    except (OSError, ValueError, AttributeError):
        return False


def of_bert(place: str, out: str) -> int:
    """The run of a BERT's encoder, by the mean of its tokens."""
    found = bert.read(place)
    run = imported.write_bert(found, place, out)
    print(
        f"{place}: {found.encoder.label}, features are the mean of its tokens, --config.model.pool of a run says else"
    )
    for note in found.notes:
        print(note)
    print("licence of the weights: not known; ask where they are from")
    print(f"{run.workdir}: ssl-jax evaluate --workdir {run.workdir} --source text:PATH")
    return 0


def told(found: importing.Imported):
    """What was recognised, decided and left aside, line by line."""
    record, (mean, std) = found.record, found.statistics
    yield f"{record['file']}: {record['kind']}, weights of {found.project} ({record['source']})"
    yield "model: " + ", ".join(f"{k}={v}" for k, v in found.model.items())
    if record["assumed"]:
        yield "not told by names or shapes: " + ", ".join(f"{k}={v}" for k, v in record["assumed"].items())
    kind, fraction, interpolation = found.view
    yield f"images: {found.size} pixels ({kind}, {fraction:g}, {interpolation}), mean {_said(mean)}, std {_said(std)}"
    if found.size == found.model.get("positions_grid", 0) * found.model.get("patch_size", 0) > 384:
        yield "that is the size of its positions; DINOv2 was measured at 224 pixels, which --size 224 says"
    yield from found.report.lines()
    yield from record["remarks"]
    if found.classifier is not None:
        names = record.get("class_names", [])
        called = f" ({', '.join(names[:3])}{', ...' if names[3:] else ''}), whose names are kept," if names else ""
        yield f"its classifier of {found.classifier['bias'].shape[-1]} classes{called} came with it: --evals=classify"
    for name, count in record["passed_over"].items():
        command = COMMANDS.fullmatch(name)
        why = "it would run a command: do not load the file elsewhere" if command else "it could execute code"
        yield f"{count} x {name} in the file was not built, for {why}"
    for note in record["notes"]:
        yield f"not followed: {note}"
    whose = f", as --as {record['asked']} says" if record["licence"] and "asked" in record else ""
    yield f"licence of the weights: {record['licence'] or 'not known; ask where they are from'}{whose}"


def _said(numbers) -> str:
    return ",".join(f"{x:g}" for x in numbers)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


def _field(word: str) -> tuple[str, object]:
    key, equals, value = word.partition("=")
    if not key.startswith(MODEL) or not equals:
        raise ValueError(f"argument {word!r} is unknown; fields of the network are said as --model.heads=12")
    return key.removeprefix(MODEL), configs.literal(value)


if __name__ == "__main__":
    command.run(main)
