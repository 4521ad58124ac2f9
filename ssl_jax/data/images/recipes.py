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

from typing import Any, Literal, NamedTuple


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
