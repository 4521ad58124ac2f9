"""lightly's training of a method in PyTorch, from our initial weights: networks, losses, averages, queue are lightly's.

A loss that is ours times a constant, plus one, is put on our scale, so that one learning rate means one thing.
"""

# pyright: reportMissingImports=false
# (peers that need not be installed)

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from benchmarks import lightly_networks

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
        parts["projector"] = lightly_networks.dino_head(variables.params, arguments["norm_last_layer"])
    for part, params in variables.params.items():
        module = "projector" if part == "last_layer" else part
        if module not in parts:
            stats = variables.model_state[part].get("batch_stats", {})
            parts[part] = (
                lightly_networks.convnet(encoder, params) if part == "encoder" else lightly_networks.head(params, stats)
            )
        weights |= lightly_networks.fill(parts[module], part, params)
    if double:
        parts.double()
        for layer in lightly_networks.norms(parts).values():  # before the target becomes a copy
            layer.register_forward_hook(lightly_networks.count)
    kept = {id(parameter) for parameter in weights.values()}
    for parameter in parts.parameters():  # what ours has not: the bias of SimCLR's last BatchNorm
        parameter.requires_grad_(id(parameter) in kept)
    aux = copy.deepcopy(variables.aux)
    if aux and "queue" in aux:
        aux["queue"] = torch.from_numpy(np.array(aux["queue"])).to(torch.float64 if double else torch.float32)
    return Peer(parts, weights, **({"trunk": parts["encoder"]} | METHODS[name](parts, arguments, aux, plan)))


def check(name: str, arguments: Mapping[str, Any], optim: Mapping[str, Any]) -> None:
    """Refuse what lightly has not, or what is not written here.

    Raises:
      ValueError: an argument that only our side would follow.
    """
    for key, value in ALONE.get(name, {}).items():
        if arguments.get(key, value) != value:
            raise ValueError(f"method.{key}={arguments[key]}: the duel's {name} has {value} on lightly's side; use it")
    if optim["name"] not in ("sgd", "adamw"):
        raise ValueError(f"optim.name={optim['name']}: the duel has sgd and adamw, which torch has, too")


def optimizer(peer: Peer, optim: Mapping[str, Any]) -> Any:
    """torch's, of what learns; its rate is set at every step."""
    import torch

    learning = [parameter for parameter in peer.parts.parameters() if parameter.requires_grad]
    if optim["name"] == "adamw":
        return torch.optim.AdamW(learning, lr=0.0, weight_decay=optim["weight_decay"])
    return torch.optim.SGD(learning, lr=0.0, momentum=optim["momentum"], weight_decay=optim["weight_decay"])


def encode(peer: Peer, images: np.ndarray, mean, std, rows: int = 512) -> np.ndarray:
    """Features ``[n, d]`` of images ``[n, h, w, c]`` in [0, 1], in inference mode."""
    import torch

    encoder = peer.trunk.eval()
    with torch.no_grad():
        found = [
            encoder(lightly_networks.tensor(images[i : i + rows], mean, std)).numpy()
            for i in range(0, len(images), rows)
        ]
    encoder.train()
    return np.concatenate(found)


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
