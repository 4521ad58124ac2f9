"""The recipes that there are, by name, and where each comes from.

Views of several sizes ("multi-crop") stand with the large, global ones first; the small, local ones have a ``size``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from ssl_jax.data.images.recipes import (
    Blur,
    Crop,
    Cutout,
    Eval,
    Flip,
    Gray,
    Jitter,
    Noise,
    Op,
    RandAugment,
    Recipe,
    Solarize,
    View,
)
from ssl_jax.names import hint, is_imported, own, place, said_of


def _jitter(strength: float, *, additive: bool = False) -> Jitter:
    """SimCLR's jitter: (.8, .8, .8, .2) times the strength."""
    return Jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, additive=additive)


# SimCLR's TF2 code resizes without antialiasing; TF1's bicubic kernel was yet another.
_SIMCLR_CROP = Crop(sampler="tf", interpolation="bicubic", antialias=False)
_BICUBIC_EVAL = Eval("resize_crop", 224 / 256, "bicubic")
_TF_EVAL = Eval("centre_crop", 0.875, "bicubic", antialias=False)
_FAIR_EVAL = Eval("resize_crop", 224 / 256, "bilinear")

_SIMCLR = View(_SIMCLR_CROP, (Flip(), _jitter(1.0), Gray(), Blur(0.5)))
_SIMCLR_CIFAR = View(_SIMCLR_CROP, (Flip(), _jitter(0.5), Gray()))

_BYOL_CROP = Crop(sampler="byol", interpolation="bicubic", antialias=False)
_BYOL_JITTER = Jitter(0.4, 0.4, 0.2, 0.1, additive=True)
_BYOL = (
    View(_BYOL_CROP, (Flip(), _BYOL_JITTER, Gray(), Blur(1.0), Solarize(0.0))),
    View(_BYOL_CROP, (Flip(), _BYOL_JITTER, Gray(), Blur(0.1), Solarize(0.2))),
)

_SOLO_CROP = Crop(interpolation="bicubic")
_SOLO_JITTER = Jitter(0.4, 0.4, 0.2, 0.1, flavour="torch")
_BYOL_CIFAR = (
    View(_SOLO_CROP, (_SOLO_JITTER, Gray(), Flip())),
    View(_SOLO_CROP, (_SOLO_JITTER, Gray(), Solarize(0.2), Flip())),
)

_MOCO_CROP = Crop(area=(0.2, 1.0))
_MOCO_JITTER = Jitter(0.4, 0.4, 0.4, 0.1, flavour="torch")
_MOCO_V1 = View(_MOCO_CROP, (Gray(), Jitter(0.4, 0.4, 0.4, 0.4, p=1.0, flavour="torch"), Flip()))
# Pillow's blur has no kernel limit: "sigma". On 32-pixel images a 3-tap kernel in its place cost MoCo 6 points of kNN.
_MOCO_V2 = View(_MOCO_CROP, (_MOCO_JITTER, Gray(), Blur(0.5, support="sigma", border="symmetric"), Flip()))
_MOCO_CIFAR = View(Crop(area=(0.08, 1.0)), (Flip(), _MOCO_JITTER, Gray()))

_PILLOW_BLUR = Blur(0.5, support="sigma", border="symmetric")


def _coloured(jitter: Jitter, blur: float = 0.0, solarize: float = 0.0, *, flip_last: bool = False) -> tuple[Op, ...]:
    """Flip, jitter, grey, Pillow's blur, solarize; those that are never done are left out."""
    ops = (jitter, Gray(), *((_PILLOW_BLUR._replace(p=blur),) if blur else ()))
    ops += (Solarize(solarize),) if solarize else ()
    return (*ops, Flip()) if flip_last else (Flip(), *ops)


def _pair(area: tuple[float, float], how: str, *ops: tuple[Op, ...]) -> tuple[View, ...]:
    """Two global views, alike where there is one tuple of operations."""
    return tuple(View(Crop(area, interpolation=how), done) for done in (ops * 2)[:2])  # pyright: ignore[reportArgumentType]


def _locals(count: int, size: int, area: tuple[float, float], how: str, ops: tuple[Op, ...]) -> tuple[View, ...]:
    return (View(Crop(area, interpolation=how), ops, size),) * count  # pyright: ignore[reportArgumentType]


_STRONG = Jitter(0.8, 0.8, 0.8, 0.2, flavour="torch")
# What came after BYOL computes its colours as torchvision does: those of the pair, with Pillow's blur, which is done to
# every first view and to a tenth of the second, of which a fifth is solarized.
_ONE, _OTHER = _coloured(_SOLO_JITTER, 1.0), _coloured(_SOLO_JITTER, 0.1, 0.2)
_LAST = _coloured(_SOLO_JITTER, 1.0, flip_last=True), _coloured(_SOLO_JITTER, 0.1, 0.2, flip_last=True)
_HALF, _STRONG_HALF = _coloured(_SOLO_JITTER, 0.5), _coloured(_STRONG, 0.5)
_LEJEPA = _coloured(_SOLO_JITTER, 0.5, 0.2)
# On 32 pixels without blur; the small views are half as large.
_PLAIN, _SOLARIZED, _STRONG_PLAIN = _coloured(_SOLO_JITTER), _coloured(_SOLO_JITTER, 0.0, 0.2), _coloured(_STRONG)


def _multi_crop_cifar(least: float, local: tuple[Op, ...], *ops: tuple[Op, ...]) -> Recipe:
    """2 global views of the image's size and 4 of 16 pixels; the largest of these are as the least of those."""
    small = _locals(4, 16, (0.08, least), "bicubic", local)
    return Recipe(_pair((least, 1.0), "bicubic", *ops) + small, Eval("resize", 1.0))


# Colour first, then grey, as the last version of the script has it; its first, and MoCo v1, had them the other way.
_NPID_CIFAR = View(_MOCO_CROP, (Jitter(0.4, 0.4, 0.4, 0.4, p=1.0, flavour="torch"), Gray()))

_RANDAUGMENT = View(_MOCO_CROP, (RandAugment(), Flip()))

# UDA pads by 4 pixels and crops 32: a shift; the box here is its nearest among crops.
_UDA_CROP = Crop(area=(0.7, 1.0), aspect=(1.0, 1.0))
_UDA_PLAIN, _UDA_STRONG = View(_UDA_CROP, (Flip(),)), View(_UDA_CROP, (RandAugment(), Flip(), Cutout()))

# Digits must stay readable: no flips (6 and 9, 2 and 5), little cut away, pen pressure and paper vary.
_DIGITS = View(Crop(area=(0.5, 1.0), aspect=(0.8, 1.25)), (Jitter(0.2, 0.4, 0.0, 0.0, p=0.8), Noise(0.05, p=0.5)))
_DIGITS_PLAIN = View(Crop(area=(0.8, 1.0), aspect=(0.9, 1.1)))
_DIGITS_STRONG = View(_DIGITS.crop, (*_DIGITS.ops, Cutout(0.25)))

RECIPES: dict[str, Recipe] = {
    "simclr": Recipe((_SIMCLR, _SIMCLR), _TF_EVAL),
    "simclr_cifar": Recipe((_SIMCLR_CIFAR, _SIMCLR_CIFAR), Eval("resize", 1.0, "bicubic", antialias=False)),
    "byol": Recipe(_BYOL, _TF_EVAL._replace(truncate=True)),
    "byol_cifar": Recipe(_BYOL_CIFAR, Eval("resize", 1.0, "bicubic")),
    "moco_v1": Recipe((_MOCO_V1, _MOCO_V1), _FAIR_EVAL),
    "moco_v2": Recipe((_MOCO_V2, _MOCO_V2), _FAIR_EVAL),
    "moco_cifar": Recipe((_MOCO_CIFAR, _MOCO_CIFAR), Eval("resize", 1.0)),
    "npid_cifar": Recipe((_NPID_CIFAR,), Eval("resize", 1.0)),
    "triplet_cifar": Recipe((View(None), _SIMCLR_CIFAR), Eval("resize", 1.0)),
    "randaugment_cifar": Recipe((_RANDAUGMENT, _RANDAUGMENT), Eval("resize", 1.0)),
    "uda_cifar": Recipe((_UDA_PLAIN,), Eval("resize", 1.0), (_UDA_PLAIN, _UDA_STRONG)),
    "uda_digits": Recipe((_DIGITS_PLAIN,), Eval("resize", 1.0), (_DIGITS_PLAIN, _DIGITS_STRONG)),
    "digits": Recipe((_DIGITS, _DIGITS), Eval("resize", 1.0)),
    "supervised": Recipe((View(Crop(), (Flip(),)),), _FAIR_EVAL),
    "supervised_no_flip": Recipe((View(Crop(area=(0.5, 1.0), aspect=(0.8, 1.25))),), _FAIR_EVAL),
    "crop_flip": Recipe((View(Crop(area=(0.6, 1.0), aspect=(1.0, 1.0)), (Flip(),)),), Eval("resize", 1.0)),
    "flip": Recipe((View(None, (Flip(),)),), Eval("resize", 1.0)),
    "jepa": Recipe((View(Crop(area=(0.3, 1.0))),), _FAIR_EVAL),
    "jepa_cifar": Recipe((View(Crop(area=(0.3, 1.0))),), Eval("resize", 1.0)),
    "barlow_twins": Recipe(_pair((0.08, 1.0), "bicubic", _ONE, _OTHER), _FAIR_EVAL),
    "vicreg_cifar": Recipe(_pair((0.2, 1.0), "bicubic", _coloured(_SOLO_JITTER, 0.0, 0.1)), Eval("resize", 1.0)),
    "simsiam_cifar": Recipe(_pair((0.2, 1.0), "bilinear", _coloured(_MOCO_JITTER)), Eval("resize", 1.0)),
    "symmetric_cifar": Recipe(_pair((0.08, 1.0), "bicubic", _coloured(_STRONG, 0.5)), Eval("resize", 1.0)),
    "symmetric_weak_cifar": Recipe(_pair((0.08, 1.0), "bicubic", _coloured(_MOCO_JITTER, 0.5)), Eval("resize", 1.0)),
    "wmse_cifar": Recipe(_pair((0.2, 1.0), "bicubic", _STRONG_PLAIN), Eval("resize", 1.0)),
    "moco_v3": Recipe(_pair((0.2, 1.0), "bilinear", *_LAST), _FAIR_EVAL),
    "moco_v3_vit": Recipe(_pair((0.08, 1.0), "bilinear", *_LAST), _FAIR_EVAL),
    "swav": Recipe(
        _pair((0.14, 1.0), "bilinear", _STRONG_HALF) + _locals(6, 96, (0.05, 0.14), "bilinear", _STRONG_HALF),
        _FAIR_EVAL,
    ),
    "swav_two": Recipe(_pair((0.08, 1.0), "bilinear", _STRONG_HALF), _FAIR_EVAL),
    "swav_cifar": _multi_crop_cifar(0.3, _STRONG_PLAIN, _STRONG_PLAIN),
    "dino": Recipe(
        _pair((0.4, 1.0), "bicubic", _ONE, _OTHER) + _locals(8, 96, (0.05, 0.4), "bicubic", _HALF), _BICUBIC_EVAL
    ),
    "dino_two": Recipe(_pair((0.14, 1.0), "bicubic", _ONE, _OTHER), _BICUBIC_EVAL),
    "dino_resnet": Recipe(
        _pair((0.14, 1.0), "bicubic", _ONE, _OTHER) + _locals(8, 96, (0.05, 0.14), "bicubic", _HALF), _BICUBIC_EVAL
    ),
    "dino_cifar": _multi_crop_cifar(0.4, _PLAIN, _PLAIN, _SOLARIZED),
    "ibot": Recipe(
        _pair((0.25, 1.0), "bicubic", _ONE, _OTHER) + _locals(10, 96, (0.05, 0.25), "bicubic", _HALF), _BICUBIC_EVAL
    ),
    "ibot_cifar": _multi_crop_cifar(0.3, _PLAIN, _PLAIN, _SOLARIZED),
    "dino_v2": Recipe(
        _pair((0.32, 1.0), "bicubic", _ONE, _OTHER) + _locals(8, 96, (0.05, 0.32), "bicubic", _HALF), _BICUBIC_EVAL
    ),
    "lejepa": Recipe(
        _pair((0.3, 1.0), "bicubic", _LEJEPA) + _locals(6, 98, (0.05, 0.3), "bicubic", _LEJEPA), _BICUBIC_EVAL
    ),
    "lejepa_cifar": _multi_crop_cifar(0.3, _SOLARIZED, _SOLARIZED),
    "mae": Recipe((View(Crop((0.2, 1.0), interpolation="bicubic"), (Flip(),)),), _BICUBIC_EVAL),
    "mae_cifar": Recipe((View(_SOLO_CROP, (Flip(),)),), Eval("resize", 1.0)),
    "supcon_cifar": Recipe(_pair((0.2, 1.0), "bilinear", _coloured(_MOCO_JITTER)), Eval("resize", 1.0)),
    "supcon": Recipe((View(Crop(), (Flip(), RandAugment())),) * 2, _FAIR_EVAL),
    "none": Recipe((View(None),), Eval("resize", 1.0)),
    "imagenet": Recipe((View(None),), _FAIR_EVAL),
    "cifar": Recipe((View(None),), Eval("resize", 1.0)),
}

SOURCES = {
    "simclr": "Chen et al. 2020, appendix A; ImageNet, strength 1",
    "simclr_cifar": "Chen et al. 2020, appendix B.9: strength .5, no blur; 32-pixel images are evaluated whole",
    "byol": "Grill et al. 2020, appendix B and table 6",
    "byol_cifar": "solo-learn's asymmetric CIFAR pair in torchvision's formulas; BYOL itself has no CIFAR variant",
    "moco_v1": "He et al. 2020",
    "moco_v2": "Chen et al. 2020b",
    "moco_cifar": "the CIFAR-10 demo of the MoCo authors",
    "npid_cifar": "Wu et al. 2018, the CIFAR-10 script of the authors: no flip, one view",
    "triplet_cifar": "anchor and positive: the image itself, and what SimCLR makes of it",
    "randaugment_cifar": "the operations that UDA takes for CIFAR (Xie et al. 2020), after a box as in MoCo",
    "uda_cifar": "Xie et al. 2020: flip and shift; unlabelled ones again with two operations and a square cut out",
    "uda_digits": "ours, UDA's two parts with the operations of digits",
    "digits": "ours, for handwritten digits in grey, 8 x 8 or larger",
    "supervised": "crop and flip alone, one view: supervised training, linear probes with augmentation",
    "supervised_no_flip": "the same for images that mean something else when mirrored",
    "crop_flip": "mirrored, a little cut, never stretched: tasks that ask where in the image or which way up",
    "flip": "mirrored or not, and nothing else",
    "jepa": "Assran et al. 2023, appendix A.1: a box and nothing else, neither flip nor colour",
    "jepa_cifar": "the same for images evaluated whole",
    "barlow_twins": "Zbontar et al. 2021 and, the same, VICReg (Bardes et al. 2022): their codes",
    "vicreg_cifar": "solo-learn's VICReg on CIFAR: larger boxes, both views solarized at times",
    "simsiam_cifar": "Chen and He 2021, appendix D: moco_v2 without blur",
    "symmetric_cifar": "solo-learn's symmetric CIFAR pair: SwAV, SupCon",
    "symmetric_weak_cifar": "the same with weaker colours: SimSiam",
    "wmse_cifar": "solo-learn's W-MSE on CIFAR: larger boxes, no blur",
    "moco_v3": "Chen et al. 2021, ResNet-50",
    "moco_v3_vit": "the same with smaller boxes, ViT",
    "swav": "Caron et al. 2020: 2 views and 6 of 96 pixels; the code of the authors",
    "swav_two": "the same without the small views",
    "swav_cifar": "ours: SwAV's colours without blur, 2 views and 4 of 16 pixels",
    "dino": "Caron et al. 2021: 2 views and 8 of 96 pixels",
    "dino_two": "the same without the small views",
    "dino_resnet": "the same with the small views of its ResNet-50",
    "dino_cifar": "ours: DINO's colours without blur, 2 views and 4 of 16 pixels",
    "ibot": "Zhou et al. 2022, ViT-S, and DINO for 800 epochs: 2 views and 10 of 96 pixels",
    "ibot_cifar": "ours: dino_cifar with iBOT's larger range of boxes",
    "dino_v2": "Oquab et al. 2023: 2 views and 8 of 96 pixels; patches of 14 take 98",
    "lejepa": "Balestriero and LeCun 2025: 2 views and 6 of 98 pixels; the authors' README",
    "lejepa_cifar": "ours: LeJEPA's colours without blur, 2 views and 4 of 16 pixels",
    "mae": "He et al. 2022: one view, a box and a flip",
    "mae_cifar": "solo-learn's MAE on CIFAR: smaller boxes",
    "supcon_cifar": "Khosla et al. 2020, the code of its first author",
    "supcon": "Khosla et al. 2020, ImageNet, with RandAugment in place of AutoAugment",
    "none": "no augmentation at all, evaluated whole",
    "imagenet": "no augmentation at all, evaluated as FAIR's code does at 224 pixels",
    "cifar": "no augmentation at all, evaluated whole",
}


def get(name: str, others: Iterable[str] = ()) -> Any:
    """The recipe of that name, or what ``package.module:name`` names, which may be one for data that are no images.

    A function that is named so is called, and gives the recipe.

    Args:
      others: names of recipes for other data, for the message.

    Raises:
      ValueError: no recipe has that name.
    """
    if name in RECIPES:
        return RECIPES[name]
    if is_imported(name):
        known = own(name, "data.recipe")
        found = known.value
        if inspect.isfunction(found):
            try:
                found = found()
            except Exception as error:  # whatever it does wrong
                where = place(error, known.path)
                raise ValueError(f"data.recipe={name!r} fails: {said_of(error)}{where}; called with nothing") from error
        if not isinstance(found, Recipe) and not hasattr(found, "modality"):
            what = f"data.recipe={name!r} is a {type(found).__name__} and no recipe"
            raise ValueError(f"{what}; see Recipe in ssl_jax/data/modality.py")
        return found
    known = sorted((*RECIPES, *others))
    raise ValueError(f"no augmentation recipe {name!r}; {hint(name, known, cutoff=0.0)}known: {', '.join(known)}")
