"""The recipes' numbers, written out again from the papers and the official code, and looking them up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssl_jax.data.images import published
from ssl_jax.data.images.recipes import Blur, Crop, Eval, Flip, Gray, Jitter, Recipe, Solarize, View

THIRD = (3 / 4, 4 / 3)

# name, view: area, sampler, interpolation, antialias; operations in order as (kind, numbers)
TABLE = [
    ("simclr", 0, (0.08, 1.0), "tf", "bicubic", False,
     [("F", 0.5), ("J", 0.8, 0.8, 0.8, 0.8, 0.2), ("G", 0.2), ("B", 0.5)]),
    ("simclr", 1, (0.08, 1.0), "tf", "bicubic", False,
     [("F", 0.5), ("J", 0.8, 0.8, 0.8, 0.8, 0.2), ("G", 0.2), ("B", 0.5)]),
    ("simclr_cifar", 0, (0.08, 1.0), "tf", "bicubic", False, [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2)]),
    ("simclr_cifar", 1, (0.08, 1.0), "tf", "bicubic", False, [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2)]),
    ("byol", 0, (0.08, 1.0), "byol", "bicubic", False,
     [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("B", 1.0), ("S", 0.0)]),
    ("byol", 1, (0.08, 1.0), "byol", "bicubic", False,
     [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("B", 0.1), ("S", 0.2)]),
    ("byol_cifar", 0, (0.08, 1.0), "torch", "bicubic", True, [("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("F", 0.5)]),
    ("byol_cifar", 1, (0.08, 1.0), "torch", "bicubic", True,
     [("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("S", 0.2), ("F", 0.5)]),
    ("moco_v1", 0, (0.2, 1.0), "torch", "bilinear", True, [("G", 0.2), ("J", 1.0, 0.4, 0.4, 0.4, 0.4), ("F", 0.5)]),
    ("moco_v1", 1, (0.2, 1.0), "torch", "bilinear", True, [("G", 0.2), ("J", 1.0, 0.4, 0.4, 0.4, 0.4), ("F", 0.5)]),
    ("moco_v2", 0, (0.2, 1.0), "torch", "bilinear", True,
     [("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2), ("B", 0.5), ("F", 0.5)]),
    ("moco_v2", 1, (0.2, 1.0), "torch", "bilinear", True,
     [("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2), ("B", 0.5), ("F", 0.5)]),
    ("moco_cifar", 0, (0.08, 1.0), "torch", "bilinear", True, [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2)]),
    ("moco_cifar", 1, (0.08, 1.0), "torch", "bilinear", True, [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2)]),
    ("barlow_twins", 0, (0.08, 1.0), "torch", "bicubic", True,
     [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("B", 1.0)]),
    ("barlow_twins", 1, (0.08, 1.0), "torch", "bicubic", True,
     [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("B", 0.1), ("S", 0.2)]),
    *(("vicreg_cifar", i, (0.2, 1.0), "torch", "bicubic", True,
       [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("S", 0.1)]) for i in range(2)),
    *((name, i, (0.2, 1.0), "torch", "bilinear", True,
       [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2)])
      for name in ("simsiam_cifar", "supcon_cifar") for i in range(2)),
    *(("symmetric_cifar", i, (0.08, 1.0), "torch", "bicubic", True,
       [("F", 0.5), ("J", 0.8, 0.8, 0.8, 0.8, 0.2), ("G", 0.2), ("B", 0.5)]) for i in range(2)),
    *(("symmetric_weak_cifar", i, (0.08, 1.0), "torch", "bicubic", True,
       [("F", 0.5), ("J", 0.8, 0.4, 0.4, 0.4, 0.1), ("G", 0.2), ("B", 0.5)]) for i in range(2)),
    *(("wmse_cifar", i, (0.2, 1.0), "torch", "bicubic", True,
       [("F", 0.5), ("J", 0.8, 0.8, 0.8, 0.8, 0.2), ("G", 0.2)]) for i in range(2)),
    *((name, 0, (least, 1.0), "torch", "bilinear", True,
       [("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("B", 1.0), ("F", 0.5)])
      for name, least in (("moco_v3", 0.2), ("moco_v3_vit", 0.08))),
    *((name, 1, (least, 1.0), "torch", "bilinear", True,
       [("J", 0.8, 0.4, 0.4, 0.2, 0.1), ("G", 0.2), ("B", 0.1), ("S", 0.2), ("F", 0.5)])
      for name, least in (("moco_v3", 0.2), ("moco_v3_vit", 0.08))),
    ("mae", 0, (0.2, 1.0), "torch", "bicubic", True, [("F", 0.5)]),
    ("mae_cifar", 0, (0.08, 1.0), "torch", "bicubic", True, [("F", 0.5)]),
    ("supervised", 0, (0.08, 1.0), "torch", "bilinear", True, [("F", 0.5)]),
    ("jepa_cifar", 0, (0.3, 1.0), "torch", "bilinear", True, []),
]  # fmt: skip


def numbers(op):
    match op:
        case Flip(p):
            return ("F", p)
        case Jitter():
            assert op.random_order
            return ("J", op.p, *(round(x, 12) for x in op[:4]))
        case Gray(p):
            return ("G", p)
        case Blur():
            assert op.sigma == (0.1, 2.0)
            return ("B", op.p)
        case Solarize(p, threshold):
            assert threshold == 0.5
            return ("S", p)


@pytest.mark.parametrize(("name", "i", "area", "sampler", "interpolation", "antialias", "ops"), TABLE)
def test_constants(name, i, area, sampler, interpolation, antialias, ops):
    view = published.get(name).views[i]
    assert view.crop == Crop(area, THIRD, sampler, interpolation, antialias)
    assert [numbers(op) for op in view.ops] == ops
    assert view.size is None


SWAV, DINO = ("J", 0.8, 0.8, 0.8, 0.8, 0.2), ("J", 0.8, 0.4, 0.4, 0.2, 0.1)
BLURRED, SOLARIZED = ("B", 0.5), ("S", 0.2)
# least area of global views; locals: how many, side, least area, the greatest being the least of global ones; colours;
# interpolation; what follows grey in the first view, in the second, in local ones
CROPS = [
    ("swav", 0.14, 6, 96, 0.05, SWAV, "bilinear", [BLURRED], [BLURRED], [BLURRED]),
    ("swav_two", 0.08, 0, 0, 0.0, SWAV, "bilinear", [BLURRED], [BLURRED], []),
    ("dino", 0.4, 8, 96, 0.05, DINO, "bicubic", [("B", 1.0)], [("B", 0.1), SOLARIZED], [BLURRED]),
    ("dino_two", 0.14, 0, 0, 0.0, DINO, "bicubic", [("B", 1.0)], [("B", 0.1), SOLARIZED], []),
    ("dino_resnet", 0.14, 8, 96, 0.05, DINO, "bicubic", [("B", 1.0)], [("B", 0.1), SOLARIZED], [BLURRED]),
    ("ibot", 0.25, 10, 96, 0.05, DINO, "bicubic", [("B", 1.0)], [("B", 0.1), SOLARIZED], [BLURRED]),
    ("dino_v2", 0.32, 8, 96, 0.05, DINO, "bicubic", [("B", 1.0)], [("B", 0.1), SOLARIZED], [BLURRED]),
    ("lejepa", 0.3, 6, 98, 0.05, DINO, "bicubic", *[[BLURRED, SOLARIZED]] * 3),
    ("swav_cifar", 0.3, 4, 16, 0.08, SWAV, "bicubic", [], [], []),
    ("dino_cifar", 0.4, 4, 16, 0.08, DINO, "bicubic", [], [SOLARIZED], []),
    ("ibot_cifar", 0.3, 4, 16, 0.08, DINO, "bicubic", [], [SOLARIZED], []),
    ("lejepa_cifar", 0.3, 4, 16, 0.08, DINO, "bicubic", *[[SOLARIZED]] * 3),
]


@pytest.mark.parametrize(("name", "least", "count", "side", "smallest", "colours", "how", "one", "two", "small"), CROPS)
def test_constants_of_views_of_two_sizes(name, least, count, side, smallest, colours, how, one, two, small):
    views = published.get(name).views
    assert [view.size for view in views] == [None, None, *[side] * count]
    for i, view in enumerate(views):
        area = (least, 1.0) if i < 2 else (smallest, least)
        assert view.crop == Crop(area, THIRD, "torch", how)
        after = (one, two, *[small] * count)[i]
        assert [numbers(op) for op in view.ops] == [("F", 0.5), colours, ("G", 0.2), *after]
        assert all(op.flavour == "torch" for op in view.ops if isinstance(op, Jitter))
        assert all((op.support, op.border) == ("sigma", "symmetric") for op in view.ops if isinstance(op, Blur))


def test_every_recipe_of_this_table_is_in_it():
    """Those that the papers of two sizes have; what is whole is whole at evaluation, on 32 pixels."""
    assert {name for name in published.RECIPES if any(v.size for v in published.get(name).views)} <= {
        name for name, *_ in CROPS
    }
    for name in ("swav", "barlow_twins", "moco_v3", "supcon"):
        assert published.get(name).evaluate == Eval("resize_crop", 0.875, "bilinear"), name
    for name in ("dino", "ibot", "dino_v2", "lejepa", "mae"):
        assert published.get(name).evaluate == Eval("resize_crop", 0.875, "bicubic"), name
    assert all(r.evaluate.kind == "resize" for name, r in published.RECIPES.items() if name.endswith("_cifar"))


def of_kind(name, kind):
    return [op for view in published.get(name).views for op in view.ops if isinstance(op, kind)]


def test_flavours():
    """Who computes which formula: SimCLR v2 multiplies, BYOL adds, torchvision has its own contrast and saturation."""
    expected = {
        "simclr": ("tf", False),
        "simclr_cifar": ("tf", False),
        "byol": ("tf", True),
        "byol_cifar": ("torch", False),
        "moco_v1": ("torch", False),
        "moco_v2": ("torch", False),
        "moco_cifar": ("torch", False),
    }
    for name, want in expected.items():
        assert {(op.flavour, op.additive) for op in of_kind(name, Jitter)} == {want}, name
    for name, want in {
        "simclr": ("tenth", "zero"),
        "byol": ("tenth", "zero"),
        "moco_v2": ("sigma", "symmetric"),
    }.items():
        assert {(op.support, op.border) for op in of_kind(name, Blur)} == {want}, name


def test_evaluation():
    expected = {
        "simclr": ("centre_crop", 0.875, "bicubic", False),
        "simclr_cifar": ("resize", 1.0, "bicubic", False),
        "byol": ("centre_crop", 0.875, "bicubic", False),
        "moco_v1": ("resize_crop", 0.875, "bilinear", True),
        "moco_v2": ("resize_crop", 0.875, "bilinear", True),
        "moco_cifar": ("resize", 1.0, "bilinear", True),
        "supervised": ("resize_crop", 0.875, "bilinear", True),
        "imagenet": ("resize_crop", 0.875, "bilinear", True),
        "cifar": ("resize", 1.0, "bilinear", True),
    }
    for name, want in expected.items():
        assert published.get(name).evaluate[:4] == want, name
        assert published.get(name).evaluate.truncate == (name == "byol"), name  # SimCLR's code rounds


def test_digits_are_never_mirrored():
    assert not of_kind("digits", Flip)


def test_recipes_are_values():
    """Hashable, and comparable with a recipe built again, so that they can be compared and stored with a run."""
    assert len(set(published.RECIPES.values())) > 5
    again = Recipe((View(None),), published.get("none").evaluate)
    assert again == published.get("none")


def test_unknown_name():
    with pytest.raises(ValueError, match=r"no augmentation recipe 'simclr_cifr'; did you mean 'simclr_cifar'\?.*moco"):
        published.get("simclr_cifr")


def test_no_array_library_is_imported():
    """A config, or the device form of a recipe, may be read where TensorFlow is not installed."""
    code = "import sys; sys.modules['tensorflow'] = None; import ssl_jax.data.images.recipes, ssl_jax.data.images.host"
    subprocess.run([sys.executable, "-c", code], check=True)
