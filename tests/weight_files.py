"""Files of weights as other projects publish them, made without their code: names, prefixes, and what lies beside."""

from __future__ import annotations

import argparse
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from torch_writer import torch_legacy, torch_zip

from ssl_jax.interop import resnet, vit


def of_safetensors(tree: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(dict(tree), {"format": "pt"})


def of_npz(tree: Mapping[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **tree)
    return out.getvalue()


def hugging_face(config: dict, preprocessor: dict) -> Callable[[Any], dict[str, bytes]]:
    """As save_pretrained writes."""
    said = {"config.json": json.dumps(config).encode(), "preprocessor_config.json": json.dumps(preprocessor).encode()}
    return lambda tree: {"model.safetensors": of_safetensors(tree)} | said


class Published(NamedTuple):
    """How a project lays a network out.

    Attributes:
      family: whose table of names.
      library: of the table.
      model: ``config.model`` of what is written.
      wrap: (names -> arrays) -> what is in the file.
      write: what is in the file -> its bytes; of a folder, of each of its files.
      asked: arguments of ``importing.read`` without which it cannot be known.
      classifier: whether one is in the file.
    """

    family: Any
    library: str
    model: dict[str, Any]
    wrap: Callable[[dict[str, np.ndarray]], Any]
    write: Callable[[Any], bytes | dict[str, bytes]] = torch_zip
    asked: Mapping[str, Any] = MappingProxyType({})
    classifier: bool = False


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def junk(*shape: int) -> np.ndarray:
    return rng(sum(shape)).standard_normal(shape).astype(np.float32)


def prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> OrderedDict:
    """With torch's counters of batches, which lie beside every running variance."""
    found = OrderedDict((prefix + name, array) for name, array in arrays.items())
    counters = [name for name in arrays if name.endswith("running_var")]
    for name in counters:
        found[prefix + name.replace("running_var", "num_batches_tracked")] = np.array(7, np.int64)
    return found


def mlp(prefix: str, *places: int) -> dict[str, np.ndarray]:
    """A head: Linear layers at these places of a Sequential."""
    return {
        f"{prefix}{i}.{part}": junk(4, 4) if part == "weight" else junk(4)
        for i in places
        for part in ("weight", "bias")
    }


def training(state_dict: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A checkpoint of a run of torch's."""
    optimizer = {"state": {0: {"momentum_buffer": junk(3, 3)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    return {"epoch": 200, "arch": "resnet18", "state_dict": state_dict, "optimizer": optimizer} | more


def other(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the other network of a pair: the same names, other numbers."""
    return {name: 2 * array for name, array in arrays.items()}


R18 = {"name": "resnet18", "stem": "imagenet", "width": 0.125}
C18 = {"name": "resnet18", "stem": "cifar", "width": 0.125}
FIRST = R18 | {"project_first": True}
STATISTICS = {"statistics": ((0.5,) * 3, (0.25,) * 3)}


def _moco(heads: dict[str, np.ndarray]):
    def wrap(arrays):
        both = {}
        for which in ("q", "k"):
            both |= prefixed(f"module.encoder_{which}.", arrays | {f"fc.{name}": a for name, a in heads.items()})
        return training(both | {"module.queue": junk(4, 16), "module.queue_ptr": np.zeros(1, np.int64)})

    return wrap


def _byol(arrays):
    params = {name: a for name, a in arrays.items() if "_ema/" not in name}
    state = {name: a for name, a in arrays.items() if "_ema/" in name}

    def two_levels(flat):
        found: dict[str, Any] = {}
        for name, array in flat.items():
            module, _, leaf = name.rpartition("/")
            found.setdefault(module, {})[leaf] = array
        return found

    state |= {name.replace("average", "hidden"): 2 * a for name, a in state.items()}
    heads = {"projector/linear": {"w": junk(4, 4), "b": junk(4)}, "classifier": {"w": junk(4, 4), "b": junk(4)}}
    online = {"online_params": two_levels(params) | heads, "online_state": two_levels(state)}
    target = {"target_params": two_levels(params), "target_state": two_levels(state)}
    return {
        "experiment_state": {**online, **target, "opt_state": (junk(3),)},
        "step": 1000,
        "rng": np.zeros(2, np.uint32),
    }


RESNETS: dict[str, Published] = {
    "torchvision": Published(resnet, "torchvision", R18, lambda a: prefixed("", a), classifier=True),
    "torchvision legacy": Published(
        resnet, "torchvision", R18, lambda a: prefixed("", a), torch_legacy, asked=STATISTICS
    ),
    "torchvision safetensors": Published(resnet, "torchvision", R18, lambda a: a, of_safetensors, classifier=True),
    "moco v1": Published(resnet, "torchvision", R18, _moco({"weight": junk(4, 4), "bias": junk(4)})),
    "moco v2": Published(
        resnet, "torchvision", R18, _moco({"0.weight": junk(4, 4), "0.bias": junk(4), "2.weight": junk(4, 4)})
    ),
    "moco v3": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: training(
            prefixed("module.base_encoder.", a | mlp("fc.", 0, 3))
            | prefixed("module.momentum_encoder.", a | mlp("fc.", 0, 3))
            | mlp("module.predictor.", 0),
            scaler={"scale": 65536.0},
        ),
    ),
    "simsiam": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: training(prefixed("module.encoder.", a | mlp("fc.", 0, 3, 6)) | mlp("module.predictor.", 0, 3)),
    ),
    "swav": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: prefixed("module.", a | mlp("projection_head.", 0, 1, 3) | {"prototypes.weight": junk(30, 8)}),
    ),
    "barlow twins": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: {
            "epoch": 1000,
            "model": prefixed("module.backbone.", a)
            | mlp("module.projector.", 0, 1, 3)
            | {"module.bn.running_mean": junk(4), "module.bn.running_var": junk(4)},
            "optimizer": {"state": {0: {"mu": junk(2, 2)}}},
        },
    ),
    "vicreg": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: {"epoch": 1000, "model": prefixed("module.backbone.", a) | mlp("module.projector.", 0, 1)},
    ),
    "dino resnet": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: {
            "student": prefixed("module.backbone.", a) | mlp("module.head.mlp.", 0),
            "teacher": prefixed("backbone.", a) | mlp("head.mlp.", 0) | {"head.last_layer.weight_v": junk(4, 4)},
            "args": argparse.Namespace(arch="resnet50", lr=0.03),
            "dino_loss": {"center": junk(1, 4)},
            "epoch": 800,
        },
    ),
    "solo-learn": Published(
        resnet,
        "torchvision",
        C18 | {"stem_padding": 2},
        lambda a: training(prefixed("backbone.", a) | mlp("projector.", 0, 2) | mlp("classifier.", 0)),
        asked=STATISTICS,
    ),
    "lightly": Published(
        resnet,
        "children",
        R18,
        lambda a: training(prefixed("backbone.", a) | mlp("projection_head.layers.", 0, 3)),
        asked=STATISTICS,
    ),
    "solo-learn momentum": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: training(
            prefixed("encoder.", a)
            | prefixed("momentum_encoder.", other(a))
            | mlp("projector.", 0, 2)
            | mlp("momentum_projector.", 0, 2)
        ),
        asked=STATISTICS,
    ),
    "lightly dino": Published(
        resnet,
        "children",
        R18,
        lambda a: training(prefixed("student_backbone.", other(a)) | prefixed("teacher_backbone.", a)),
        asked=STATISTICS,
    ),
    "lightly momentum": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: training(
            prefixed("backbone.", a)
            | prefixed("backbone_momentum.", other(a))
            | mlp("projection_head.layers.", 0)
            | mlp("projection_head_momentum.layers.", 0)
        ),
        asked=STATISTICS,
    ),
    "lightly flat": Published(
        resnet, "children", R18, lambda a: prefixed("backbone.", a), asked=STATISTICS | {"project": "lightly"}
    ),
    "vissl trunk": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: {"model_state_dict": prefixed("trunk._feature_blocks.", a) | mlp("heads.0.clf.", 0)},
    ),
    "vissl": Published(
        resnet,
        "torchvision",
        R18,
        lambda a: {
            "classy_state_dict": {
                "base_model": {
                    "model": {"trunk": prefixed("_feature_blocks.", a), "heads": mlp("0.clf.", 0)},
                    "meters": {},
                }
            }
        },
    ),
    "byol": Published(
        resnet, "haiku", FIRST | {"padding": "same", "pool_padding": "same"}, _byol, lambda t: pickle.dumps(t, 2)
    ),
    "transformers": Published(
        resnet,
        "transformers",
        R18,
        lambda a: {name if name.startswith("classifier.") else f"resnet.{name}": array for name, array in a.items()},
        hugging_face(
            {"model_type": "resnet"}, {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 64}}
        ),
        classifier=True,
    ),
}

SMALL = {"name": "vit", "patch_size": 8, "width": 192, "depth": 2, "mlp_ratio": 4.0, "heads": 3}
CLS = SMALL | {"cls_token": True, "positions": "learned", "positions_grid": 4, "pool": "cls"}
FIXED = {k: v for k, v in CLS.items() if k != "positions_grid"} | {"positions": "sincos"}
SCALED = CLS | {"layer_scale": 1e-5}
DECODER = {"decoder_embed.weight": junk(4, 4), "decoder_pos_embed": junk(1, 5, 4), "mask_token": junk(1, 1, 4)}


def fixed(model: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With the table of positions that a file holds though nobody learned it."""
    return {**arrays, **vit.fixed(model, "timm", grid=4)}


def _of_dino(**more: np.ndarray):
    def wrap(arrays):
        head = mlp("head.mlp.", 0, 2) | {"head.last_layer.weight_g": junk(8, 1), "head.last_layer.weight_v": junk(8, 4)}
        student = prefixed("module.backbone.", arrays | more) | {f"module.{k}": v for k, v in head.items()}
        teacher = prefixed("backbone.", arrays | more) | head
        return {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_small"), "epoch": 800}

    return wrap


MAE = FIXED | {"positions_rule": "transformers"}  # of who asks for learned positions
MOCO_V3 = FIXED | {"positions": "moco_v3", "heads": 12}
IJEPA = {k: v for k, v in FIXED.items() if k != "cls_token"} | {"pool": "mean"}
AUGREG = CLS | {"gelu": "tanh", "positions_rule": "big_vision"}
TIMM = CLS | {"positions_rule": "timm"}
VITS: dict[str, Published] = {
    "timm": Published(vit, "timm", TIMM, lambda a: a, of_safetensors, asked=STATISTICS, classifier=True),
    "timm folder": Published(
        vit,
        "timm",
        TIMM,
        lambda a: a,
        hugging_face({"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}, {}),
    ),
    "dino": Published(vit, "timm", CLS | {"positions_rule": "dino"}, _of_dino()),
    "dino backbone": Published(vit, "timm", CLS | {"positions_rule": "dino"}, lambda a: a, asked={"project": "dino"}),
    "ibot": Published(vit, "ibot", SCALED | {"positions_rule": "dino"}, _of_dino(masked_embed=junk(1, 192))),
    "dinov2": Published(
        vit,
        "dinov2",
        SCALED | {"positions_rule": "dinov2", "registers": 4},
        lambda a: a | {"mask_token": junk(1, 192)},
    ),
    "dinov2 model": Published(
        vit,
        "dinov2",
        SCALED | {"positions_rule": "dinov2"},
        lambda a: {"model": a | {"mask_token": junk(1, 192)}, "iteration": 3},
    ),
    "dinov2 training": Published(
        vit,
        "dinov2_chunks:2",
        SCALED | {"positions_rule": "dinov2"},
        lambda a: {
            "model": prefixed("student.backbone.", other(a) | {"mask_token": junk(1, 192)})
            | prefixed("teacher.backbone.", a | {"mask_token": junk(1, 192)})
            | mlp("teacher.dino_head.mlp.", 0)
            | mlp("student.ibot_head.mlp.", 0)
            | {"dino_loss.center": junk(1, 10), "ibot_patch_loss.center": junk(1, 1, 10)},
            "optimizer": {"state": {0: {"exp_avg": junk(2, 2)}}},
            "iteration": 10,
        },
    ),
    "ibot backbone": Published(
        vit,
        "timm",
        CLS | {"positions_rule": "dino"},
        lambda a: {"state_dict": a | {"masked_embed": junk(1, 192)}},
        asked={"project": "ibot"},
    ),
    "dino teacher": Published(
        vit, "timm", CLS | {"positions_rule": "dino"}, lambda a: {"state_dict": a}, asked={"project": "dino"}
    ),
    "solo-learn vit": Published(
        vit,
        "timm",
        TIMM,
        lambda a: training(
            prefixed("backbone.", a)
            | prefixed("momentum_backbone.", other(a))
            | mlp("head.mlp.", 0)
            | mlp("momentum_head.mlp.", 0)
            | mlp("classifier.", 0),
            hyper_parameters=argparse.Namespace(method="dino"),
        ),
        asked=STATISTICS | {"fields": {"heads": 3}},
    ),
    "lightly vit": Published(
        vit,
        "timm",
        TIMM | {"heads": 6},
        lambda a: training(
            prefixed("backbone.vit.", a)
            | prefixed("student_backbone.vit.", other(a))
            | mlp("projection_head.layers.", 0)
        ),
        asked=STATISTICS | {"fields": {"heads": 6}},
    ),
    "mae": Published(
        vit, "timm", MAE, lambda a: {"model": fixed(MAE, a) | DECODER, "epoch": 800, "args": argparse.Namespace()}
    ),
    "mae fine-tuned": Published(
        vit,
        "timm",
        CLS | {"norm_after_pool": True, "pool": "mean", "positions_rule": "transformers"},
        lambda a: {"model": a},
        classifier=True,
    ),
    "deit": Published(vit, "timm", TIMM, lambda a: {"model": a}, asked=STATISTICS, classifier=True),
    "moco v3 vit": Published(
        vit,
        "timm",
        MOCO_V3,
        lambda a: training(
            prefixed("module.base_encoder.", fixed(MOCO_V3, a) | mlp("head.", 0, 3))
            | prefixed("module.momentum_encoder.", fixed(MOCO_V3, a))
            | mlp("module.predictor.", 0)
        ),
    ),
    "ijepa": Published(
        vit,
        "timm",
        IJEPA,
        lambda a: {
            "encoder": prefixed("module.", fixed(IJEPA, a)),
            "target_encoder": prefixed("module.", fixed(IJEPA, a)),
            "predictor": mlp("module.predictor_embed.", 0),
            "opt": {"state": {0: {"exp_avg": junk(2, 2)}}},
            "epoch": 300,
        },
    ),
    "torchvision vit": Published(
        vit, "torchvision", CLS | {"positions_rule": "torchvision"}, lambda a: a, classifier=True
    ),
    "transformers vit": Published(
        vit,
        "transformers",
        CLS | {"eps": 1e-12, "positions_rule": "transformers"},
        lambda a: {name if name.startswith("classifier.") else f"vit.{name}": array for name, array in a.items()},
        hugging_face(
            {"model_type": "vit", "layer_norm_eps": 1e-12, "num_attention_heads": 3, "image_size": 32},
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}},
        ),
        classifier=True,
    ),
    "big_vision": Published(vit, "vision_transformer", AUGREG, lambda a: a, of_npz, classifier=True),
}
