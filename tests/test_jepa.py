"""I-JEPA: the geometry of its blocks, what may influence a prediction, its loss by hand, its teacher."""

from __future__ import annotations

from functools import partial

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer

from ssl_jax import methods, models
from ssl_jax.methods import jepa
from ssl_jax.models.vit import patchify
from ssl_jax.parallel import named_key
from ssl_jax.tasks import masks
from ssl_jax.types import Plan

PAPER = {"num_targets": 4, "target_scale": (0.15, 0.2), "target_aspect": (0.75, 1.5), "context_scale": (0.85, 1.0)}
GRIDS = [(8, 8), (14, 14), (6, 10)]
COMPILED = {}


def layout_of(grid, max_context=1.0, **changes):
    encoder = models.make("vit", patch_size=2)
    plan = Plan(20, 4, 256, (2 * grid[0], 2 * grid[1], 3), 64)
    return jepa._layout(encoder, plan, max_context=max_context, **(PAPER | changes))


MANY = 1000  # rows that most tests draw, in one program for each layout


def blocks_of(seed, n, layout):
    """The first n of them: no row depends on the number of rows."""
    return jax.tree.map(lambda a: a[:n], draw(jax.random.key(seed), MANY, layout))


def draw(key, n, layout):
    # One program for each layout: by its contents, as arrays are not hashed.
    name = (n, *(a.tobytes() if isinstance(a, np.ndarray) else a for a in layout))
    if name not in COMPILED:
        COMPILED[name] = jax.jit(partial(masks.multi_block, n=n, layout=layout))
    return jax.tree.map(np.asarray, COMPILED[name](key))


def rectangle(numbers, grid):
    """(top, left, height, width) of patches that fill a rectangle, each once."""
    down, across = np.divmod(np.sort(numbers), grid[1])
    top, left, height, width = down.min(), across.min(), np.ptp(down) + 1, np.ptp(across) + 1
    full = (top + np.arange(height))[:, None] * grid[1] + left + np.arange(width)[None]
    np.testing.assert_array_equal(np.sort(numbers), full.reshape(-1))
    return top, left, height, width


# Blocks


@pytest.mark.parametrize("grid", GRIDS)
def test_block_sizes_are_rounded_shares_of_the_grid(grid):
    cells = grid[0] * grid[1]
    sizes = masks.block_sizes(grid, (0.15, 0.2), (0.75, 1.5))
    assert sizes.shape == (1024, 2)
    # Before rounding, a side is within half a patch of what was rounded.
    low, high = np.maximum(sizes - 0.5, 0), sizes + 0.5
    assert (low.prod(1) <= 0.2 * cells).all()
    assert (high.prod(1) >= 0.15 * cells).all()
    assert (low[:, 0] / high[:, 1] <= 1.5).all()
    assert (high[:, 0] / low[:, 1] >= 0.75).all()
    drawn = np.random.default_rng(0).uniform((0.15, 0.75), (0.2, 1.5), (200_000, 2)) * (cells, 1)
    mean = np.rint(np.sqrt(np.stack([drawn.prod(1), drawn[:, 0] / drawn[:, 1]], 1))).mean(0)
    np.testing.assert_allclose(sizes.mean(0), mean, rtol=0.02)


@pytest.mark.parametrize("grid", GRIDS)
def test_context_and_targets_by_hand(grid):
    layout = layout_of(grid)
    allowed = {tuple(size) for size in layout.context.tolist()}
    for seed in range(3):
        blocks = blocks_of(seed, 24, layout)
        assert blocks.targets.shape[1] == 4
        assert blocks.wanted[..., 0].all()
        of_batch = set()
        for targets, wanted, context, present in zip(
            blocks.targets, blocks.wanted, blocks.context, blocks.present, strict=True
        ):
            hidden = np.zeros(grid, bool)
            for numbers, real in zip(targets, wanted, strict=True):
                top, left, height, width = rectangle(numbers[real], grid)
                assert set(numbers[~real]) <= {top * grid[1] + left}  # filling
                hidden[top : top + height, left : left + width] = True
                of_batch.add((height, width))
            shown = np.zeros(grid[0] * grid[1], bool)
            shown[context[present]] = True
            shown = shown.reshape(grid)
            assert shown.sum() == present.sum() >= 1  # each once
            assert set(context[~present]) <= {context[0]}
            assert not (shown & hidden).any()
            assert any(  # a whole block less the targets
                (shown[a : a + h, b : b + w] == ~hidden[a : a + h, b : b + w]).all()
                and shown[a : a + h, b : b + w].sum() == shown.sum()
                for h, w in allowed
                for a in range(grid[0] - h + 1)
                for b in range(grid[1] - w + 1)
            )
        assert len(of_batch) == 1  # one size for the batch
        assert of_batch <= {tuple(size) for size in layout.targets.tolist()}


def test_sizes_change_from_step_to_step():
    layout = layout_of((14, 14))
    counts = {int(blocks_of(seed, 1, layout).wanted[0, 0].sum()) for seed in range(12)}
    assert len(counts) > 3
    assert counts <= set(layout.targets.prod(1).tolist())


@pytest.mark.parametrize("grid", GRIDS)
def test_every_patch_is_a_target_as_often_as_its_place_allows(grid):
    """The reference's places end one before the border; here the last row and column are reached like the first."""
    layout, n = layout_of(grid), MANY
    blocks = blocks_of(7, n, layout)
    _, _, height, width = rectangle(blocks.targets[0, 0][blocks.wanted[0, 0]], grid)

    def share(size, block):  # of all places, those that cover position 0 ... size - 1
        places = np.arange(size - block + 1)[:, None]
        return ((places <= np.arange(size)) & (np.arange(size) < places + block)).mean(0)

    expected = np.outer(share(grid[0], height), share(grid[1], width)).reshape(-1)
    numbers = np.where(blocks.wanted, blocks.targets, len(expected)).reshape(4 * n, -1)
    found = np.stack([(numbers == i).any(1).mean() for i in range(len(expected))])
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / (4 * n)))
    assert found.min() > 0
    seen = np.bincount(blocks.context[blocks.present], minlength=len(expected))
    assert seen.min() > 0


def test_a_context_that_is_too_long_loses_any_of_its_patches():
    whole, short = (blocks_of(3, MANY, layout_of((8, 8), share)) for share in (1.0, 0.4))
    assert short.context.shape == (MANY, round(0.4 * 64))
    np.testing.assert_array_equal(whole.targets, short.targets)
    lengths = whole.present.sum(1)
    np.testing.assert_array_equal(short.present.sum(1), np.minimum(lengths, 26))
    member = np.zeros((2, MANY, 64), bool)
    for kind, blocks in enumerate((whole, short)):
        rows, slots = np.nonzero(blocks.present)
        member[kind, rows, blocks.context[rows, slots]] = True
    assert (member[1] <= member[0]).all()
    long = lengths > 26
    kept = (member[1, long].sum(0) / member[0, long].sum(0)).reshape(8, 8)
    for dim in (0, 1):  # the last rows and columns as often as the first
        np.testing.assert_allclose(kept.mean(dim), 26 * long.sum() / lengths[long].sum(), atol=0.05)


def test_blocks_do_not_depend_on_how_rows_are_split():
    layout = layout_of((8, 8), 0.5)
    whole = draw(jax.random.key(1), 8, layout)
    split = partial(masks.multi_block, n=2, layout=layout, axis="data")
    mapped = jax.jit(jax.vmap(split, axis_name="data", axis_size=4, in_axes=None))(jax.random.key(1))
    for a, b in zip(mapped, whole, strict=True):
        np.testing.assert_array_equal(a.reshape(b.shape), b)
    assert len(np.unique(whole.targets[:, 0, 0])) > 1  # images differ


def test_targets_never_cover_a_context():
    """On 4 x 4 patches four squares of two could."""
    layout = layout_of((4, 4))
    assert (4 * layout.targets.prod(1) < layout.context.prod(1).min()).all()
    assert blocks_of(0, 500, layout).present.any(1).all()
    paper = layout_of((14, 14))
    np.testing.assert_array_equal(paper.targets, masks.block_sizes((14, 14), (0.15, 0.2), (0.75, 1.5)))


# The method


@pytest.fixture(scope="module")
def case():
    """(method, encoder, variables, images), both networks moved away from their start and from each other."""
    encoder = models.make("vit", patch_size=1, width=16, depth=2, heads=2)
    plan = Plan(20, 4, 256, (8, 8, 3), 6)
    arguments = {"tau": 0.9, "predictor_width": 8, "predictor_layers": 2}
    method = methods.get("jepa")(encoder, plan=plan, mean=(0.5,), std=(0.25,), **arguments)
    images = contract.batch_of(0, rows=6)["views"][0]
    variables = jax.device_get(jax.jit(method.init)(jax.random.key(1), {"views": (images,)}))
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda a: (a + 0.1 * rng.normal(size=a.shape)).astype(np.float32), variables)
    return method, encoder, moved, images


@pytest.fixture(scope="module")
def gradients(case):
    """``(params, aux, images, key) -> ((loss, LossOut), gradients by each of the first three)``, compiled once."""
    method, _, variables, _ = case

    def loss(params, aux, images, key):
        return method.loss(variables._replace(params=params, aux=aux), {"views": (images,)}, key, jnp.int32(0), None)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def blocks_in_loss(key):
    """The blocks that the loss draws with this key."""
    return draw(named_key(key, "blocks"), 6, layout_of((8, 8), 0.5))


def test_the_loss_is_smooth_l1_of_each_target_from_its_context_alone(case, gradients):
    """Image by image and block by block without any filling, so neither masks nor repeats count."""
    _, encoder, variables, images = case
    key = jax.random.key(1)  # draws blocks that need filling
    (value, out), _ = gradients(variables.params, variables.aux, images, key)
    blocks = blocks_in_loss(key)
    assert not blocks.present.all()
    assert not blocks.wanted.all()
    params, target, normal = jax.tree.map(
        lambda a: np.asarray(a, np.float64),
        (variables.params, variables.aux["target"]["encoder"], (images - 0.5) / 0.25),
    )
    whole = transformer.network(target, normal, encoder)
    centred = whole["stage2"] - whole["stage2"].mean(-1, keepdims=True)
    tokens = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    losses = []
    for i in range(6):
        context = blocks.context[i][blocks.present[i]]
        seen = transformer.network(params["encoder"], normal[i : i + 1], encoder, context[None])["stage2"][0]
        for numbers, real in zip(blocks.targets[i], blocks.wanted[i], strict=True):
            guess = transformer.predict(params["predictor"], seen, context, numbers[real], (8, 8), heads=2)
            d = np.abs(guess - tokens[i, numbers[real]])
            losses.append(np.where(d < 1, d**2 / 2, d - 0.5).mean())
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-5)
    spread = np.sqrt(((tokens - tokens.mean(0)) ** 2).mean())
    assert float(out.metrics["target_std"]) == pytest.approx(spread, rel=1e-5)
    np.testing.assert_allclose(out.outputs["features"], whole["features"], rtol=1e-4, atol=1e-5)


def test_row_losses_pass_one_and_leave_filling_out():
    rng = np.random.default_rng(0)
    predicted, tokens = 3 * rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 9, 5))
    targets = rng.integers(0, 9, (2, 3, 4)).astype(np.int32)
    wanted = np.broadcast_to([True, True, True, False], (2, 3, 4))
    blocks = masks.Blocks(None, None, jnp.asarray(targets), jnp.asarray(wanted))

    def by_hand(predicted):
        d = np.abs(predicted - np.stack([row[ids] for row, ids in zip(tokens, targets, strict=True)]))[:, :, :3]
        assert (d > 1).any()
        return np.where(d < 1, d**2 / 2, d - 0.5).mean((1, 2, 3))

    with jax.enable_x64(True):
        loss = lambda p: jepa._row_losses(p, jnp.asarray(tokens), blocks)  # noqa: E731
        found, slope = jax.jit(lambda p: jax.jvp(loss, (p,), (p,)))(jnp.asarray(predicted))
    np.testing.assert_allclose(found, by_hand(predicted), rtol=1e-12)
    np.testing.assert_allclose(
        slope, (by_hand(predicted * (1 + 1e-6)) - by_hand(predicted * (1 - 1e-6))) / 2e-6, rtol=1e-6
    )


def test_hidden_pixels_reach_no_prediction(case, gradients):
    """With a target network of zeros the targets are constant: what moves the loss moves a prediction."""
    _, _, variables, images = case
    key, constant = jax.random.key(5), jax.tree.map(np.zeros_like, variables.aux)
    blocks = blocks_in_loss(key)
    found = np.asarray(gradients(variables.params, constant, images, key)[1][2])
    shown = np.zeros((6, 64), bool)
    for row, ids, there in zip(shown, blocks.context, blocks.present, strict=True):
        row[ids[there]] = True
    assert shown.sum(1).max() <= 32
    np.testing.assert_array_equal(np.abs(patchify(found, 1)).max(-1) > 0, shown)
    # Nor does the share of one image in the loss know of the others.
    others = images.copy()
    others[1:] += 0.3
    other = np.asarray(gradients(variables.params, constant, others, key)[1][2])
    np.testing.assert_allclose(other[0], found[0], atol=1e-6)
    assert np.abs(other[1:] - found[1:]).max() > 1e-5


def test_no_gradient_reaches_the_target_and_all_else_gets_one(case, gradients):
    _, _, variables, images = case
    _, (of_params, of_target, _) = gradients(variables.params, variables.aux, images, jax.random.key(2))
    assert not any(np.any(g) for g in jax.tree.leaves(of_target))
    for path, g in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.any(g), jax.tree_util.keystr(path)


def test_the_target_is_a_copy_that_follows_ever_slower(case):
    method, encoder, variables, images = case
    started = jax.jit(method.init)(jax.random.key(1), {"views": (images,)})
    for a, b in zip(*map(jax.tree.leaves, (started.params["encoder"], started.aux["target"]["encoder"])), strict=True):
        np.testing.assert_array_equal(a, b)
    update = jax.jit(lambda v, step: method.update_aux(v, None, step))
    for step, tau in ((0, 0.9), (10, 0.95), (15, 0.975), (20, 1.0), (30, 1.0)):
        aux = jax.device_get(update(variables, jnp.int32(step)))
        leaves = (aux["target"]["encoder"], variables.aux["target"]["encoder"], variables.params["encoder"])
        for new, old, online in zip(*map(jax.tree.leaves, leaves), strict=True):
            np.testing.assert_allclose(new, tau * old + (1 - tau) * online, rtol=1e-5, atol=1e-6)
    params, _ = method.trunk(variables)
    assert params == variables.aux["target"]["encoder"]  # the same arrays
    out = transformer.network(params, (images - 0.5) / 0.25, encoder)
    found = jax.jit(method.encode)(variables, images)
    assert set(found) == {"stem", "stage1", "stage2", "features", "mean"}
    np.testing.assert_allclose(found["features"], out["features"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["stage1"], out["stage1"].mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_task_can_be_looked_at(case):
    method, _, variables, images = case
    rows = jax.jit(method.hooks["show"])(variables, images, jax.random.key(9))
    blocks = draw(jax.random.key(9), 6, layout_of((8, 8), 0.5))
    patches = {name: np.asarray(patchify(row, 1)) for name, row in rows.items()}
    assert set(rows) == {"input", "context", "target", "prediction (nearest patch)"}
    for i in range(6):
        for title, numbers, real in (
            ("context", blocks.context, blocks.present),
            ("target", blocks.targets, blocks.wanted),
        ):
            shown = np.unique(numbers[i][real[i]])
            grey = np.setdiff1d(np.arange(64), shown)
            np.testing.assert_array_equal(patches[title][i][shown], patches["input"][i][shown])
            assert (patches[title][i][grey] == 0.5).all()
        guessed = patches["prediction (nearest patch)"][i]
        asked = np.unique(blocks.targets[i][blocks.wanted[i]])
        bank = patches["input"].reshape(384, -1)
        assert all((bank == patch[None]).all(1).any() for patch in guessed[asked])
        assert (guessed[np.setdiff1d(np.arange(64), asked)] == 0.5).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tau": 1.5}, "tau=1.5"),
        ({"predictor_width": 10}, "predictor_width=10 must be a multiple of 4 and of its 2 heads; use 8"),
        ({"num_targets": 0}, "num_targets=0"),
        ({"num_targets": 8}, "num_targets=8 blocks may cover a context of 16 patches"),
        ({"target_scale": (0.2, 0.1)}, r"target_scale=\(0.2, 0.1\)"),
        ({"target_aspect": (0.0, 1.0)}, r"target_aspect=\(0.0, 1.0\)"),
        ({"context_scale": (0.5, 1.5)}, r"context_scale=\(0.5, 1.5\)"),
        ({"max_context": 0.0}, "max_context=0.0"),
    ],
)
def test_wrong_hyper_parameters_are_refused(arguments, words, monkeypatch):
    monkeypatch.setitem(contract.ALL, "wrong", ("jepa", contract.CASES["jepa"] | arguments))
    with pytest.raises(ValueError, match=words):
        contract.make("wrong")


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"model.patch_size=2 does not cut images of 9 x 9"):
        contract.make("jepa", input_shape=(9, 9, 3))
    with pytest.raises(ValueError, match="may cover a context of 4 patches, all that 2 x 2 patches hold"):
        contract.make("jepa", input_shape=(4, 4, 3))
    convnet = models.make("convnet", widths=(4,))
    with pytest.raises(ValueError, match=r"takes a ViT and no .*; use model.name=vit_ti"):
        methods.get("jepa")(convnet, plan=Plan(20, 4, 256, (8, 8, 3), 64))
