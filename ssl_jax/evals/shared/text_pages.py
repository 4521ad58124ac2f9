"""Text as a page: what a method reads, what it is asked, how words become numbers, what its features find alike."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Source
from ssl_jax.evals.shared import pictures
from ssl_jax.evals.shared.names import printable
from ssl_jax.types import Method

ROWS, TOKENS, NUMBERS = 8, 64, 6  # that are shown: examples, tokens of each, numbers of an embedding's row
DOCUMENTS, CHARACTERS = 5, 300  # of a page of neighbours: documents of each kind, characters of each
STYLE = """
body { font: 16px/2.6 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222; background: #fff }
h1, h2 { font-weight: 600; line-height: 1.2 } .note { color: #666; line-height: 1.5 }
.row { border-top: 1px solid #ddd; padding: .4em 0 } .tag { color: #666; font-size: .8em; margin-right: .8em }
rt { color: #b3541e; font-size: .7em; padding: 0 .25em } .asked { background: #fde7d3; border-radius: .2em }
.second { color: #1f5fa8 }
table { border-collapse: collapse; line-height: 1.6 } td, th { padding: .15em .8em; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-top: 1px solid #eee }
.document { line-height: 1.5 } .document b { font-weight: 600 } .document li { margin: .2em 0 }
"""


def batch_page(
    modality: Modality, method: Method, seed: int, train: Source, path: Path, embedding: np.ndarray | None = None
) -> None:
    """Write a few rows of a training batch as HTML: the tokens that are read, above each what is asked for there.

    Below them one row step by step: the word, its number in the vocabulary (x), the row of the embedding matrix that it
    stands for, and what is to be predicted (y).

    Args:
      embedding: the matrix ``[vocab, width]``; without it the last step is left out.
    """
    words, rows = modality.words, min(ROWS, len(train))
    assert words is not None
    feed = modality.feed(train, seed=seed, global_batch_size=rows, mode="pmap")  # tokens, not the corpus on the device
    batch = next(feed.batches(total_steps=1))
    found = asked(method, batch, jax.random.key(seed))
    lines = [_row(words, found, batch, train, i) for i in range(rows)]
    if "unlabelled" in batch:
        forms = batch["unlabelled"]["views"]
        lines += [
            f'<div class="row"><span class="tag">unlabelled, form {k}</span>{_tokens(words, form[i])}</div>'
            for i in range(min(rows, len(forms[0])))
            for k, form in enumerate(forms, 1)
        ]
    told = "above a word: what is asked for there" if found["targets"].any() else "as they are read"
    body = f"<h1>A batch</h1><p class=note>{len(words):,} tokens in the vocabulary; {told}.</p>{''.join(lines)}"
    body += _steps(words, found["tokens"][0], found["targets"][0], embedding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page("A batch", body), encoding="utf-8", errors="backslashreplace")


def asked(method: Method, batch: Mapping[str, Any], key: jax.Array) -> dict[str, np.ndarray]:
    """``{"tokens": [b, t], "targets": [b, t]}``: what is read, and what is asked for, 0: nothing."""
    if "asked" in method.hooks:
        return {name: np.asarray(a) for name, a in jax.jit(method.hooks["asked"])(batch, key).items()}
    tokens = np.asarray(batch["views"][0])
    return {"tokens": tokens, "targets": np.zeros_like(tokens)}


def _row(words: Sequence[str], found: Mapping[str, np.ndarray], batch: Mapping[str, Any], train: Source, i: int) -> str:
    tags = []
    label = int(batch["label"][i])
    if label >= 0 and train.class_names is not None:
        tags.append(train.class_names[label])
    if "random_next" in batch:
        tags.append("a random part behind it" if batch["random_next"][i] else "the next part behind it")
    tag = f'<span class="tag">{html.escape("; ".join(tags))}</span>' if tags else ""
    segment = batch["segment"][i] if "segment" in batch else None
    return f'<div class="row">{tag}{_tokens(words, found["tokens"][i], found["targets"][i], segment)}</div>'


def _tokens(words: Sequence[str], tokens: Any, targets: Any = None, segment: Any = None) -> str:
    parts = []
    for t, token in enumerate(map(int, tokens[:TOKENS])):
        if token == 0:
            continue
        text = html.escape(words[token])
        if targets is not None and targets[t]:
            text = f"<ruby><span class=asked>{text}</span><rt>{html.escape(words[int(targets[t])])}</rt></ruby>"
        parts.append(f"<span class=second>{text}</span>" if segment is not None and segment[t] else text)
    return " ".join(parts) + (" ..." if np.count_nonzero(tokens) > TOKENS else "")


def _steps(words: Sequence[str], tokens: np.ndarray, targets: np.ndarray, embedding: np.ndarray | None) -> str:
    head = "<tr><th>word<th>x" + ("<th>row of the embedding matrix" if embedding is not None else "") + "<th>y</tr>"
    lines = []
    for token, target in zip(map(int, tokens[:12]), map(int, targets), strict=False):
        if token == 0:
            continue
        row = ""
        if embedding is not None:
            row = f"<td>{', '.join(f'{x:.3f}' for x in embedding[token][:NUMBERS])}, ..."
        y = f"{html.escape(words[target])} ({target})" if target else ""
        lines.append(f"<tr><td>{html.escape(words[token])}<td>{token}{row}<td>{y}</tr>")
    size = "" if embedding is None else f" The matrix is {embedding.shape[0]:,} x {embedding.shape[1]}."
    note = f"Each word is a number in the vocabulary of {len(words):,}, and the number a row of a matrix.{size}"
    return f"<h2>From words to numbers</h2><p class=note>{note}</p><table>{head}{''.join(lines)}</table>"


def nearest(bank_features, bank: Source, query_features, test: Source) -> list[dict[str, Any]]:
    """A few test documents and the documents of the bank nearest to each by cosine.

    Returns:
      ``[{"text", "label", "near": [{"text", "label", "cosine"}, ...]}, ...]``: the first 300 characters of a document
      in one line, and the name of its class, None where it is unknown.
    """
    shown, near, cosines = pictures.nearest(bank_features, query_features, DOCUMENTS)
    return [
        _document(test, query)
        | {"near": [_document(bank, i) | {"cosine": float(c)} for i, c in zip(row, similar, strict=True)]}
        for query, row, similar in zip(shown, near, cosines, strict=True)
    ]


def _document(source: Source, i: int) -> dict[str, Any]:
    label = -1 if source.labels is None else int(source.labels[i])
    name = source.class_names[label] if label >= 0 and source.class_names is not None else str(label)
    whole = str(source.columns["text"][i])
    text = re.sub(r"\s+", " ", whole[: 4 * CHARACTERS]).strip()
    if len(text) > CHARACTERS or len(whole) > 4 * CHARACTERS:
        text = text[:CHARACTERS].rstrip() + " ..."
    return {"text": text, "label": None if label < 0 else name}


def neighbours_page(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write what :func:`nearest` found as a page."""
    note = "Test documents, and below each those of the bank nearest to it by cosine."
    body = f"<h1>Nearest documents</h1><p class=note>{note}</p>{neighbours(found)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page("Nearest documents", body), encoding="utf-8", errors="backslashreplace")


def neighbours(found: Sequence[Mapping[str, Any]]) -> str:
    """HTML of what :func:`nearest` found: a heading of the document, a list of its neighbours."""

    def line(one: Mapping[str, Any]) -> str:
        tags = [f"{one['cosine']:.3f}".replace("-", "\u2212")] if "cosine" in one else []
        tags += [] if one["label"] is None else [str(one["label"])]
        tag = f'<span class="tag">{html.escape(printable(", ".join(tags)))}</span>' if tags else ""
        return tag + html.escape(printable(str(one["text"])))

    return "".join(
        f'<div class="row document"><p><b>{line(query)}</b></p><ol>'
        + "".join(f"<li>{line(one)}</li>" for one in query["near"])
        + "</ol></div>"
        for query in found
    )


def _page(title: str, body: str) -> str:
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>{body}\n"
