"""A network of words opened for use, from a run of ``bert`` or from a folder of another library's BERT."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssl_jax.data.text import documents, tokens
from ssl_jax.interop import bert as interop
from ssl_jax.methods import bert
from ssl_jax.run.open import open_run
from ssl_jax.run.processes import without_tpu
from ssl_jax.types import Method, Plan, Variables, Vocab


class TextNetwork(NamedTuple):
    """A method of words with its variables and its tokenizer."""

    method: Method
    variables: Variables
    tokenizer: Any
    vocab: Vocab

    def inputs(self, texts: Sequence[str]) -> np.ndarray:
        """``[CLS] text [SEP]`` of every text, int32 ``[n, the longest]``.

        Raises:
          ValueError: a text that is longer than the network's positions.
        """
        found = tokens.encode(self.tokenizer, texts)
        length, most = max(map(len, found)) + 2, len(self.variables.params["encoder"]["stem_positions"])
        if length > most:
            raise ValueError(f"a text of {length - 2} tokens is longer than the {most - 2} of this network; shorten it")
        return documents.padded(documents.enclosed(found, self.vocab, length), length)

    def run(self, hook: str, inputs: np.ndarray) -> np.ndarray:
        """What a hook of the method makes of inputs: "fill" or "contextual", see ``methods/bert.py``."""
        return np.asarray(jax.jit(self.method.hooks[hook])(self.variables, inputs))


def open_text(path: str | os.PathLike[str]) -> TextNetwork:
    """Open a run, or a folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json`` (Hugging Face).

    Raises:
      ValueError: of one line: neither is there, or it is no run of ``bert``.
    """
    without_tpu()
    path = Path(os.path.expanduser(path))
    if (path / "model.safetensors").is_file():
        found = interop.read(path)
        vocab = tokens.vocab(found.tokenizer)
        plan = Plan(1, 1, 1, (found.encoder.positions,), 1, vocab=vocab)
        method = bert.make(found.encoder, plan=plan, nsp="next" in found.params)
        return TextNetwork(method, Variables(found.params, {"encoder": {}}), found.tokenizer, vocab)
    run = open_run(path)
    if "contextual" not in run.method.hooks or run.plan.vocab is None:
        raise ValueError(f"{path} is a run of {run.config.method.name}, and this is for one of bert")
    return TextNetwork(run.method, run.variables, tokens.read(path / tokens.FILE), run.plan.vocab)
