"""Write the encoder of a run as one file of weights, or as a folder that other libraries load.

    ssl-jax export runs/simclr_digits --out simclr_digits.safetensors
    ssl-jax export runs/simclr_folder --out simclr --format timm --license apache-2.0

``--config.init_from=simclr_digits.safetensors`` starts another run from the file; nothing in it is executed. --format:
timm (also torchvision, the Hub, and transformers beside timm), torchvision, transformers (its own networks), flax,
stablehlo, onnx.
Exit codes: 0 done, 1 it failed, 2 refused.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax.run import command
from ssl_jax.run.export import FORMATS, OURS, export


def main(arguments: list[str]) -> int:
    parser = command.Parser("Write the encoder of a run as one file, or as a folder for another library.")
    parser.add_run("workdir", help="folder of a run")
    parser.add_path("--out", required=True, help="a file that ends in .safetensors; with --format a new folder")
    parser.add_argument("--format", default=OURS, help=f"{', '.join(FORMATS)}; default: {OURS}")
    parser.add_argument(
        "--license", type=command.named, help="of the weights, as apache-2.0; default: what they came under"
    )
    parser.add_argument("--swapped-stem", action="store_true", help="torchvision: whoever loads it swaps conv1")
    parser.add_argument("--push-to", type=command.named, metavar="OWNER/NAME", help="send the folder to the Hub")
    parser.add_argument("--private", action="store_true", help="of a repository that --push-to makes")
    options = parser.parse_args(arguments)
    try:
        about = export(
            options.workdir,
            options.out,
            format=options.format,
            licence=options.license,
            swapped_stem=options.swapped_stem,
            push_to=options.push_to,
            private=options.private,
        )
    except ValueError as error:
        return command.refuse(error)
    except OSError as error:
        print(f"the export failed: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: step {about['step']} of {options.workdir}, fingerprint {about['fingerprint']}")
    for note in about.get("notes", []):
        print(note)
    if "url" in about:
        print(about["url"])
    return 0


if __name__ == "__main__":
    command.run(main)
