"""Two encoders of half the width side by side, neither of which sees what the other sees."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.resnet import ResNet
from ssl_jax.types import Array, Axis

FIRST, SECOND = "first", "second"  # names of the halves in the parameters


class Split(nn.Module):
    """One half sees the first channel three times, the other the two further channels and a third of zeros.

    Attributes:
      half: the encoder that both halves are copies of, see :func:`half_width`; its parameters are not shared.

    Called ``(x [b, h, w, 3], train=bool, axis=None | "data")``. Returns the stages of ``half``, every one the maps of
    the first half and then of the second along the channels; :func:`halves` takes them apart again.

    Reference: Zhang et al., "Split-Brain Autoencoders", 2017, section 3.2 (arXiv:1611.09842).
    """

    half: nn.Module

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        seen = {FIRST: jnp.repeat(x[..., :1], 3, axis=-1), SECOND: jnp.pad(x[..., 1:], [(0, 0)] * 3 + [(0, 1)])}
        outputs = [self.half.copy(name=name)(part, train=train, axis=axis) for name, part in seen.items()]
        return {name: jnp.concatenate([o[name] for o in outputs], axis=-1) for name in outputs[0]}


def halves(x: Array) -> tuple[Array, Array]:
    """What each half gave of an output of :class:`Split`."""
    middle = x.shape[-1] // 2
    return x[..., :middle], x[..., middle:]


def half_width(encoder: nn.Module) -> nn.Module:
    """The same encoder with half the channels everywhere: a quarter of the weights, so two have half of them.

    Raises:
      ValueError: an odd number of channels, or an encoder for which half the channels is no other setting.
    """
    if isinstance(encoder, ResNet):
        channels, half = (64 * encoder.width,), encoder.clone(width=encoder.width / 2)
    elif isinstance(encoder, ConvNet):
        channels = encoder.widths if encoder.stem_width is None else (encoder.stem_width, *encoder.widths)
        stem = None if encoder.stem_width is None else encoder.stem_width // 2
        half = encoder.clone(widths=tuple(w // 2 for w in encoder.widths), stem_width=stem)
    else:
        raise ValueError(f"{encoder.label} cannot be split into two of half the width; use a convnet or a resnet")
    if any(c % 2 for c in channels):
        raise ValueError(f"{encoder.label} has {', '.join(f'{c:g}' for c in channels)} channels; use even numbers")
    return half
