"""Encoders of one's own: a plain module made into one, and what an encoder lacks, all of it at once."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError

from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.pool import global_pool
from ssl_jax.names import said_of
from ssl_jax.types import Array, Axis

# What every encoder has, and how a line of its class gives it; DIM is filled in where it is known.
ATTRIBUTES = {
    "stages": "stages = 1",
    "dim": "dim = DIM",
    "label": "label = 'NAME'",
    "min_size": "min_size = 1",
    "norm": "norm: Any = ssl_jax.models.BatchNorm",
    "frozen_stages": "frozen_stages: int = 0",
    "dtype": "dtype: Any = None",
}
_TRAIN = ("train", "training", "is_training")  # how modules call it, beside Flax's deterministic, its opposite


_HANDED: dict[str, nn.Module] = {}  # modules that this process was given from Python, by the name that runs record


def hand_over(module: nn.Module) -> str:
    """The ``model.name`` of a module that lies in no file: ``given:NAME:DIGEST``, of its class and what it prints as.

    From now on every lookup of that name in this process finds it, so that the run can be opened, evaluated and tuned.

    Raises:
      ValueError: it is no encoder; says what it lacks.
    """
    check_encoder(module, f"given:{type(module).__name__}")
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # where functions lie differs between processes
    label = re.sub(r"\W", "_", str(getattr(module, "label", type(module).__name__)))
    name = f"given:{label}:{hashlib.sha256(shown.encode()).hexdigest()[:8]}"
    _HANDED[name] = module
    return name


def hand_back(module: nn.Module, name: str, run: Any) -> None:
    """Hand a module over for a run that is there already.

    Args:
      name: the run's own ``model.name``.
      run: what messages call it.

    Raises:
      ValueError: it is no encoder, or not the one that the run was made with.
    """
    handed = hand_over(module)
    if handed == name:
        return
    fix = "hand over the one that it was made with" if is_given(name) else "leave encoder= out"
    raise ValueError(f"{run} was made with model.name={name!r} and encoder= is {handed!r}; {fix}")


def is_given(name: str) -> bool:
    """Whether a ``model.name`` means a module that was handed over from Python."""
    return name.startswith("given:")


def given(name: str) -> nn.Module:
    """The module of a name that :func:`hand_over` made.

    Raises:
      ValueError: this process was not given it.
    """
    if name not in _HANDED:
        label = name.split(":")[1]
        raise ValueError(
            f"model.name={name!r} was handed over from Python and lies in no file; hand the same module over again, "
            f"from Python: ssl_jax.load(run, encoder={label}(...)), or pretrain, evaluate, embed with encoder="
        )
    return _HANDED[name]


class FromModule(nn.Module):
    """A plain module ``x -> features`` as an encoder of one stage; see :func:`from_module`."""

    stage1: nn.Module  # of that name, so that rates by depth and freezing know its parameters
    dim: int
    label: str
    min_size: int = 1
    norm: Any = BatchNorm
    frozen_stages: int = 0
    dtype: Any = None

    stages = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis: Axis = None) -> dict[str, Array]:
        if self.dtype is not None and jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(self.dtype)
        train = train and self.frozen_stages < 2
        taken, given = _arguments(self.stage1), {}
        given |= {word: train for word in _TRAIN if word in taken}
        given |= {"deterministic": not train} if "deterministic" in taken else {}
        given |= {"axis": axis} if "axis" in taken else {}
        out = self.stage1(x, **given)
        if axis is not None and train and "axis" not in taken and "batch_stats" in self.variables:
            raise ValueError(
                f"{self.label} has statistics of a batch and takes no axis=, by which it would reach the other devices "
                "of parallel.mode=pmap; use parallel.mode=jit, or ssl_jax.models.BatchNorm()(x, train=train, axis=axis)"
            )
        if isinstance(out, Mapping):
            return dict(out)
        if not hasattr(out, "ndim"):
            raise ValueError(f"it returns a {type(out).__name__}; return one array")
        if out.ndim == 4:
            return {"stage1": out, "features": global_pool(out)}
        return {"stage1": out, "features": global_pool(out[:, None]) if out.ndim == 3 else out}


def from_module(
    module: nn.Module,
    *,
    dim: int,
    label: str | None = None,
    min_size: int = 1,
    norm: Any = BatchNorm,
    dtype: Any = None,
) -> FromModule:
    """An encoder of a plain linen module ``x -> features``, so that every method, probe and evaluation takes it.

    Its parameters count as stage 1 for rates by depth and ``frozen_stages``. Without ``axis`` its statistics of a batch
    are right under jit, on any number of devices, and refused under pmap. What it draws at random (dropout) it must
    draw from a ``key`` of its own, which this wrapper has not; write an :class:`~ssl_jax.models.Encoder` then.

    Args:
      module: called ``module(x)``, with ``train=`` (or ``training=``, ``is_training=``, ``deterministic=``) and
        ``axis=`` where it takes them. It returns ``[b, d]``, a map ``[b, h, w, d]`` or tokens ``[b, t, d]``, which are
        averaged, or what an encoder returns.
      dim: d.
      label: what messages call it; default: the name of its class.
      min_size: the least side of an image in pixels.
      norm: makes the normalisation of heads.
      dtype: of the computation; the module's own parameters stay as they are.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> encoder = from_module(nn.Dense(8), dim=8)
      >>> out, _ = encoder.init_with_output(jax.random.key(0), jnp.ones((2, 5)), train=False)
      >>> {name: a.shape for name, a in out.items()}
      {'features': (2, 8), 'stage1': (2, 8)}

    Raises:
      ValueError: it is no linen module.
    """
    if not isinstance(module, nn.Module):
        kind = module.__name__ if isinstance(module, type) else type(module).__name__
        fix = f"make one, {kind}(...)" if isinstance(module, type) else "wrap it in a flax.linen.Module"
        raise ValueError(f"from_module takes a flax.linen.Module and not {kind}; {fix}")
    label = label or type(module).__name__
    return FromModule(module, dim=dim, label=label, min_size=min_size, norm=norm, dtype=dtype)


def check_encoder(encoder: Any, name: str, inputs: Any = None) -> None:
    """Refuse what is no :class:`ssl_jax.models.Encoder`.

    Args:
      inputs: ``jax.ShapeDtypeStruct`` of a batch, to look at what it returns, too, on shapes alone.

    Raises:
      ValueError: all that is missing, with the lines that add it.
    """
    if not isinstance(encoder, nn.Module):
        kind = f"the class {encoder.__name__}" if isinstance(encoder, type) else f"a {type(encoder).__name__}"
        raise ValueError(
            f"model.name={name!r} gives {kind} and no flax.linen.Module; give one with the attributes "
            f"{', '.join(ATTRIBUTES)}, or ssl_jax.models.from_module(MODULE, dim=DIM) of a plain one"
        )
    if isinstance(encoder, FromModule):  # whose own lines are right
        if inputs is not None:
            _check_wrapped(encoder, name, inputs)
        return
    lacking, lines = [], []
    missing = [word for word in ATTRIBUTES if not hasattr(encoder, word)]
    if missing:
        lacking.append(f"the attribute{'s' * (len(missing) > 1)} {', '.join(missing)}")
    taken = _arguments(encoder)
    words = [word for word in ("train", "axis") if word not in taken]
    if words:
        lacking.append(f"the keyword{'s' * (len(words) > 1)} {' and '.join(f'{word}=' for word in words)} of its call")
        lines.append("def __call__(self, x, *, train, axis=None):")
    width = None
    if inputs is not None:
        wrong, width = _outputs(encoder, name, inputs, None if "dim" in missing else encoder.dim)
        lacking += wrong
        if any("'features'" in one or "'stage1'" in one for one in wrong):
            lines.append('return {"stage1": map, "features": features}')
    if not lacking:
        return
    kind = type(encoder).__name__
    known = {"DIM": "D" if width is None else str(width), "NAME": kind.lower()}
    if missing:
        given = "; ".join(re.sub("DIM|NAME", lambda m: known[m[0]], ATTRIBUTES[word]) for word in missing)
        lines.insert(0, given)
    raise ValueError(
        f"model.name={name!r} is no encoder: it lacks {', '.join(lacking)}; add to {kind}: "
        f"{' | '.join(lines) or 'what it lacks'} (Encoder in ssl_jax/models/__init__.py); or let "
        f"ssl_jax.models.from_module({kind}(...), dim={known['DIM']}) make an encoder of it"
    )


def _arguments(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(module).__call__).parameters


def _check_wrapped(encoder: FromModule, name: str, inputs: Any) -> None:
    """Refuse, in words of the module itself, what :func:`from_module` cannot make an encoder of."""
    said = f"model.name={name!r}: {encoder.label}"
    try:
        found = _trained(encoder, name, inputs)
    except _NotItself as error:
        raise ValueError(f"{said} fails on {list(inputs.shape)} with train=True ({error})") from error.__cause__
    shapes = {word: _shape(a) for word, a in found.items()}
    features = shapes.get("features")
    if features is None or not any(re.fullmatch(r"stage\d+", word) for word in shapes):
        raise ValueError(
            f"{said} returns {shapes}; return one array, [b, d], a map [b, h, w, d] or tokens [b, t, d], or what an "
            'encoder does: {"stage1": map, "features": features}'
        )
    if features != [inputs.shape[0], encoder.dim]:
        if isinstance(features, list) and len(features) == 2 and features[0] == inputs.shape[0]:
            raise ValueError(f"{said}: dim={encoder.dim}, but the module gives {features[1]}; write dim={features[1]}")
        raise ValueError(f"{said} gives features {features} of {list(inputs.shape)}; give [b, d], d={encoder.dim}")


class _NotItself(Exception):
    """What went wrong inside of a user's module, in a line."""


def _trained(encoder: nn.Module, name: str, inputs: Any) -> Any:
    """What an encoder returns in training, as shapes.

    Raises:
      ValueError: it draws at random as Flax does.
      _NotItself: it raises.
    """
    known: dict[str, Any] = {"train": True, "axis": None}
    given = {word: value for word, value in known.items() if word in _arguments(encoder)}

    def call(key, x):
        variables = encoder.init(key, x, **given)
        return encoder.apply(variables, x, **given, mutable=[part for part in variables if part != "params"])[0]

    try:
        return jax.eval_shape(call, jax.random.key(0), inputs)
    except InvalidRngError:  # init has a key for all, and a step has none
        raise ValueError(
            f"model.name={name!r} draws at random as flax.linen.Dropout does, for a whole batch, so that what it "
            "draws would depend on the number of devices; set its rate to 0, or write an encoder that takes key= "
            "and calls ssl_jax.models.transformer.dropout(x, rate, parallel.row_keys(key, len(x), axis), place)"
        ) from None
    except Exception as error:  # whatever it does wrong
        raise _NotItself(said_of(error)) from error


def _shape(value: Any) -> Any:
    return list(value.shape) if hasattr(value, "shape") else type(value).__name__


def _outputs(encoder: nn.Module, name: str, inputs: Any, dim: int | None) -> tuple[list[str], int | None]:
    """(What is wrong with what an encoder returns, the width of its features where that can be seen)."""
    try:
        found = _trained(encoder, name, inputs)
    except _NotItself as error:
        return [f"a call that works on {list(inputs.shape)} with train=True ({error})"], None
    if not isinstance(found, Mapping):
        kind = f"an array {list(found.shape)}" if hasattr(found, "shape") else f"a {type(found).__name__}"
        width = found.shape[-1] if getattr(found, "shape", ()) else None
        return [f"outputs by name, 'features' and 'stage1' (it returns {kind})"], width
    shapes = {word: _shape(a) for word, a in found.items()}
    features = shapes.get("features")
    width = features[-1] if features and isinstance(features, list) else None
    wrong = []
    if features is None or features != [inputs.shape[0], width if dim is None else dim]:
        said = f"it returns {shapes}" if features is None else f"they are {features} for b={inputs.shape[0]}"
        wrong.append(f"'features' of shape [b, {'dim' if dim is None else f'dim={dim}'}] ({said})")
    words = [k for k in shapes if k not in ("features", "rows")]
    if not any(re.fullmatch(r"stage\d+", word) for word in words):
        wrong.append(
            f"stages called 'stage1', 'stage2', ... (beside features it returns {', '.join(words) or 'nothing'})"
        )
    return wrong, width
