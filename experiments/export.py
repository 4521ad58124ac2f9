"""Write the encoder of a run as one file of weights, which opens without executing code.

    ssl-jax export runs/simclr_digits --out simclr_digits.safetensors

``--config.init_from=simclr_digits.safetensors`` starts another run from it. Exit codes: 0 done, 1 it failed, 2 refused.
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
from ssl_jax.run.open import export


def main(arguments: list[str]) -> int:
    parser = command.Parser("Write the encoder of a run as one file.")
    parser.add_run("workdir", help="folder of a run")
    parser.add_path("--out", required=True, help="a file that ends in .safetensors")
    options = parser.parse_args(arguments)
    try:
        about = export(options.workdir, options.out)
    except ValueError as error:
        return command.refuse(error)
    except OSError as error:
        print(f"the export failed: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: step {about['step']} of {options.workdir}, fingerprint {about['fingerprint']}")
    return 0


if __name__ == "__main__":
    command.run(main)
