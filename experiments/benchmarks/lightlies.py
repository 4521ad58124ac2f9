"""lightly's training of a method in PyTorch, from our initial weights: networks, losses, averages, queue are lightly's.

Heads are lightly's ``ProjectionHead`` with the layers of ours, for its ready-made ones differ in biases; DINO's is its
``DINOProjectionHead``. A loss that is ours times a constant, plus one, is put on our scale, so that one learning rate
means one thing.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.models.convnet import ConvNet
from ssl_jax.types import Plan, Variables


class Peer(NamedTuple):
    """A method in torch.

    Attributes:
      parts: networks by our names, ``"encoder"`` among them.
      weights: our path, ``"encoder/stem_conv/kernel"`` -> the parameter.
      trunk: the encoder that is the product.
      loss: of the two views, normalised ``[b, c, h, w]``.
      before: what comes between the gradient and the optimizer, by step.
      after: what follows the optimizer, by step.
      target: the slow copy of ``parts``, or None.
      held: what else goes from step to step, after the last one, by the names of our ``aux``: centre, queue.
    """

    parts: Any
    weights: dict[str, Any]
    trunk: Any
    loss: Callable[[Any, Any], Any]
    before: Callable[[int], None] = lambda step: None
    after: Callable[[int], None] = lambda step: None
    target: Any = None
    held: Callable[[], dict[str, Any]] = dict

    def target_weights(self) -> dict[str, Any]:
        """``weights`` of the target."""
        names = {id(parameter): name for name, parameter in self.parts.named_parameters()}
        copies = {} if self.target is None else dict(self.target.named_parameters())
        found = {path: copies.get(names[id(parameter)]) for path, parameter in self.weights.items()}
        return {path: parameter for path, parameter in found.items() if parameter is not None}


def available() -> str | None:
    """None, or why lightly cannot be used."""
    try:
        from benchmarks.torches import torchvision

        torchvision()
        importlib.import_module("lightly.loss")
    except Exception as error:  # whatever a library does when it does not fit the machine
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"
    return None


def make(
    name: str, encoder: Any, variables: Variables, arguments: Mapping[str, Any], plan: Plan, *, double=False
) -> Peer:
    """The peer of a method; ``arguments`` are those of our ``make``.

    Args:
      double: float64 throughout.

    Raises:
      ValueError: lightly's counterpart is not written here.
    """
    if name not in METHODS:
        raise ValueError(f"--methods {name} has no counterpart of lightly here; there are {', '.join(METHODS)}")
    import torch
    from torch import nn

    parts, weights = nn.ModuleDict(), {}
    if name == "dino":
        parts["projector"] = _dino_head(variables.params, arguments["norm_last_layer"])
    for part, params in variables.params.items():
        module = "projector" if part == "last_layer" else part
        if module not in parts:
            stats = variables.model_state[part].get("batch_stats", {})
            parts[part] = _convnet(encoder, params) if part == "encoder" else _head(params, stats)
        weights |= _fill(parts[module], part, params)
    if double:
        parts.double()
        for layer in _norms(parts).values():  # before the target becomes a copy
            layer.register_forward_hook(_count)
    kept = {id(parameter) for parameter in weights.values()}
    for parameter in parts.parameters():  # what ours has not: the bias of SimCLR's last BatchNorm
        parameter.requires_grad_(id(parameter) in kept)
    aux = copy.deepcopy(variables.aux)
    if aux and "queue" in aux:
        aux["queue"] = torch.from_numpy(np.array(aux["queue"])).to(torch.float64 if double else torch.float32)
    return Peer(parts, weights, **({"trunk": parts["encoder"]} | METHODS[name](parts, arguments, aux, plan)))


def check(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what lightly has not, or what is not written here.

    Raises:
      ValueError: an argument that only our side would follow.
    """
    for key, value in ALONE.get(name, {}).items():
        if arguments.get(key, value) != value:
            raise ValueError(f"method.{key}={arguments[key]}: the duel's {name} has {value} on lightly's side; use it")


def encode(peer: Peer, images: np.ndarray, mean, std, rows: int = 512) -> np.ndarray:
    """Features ``[n, d]`` of images ``[n, h, w, c]`` in [0, 1], in inference mode."""
    import torch

    encoder = peer.trunk.eval()
    with torch.no_grad():
        found = [encoder(tensor(images[i : i + rows], mean, std)).numpy() for i in range(0, len(images), rows)]
    encoder.train()
    return np.concatenate(found)


def tensor(images: np.ndarray, mean, std) -> Any:
    """Images ``[b, h, w, c]`` in [0, 1], normalised, as torch has them."""
    import torch

    images = (images - np.asarray(mean, images.dtype)) / np.asarray(std, images.dtype)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


# ------------------------------------------------------------------------------------------------------- networks


def _convnet(encoder: ConvNet, params: Any) -> Any:
    """``ConvNet`` without shortcuts; modules are called as in ours, a block's with "/" as "__"."""
    from torch import nn

    if encoder.residual:
        raise ValueError("the duel's encoder is a convnet without shortcuts; set model.residual=false")
    network, given = nn.Sequential(), []
    strides = encoder.strides or (1,) + (2,) * (len(encoder.widths) - 1)
    blocks = encoder.blocks if isinstance(encoder.blocks, tuple) else (encoder.blocks,) * len(strides)
    layers = [("stem_conv", "stem_norm", encoder.stem_stride)]
    for k, (stride, count) in enumerate(zip(strides, blocks, strict=True), 1):
        for i in range(count):
            at = f"stage{k}_block{i}"
            layers.append((f"{at}__conv1", f"{at}__norm1", stride if i == 0 else 1))
    for conv, norm, stride in layers:
        node = params
        for word in conv.split("__"):
            node = node[word]
        size, _, inside, outside = node["kernel"].shape
        padding = (size - 1) // 2 if size > stride else 0
        given += [(conv, nn.Conv2d(inside, outside, size, stride, padding, bias=False))]
        given += [(norm, nn.BatchNorm2d(outside)), (f"{norm}_relu", nn.ReLU())]
    for name, module in (*given, ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())):
        network.add_module(name, module)
    return network


def _head(params: Any, stats: Any) -> Any:
    """lightly's ProjectionHead with the layers of an ``MLP`` of ours."""
    from lightly.models.modules.heads import ProjectionHead
    from torch import nn

    blocks, last = [], sum(name.startswith("dense") for name in params) - 1
    for i in range(last + 1):
        dense = params[f"dense{i}"]
        inside, outside = dense["kernel"].shape
        norm = nn.BatchNorm1d(outside, affine=f"norm{i}" in params) if f"norm{i}" in stats else None
        blocks.append((inside, outside, norm, nn.ReLU() if i < last else None, "bias" in dense))
    return ProjectionHead(blocks)


def _dino_head(params: Any, norm_last_layer: bool) -> Any:
    """lightly's DINOProjectionHead; ``projector`` and ``last_layer`` of ours are both in it."""
    from lightly.models.modules.heads import DINOProjectionHead

    sizes = (*params["projector"]["dense0"]["kernel"].shape, *params["last_layer"]["v"].shape)
    head = DINOProjectionHead(*sizes, norm_last_layer=norm_last_layer)
    # Every pass makes it anew; until the first it is no leaf of the graph, and deepcopy refuses it.
    head.last_layer.weight = head.last_layer.weight.detach()
    return head


def _fill(module: Any, part: str, params: Any) -> dict[str, Any]:
    """Give a network our weights; what they are in it, by our paths."""
    import torch

    named, found = _layers(module, part), {}
    for path, value in flat(params).items():
        at, _, word = path.rpartition("/")
        parameter = getattr(named[at], {"bias": "bias", "v": "weight_v", "g": "weight_g"}.get(word, "weight"))
        value = np.asarray(value)[None] if word == "g" else np.asarray(value)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(value, order="C")))
        found[f"{part}/{path}"] = parameter
    return found


def _layers(module: Any, part: str) -> dict[str, Any]:
    """The layers of a network by our paths within it."""
    from torch import nn

    if part == "encoder":
        return {name.replace("__", "/"): layer for name, layer in module.named_children()}
    if part == "last_layer":
        return {"": module.last_layer}
    linear = [layer for layer in module.layers if isinstance(layer, nn.Linear)]
    named = {f"dense{i}": layer for i, layer in enumerate(linear)}
    number = -1
    for layer in module.layers:
        number += isinstance(layer, nn.Linear)
        if isinstance(layer, nn.BatchNorm1d):
            named[f"norm{number}"] = layer
    return named


def _norms(parts: Any) -> dict[str, Any]:
    """Every BatchNorm of networks by our path, "encoder/stem_norm"."""
    from torch import nn

    layers = {f"{part}/{at}": layer for part, module in parts.items() for at, layer in _layers(module, part).items()}
    return {path: layer for path, layer in layers.items() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))}


def _count(layer: Any, given: Any, out: Any) -> None:
    """Note how many values of a channel a pass of BatchNorm has: torch's variances depend on it."""
    layer.values_of_a_pass = given[0].numel() // layer.num_features


def statistics(parts: Any) -> dict[str, Any]:
    """Running means and variances of networks made in float64, by our paths; variances made biased ones, as ours are.

    Both move by a tenth per pass. torch normalises with the biased variance and keeps the unbiased one, n / (n - 1) of
    it for n values of a channel, ours keeps what it normalises with. Both begin with 1, of which ``.9^k`` is left after
    k passes, and n is that of every pass, so that the rest times (n - 1) / n is what ours has to be. In the duel's
    training a variance differs by 1/127 where a head's batch is the 128 rows, by 3e-5 to 5e-4 in the encoder, whose
    features the kNN takes.
    """
    found = {}
    for path, layer in _norms(parts).items():
        first = (1 - layer.momentum) ** int(layer.num_batches_tracked)
        found[f"{path}/mean"] = layer.running_mean
        found[f"{path}/var"] = first + (layer.running_var - first) * (1 - 1 / layer.values_of_a_pass)
    return found


def ours(value: Any) -> np.ndarray:
    """A weight or gradient of torch in our layout."""
    value = value.detach().numpy()
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by path."""
    found = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        found |= flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return found


# -------------------------------------------------------------------------------------------------------- methods


def _through(parts: Any, view: Any, *names: str) -> Any:
    for name in names:
        view = parts[name](view)
    return view


def _simclr(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    """Both views in one pass, as in lightly's ImageNet benchmark."""
    import torch
    from lightly.loss import NTXentLoss

    criterion = NTXentLoss(arguments["temperature"])

    def loss(one, two):
        return criterion(*_through(parts, torch.cat([one, two]), "encoder", "projector").chunk(2))

    return {"loss": loss}


def _byol(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    import torch
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.utils import update_momentum

    names = ("encoder", "projector")
    target = _target(parts, names)
    criterion = NegativeCosineSimilarity()

    def loss(one, two):
        predicted = [_through(parts, view, *names, "predictor") for view in (one, two)]
        with torch.no_grad():
            wanted = [_through(target, view, *names) for view in (one, two)]
        return 4 + 2 * (criterion(predicted[0], wanted[1]) + criterion(predicted[1], wanted[0]))

    def after(step):
        for name in names:
            update_momentum(parts[name], target[name], m=arguments["tau"])

    return {"loss": loss, "after": after, "target": target}


def _moco(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

    names = ("encoder", "projector")
    target = _target(parts, names)
    criterion = NTXentLoss(arguments["temperature"], memory_bank_size=tuple(aux["queue"].shape))
    criterion.memory_bank.bank = aux["queue"]

    def loss(one, two):
        query = _through(parts, one, *names)
        with torch.no_grad():
            shuffled, order = batch_shuffle(two)
            key = batch_unshuffle(_through(target, shuffled, *names), order)
        return criterion(query, key)

    def after(step):
        for name in names:
            update_momentum(parts[name], target[name], m=arguments["momentum"])

    # Transposed as matrices are in torch, which ``ours`` takes back.
    return {"loss": loss, "after": after, "target": target, "held": lambda: {"queue": criterion.memory_bank.bank.T}}


def _simsiam(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    from lightly.loss import NegativeCosineSimilarity

    criterion = NegativeCosineSimilarity()

    def loss(one, two):
        z = [_through(parts, view, "encoder", "projector") for view in (one, two)]
        p = [parts["predictor"](each) for each in z]
        return 0.5 * (criterion(p[0], z[1].detach()) + criterion(p[1], z[0].detach()))

    return {"loss": loss}


def _barlow_twins(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    from lightly.loss import BarlowTwinsLoss

    criterion = BarlowTwinsLoss(lambda_param=arguments["off_diagonal"])

    def loss(one, two):
        z = [_through(parts, view, "encoder", "projector") for view in (one, two)]
        return arguments["scale"] * criterion(*z)

    return {"loss": loss}


def _vicreg(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    from lightly.loss import VICRegLoss

    criterion = VICRegLoss()

    def loss(one, two):
        return criterion(*(_through(parts, view, "encoder", "projector") for view in (one, two)))

    return {"loss": loss}


def _dino(parts: Any, arguments: Mapping[str, Any], aux: Any, plan: Plan) -> dict[str, Any]:
    """Two global views and no small ones, in one pass of student and of teacher; both have BatchNorm in train mode.

    That is as in lightly's ImageNet benchmark (benchmarks/imagenet/resnet50/dino.py), as is that the teacher is
    measured. Otherwise than there, and as in the paper's code and ours: the teacher moves after the optimizer (there
    before it, so that it lags by a step and never has the last), tau reaches 1 after the last step (there at it), and
    the last layer's gradients are taken away once they are there (there before, and what backward makes stays: nothing
    is frozen); a gradient that is None has no decay and no moment either.
    lightly's parts do as ours do: the centre moves after the loss, with the mean over rows and views; the loss is
    the mean over rows and pairs of different views. Both take lengths below 1e-12 as 1e-12 at the bottleneck, ours at
    the prototypes, too. Its temperature of the teacher is a float32 even in float64; its length of prototypes, 1, is a
    weight that does not learn and that the teacher averages.
    """
    import torch
    from lightly.loss import DINOLoss
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    names = ("encoder", "projector")
    target = _target(parts, names)
    head = parts["projector"]
    # Updates in place of epochs, as ours has parts of epochs, too.
    head.freeze_last_layer = round(arguments["freeze_last_layer"] * plan.steps_per_epoch)
    criterion = DINOLoss(
        arguments["out_dim"],
        teacher_temp=arguments["teacher_temperature"],
        student_temp=arguments["temperature"],
        center_momentum=arguments["centre_momentum"],
    ).to(head.last_layer.weight_v.dtype)

    def loss(one, two):
        both = torch.cat([one, two])
        with torch.no_grad():
            wanted = _through(target, both, *names).chunk(2)
        return criterion(wanted, _through(parts, both, *names).chunk(2))

    def after(step):
        tau = cosine_schedule(step, plan.total_steps + 1, arguments["tau"], 1.0)
        for name in names:
            update_momentum(parts[name], target[name], m=tau)

    return {
        **{"loss": loss, "before": head.cancel_last_layer_gradients, "after": after, "target": target},
        **{"trunk": target["encoder"], "held": lambda: {"centre": criterion.center.flatten()}},
    }


def _target(parts: Any, names: tuple[str, ...]) -> Any:
    from torch import nn

    return nn.ModuleDict({name: copy.deepcopy(parts[name]).requires_grad_(False) for name in names})


# Arguments that have but one value here. With BatchNorm lightly's head has no biases, where ours has.
ALONE = {"dino": {"layers": 3, "head_bn": False, "warmup_teacher_epochs": 0}}
METHODS: dict[str, Any] = {
    "simclr": _simclr,
    "byol": _byol,
    "moco": _moco,
    "simsiam": _simsiam,
    "barlow_twins": _barlow_twins,
    "vicreg": _vicreg,
    "dino": _dino,
}
