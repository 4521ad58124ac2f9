"""The recipes' numbers, written out again from the papers and the official code, and looking them up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssl_jax.data.images import recipes
from ssl_jax.data.images.recipes import Blur, Crop, Flip, Gray, Jitter, Recipe, Solarize, View

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
    view = recipes.get(name).views[i]
    assert view.crop == Crop(area, THIRD, sampler, interpolation, antialias)
    assert [numbers(op) for op in view.ops] == ops
    assert view.size is None


def of_kind(name, kind):
    return [op for view in recipes.get(name).views for op in view.ops if isinstance(op, kind)]


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
        assert recipes.get(name).evaluate[:4] == want, name
        assert recipes.get(name).evaluate.truncate == (name == "byol"), name  # SimCLR's code rounds


def test_digits_are_never_mirrored():
    assert not of_kind("digits", Flip)


def test_recipes_are_values():
    """Hashable, and comparable with a recipe built again, so that they can be compared and stored with a run."""
    assert len(set(recipes.RECIPES.values())) > 5
    again = Recipe((View(None),), recipes.get("none").evaluate)
    assert again == recipes.get("none")


def test_unknown_name():
    with pytest.raises(ValueError, match=r"no augmentation recipe 'simclr_cifr'; did you mean 'simclr_cifar'\?.*moco"):
        recipes.get("simclr_cifr")


def test_no_array_library_is_imported():
    """A config, or the device form of a recipe, may be read where TensorFlow is not installed."""
    code = "import sys; sys.modules['tensorflow'] = None; import ssl_jax.data.images.recipes, ssl_jax.data.images.host"
    subprocess.run([sys.executable, "-c", code], check=True)
