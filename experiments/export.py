"""Write the encoder of a run as one file of weights, which opens without executing code.

    python experiments/export.py --workdir runs/simclr_digits --out simclr_digits.safetensors

``--config.init_from=simclr_digits.safetensors`` starts another run from it. Exit codes: 0 done, 2 refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssl_jax.run.open import export


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the encoder of a run as one file.", allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="folder of a run")
    parser.add_argument("--out", required=True, help="a file that ends in .safetensors")
    options = parser.parse_args(arguments)
    try:
        about = export(options.workdir, options.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: step {about['step']} of {options.workdir}, fingerprint {about['fingerprint']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
