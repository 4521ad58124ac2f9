"""Vision transformers, which can be shown a subset of an image's patches, and which hold other people's weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.norm import BatchNorm, LayerNorm
from ssl_jax.models.positions import RULES, resized, sincos_positions
from ssl_jax.models.remat import remat
from ssl_jax.models.transformer import Block, branch_scales, mean_token, residual_std
from ssl_jax.types import Array, Axis

PATCH_INITS = {"glorot": nn.initializers.xavier_uniform(), "normal": nn.initializers.normal(0.02)}
POSITIONS = ("sincos", "moco_v3", "learned", "learned_patches")
POOLS = ("mean", "cls", "cls_mean")
MAX_STAGES = 4  # so many blocks' outputs are returned, equally spaced, the last among them


def patchify(images: Array, size: int) -> Array:
    """``[b, h, w, c] -> [b, n, size * size * c]``: patches row by row, in each its pixels row by row."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, size * size * c)


def unpatchify(patches: Array, grid: tuple[int, int], size: int) -> Array:
    """The inverse of :func:`patchify`; ``grid`` is the number of patches down and across."""
    b = patches.shape[0]
    x = patches.reshape(b, *grid, size, size, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, grid[0] * size, grid[1] * size, -1)


class ViT(nn.Module):
    """Vision transformer without its classifier. A stage is a block: ``stage3`` is what the third block gives.

    Attributes:
      patch_size: side of a patch in pixels; images must be a multiple of it.
      width, depth, heads: of tokens, blocks, and attention.
      mlp_ratio: width of a block's hidden layer over ``width``.
      cls_token: put a learned token before the patches.
      drop_path: probability with which the last block's branches are left out for an example; 0 for the first block,
        linear between. Training then needs ``keys``.
      depth_scaled_init: smaller first weights in deeper blocks, see :func:`residual_std`.
      patch_init: of the weights that embed patches: "glorot" (uniform; MAE, MoCo v3) or "normal" (deviation .02;
        I-JEPA, DeiT, DINO).
      positions: "sincos" (fixed, of the column first: MAE, I-JEPA), "moco_v3" (fixed, of the row first), "learned" (a
        table of the patches, behind a row of the class token where there is one), or "learned_patches" (the class
        token has none: big_vision, timm's networks with registers). Registers have none.
      positions_rule: how a learned table is made to fit images of another size, "dino", "dinov2", "timm",
        "transformers", "torchvision" or "big_vision", see :func:`~ssl_jax.models.positions.resize_weights`.
      positions_grid: patches along a side of the learned table; None: as many as the images have that the network is
        made with.
      registers: how many learned tokens stand behind the class token, which nothing returns.
      layer_scale, gelu, swiglu: of the blocks, see :class:`Block`.
      eps: of the norms, 1e-6 in all of these projects; transformers' own ViTs have 1e-12.
      pool: what "features" is: "mean" of the patches, "cls" (the class token), or "cls_mean", the two one behind the
        other (DINOv2's linear classifiers).
      norm_after_pool: the last norm is of what is pooled, and the last stage has none (a fine-tuned MAE's ``fc_norm``).
      norm: what methods make their heads with; the network itself has only LayerNorm.
      last_blocks: of so many last blocks the class tokens are returned together; DINO's and iBOT's linear classifiers
        read 4, LeJEPA's 2.
      frozen_stages: what runs in inference mode even with ``train`` (no drop-path): 0 or 1 nothing or the stem, k + 1
        stem and blocks 1 to k.
      remat: what the backward pass computes again, see ``remat.py``.
      dtype: of the computation, e.g. bfloat16; parameters, LayerNorm's statistics and the softmax stay float32.

    Called ``(x [b, h, w, c], train=bool, axis=None | "data")`` and, if wanted, with

    - patches: ``[b, t]`` int32 numbers, row by row, of the patches the network sees; others are not even embedded.
    - present: ``[b, t]`` bool, False for a token that fills the row up: no other token sees it.
    - masked: ``[b, t]`` bool, True for a patch whose embedding is replaced by one learned token before its position is
      added (iBOT, DINOv2). The token, ``stem_mask``, is there if the network was made with ``masked``.
    - keys: ``[b]`` a key for every example (``parallel.row_keys``), for drop-path.

    Returns ``{"stem", "stageK": [b, h, w, width], "features": [b, dim]}`` for up to four K, equally spaced, or with
    ``patches`` tokens ``[b, t, width]``. The last stage has the final LayerNorm behind it. Besides, whatever
    ``"features"`` is, and all in float32 or better: ``"mean"`` of the last stage's tokens that are present
    (``norm_after_pool``: the norm of their mean); with a class token ``"cls"``, as the last stage has it, and
    ``"cls_last4"`` ``[b, 4 width]``, the final norm of what it is after each of the last four blocks (``last_blocks``),
    the last one last. A network of fewer blocks gives them all, e.g. as ``"cls_last2"``.

    Raises:
      ValueError: sizes that do not fit; drop-path without keys.

    Reference: Dosovitskiy et al. 2021 (arXiv:2010.11929), table 1; Ti and S: Touvron et al. 2021 (DeiT), table 1.
    Registers: Darcet et al. 2024 (arXiv:2309.16588). Differs from the reference code: positions are fixed and added to
    patches only, by default; normals are not truncated.
    """

    patch_size: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    cls_token: bool = False
    drop_path: float = 0.0
    depth_scaled_init: bool = False
    patch_init: str = "glorot"
    positions: str = "sincos"
    positions_rule: str = "dino"
    positions_grid: int | None = None
    registers: int = 0
    layer_scale: float | None = None
    gelu: str = "exact"
    swiglu: bool = False
    eps: float = 1e-6
    pool: str = "mean"
    norm_after_pool: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    last_blocks: int = 4
    frozen_stages: int = 0
    remat: str | None = None
    dtype: Any = None

    @property
    def dim(self) -> int:
        """Width of ``"features"``."""
        return self.width * (2 if self.pool == "cls_mean" else 1)

    @property
    def stages(self) -> int:
        """Number of blocks."""
        return self.depth

    @property
    def last_stage(self) -> str:
        """Name of the output that holds the last block's tokens, normalised."""
        return f"stage{self.depth}"

    @property
    def label(self) -> str:
        """What an error message calls this encoder."""
        return f"vit of {self.depth} blocks with patches of {self.patch_size} pixels"

    @property
    def min_size(self) -> int:
        """One patch."""
        return self.patch_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across an image; ValueError if there is no whole number of them."""
        size = self.patch_size
        if size < 1 or height % size or width % size:
            raise ValueError(
                f"model.patch_size={size} does not cut images of {height} x {width} pixels into whole patches; "
                "use a divisor, or another data.image_size"
            )
        return height // size, width // size

    def _check(self) -> None:
        if self.depth < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"model.depth={self.depth}, width={self.width}, heads={self.heads} make no transformer; "
                "use at least one block, and heads that divide the width"
            )
        if self.last_blocks < 1:
            raise ValueError(f"model.last_blocks={self.last_blocks} must be 1 or more; DINO's classifiers read 4")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"model.drop_path={self.drop_path} must be in [0, 1); DeiT uses 0.1")
        known = {"patch_init": PATCH_INITS, "positions": POSITIONS, "positions_rule": RULES, "pool": POOLS}
        for field, values in (known | {"gelu": ("exact", "tanh")}).items():
            if getattr(self, field) not in values:
                raise ValueError(f"model.{field}={getattr(self, field)!r} is not one of {', '.join(values)}")
        if self.pool != "mean" and not self.cls_token:
            raise ValueError(f"model.pool={self.pool!r} takes a class token; add model.cls_token=True, or pool='mean'")
        if self.pool == "cls_mean" and self.norm_after_pool:
            raise ValueError("model.norm_after_pool=True is of pool='mean' or 'cls'; leave it, or pool one of the two")

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool,
        axis: Axis = None,
        patches: Array | None = None,
        present: Array | None = None,
        masked: Array | None = None,
        keys: Array | None = None,
    ) -> dict[str, Array]:
        self._check()
        grid = self.grid(*x.shape[1:3])
        if train and self.drop_path and keys is None and not self.is_initializing():
            raise ValueError(f"model.drop_path={self.drop_path} needs keys and this method gives none; use drop_path=0")
        positions, of_cls = self._positions(grid, x.dtype)
        x = patchify(x, self.patch_size)
        positions = jnp.broadcast_to(positions[None], (*x.shape[:2], self.width))
        if patches is not None:
            x, positions = (jnp.take_along_axis(a, patches[:, :, None], axis=1) for a in (x, positions))
        init = PATCH_INITS[self.patch_init]
        x = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="stem_patches")(x)
        if masked is not None:
            token = self.param("stem_mask", nn.initializers.zeros, (self.width,), jnp.float32)
            x = jnp.where(masked[:, :, None], token.astype(x.dtype)[None, None], x)
        x = x + positions.astype(x.dtype)

        before = self.registers + (1 if self.cls_token else 0)  # tokens that stand before the patches

        def tokens(x: Array) -> Array:
            x = x[:, before:] if before else x
            return x if patches is not None else x.reshape(x.shape[0], *grid, self.width)

        seen = present
        if self.registers:
            normal, shape = nn.initializers.normal(1e-6), (self.registers, self.width)  # as DINOv2 starts them
            registers = self.param("stem_registers", normal, shape, jnp.float32).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(registers[None], (x.shape[0], *shape)), x], axis=1)
        if self.cls_token:
            cls = self.param("stem_cls", nn.initializers.normal(0.02), (self.width,), jnp.float32)
            cls = (cls if of_cls is None else cls + of_cls.astype(cls.dtype)).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls[None, None], (x.shape[0], 1, self.width)), x], axis=1)
        if before and present is not None:
            seen = jnp.pad(present, ((0, 0), (before, 0)), constant_values=True)
        outputs = {"stem": tokens(x)}
        shown = {-(-i * self.depth // MAX_STAGES) for i in range(1, MAX_STAGES + 1)}
        block = remat(Block, self.remat)
        norm = LayerNorm(self.eps, self.dtype, name=f"stage{self.depth}_norm")
        last_cls = []
        for k in range(1, self.depth + 1):
            rate = self.drop_path * (k - 1) / max(self.depth - 1, 1)
            drops = train and rate > 0 and k >= self.frozen_stages
            scale = branch_scales(keys, k, rate) if drops and keys is not None else None
            std = residual_std(k, self.depth_scaled_init)
            kind = {"eps": self.eps, "gelu": self.gelu, "swiglu": self.swiglu, "layer_scale": self.layer_scale}
            x = block(self.heads, self.mlp_ratio, std, self.dtype, **kind, name=f"stage{k}_block")(x, seen, scale)
            if self.cls_token and k > self.depth - self.last_blocks:
                last_cls.append(x[:, 0])
            if k == self.depth and not self.norm_after_pool:
                x = norm(x)
            if k in shown:
                outputs[f"stage{k}"] = tokens(x)
        exact = np.promote_types(x.dtype, np.float32)
        mean, cls = mean_token(x[:, before:] if before else x, present), x[:, 0].astype(exact)
        features = {"mean": mean, "cls": cls, "cls_mean": jnp.concatenate([cls, mean], axis=1)}[self.pool]
        outputs["mean"] = mean
        if self.norm_after_pool:
            features, outputs["mean"] = (norm(a).astype(exact) for a in (features, mean))
        if self.cls_token:
            last = norm(jnp.stack(last_cls, axis=1)).astype(exact)
            outputs |= {"cls": cls, f"cls_last{len(last_cls)}": last.reshape(x.shape[0], -1)}
        return outputs | {"features": features}

    def _positions(self, grid: tuple[int, int], dtype: Any) -> tuple[Array, Array | None]:
        """Positions of all patches ``[n, width]``, and that of the class token where it has one."""
        if self.positions in ("sincos", "moco_v3"):
            return jnp.asarray(sincos_positions(grid, self.width, row_first=self.positions == "moco_v3"), dtype), None
        with_cls = self.cls_token and self.positions == "learned"
        if self.has_variable("params", "stem_positions"):  # of any size: learned on images of another one
            rows = self.get_variable("params", "stem_positions").shape[0]
        else:
            sides = grid if self.positions_grid is None else (self.positions_grid,) * 2
            if sides[0] != sides[1]:
                raise ValueError(
                    f"learned positions want a square, and the images have {grid[0]} x {grid[1]} patches; set "
                    f"model.positions_grid={max(grid)}"
                )
            rows = sides[0] ** 2 + with_cls
        table = self.param("stem_positions", nn.initializers.normal(0.02), (rows, self.width), jnp.float32)
        of_cls, table = (table[0], table[1:]) if with_cls else (None, table)
        return resized(table, grid, self.positions_rule, registers=self.registers > 0), of_cls


class Predictor(nn.Module):
    """What a block of hidden patches would be, from tokens of patches that were seen: a narrow transformer.

    Called ``(x [b, k, d], context [b, k], present [b, k], targets [b, m, t], wanted [b, m, t], train=, axis=)`` with
    ``x`` the tokens of the patches numbered ``context``, and ``targets`` the numbers of the patches of m blocks;
    ``present`` and ``wanted`` are False for what fills the rows up. Each block is predicted by itself: its places, all
    holding one learned token and their positions, attend to the context and to each other.

    Attributes:
      out_dim: of the predicted tokens.
      grid: patches down and across the image.
      width, depth, heads: of this transformer.
      depth_scaled_init: as in ``ViT``.

    Returns ``[b, m, t, out_dim]``, float32 or better.

    Reference: Assran et al. 2023 (I-JEPA, arXiv:2301.08243), section 3 and appendix A.1.
    """

    out_dim: int
    grid: tuple[int, int]
    width: int = 384
    depth: int = 12
    heads: int = 12
    depth_scaled_init: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        context: Array,
        present: Array,
        targets: Array,
        wanted: Array,
        train: bool,
        axis: Axis = None,
    ) -> Array:
        b, m, t = targets.shape
        dense = partial(nn.Dense, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype)
        x = dense(self.width, name="embed")(x)
        positions = jnp.asarray(sincos_positions(self.grid, self.width), x.dtype)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,), jnp.float32)
        x = x + positions[context]
        asked = mask_token.astype(x.dtype)[None, None, None] + positions[targets]
        x, present = (jnp.broadcast_to(a[:, None], (b, m, *a.shape[1:])) for a in (x, present))
        x = jnp.concatenate([x, asked], axis=2).reshape(b * m, -1, self.width)
        seen = jnp.concatenate([present, wanted], axis=2).reshape(b * m, -1)
        for k in range(1, self.depth + 1):
            std = residual_std(k, self.depth_scaled_init)
            x = Block(self.heads, residual_std=std, dtype=self.dtype, name=f"block{k}")(x, seen)
        x = LayerNorm(dtype=self.dtype, name="norm")(x[:, -t:])
        x = dense(self.out_dim, name="out")(x).reshape(b, m, t, self.out_dim)
        return x.astype(np.promote_types(x.dtype, np.float32))


class PatchDecoder(nn.Module):
    """The pixels of every patch, from tokens of those that were seen: a narrow transformer (MAE's decoder).

    Called ``(x [b, k, d], restore [b, n], cls [b, d] = None, train=, axis=)``: the k tokens of an image,
    and behind them one learned token for each of the n - k patches that were not seen, go to the places where they
    belong, ``restore``, and get their positions; the class token, where there is one, stands before them and has none.

    Attributes:
      out_dim: numbers in a patch, ``size * size * c``.
      grid: patches down and across the image.
      width, depth, heads: of this transformer.

    Returns ``[b, n, out_dim]``, float32 or better.

    Reference: He et al. 2022 (MAE, arXiv:2111.06377), section 3 and appendix A.1. Differs from the reference code:
    weights of the blocks start at a deviation of .02, and not uniform after Glorot.
    """

    out_dim: int
    grid: tuple[int, int]
    width: int = 512
    depth: int = 8
    heads: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, restore: Array, cls: Array | None = None, train: bool, axis: Axis = None) -> Array:
        dense = partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)
        before = 0 if cls is None else 1
        seen = x if cls is None else jnp.concatenate([cls[:, None].astype(x.dtype), x], axis=1)
        seen = dense(self.width, name="embed")(seen)
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,), jnp.float32)
        hidden = (x.shape[0], restore.shape[1] - x.shape[1], self.width)
        hidden = jnp.broadcast_to(token.astype(seen.dtype)[None, None], hidden)
        y = jnp.concatenate([seen[:, before:], hidden], axis=1)
        y = jnp.take_along_axis(y, restore[:, :, None], axis=1)
        y = y + jnp.asarray(sincos_positions(self.grid, self.width), y.dtype)[None]
        y = jnp.concatenate([seen[:, :before], y], axis=1)
        for k in range(1, self.depth + 1):
            y = Block(self.heads, dtype=self.dtype, name=f"block{k}")(y)
        y = dense(self.out_dim, name="out")(LayerNorm(dtype=self.dtype, name="norm")(y[:, before:]))
        return y.astype(np.promote_types(y.dtype, np.float32))
