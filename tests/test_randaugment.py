"""RandAugment: JAX's operations are Pillow's, and both backends draw as they should."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from ssl_jax.data.images import device, host, randaugment
from ssl_jax.data.images.recipes import RandAugment, View

SIZE = 32


def pictures(channels=3):
    """Noise, a smooth one of few levels, a dark one, one level."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 180, SIZE)[:, None, None] + np.linspace(0, 40, SIZE)[None, :, None]
    return [
        rng.integers(0, 256, (SIZE, SIZE, channels), np.uint8),
        (ramp + rng.integers(0, 12, (1, 1, channels))).astype(np.uint8),
        rng.integers(0, 60, (SIZE, SIZE, channels), np.uint8),
        np.full((SIZE, SIZE, channels), 77, np.uint8),
    ]


compiled = jax.jit(randaugment.operation)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", randaugment.NAMES)
def test_an_operation_is_pillows(name, channels):
    """To a level where Pillow rounds, and to the pixel next to it at one place in 200 where it moves."""
    if name == "color" and channels == 1:
        return
    number = randaugment.NAMES.index(name)
    for level in (1, 4, 9):
        for sign in (1, -1) if name in randaugment.AFFINE else (1,):
            value = np.float32(sign * randaugment.strengths(SIZE)[number, level])
            for image in pictures(channels):
                centre = np.array([0.3, 0.95], np.float32)
                want = randaugment.by_pillow(image, number, float(value), tuple(centre))
                got = np.asarray(compiled(jnp.asarray(image, jnp.float32), number, value, centre))
                apart = np.abs(got - want)
                if name in randaugment.AFFINE:
                    assert (apart > 0).mean() < 0.005
                else:
                    assert apart.max() <= (1 if name in ("autocontrast", *randaugment.BLENDS) else 0)
                    assert (apart > 0).mean() < 0.01


def test_strengths_are_udas():
    found = dict(zip(randaugment.NAMES, randaugment.strengths(32), strict=True))
    assert found["solarize"][[1, 5, 9]].tolist() == [231, 128, 26]
    assert found["posterize"][[1, 3, 5, 9]].tolist() == [4, 3, 2, 1]
    np.testing.assert_allclose(found["contrast"][[0, 5, 9]], [0.1, 1.0, 1.72], rtol=1e-6)
    assert found["rotate"][9] == 27
    assert found["shear_x"][9] == pytest.approx(0.27)
    assert found["translate_x"][[1, 9]].tolist() == [1, 9]
    assert found["cutout"][9] == 18
    assert randaugment.strengths(224)[randaugment.NAMES.index("translate_y"), 9] == 63


VIEW = View(None, (RandAugment(),))
draw = jax.jit(lambda keys: device.draw(VIEW, keys, (SIZE, SIZE, 3), SIZE))


def test_both_backends_choose_alike():
    """Each operation and level equally often, half of them done, signs even: chi-square over 8,000 draws."""
    n = 8_000
    keys = jax.random.split(jax.random.key(0), n)
    ours = draw(keys)
    seeds = tf.data.Dataset.range(n)
    theirs = (
        seeds.map(lambda i: host.draw_randaugment(VIEW.ops[0], tf.stack([i, i]), SIZE)).batch(n).get_single_element()
    )
    for drawn in (ours, dict(zip(("done", "number", "value"), theirs, strict=False))):
        done, number, value = (np.asarray(drawn[k]) for k in ("done", "number", "value"))
        assert done.shape == number.shape == value.shape == (n, 2)
        assert abs(done.mean() - 0.5) < 4 * 0.5 / np.sqrt(2 * n)
        counts = Counter(number.ravel().tolist())
        assert stats.chisquare([counts[i] for i in range(15)]).pvalue > 1e-4
        assert abs(np.corrcoef(number.T)[0, 1]) < 4 / np.sqrt(n)
        shears = value[number == randaugment.NAMES.index("shear_x")]
        levels = Counter(np.round(np.abs(shears) / 0.03).astype(int).tolist())
        assert sorted(levels) == list(range(1, 10))
        assert stats.chisquare(list(levels.values())).pvalue > 1e-4
        assert abs((shears > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(shears))


def test_a_view_is_its_operations_one_after_the_other():
    """With the draws of the device carried out by Pillow."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
    keys = jax.random.split(jax.random.key(3), len(images))
    drawn = jax.tree.map(np.asarray, draw(keys))
    whole = {"image": jnp.asarray(images)}
    run = jax.jit(lambda whole: device._view(VIEW, 0, None, whole, keys, SIZE, alone=True, dtype=jnp.float32))
    views = np.asarray(run(whole))
    assert views.min() >= 0
    assert views.max() <= 1
    wrong = 0
    for i, image in enumerate(images):
        want = image
        for slot in range(2):
            if drawn["done"][i, slot]:
                want = randaugment.by_pillow(
                    want, int(drawn["number"][i, slot]), float(drawn["value"][i, slot]), tuple(drawn["centre"][i, slot])
                )
        apart = np.abs(np.asarray(views[i]) * 255 - want)
        wrong += (apart > 1.5).mean() > 0.02
    assert wrong == 0


def test_the_host_carries_it_out_and_repeats_it():
    image = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), np.uint8)

    def view(seed):
        whole = {"shape": tf.constant(image.shape), "crop": lambda box: tf.cast(image, tf.float32) / 255.0}
        return host.augment(VIEW, tf.constant([seed, 5]), SIZE, **whole).numpy()

    views = [view(seed) for seed in range(12)]
    np.testing.assert_array_equal(views[3], view(3))
    changed = [np.abs(v - image / np.float32(255)).max() > 1e-6 for v in views]
    assert 4 <= sum(changed) <= 12
