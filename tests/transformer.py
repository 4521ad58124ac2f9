"""The transformer in NumPy, one example and one head at a time; parameters are trees named as ours are."""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def norm(p, x, eps=1e-6):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def attention(q, k, v, present):
    """One example and one head at a time; ``[b, t, heads, d]``."""
    out = np.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            keys = np.flatnonzero(present[b])
            logits = q[b, :, h] @ k[b, keys, h].T / np.sqrt(q.shape[-1])
            weights = np.exp(logits - logits.max(1, keepdims=True))
            out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, keys, h]
    return out


def block(p, x, heads, present, *, eps=1e-6, gelu="exact", swiglu=False):
    b, t, width = x.shape
    scales = [p[name]["scale"] if name in p else 1 for name in ("layer_scale1", "layer_scale2")]
    qkv = dense(p["qkv"], norm(p["norm1"], x, eps))
    q, k, v = (a.reshape(b, t, heads, width // heads) for a in np.split(qkv, 3, axis=-1))
    x = x + scales[0] * dense(p["proj"], attention(q, k, v, present).reshape(b, t, width))
    h = dense(p["fc1"], norm(p["norm2"], x, eps))
    if swiglu:
        half = h.shape[-1] // 2
        h = h[..., :half] / (1 + np.exp(-h[..., :half])) * h[..., half:]
    elif gelu == "tanh":
        h = h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
    else:
        h = h * (1 + erf(h / np.sqrt(2))) / 2
    return x + scales[1] * dense(p["fc2"], h)


def positions(grid, dim):
    table = np.zeros((grid[0] * grid[1], dim))
    for y in range(grid[0]):
        for x in range(grid[1]):
            for i in range(dim // 4):
                f = 1 / 10000 ** (i / (dim / 4))
                values = (np.sin(x * f), np.cos(x * f), np.sin(y * f), np.cos(y * f))
                table[y * grid[1] + x, [i + j * dim // 4 for j in range(4)]] = values
    return table


def network(p, x, encoder, patches=None, present=None, masked=None):
    """Every output of the network."""
    b, s = len(x), encoder.patch_size
    grid = (x.shape[1] // s, x.shape[2] // s)
    cut = [
        x[:, i * s : (i + 1) * s, j * s : (j + 1) * s].reshape(b, -1) for i in range(grid[0]) for j in range(grid[1])
    ]
    cls = int(encoder.cls_token)
    table, of_cls = positions(grid, encoder.width), np.zeros(encoder.width)
    if encoder.positions == "moco_v3":
        table = np.roll(table, encoder.width // 2, axis=1)
    if encoder.positions == "learned":
        table, of_cls = p["stem_positions"][cls:], p["stem_positions"][0]
    if encoder.positions == "learned_patches":
        table = p["stem_positions"]
    tokens = dense(p["stem_patches"], np.stack(cut, 1))
    table = np.broadcast_to(table, tokens.shape)
    if patches is not None:
        tokens, table = (np.stack([r[i] for r, i in zip(a, patches, strict=True)]) for a in (tokens, table))
    if masked is not None:
        tokens[masked] = p["stem_mask"]
    tokens = tokens + table
    present = np.ones(tokens.shape[:2], bool) if present is None else present
    out, before = {"stem": tokens}, cls + encoder.registers
    if before:
        first = [(p["stem_cls"] + of_cls)[None]] if cls else []
        first = np.concatenate([*first, p["stem_registers"]] if encoder.registers else first)
        tokens = np.concatenate([np.broadcast_to(first, (b, *first.shape)), tokens], 1)
        present = np.concatenate([np.ones((b, before), bool), present], 1)
    kind = {"eps": encoder.eps, "gelu": encoder.gelu, "swiglu": encoder.swiglu}
    last, before_norm = p[f"stage{encoder.depth}_norm"], []
    for k in range(1, encoder.depth + 1):
        tokens = block(p[f"stage{k}_block"], tokens, encoder.heads, present, **kind)
        before_norm.append(tokens[:, 0])
        if k == encoder.depth and not encoder.norm_after_pool:
            tokens = norm(last, tokens, encoder.eps)
        out[f"stage{k}"] = tokens[:, before:]
    if cls:
        out["cls"] = tokens[:, 0]
        four = [norm(last, a, encoder.eps) for a in before_norm[-4:]]
        out[f"cls_last{len(four)}"] = np.concatenate(four, 1)
    rows = zip(tokens[:, before:], present[:, before:], strict=True)
    mean = np.stack([row[there].mean(0) for row, there in rows])
    pooled = {"mean": [mean], "cls": [tokens[:, 0]], "cls_mean": [tokens[:, 0], mean]}[encoder.pool]
    pooled = np.concatenate(pooled, 1)
    out["mean"] = norm(last, mean, encoder.eps) if encoder.norm_after_pool else mean
    return out | {"features": norm(last, pooled, encoder.eps) if encoder.norm_after_pool else pooled}


def predict(p, x, context, asked, grid, heads):
    """Tokens of the patches numbered ``asked [t]``, from ``x [k, d]``, the tokens of those numbered ``context [k]``."""
    table = positions(grid, len(p["mask_token"]))
    tokens = np.concatenate([dense(p["embed"], x) + table[context], p["mask_token"] + table[asked]])[None]
    for k in range(1, 1 + sum(name.startswith("block") for name in p)):
        tokens = block(p[f"block{k}"], tokens, heads, np.ones(tokens.shape[:2], bool))
    return dense(p["out"], norm(p["norm"], tokens[0, len(context) :]))
