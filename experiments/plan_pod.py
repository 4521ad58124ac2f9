"""The old name of ``plan.py``, with the same arguments."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.plan import main
from ssl_jax.run import command

if __name__ == "__main__":
    command.run(main)
