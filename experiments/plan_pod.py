"""The old name of ``plan.py``, with the same arguments."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from plan import main

from ssl_jax.run import command

if __name__ == "__main__":
    command.run(main)
