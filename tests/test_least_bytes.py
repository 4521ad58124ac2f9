"""The least that layers must move, against a count by hand of networks of a few layers."""

from __future__ import annotations

import sys

import pytest
import runs

from ssl_jax.models.resnet import ResNet

sys.path.insert(0, str(runs.ROOT / "experiments"))
from benchmarks import least_bytes

# Two images of 8 x 8: a stem of 4 channels, a block of 4 and one of 8 that strides and projects. Numbers of an image.
STEM, FIRST, SECOND = 8 * 8 * 4, 8 * 8 * 4, 4 * 4 * 8
BASIC = {
    "convolution": (8 * 8 * 3 + STEM) + 2 * (FIRST + FIRST) + (FIRST + SECOND) + (SECOND + SECOND) + (FIRST + SECOND),
    "BatchNorm, ReLU": STEM + 2 * FIRST + 3 * SECOND,
    "end of a block": FIRST + SECOND,
}
# The same with blocks of 1 x 1, 3 x 3 and 1 x 1, four times as wide at their end; both project, and the second's first
# convolution sees the whole size.
FIRST, WIDE, NARROW, LAST = 8 * 8 * 4, 8 * 8 * 16, 8 * 8 * 8, 4 * 4 * 32
STRIDED = 4 * 4 * 8
BOTTLENECK = {
    "convolution": (8 * 8 * 3 + STEM)
    + (STEM + FIRST)
    + (FIRST + FIRST)
    + (FIRST + WIDE)
    + (STEM + WIDE)
    + (WIDE + NARROW)
    + (NARROW + STRIDED)
    + (STRIDED + LAST)
    + (WIDE + LAST),
    "BatchNorm, ReLU": STEM + 2 * FIRST + 2 * WIDE + NARROW + STRIDED + 2 * LAST,
    "end of a block": WIDE + LAST,
}
PASSES = {"convolution": 3, "BatchNorm, ReLU": 8, "end of a block": 4}
FORWARD = {"convolution": 1, "BatchNorm, ReLU": 3, "end of a block": 1}


@pytest.mark.parametrize(("bottleneck", "numbers"), [(False, BASIC), (True, BOTTLENECK)])
def test_bytes_by_hand(bottleneck, numbers):
    encoder = ResNet(blocks=(1, 1), bottleneck=bottleneck, width=1 / 16, stem="cifar", dtype="bfloat16")
    found = least_bytes.least_bytes(encoder, 2, 8)
    assert found == {kind: 2 * 2 * PASSES[kind] * count for kind, count in numbers.items()}
    assert least_bytes.forward(found) == pytest.approx(sum(2 * 2 * FORWARD[kind] * numbers[kind] for kind in numbers))


def test_the_max_pool_is_left_out():
    """With the stem for large images convolutions see what comes of the max-pool; it takes no bytes itself."""
    found = least_bytes.least_bytes(ResNet(blocks=(1,), width=1 / 16, dtype="bfloat16"), 1, 32)
    stem, block = 16 * 16 * 4, 8 * 8 * 4
    assert found == {
        "convolution": 2 * 3 * (32 * 32 * 3 + stem + 2 * (block + block)),
        "BatchNorm, ReLU": 2 * 8 * (stem + 2 * block),
        "end of a block": 2 * 4 * block,
    }
