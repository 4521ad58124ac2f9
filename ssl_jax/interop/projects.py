"""Whose file of weights it is, by the names in it, and what of the network names and shapes cannot tell.

Names are those of a file flattened with "/" between containers and as they are inside, without what wraps a network for
several processes or a compiler: ``state_dict/encoder_q.layer1.0.conv1.weight``. The file's own name counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)
UNIT = ((0.0,) * 3, (1.0,) * 3)  # pixels in [0, 1] as they are
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
NC = "CC BY-NC 4.0"

WRAPPERS = re.compile(r"(?<![^/.])(module|_orig_mod|_fsdp_wrapped_module)\.")
COUNTERS = re.compile(r"(^|[./])(num_batches_tracked|n_averaged)$")
TRAINING = (
    r"(^|.*/)(optimizer|optimizer_weights|opt|optimizers|optimizer_states|scaler|lr_schedulers"
    r"|loops|callbacks|amp|ibot_loss|dino_loss)/.*"
)


class Project(NamedTuple):
    """A project that published weights.

    Attributes:
      trunk: regular expressions of what begins the names of the network, of which one does; its own names follow.
      has, lacks: regular expressions of names, each of which must occur, none of which may.
      ignored: regular expression of a name (whole) -> what it is, of what lies beside the network.
      fields: of ``config.model``, by kind of network ("vit"), or by that of one library's names ("torchvision vit"):
        what shapes cannot tell; None: only its user knows.
      statistics: (mean, std) of the channels; None: nobody can know from the file.
      view: of evaluation, ``data/images/recipes.py`` Eval.
      licence: of the weights as published, None: not known to us.
      source: the repository.
    """

    trunk: tuple[str, ...]
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    ignored: Mapping[str, str] = {}
    fields: Mapping[str, Mapping[str, Any]] = {}
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = IMAGENET
    view: tuple[str, float, str] = ("resize_crop", 0.875, "bilinear")
    licence: str | None = None
    source: str = ""


def clean(name: str) -> str:
    """A name without what DistributedDataParallel, torch.compile and FSDP put before its parts."""
    return WRAPPERS.sub("", name)


HEADS = "heads of the pretraining"
MOMENTUM = "the other network of the pair"
_HAIKU = r"(experiment_state/online_(params|state)/|(params|state|[01])/)?"

PROJECTS: dict[str, Project] = {
    "moco": Project(
        ("state_dict/encoder_q.", "encoder_q.", ""),
        has=(r"(state_dict/)?encoder_q\.conv1\.weight", r"(state_dict/)?(queue|encoder_q\.fc\.2\.weight)"),
        ignored={
            r"(state_dict/)?encoder_q\.fc\..*": HEADS,
            r"(state_dict/)?encoder_k\..*": MOMENTUM,
            r"(state_dict/)?queue(_ptr)?": "queue",
        },
        licence="MIT (relicensed 2023)",
        source="facebookresearch/moco",
    ),
    "moco_v3": Project(
        ("state_dict/base_encoder.",),
        has=(r"state_dict/base_encoder\..*", r"state_dict/momentum_encoder\..*"),
        ignored={
            r"state_dict/base_encoder\.(fc|head)\..*": HEADS,
            r"state_dict/predictor\..*": HEADS,
            r"state_dict/momentum_encoder\..*": MOMENTUM,
        },
        fields={"vit": {"heads": 12, "positions": "moco_v3", "pool": "cls"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence=NC,
        source="facebookresearch/moco-v3",
    ),
    "simsiam": Project(
        ("state_dict/encoder.",),
        has=(r"state_dict/encoder\.fc\.6\..*", r"state_dict/predictor\..*"),
        ignored={r"state_dict/encoder\.fc\..*": HEADS, r"state_dict/predictor\..*": HEADS},
        licence=NC,
        source="facebookresearch/simsiam",
    ),
    "swav": Project(
        ("state_dict/", ""),
        has=(r"(state_dict/)?projection_head\..*", r"(state_dict/)?prototypes\..*"),
        ignored={r"(state_dict/)?(projection_head|prototypes)\..*": HEADS},
        licence=NC,
        source="facebookresearch/swav",
    ),
    "barlow_twins": Project(
        ("model/backbone.", ""),
        has=(r"model/projector\..*", r"model/bn\.running_mean"),
        ignored={r"model/(projector|bn)\..*": HEADS},
        licence="MIT",
        source="facebookresearch/barlowtwins",
    ),
    "vicreg": Project(
        ("model/backbone.", ""),
        has=(r"model/projector\..*",),
        lacks=(r"model/bn\.running_mean",),
        ignored={r"model/projector\..*": HEADS},
        licence="MIT",
        source="facebookresearch/vicreg",
    ),
    "ibot": Project(
        ("teacher/backbone.", "state_dict/", ""),
        has=(
            r"(teacher|student)/backbone\..*",
            r"(student|teacher)/(backbone\.masked_embed|head\.(mlp2|last_layer2)\..*)",
        ),
        lacks=(r"dino_loss/.*", r"teacher/dino_head\..*"),
        ignored={
            r"teacher/head\..*": HEADS,
            r"student/.*": MOMENTUM,
            r"(teacher/backbone\.|state_dict/)?masked_embed": "token of hidden patches",
        },
        fields={"vit": {"positions_rule": "dino", "pool": "cls"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence="Apache-2.0",
        source="bytedance/ibot",
    ),
    "dino": Project(
        ("teacher/backbone.", "state_dict/", ""),
        has=(r"teacher/head\.last_layer\..*", r"student/.*"),
        lacks=(r"(teacher|student)/backbone\.masked_embed",),
        ignored={r"teacher/head\..*": HEADS, r"student/.*": MOMENTUM},
        fields={"vit": {"positions_rule": "dino", "pool": "cls"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence="Apache-2.0",
        source="facebookresearch/dino",
    ),
    "dinov2": Project(
        ("teacher/backbone.", "model/teacher.backbone.", "model/", ""),
        has=tuple(
            rf"((model/teacher\.|teacher/)backbone\.|model/)?{name}"
            for name in ("mask_token", r"blocks\.(\d+\.)?0\.ls1\.gamma", "pos_embed")
        ),
        ignored={
            r"(model/teacher\.|teacher/)(dino_head|ibot_head)\..*": HEADS,
            r"(model/student\.|student/).*": MOMENTUM,
            r"model/(dino_loss|ibot_patch_loss)\..*": "state of the training",
            r"((model/teacher\.|teacher/)backbone\.|model/)?mask_token": "token of hidden patches",
        },
        fields={"vit": {"positions_rule": "dinov2", "pool": "cls"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence="Apache-2.0",
        source="facebookresearch/dinov2",
    ),
    "mae": Project(
        ("model/",),
        has=(r"model/patch_embed\.proj\.weight", r"model/pos_embed", r"model/(decoder_embed\.weight|cls_token)"),
        lacks=(r"model/backbone\..*", r"model/head\..*", r"model/blocks\..*\.ls1\.gamma"),
        ignored={r"model/decoder_.*": "decoder", r"model/mask_token": "token of hidden patches"},
        fields={"vit": {"positions": "sincos", "positions_rule": "transformers", "pool": "cls"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence=NC,
        source="facebookresearch/mae",
    ),
    "mae_finetuned": Project(
        ("model/",),
        has=(r"model/patch_embed\.proj\.weight", r"model/fc_norm\.weight"),
        fields={"vit": {"positions": "learned", "positions_rule": "transformers", "pool": "mean"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence=NC,
        source="facebookresearch/mae",
    ),
    "ijepa": Project(
        ("target_encoder/",),
        has=(r"encoder/patch_embed\..*", r"predictor/.*"),
        ignored={r"encoder/.*": MOMENTUM, r"predictor/.*": "predictor"},
        fields={"vit": {"positions": "sincos", "pool": "mean"}},
        view=("resize_crop", 0.875, "bicubic"),
        licence=NC,
        source="facebookresearch/ijepa",
    ),
    "byol": Project(
        (r"experiment_state/online_(params|state)/", r"(params|state)/", r"[01]/"),  # then Haiku's own pairs
        has=(r"experiment_state/online_params/res_net\d+/~/initial_conv/w",),
        ignored={
            rf"{_HAIKU}(projector|predictor|classifier)/.*": HEADS,
            rf"{_HAIKU}res_net\d+/~/logits/.*": HEADS,
            r"experiment_state/target_(params|state)/.*": MOMENTUM,
            r"experiment_state/opt_state/.*": "state of the training",
            rf"{_HAIKU}res_net.*/(hidden|counter)": "running means before they were corrected",
            r"(step|rng)": "state of the training",
        },
        fields={"resnet": {"padding": "same", "pool_padding": "same", "project_first": True}},
        view=("centre_crop", 0.875, "bicubic"),
        licence=NC,
        source="deepmind/deepmind-research/byol",
    ),
    "simclr_finetuned": Project(  # its classifier lies beside the network
        ("base_model/|(?=head_supervised/)",),
        has=(r"base_model/conv2d/kernel", r"head_supervised/.*/kernel"),
        lacks=(r"head_contrastive/.*",),
        ignored={r".*/Momentum|global_step": "state of the training", r"ema_model/.*": MOMENTUM},
        fields={"resnet": {"pool_padding": "same", "project_first": True}},
        statistics=UNIT,
        view=("centre_crop", 0.875, "bicubic"),
        licence="Apache-2.0",
        source="google-research/simclr",
    ),
    "simclr": Project(
        ("base_model/",),
        has=(r"base_model/conv2d/kernel", r"base_model/batch_normalization/gamma"),
        ignored={
            r".*/Momentum|global_step": "state of the training",
            r"head_contrastive/.*": HEADS,
            r"head_supervised/.*": "linear probe beside the pretraining, or SimCLR v2's classifier on its projection",
            r"ema_model/.*": MOMENTUM,
        },
        fields={"resnet": {"pool_padding": "same", "project_first": True}},
        statistics=UNIT,
        view=("centre_crop", 0.875, "bicubic"),
        licence="Apache-2.0",
        source="google-research/simclr",
    ),
    "vissl": Project(
        (
            "classy_state_dict/base_model/model/trunk/_feature_blocks.",
            "model_state_dict/trunk._feature_blocks.",
            "trunk._feature_blocks.",
        ),
        has=(r"(classy_state_dict/base_model/model/trunk/|(model_state_dict/)?trunk\.)_feature_blocks\..*",),
        ignored={
            r"classy_state_dict/(?!base_model/model/trunk/_feature_blocks\.).*": "heads and state of the training",
            r"(model_state_dict/)?heads\..*": HEADS,
        },
        licence="MIT",
        source="facebookresearch/vissl",
    ),
    "lightly": Project(
        (*(rf"(state_dict/)?{which}\.(vit\.)?" for which in ("teacher_backbone", "backbone")), ""),
        has=(
            r"state_dict/(teacher_)?backbone\.(0\.weight|conv1\.weight|(vit\.)?(patch_embed\.proj|conv_proj)\.weight)",
            r"state_dict/((teacher_)?backbone\.4\.0\..*|\w*(projection|prediction)_head\w*\..*|student_\w+\..*)",
        ),
        ignored={
            r"state_dict/(?!(teacher_)?backbone\.).*": "heads, losses and other networks of the run",
            r"\w*(projection|prediction)_head\w*\..*": HEADS,
            r"(state_dict/)?(student_\w+|backbone_momentum)\..*": MOMENTUM,
            r"(state_dict/)?backbone\.(mask_token|vit\.mask_token)": "token of hidden patches",
        },
        fields={
            "vit": {"heads": None, "positions_rule": "timm"},
            "torchvision vit": {"positions_rule": "transformers"},
        },
        statistics=None,
        source="lightly-ai/lightly",
    ),
    "solo_learn": Project(
        ("state_dict/backbone.", "state_dict/encoder.", "backbone.", ""),
        has=(
            r"state_dict/(backbone|encoder)\.(conv1|patch_embed\.proj)\.weight",
            r"state_dict/(classifier|projector|momentum_(backbone|encoder|head))\..*",
        ),
        ignored={r"state_dict/(?!(backbone|encoder)\.).*": "heads and the other network of the run"},
        fields={
            "resnet": {"stem_padding": 2},  # of the stem for small images alone
            "vit": {"heads": None, "positions_rule": "timm"},
        },
        statistics=None,
        licence="MIT",
        source="vturrisi/solo-learn",
    ),
    "cifar_resnet": Project(
        ("state_dict/",),
        has=(r"state_dict/layer3\.0\.conv1\.weight", r"state_dict/linear\.weight"),
        lacks=(r"state_dict/layer4\..*",),
        ignored={r"best_prec1": "state of the training"},
        fields={"resnet": {"stem": "cifar", "shortcut": "pad"}},
        view=("resize", 1.0, "bilinear"),
        licence="BSD-2-Clause",
        source="akamaster/pytorch_resnet_cifar10",
    ),
    "big_vision": Project(
        ("opt/target/", "params/img/", "params/", ""),
        has=(r"(opt/target/|params/img/|params/)?Transformer/encoder(block_0|block|_norm)/.*",),
        fields={"vit": {"gelu": "tanh", "positions_rule": "big_vision"}},
        statistics=HALVES,
        view=("resize", 1.0, "bilinear"),
        licence="Apache-2.0",
        source="google-research/big_vision",
    ),
    "transformers": Project(
        (r"((model|vit|ijepa|dinov2|dinov2_with_registers|resnet|base_model|backbone)\.)?",),
        has=(r"(\w+\.)?(embeddings\.(cls_token|patch_embeddings.*)|embedder\.embedder\..*)",),
        ignored={
            r"(\w+\.)?embeddings\.mask_token": "token of hidden patches",
            r"(\w+\.)?pooler\.dense\..*": "layer behind the class token (pooler)",
            r"decoder\..*": "decoder",
        },
        fields={"vit": {"positions_rule": "transformers"}},
        statistics=None,  # preprocessor_config.json says
        source="huggingface/transformers",
    ),
    "keras": Project(
        ("",),
        has=(r"(.*/)?(conv1_conv|block1_conv1|Conv1)/kernel",),
        ignored={r"(.*/)?(metrics|seed_generator)/.*": "state of the training"},
        statistics=None,  # each network has its own
        source="keras-team/keras",
    ),
    "torchvision": Project(
        ("state_dict/", "model_state_dict/", "model/", "net/", ""),
        has=(r"(\w+/)?(((layer1\.0\.|[24]\.0\.)?conv1|conv_proj|conv_stem)\.weight|features\.(0|conv0)\..*)",),
        lacks=(r"(\w+/)?(backbone\..*|queue|prototypes\..*)",),
        fields={"vit": {"positions_rule": "torchvision"}},
        source="pytorch/vision, or a project that publishes its networks (Barlow Twins, VICReg, timm)",
    ),
    "timm": Project(
        ("state_dict/", "model/", ""),
        has=(r"(\w+/)?patch_embed\.proj\.weight", r"(\w+/)?blocks\.0\.attn\.qkv\.weight"),
        fields={"vit": {"positions_rule": "timm"}},
        statistics=None,
        view=("resize_crop", 0.9, "bicubic"),
        licence=None,
        source="huggingface/pytorch-image-models",
    ),
}

# What people call them besides, without what stands between words.
ALIASES = {
    **dict.fromkeys(("mocov1", "mocov2"), "moco"),
    **dict.fromkeys(("simclrv1", "simclrv2"), "simclr"),
    **{"dinov1": "dino", "barlow": "barlow_twins", "maeft": "mae_finetuned", "pytorch": "torchvision"},
    **dict.fromkeys(("hf", "huggingface"), "transformers"),
}


def called(name: str) -> str | None:
    """The project that somebody means by a name, "MoCo-v2", None: none."""

    def plain(word: str) -> str:
        return re.sub(r"[-_ .]", "", word).lower()

    return ({plain(project): project for project in PROJECTS} | ALIASES).get(plain(name))


def found(names: Collection[str]) -> list[str]:
    """The projects whose files have such names, the most particular first."""
    return [name for name, project in PROJECTS.items() if _fits(project, names)]


def _fits(project: Project, names: Collection[str]) -> bool:
    def occurs(pattern: str) -> bool:
        known = re.compile(pattern)
        return any(known.fullmatch(name) for name in names)

    return all(map(occurs, project.has)) and not any(map(occurs, project.lacks))
