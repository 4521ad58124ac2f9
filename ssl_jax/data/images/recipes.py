"""Augmentation recipes as data: what each paper does to an image to make its views, in order, in numbers.

Nothing here computes: ``host.py`` carries a recipe out with TensorFlow on the host, ``device.py`` with JAX on the
device. A view is one crop, then operations in the order they are written. "tf" and "torch" name two families of
formulas that share parameter names but not results: contrast about the mean of each channel against contrast about the
mean of the grey image, saturation as a scale of S in HSV against a blend with the grey image.

Differs from the reference code: none of these recipes subtracts a mean; mean and std belong to the method's config.
Every image draws its own blur; SimCLR's code draws one sigma for all images that a core blurs at once, and leaves to
each image whether it is blurred. Pillow's blur, the one of ``moco_v2``, is three box filters, each of which goes on
beyond the edge with the last pixel; the Gaussian here with its border "symmetric" is nearest to that, within .02 up to
the edge, where "edge" is .05 off and "reflect" .08.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from ssl_jax.names import hint, is_imported, own, place, said_of


class Crop(NamedTuple):
    """A random box, resized to the view's size.

    Attributes:
      area: range of the box's share of the image's area.
      aspect: range of the box's width / height.
      sampler: "torch" (log-uniform aspect, 10 tries, then the largest centred box), "tf" (uniform aspect, up to 100
        tries, then the whole image; at least 10 % of the image covered, so the true minimum area is .1) or "byol"
        (log-uniform aspect, sides clipped to the image, never a second try).
      interpolation: "bilinear" or "bicubic".
      antialias: low-pass filter when shrinking, as Pillow does and TensorFlow's plain resize does not.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    sampler: Literal["torch", "tf", "byol"] = "torch"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True


class Flip(NamedTuple):
    """Mirror left and right with probability p."""

    p: float = 0.5


class Jitter(NamedTuple):
    """Brightness, contrast, saturation and hue, all of them with probability p, clipped to [0, 1] after each.

    Attributes:
      brightness: factor from U(max(0, 1 - b), 1 + b), or, additive, a shift from U(-b, b).
      contrast: factor from U(max(0, 1 - c), 1 + c).
      saturation: factor from U(max(0, 1 - s), 1 + s); left out on one-channel images.
      hue: shift from U(-h, h), in full turns; left out on one-channel images.
      p: probability of the whole jitter.
      flavour: "tf" or "torch", see the module's docstring.
      additive: additive brightness (SimCLR v1, BYOL) instead of multiplicative (SimCLR v2, torchvision).
      random_order: each image its own order, uniform over the 24; else the order above.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float = 0.8
    flavour: Literal["tf", "torch"] = "tf"
    additive: bool = False
    random_order: bool = True


class Gray(NamedTuple):
    """Luma .2989 R + .587 G + .114 B in every channel, with probability p; nothing on one-channel images."""

    p: float = 0.2


class Blur(NamedTuple):
    """Gaussian blur with probability p.

    Attributes:
      p: probability.
      sigma: range of the standard deviation in pixels of the view.
      support: taps on each side of the centre: "tenth" (view // 20: the kernel is a tenth of the view, 3 taps at 32 and
        23 at 224 pixels, however large sigma is) or "sigma" (as far as the Gaussian reaches: 4 * the largest sigma).
      border: what lies outside: "zero" (TensorFlow's SAME: darkens the border), or the image mirrored, "reflect" at the
        middle of its last pixel (torchvision), "symmetric" behind it (nearest to Pillow).
    """

    p: float
    sigma: tuple[float, float] = (0.1, 2.0)
    support: Literal["tenth", "sigma"] = "tenth"
    border: Literal["zero", "reflect", "symmetric"] = "zero"


class Solarize(NamedTuple):
    """x -> 1 - x where x >= threshold, with probability p."""

    p: float
    threshold: float = 0.5


class Noise(NamedTuple):
    """Gaussian noise added with probability p; its standard deviation is drawn from U(0, std). Clipped to [0, 1]."""

    std: float
    p: float = 1.0


class RandAugment(NamedTuple):
    """``count`` of the fifteen operations of ``data/images/randaugment.py``, one after the other, on 8-bit levels.

    Attributes:
      count: operations drawn, each anew.
      chance: with which an operation that was drawn is done.
      levels: least and greatest strength, of 10; drawn evenly.
      p: probability of it all.
    """

    count: int = 2
    chance: float = 0.5
    levels: tuple[int, int] = (1, 9)
    p: float = 1.0


class Cutout(NamedTuple):
    """A grey square at a random place, with probability p; ``side``: of it, as a part of the view's."""

    side: float = 0.5
    p: float = 1.0


class Own(NamedTuple):
    """An operation of the user's own, with probability p: a function of JAX, on the device alone.

    ``NAME(image, key, *, FIELD=...) -> image``: one image, float32 ``[h, w, c]`` in [0, 1], and the key of its row.

    Attributes:
      name: of the function, ``./ops.py:cutout`` or ``my_lab.ops:cutout`` (:mod:`ssl_jax.names`).
      p: probability.
      fields: (name, value) of each argument that is given.
    """

    name: str
    p: float = 1.0
    fields: tuple[tuple[str, Any], ...] = ()


Op = Flip | Jitter | Gray | Blur | Solarize | Noise | RandAugment | Cutout | Own

# What operations are called in keys and files; those of the user's own by their function or file.
KINDS: dict[str, Any] = {
    kind.__name__.lower(): kind for kind in (Flip, Jitter, Gray, Blur, Solarize, Noise, RandAugment, Cutout)
}


class View(NamedTuple):
    """One view: a crop, then operations in order, each kind at most once.

    Attributes:
      crop: the random box, or None: the whole image, resized.
      ops: operations in order.
      size: side in pixels; None: the run's ``image_size``. Multi-crop recipes give their small views a size.
    """

    crop: Crop | None
    ops: tuple[Op, ...] = ()
    size: int | None = None


class Eval(NamedTuple):
    """The deterministic view of evaluation.

    Attributes:
      kind: "resize" (the whole image), "centre_crop" (a centred box of ``fraction`` of the image, shape of the output,
        then resize: SimCLR's order) or "resize_crop" (short side to ``image_size / fraction``, then the centre: the
        order of torchvision and FAIR).
      fraction: share of the short side that is kept; 224 / 256.
      interpolation: "bilinear" or "bicubic".
      antialias: low-pass filter when shrinking.
      truncate: the side of a centred box in whole pixels is the next below (BYOL's code) and not the nearest.
    """

    kind: Literal["resize", "centre_crop", "resize_crop"] = "resize"
    fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    truncate: bool = False


class Recipe(NamedTuple):
    """What a run does to an image: its views in training, and one view in evaluation.

    Attributes:
      views: of each image of a batch; of two parts, of the labelled one.
      evaluate: the view of evaluation.
      unlabelled: views of the second part of a batch, which is drawn from all images; (): batches have one part.
      ratio: rows of the second part for each of the first, where ``data.ratio`` says no other.
    """

    views: tuple[View, ...]
    evaluate: Eval = Eval()
    unlabelled: tuple[View, ...] = ()
    ratio: int = 7


def _jitter(strength: float, *, additive: bool = False) -> Jitter:
    """SimCLR's jitter: (.8, .8, .8, .2) times the strength."""
    return Jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, additive=additive)


# SimCLR's TF2 code resizes without antialiasing; TF1's bicubic kernel was yet another.
_SIMCLR_CROP = Crop(sampler="tf", interpolation="bicubic", antialias=False)
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
