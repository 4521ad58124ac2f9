"""Training steps on text: an LSTM's next word, and BERT's masked words and next sentence, in float32.

On a CPU a core of its own: LSTM of 2 x 200 and BERT-Tiny; on an accelerator LSTM of 2 x 650 and BERT-Mini.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from benchmark import Benchmark

from ssl_jax import methods, models
from ssl_jax.parallel import make_mesh, place
from ssl_jax.step import compile_step, init_state
from ssl_jax.types import Plan, Vocab


def language_model(quick: bool) -> Benchmark:
    """Windows of 35 tokens in 20 rows whose state is carried, 10,000 words, tied decoder, SGD without dropout."""
    rows, length, size, rate = 20, 35, 10_000, 1.0
    width = 200 if _cpu() else 650
    encoder = models.make("lstm", vocab=size, width=width, layers=2)
    plan = Plan(1000, 100, 50_000, (length,), rows, vocab=Vocab(size, unk=1, eos=2))
    tokens = np.random.default_rng(0).integers(3, size, (rows, length + 1)).astype(np.int32)
    batch = {"tokens": tokens, "views": (tokens[:, :-1],), "first": np.zeros(rows, bool), **_numbered(rows)}
    ours, params = _ours(methods.get("language_model")(encoder, plan=plan), batch, optax.sgd(rate))

    def torch_peer():
        import torch
        from torch.nn import LSTM, functional

        where = "cuda" if torch.cuda.is_available() else "cpu"
        table = torch.tensor(params["encoder"]["stem_embedding"], device=where, requires_grad=True)
        bias = torch.zeros(size, device=where, requires_grad=True)
        lstm = LSTM(width, width, 2).to(where)
        with torch.no_grad():
            for k in range(2):
                part = {name: params["encoder"][f"stage{k + 1}_{name}"].T for name in ("input", "state", "bias")}
                for theirs, array in (("weight_ih", part["input"]), ("weight_hh", part["state"])):
                    getattr(lstm, f"{theirs}_l{k}").copy_(torch.tensor(array))
                getattr(lstm, f"bias_ih_l{k}").copy_(torch.tensor(part["bias"]))
                getattr(lstm, f"bias_hh_l{k}").zero_()
        optimizer = torch.optim.SGD([table, bias, *lstm.parameters()], lr=rate)
        read = torch.tensor(tokens.T, dtype=torch.int64, device=where)  # time first, its faster way
        state: list[Any] = [None]

        def run() -> float:
            optimizer.zero_grad(set_to_none=True)
            hidden, after = lstm(functional.embedding(read[:-1], table), state[0])
            state[0] = tuple(part.detach() for part in after)
            logits = functional.linear(hidden, table, bias)
            loss = functional.cross_entropy(logits.reshape(-1, size), read[1:].reshape(-1))
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return run

    details = {"width": width, "tokens in a batch": rows * length}
    return Benchmark(
        ours=ours,
        peers={"torch": torch_peer},
        same=lambda ours, theirs: _near(ours, theirs, 1e-4),
        items=rows * length,
        unit="tokens/s",
        processor=_cpu(),
        details=details,
    )


def bert(quick: bool) -> Benchmark:
    """32 pairs of 128 tokens, 30,522 words, 15 % of them asked for, dropout 0.1, AdamW.

    BertForPreTraining of transformers gives every token its logits; a peer that does so for the masked ones alone, as
    ours and the paper's code, is measured beside it.
    """
    rows, length, size, rate = 32, 128, 30_522, 1e-4
    encoder = models.make("bert_tiny" if _cpu() else "bert_mini", vocab=size, dropout=0.1)
    cls, sep, mask = 3, 4, 5
    vocab = Vocab(size, unk=1, eos=2, cls=cls, sep=sep, mask=mask)
    plan = Plan(1000, 100, 50_000, (length,), rows, vocab=vocab)
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, size, (rows, length)).astype(np.int32)
    tokens[:, 0], tokens[:, length // 2], tokens[:, -1] = cls, sep, sep
    segment = np.broadcast_to(np.arange(length) > length // 2, tokens.shape).astype(np.int32)
    random_next = rng.random(rows) < 0.5
    batch = {"tokens": tokens, "views": (tokens,), "segment": segment, "random_next": random_next, **_numbered(rows)}
    batch["continues"] = np.zeros(tokens.shape, bool)
    ours, _ = _ours(methods.get("bert")(encoder, plan=plan), batch, optax.adamw(rate, weight_decay=0.01))
    asked = round(0.15 * (length - 3))

    def transformers(gathered: bool):
        def make():
            import torch
            from benchmarks.torches import torchvision
            from torch.nn import functional

            torchvision()  # which transformers loads, in its own way
            from transformers import BertConfig, BertForPreTraining

            where = "cuda" if torch.cuda.is_available() else "cpu"
            sizes = {"vocab_size": size, "hidden_size": encoder.width, "num_hidden_layers": encoder.depth}
            sizes |= {"num_attention_heads": encoder.heads, "intermediate_size": 4 * encoder.width}
            network = BertForPreTraining(BertConfig(**sizes)).to(where).train()
            optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
            given = {"input_ids": tokens, "token_type_ids": segment, "attention_mask": np.ones_like(tokens)}
            given = {name: torch.tensor(array, dtype=torch.int64, device=where) for name, array in given.items()}
            answer = torch.tensor(random_next, dtype=torch.int64, device=where)
            words = given["input_ids"] > mask

            def run() -> float:
                # Masks of its own in every step: as many, 80 % hidden, 10 % another word.
                places = (torch.rand(words.shape, device=where) * words).topk(asked).indices
                targets = given["input_ids"].gather(1, places)
                chance, other = torch.rand(places.shape, device=where), torch.randint_like(places, 1, size)
                hidden = torch.where(chance < 0.8, mask, torch.where(chance < 0.9, other, targets))
                seen = given | {"input_ids": given["input_ids"].scatter(1, places, hidden)}
                optimizer.zero_grad(set_to_none=True)
                if gathered:
                    out = network.bert(**seen)
                    x = out.last_hidden_state.gather(1, places[:, :, None].expand(-1, -1, encoder.width))
                    logits, after = network.cls(x, out.pooler_output)
                    loss = functional.cross_entropy(logits.reshape(-1, size), targets.reshape(-1))
                    loss = loss + functional.cross_entropy(after, answer)
                else:
                    labels = torch.full_like(given["input_ids"], -100).scatter(1, places, targets)
                    loss = network(**seen, labels=labels, next_sentence_label=answer).loss
                loss.backward()
                optimizer.step()
                return float(loss.detach())

            return run

        return make

    return Benchmark(
        ours=ours,
        peers={"transformers": transformers(False), "transformers_gathered": transformers(True)},
        same=lambda ours, theirs: _near(ours, theirs, 0.02),  # of untrained networks with masks of their own
        items=rows,
        unit="pairs/s",
        processor=_cpu(),
        details={"encoder": f"{encoder.depth} blocks of {encoder.width}", "masked words": rows * asked},
    )


def _cpu() -> bool:
    return jax.default_backend() == "cpu"


def _numbered(rows: int) -> dict[str, np.ndarray]:
    return {"index": np.arange(rows, dtype=np.int32), "label": np.full(rows, -1, np.int32)}


def _near(ours: float, theirs: float, tolerance: float) -> str | None:
    """The first losses, before any update."""
    close = abs(ours - theirs) <= tolerance * abs(ours)
    return None if close else f"its loss is {theirs:.5g} and ours {ours:.5g}"


def _ours(method, batch, tx) -> tuple[Any, Any]:
    """(one step at each call, which gives its loss; the first parameters)."""
    mesh = make_mesh()
    step = compile_step(method, tx, mesh)
    state = [init_state(method, tx, jax.random.key(0), place(batch, mesh), mesh)]
    params = jax.tree.map(np.array, state[0].params)
    placed = step.place(batch)

    def run() -> float:
        state[0], metrics = step(state[0], placed)
        return float(metrics["loss"])

    return run, params
