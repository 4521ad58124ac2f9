"""Projection and prediction heads: one multi-layer perceptron and the forms the papers give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ssl_jax.models.norm import BatchNorm, LayerNorm
from ssl_jax.parallel import named_key, row_keys
from ssl_jax.types import Array, Axis


def zero_bias(fan_in: int) -> Callable[..., Array]:
    """Biases start at zero."""
    return nn.initializers.zeros


def torch_bias(fan_in: int) -> Callable[..., Array]:
    """Biases uniform in +-1/sqrt(fan_in), the default of ``torch.nn.Linear``."""
    limit = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


# Uniform in +-1/sqrt(fan_in): the default weights of torch.nn.Linear.
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Truncated normal of standard deviation 1/sqrt(fan_in): the default weights of flax's Dense, and of TensorFlow's
# variance_scaling_initializer.
lecun_kernel = nn.initializers.lecun_normal()
# A normal of standard deviation 1/sqrt(fan_in) cut at twice that, which leaves .8796/sqrt(fan_in) and is not corrected
# for it: the default weights of haiku's Linear and Conv2D.
haiku_kernel = nn.initializers.variance_scaling(0.87962566103423978**2, "fan_in", "truncated_normal")
KERNEL_INITS = {"lecun": lecun_kernel, "haiku": haiku_kernel}


def exact_gelu(x: Array) -> Array:
    """GELU itself, not the approximation by tanh that is JAX's default."""
    return jax.nn.gelu(x, approximate=False)


class MLP(nn.Module):
    """``[b, d] -> [b, sizes[-1]]``: Dense, norm, activation for each size but the last, Dense, optional norm for that.

    Called ``(x, train=bool, axis=None | "data")`` like every module here.

    Attributes:
      sizes: output width of every Dense.
      hidden_bias, out_bias: whether the hidden and the last Dense have a bias.
      hidden_norm: whether ``norm`` follows each hidden Dense.
      out_norm: None, or the keywords of the ``norm`` after the last Dense, e.g. ``{"use_bias": False}``.
      activation: after each hidden Dense and its norm.
      unit: whether what comes out is scaled to length 1.
      kernel_init: initializer of the weights.
      bias_init: ``fan_in -> initializer`` of the biases.
      norm: makes the normalisation; MoCo passes one with groups.
      dtype: of the computation; default: that of input and parameters. Parameters stay float32.
    """

    sizes: tuple[int, ...]
    hidden_bias: bool = True
    hidden_norm: bool = True
    out_bias: bool = True
    out_norm: Any = None
    activation: Callable[[Array], Array] = nn.relu
    unit: bool = False
    kernel_init: Callable[..., Array] = lecun_kernel
    bias_init: Callable[[int], Callable[..., Array]] = zero_bias
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        if min(self.sizes) < 1:
            raise ValueError(f"a head of widths {', '.join(map(str, self.sizes))}: each must be 1 or more")
        for i, size in enumerate(self.sizes):
            last = i == len(self.sizes) - 1
            x = nn.Dense(
                size,
                use_bias=self.out_bias if last else self.hidden_bias,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init(x.shape[-1]),
                dtype=self.dtype,
                name=f"dense{i}",
            )(x)
            if not last:
                if self.hidden_norm:
                    x = self.norm(name=f"norm{i}")(x, train=train, axis=axis)
                x = self.activation(x)
            elif self.out_norm is not None:
                x = self.norm(**dict(self.out_norm), name=f"norm{i}")(x, train=train, axis=axis)
        return _unit(x, -1) if self.unit else x


def _unit(x: Array, dim: int) -> Array:
    """``x`` with vectors of length 1 along ``dim``, computed in float32 or better; of zeros there stay zeros."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    return (wide * lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, dim, keepdims=True), 1e-24))).astype(x.dtype)


class WeightNormDense(nn.Module):
    """``[..., d] -> [..., features]``, ``y_k = g_k x . v_k / |v_k|``: a weight-normalised Dense without bias.

    With x of length 1 and g = 1 every y_k is a cosine, in [-1, 1]; the length of v_k changes nothing.

    Attributes:
      features: K, how many vectors v_k there are.
      learned_scale: whether g is a parameter, which starts at 1, or is 1 for good.
      dtype: of the factors; weights are normalised, and the product comes out, in float32 or better.

    Reference: Salimans and Kingma 2016, equation 2 (arXiv:1602.07868).
    """

    features: int
    learned_scale: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        weights = _unit(self.param("v", torch_kernel, (x.shape[-1], self.features), jnp.float32), 0)
        if self.learned_scale:
            g = self.param("g", nn.initializers.ones, (self.features,), jnp.float32)
            weights = weights * g[None].astype(weights.dtype)
        wide = np.promote_types(x.dtype, weights.dtype)
        x, weights = (a.astype(wide if self.dtype is None else self.dtype) for a in (x, weights))
        return jnp.matmul(x, weights, preferred_element_type=wide)


def simclr_projector(
    dim: int,
    *,
    num_layers: int = 2,
    out_dim: int = 128,
    hidden: int | None = None,
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: Any = None,
) -> MLP:
    """SimCLR's projector: (Dense, BN, ReLU) x (num_layers - 1), Dense, BN with scale only; no Dense has a bias.

    Args:
      dim: width of the encoder's features, and of the hidden layers unless ``hidden`` says otherwise.
      num_layers: 2 in SimCLR v1, 3 in v2.
      out_dim: width of the projection.

    Returns:
      A module ``[b, dim] -> [b, out_dim]``; weights start from N(0, 0.01^2).

    Reference: Chen et al. 2020 (SimCLR), section 4.2, and Chen et al. 2020 (SimCLR v2), section 2; the last BatchNorm
    is in the official code and not in the papers.
    """
    sizes = (hidden or dim,) * (num_layers - 1) + (out_dim,)
    return MLP(
        sizes,
        hidden_bias=False,
        out_bias=False,
        out_norm=(("use_bias", False),),
        kernel_init=nn.initializers.normal(0.01),
        norm=norm,
        dtype=dtype,
    )


def byol_mlp(
    *,
    hidden: int = 4096,
    out_dim: int = 256,
    init: str = "lecun",
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: Any = None,
) -> MLP:
    """BYOL's projector and predictor: Dense, BN, ReLU, Dense without bias; nothing after it.

    Args:
      init: of the weights: "lecun" or, as in BYOL's code, "haiku", see ``KERNEL_INITS``.

    Reference: Grill et al. 2020 (BYOL), section 3.3 and appendix C.
    """
    return MLP((hidden, out_dim), out_bias=False, kernel_init=KERNEL_INITS[init], norm=norm, dtype=dtype)


def barlow_projector(
    *,
    num_layers: int = 3,
    hidden: int | None = None,
    out_dim: int = 8192,
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: Any = None,
) -> MLP:
    """Barlow Twins' projector and VICReg's expander: (Dense, BN, ReLU) x (num_layers - 1), Dense; no Dense has a bias.

    Args:
      num_layers: Dense layers.
      hidden: width of the hidden layers; None: ``out_dim``.
      out_dim: width of the projection.

    Reference: Zbontar et al. 2021 (Barlow Twins), section 3; Bardes et al. 2022 (VICReg), section 4.2, whose hidden
    layers have biases in the code, which the BatchNorm behind each takes away again.
    """
    if num_layers < 1:
        raise ValueError(f"method.projector_layers={num_layers} must be 1 or more; the papers have 3")
    sizes = (hidden or out_dim,) * (num_layers - 1) + (out_dim,)
    return MLP(sizes, hidden_bias=False, out_bias=False, kernel_init=torch_kernel, norm=norm, dtype=dtype)


def moco_projector(dim: int, *, version: int = 2, out_dim: int = 128, dtype: Any = None) -> MLP:
    """MoCo's head: v1 one Dense, v2 Dense, ReLU, Dense; with biases, without normalisation, torch's initial values.

    Args:
      dim: width of the encoder's features and of v2's hidden layer.
      version: 1 or 2.
      out_dim: width of the projection.

    Reference: He et al. 2020 (MoCo), section 3.3; Chen et al. 2020 (MoCo v2), section 2.
    """
    if version not in (1, 2):
        raise ValueError(f"moco_projector version={version} is unknown; use 1 or 2")
    sizes = (out_dim,) if version == 1 else (dim, out_dim)
    return MLP(sizes, hidden_norm=False, kernel_init=torch_kernel, bias_init=torch_bias, dtype=dtype)


def dino_head(
    out_dim: int = 65536,
    *,
    layers: int = 3,
    hidden: int = 2048,
    bottleneck: int = 256,
    hidden_norm: bool = False,
    learned_scale: bool = False,
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: Any = None,
) -> dict[str, nn.Module]:
    """DINO's head in two parts: an MLP with GELU to a bottleneck of length 1, and its product with K prototypes.

    Args:
      out_dim: K.
      layers: Dense layers before the prototypes, the one to the bottleneck included.
      hidden: width of the others.
      bottleneck: width of what is scaled to length 1.
      hidden_norm: whether BatchNorm stands before each GELU.
      learned_scale: whether the prototypes have a learned length each (the paper's ViT-S), or length 1.

    Returns:
      ``{"projector": [b, d] -> [b, bottleneck], "last_layer": [b, bottleneck] -> [b, K]}``.

    Reference: Caron et al. 2021 (DINO, arXiv:2104.14294), section 3.1 and appendix C; weights as in its code: normal of
    deviation .02 and zero biases, the prototypes as torch begins a Linear.
    """
    projector = MLP(
        (hidden,) * (layers - 1) + (bottleneck,),
        hidden_norm=hidden_norm,
        activation=exact_gelu,
        unit=True,
        kernel_init=nn.initializers.normal(0.02),
        norm=norm,
        dtype=dtype,
    )
    return {"projector": projector, "last_layer": WeightNormDense(out_dim, learned_scale, dtype)}


NOT_AFFINE = (("use_bias", False), ("use_scale", False))  # keywords of a BatchNorm that only normalises


def moco_v3_mlp(
    num_layers: int,
    *,
    hidden: int = 4096,
    out_dim: int = 256,
    out_norm: bool = True,
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: Any = None,
) -> MLP:
    """MoCo v3's projector and predictor: (Dense, BN, ReLU) x (num_layers - 1), Dense, BN without scale and bias.

    No Dense has a bias; weights start as torch's do.

    Args:
      num_layers: 2; the projector of a ViT has 3.
      out_norm: whether the last BN is there; the predictor of a ResNet has none.

    Reference: Chen et al. 2021 (MoCo v3), section 3 and appendix.
    """
    sizes = (hidden,) * (num_layers - 1) + (out_dim,)
    return MLP(
        sizes,
        hidden_bias=False,
        out_bias=False,
        out_norm=NOT_AFFINE if out_norm else None,
        kernel_init=torch_kernel,
        norm=norm,
        dtype=dtype,
    )


def linear(out_dim: int, *, use_bias: bool = True, init: float | None = None, dtype: Any = None) -> MLP:
    """One Dense layer, e.g. a classifier; its bias starts at zero.

    Args:
      init: standard deviation of the normal that its weights start from, 0 for zeros; None: truncated normal,
        1/sqrt(fan_in).
    """
    kernel_init = lecun_kernel if init is None else nn.initializers.normal(init)
    return MLP((out_dim,), out_bias=use_bias, kernel_init=kernel_init, dtype=dtype)


class Classifier(nn.Module):
    """``[b, d] -> [b, classes]``: before each Dense BatchNorm and dropout, between them ReLU.

    Called with ``key=`` of the step for dropout; without it nothing is dropped.

    Attributes:
      sizes: width of the hidden layers, and classes.
      dropout: of what goes into each Dense.
      last_init: standard deviation of the last weights, 0 for zeros; None: truncated normal, 1/sqrt(fan_in).

    Reference: Howard and Ruder 2018 (ULMFiT), section 3.3.
    """

    sizes: tuple[int, ...]
    dropout: tuple[float, ...]
    last_init: float | None = None
    norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None, key: Array | None = None) -> Array:
        if len(self.dropout) != len(self.sizes) or not all(0 <= rate < 1 for rate in self.dropout):
            raise ValueError(f"method.head_dropout={self.dropout} must be {len(self.sizes)} numbers in [0, 1)")
        last = lecun_kernel if self.last_init is None else nn.initializers.normal(self.last_init)
        for i, (size, rate) in enumerate(zip(self.sizes, self.dropout, strict=True)):
            x = self.norm(name=f"norm{i}")(x, train=train, axis=axis)
            if train and key is not None and rate:
                keys = row_keys(named_key(key, f"dropout{i}"), x.shape[0], axis)
                kept = jax.vmap(lambda k, rate=rate, shape=x.shape[1:]: jax.random.bernoulli(k, 1 - rate, shape))(keys)
                x = jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
            end = i == len(self.sizes) - 1
            x = nn.Dense(size, kernel_init=last if end else lecun_kernel, name=f"dense{i}")(x)
            x = x if end else nn.relu(x)
        return x


class TiedDecoder(nn.Module):
    """``x E^T + b``: logits of tokens by the rows of the encoder's embedding E ``[vocab, w]``; b starts at zero."""

    vocab: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None, table: Array | None = None) -> Array:
        bias = self.param("bias", nn.initializers.zeros_init(), (self.vocab,), jnp.float32).astype(x.dtype)
        logits = bias if table is None else x @ table.astype(x.dtype).T + bias[None, None]
        return jnp.broadcast_to(logits, (*x.shape[:-1], self.vocab))


class WordTransform(nn.Module):
    """Dense, GELU (the exact one) and LayerNorm, of the same width: what BERT puts before its decoder of words."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        x = nn.Dense(x.shape[-1], kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, name="dense")(x)
        return LayerNorm(eps=1e-12, dtype=self.dtype, name="norm")(jax.nn.gelu(x, approximate=False))


class NextSentence(nn.Module):
    """``[b, w] -> [b, 2]``: Dense and tanh of the same width (BERT's pooler), then the logits of two answers."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        init = nn.initializers.normal(0.02)
        x = jnp.tanh(nn.Dense(x.shape[-1], kernel_init=init, dtype=self.dtype, name="pooler")(x))
        return nn.Dense(2, kernel_init=init, dtype=self.dtype, name="logits")(x)


class ShortcutMLP(nn.Module):
    """``[..., d] -> [..., size]``: Dense, ReLU, Dense, beside them one Dense, and of the sum maybe the LayerNorm.

    Attributes:
      size: of the hidden layer and of what comes out.
      layer_norm: whether there is one at the end.

    Reference: Hjelm et al. 2019 (Deep InfoMax), appendix, what is embedded before an inner product scores it.
    """

    size: int
    layer_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> Array:
        def dense(name: str) -> nn.Dense:
            return nn.Dense(self.size, kernel_init=lecun_kernel, dtype=self.dtype, name=name)

        y = dense("dense1")(nn.relu(dense("dense0")(x))) + dense("shortcut")(x)
        return LayerNorm(dtype=self.dtype, name="norm")(y) if self.layer_norm else y
