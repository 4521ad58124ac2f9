"""Groups of parameters with rates, weight decay and beginnings of their own; clipping one by one; unit length."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from ssl_jax import configs, experiment, methods, models, optim, testing
from ssl_jax.models.vit import ViT
from ssl_jax.optim import Group
from ssl_jax.optim.from_config import check_rates
from ssl_jax.types import Plan

STEPS = 8


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def part(path: str) -> str | None:
    name = path.partition("/")[0]
    return None if name == "encoder" else name


def tree(seed: int, parts=("encoder", "predictor", "last")):
    rng = np.random.default_rng(seed)
    made = {
        p: {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)} for p in ("encoder", "predictor", "last")
    }
    return {p: made[p] for p in parts}


def run(tx, start, grads, first=0):
    """Parameters after all gradients, and the last state."""
    params = jax.tree.map(jnp.asarray, start)
    state, update = tx.init(params), jax.jit(tx.update)
    for grad in grads[first:]:
        updates, state = update(jax.tree.map(jnp.asarray, grad), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def close(a, b, tol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), a, b)


# Frozen until an update


def test_three_ways_to_freeze_give_three_results_of_adamw(x64):
    """Three frozen updates, then two of gradient 1: torch's with the gradient None, 0, and with a rate of 0."""
    tx, w, ones = optim.make("adamw", learning_rate=0.1, weight_decay=0.1), {"kernel": 1.0}, [{"kernel": 1.0}] * 2
    waits = optim.by_group(tx, lambda path: "last", {"last": Group(first=3)})
    assert run(waits, w, [{"kernel": 7.0}] * 3 + ones)[0]["kernel"] == pytest.approx(0.99 * 0.89 - 0.1)  # .7811
    assert run(tx, w, [{"kernel": 0.0}] * 3 + ones)[0]["kernel"] == pytest.approx(0.8202, abs=5e-5)
    slow = optim.by_group(tx, lambda path: "last", {"last": Group(rate=lambda t: jnp.where(t < 3, 0.0, 1.0))})
    value, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, 0.5, 0.5, 1, 1), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        adam = m / (1 - 0.9**t) / math.sqrt(v / (1 - 0.999**t))
        value -= 0.1 * (adam + 0.1 * value) if t > 3 else 0
    assert run(slow, w, [{"kernel": 0.5}] * 3 + ones)[0]["kernel"] == pytest.approx(value)
    assert value == pytest.approx(0.7849, abs=5e-5)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_group_learns_as_if_it_were_alone(x64, name):
    """Of every optimizer: a constant rate and half the decay; a late one without decay, on the common schedules."""
    rate, decay = optim.warmup_cosine(0.3, 2, 12, end=0.1), optim.cosine(0.04, 0.4, 12)
    tx = optim.make(name, learning_rate=rate, weight_decay=decay, peak=0.3)
    groups = {"predictor": Group(rate="peak", decay=0.5), "last": Group(decay=lambda t: 1.0 / (1 + t), first=3)}
    start, grads = tree(0), [tree(t + 1) for t in range(STEPS)]
    found, _ = run(optim.by_group(tx, part, groups), start, grads)

    def alone(group, first=0, **own):
        like = {"learning_rate": rate, "weight_decay": decay, **own}
        only = [{group: grad[group]} for grad in grads]
        return run(optim.make(name, **like), {group: start[group]}, only, first)[0][group]

    close(found["encoder"], alone("encoder"))
    halved = lambda t: 0.5 * decay(t)  # noqa: E731
    close(found["predictor"], alone("predictor", learning_rate=0.3, weight_decay=halved))
    late = {"learning_rate": lambda t: rate(t + 3), "weight_decay": lambda t: decay(t + 3) / (t + 4)}
    close(found["last"], alone("last", 3, **late))


def test_weight_decay_may_change_in_one_group_alone(x64):
    """Without gradients weights only shrink, by lr wd; the rest of them by a constant."""
    tx = optim.make("adamw", learning_rate=0.5, weight_decay=0.1)
    rising = Group(decay=optim.cosine(1.0, 4.0, STEPS))
    found, _ = run(
        optim.by_group(tx, part, {"predictor": Group(), "last": rising}),
        tree(0),
        [jax.tree.map(np.zeros_like, tree(0))] * STEPS,
    )
    factors = [1 - 0.05 * (4 - 3 * (1 + math.cos(math.pi * t / STEPS)) / 2) for t in range(STEPS)]
    close(found["last"]["kernel"], np.prod(factors) * tree(0)["last"]["kernel"])
    close(found["encoder"]["kernel"], 0.95**STEPS * tree(0)["encoder"]["kernel"])
    close(found["last"]["bias"], tree(0)["last"]["bias"], 0)


def test_what_never_learns_has_no_state_and_stays(x64):
    tx = optim.make("adamw", learning_rate=0.1, weight_decay=0.1)
    frozen = optim.by_group(tx, part, {"predictor": Group(first=None), "last": Group(first=None)})
    found, state = run(frozen, tree(0), [tree(1), tree(2)])
    close(found["last"], tree(0)["last"], 0)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * (12 + 3)
    waiting = run(
        optim.by_group(tx, part, {"predictor": Group(), "last": Group(first=5)}), tree(0), [tree(1), tree(2)]
    )[1]
    for leaf in jax.tree.leaves(waiting.inner_states["from5"].inner_state[1]):
        assert not leaf.any()


# Rates


def test_rates_that_are_numbers_multiply_the_update():
    """Of any optimizer of optax, whose state stays what it is."""
    tx = optax.sgd(0.1, momentum=0.9)
    params, grads = (jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree(seed)) for seed in (0, 1))
    wrapped = optim.by_group(tx, part, {"predictor": Group(rate=0.25), "last": Group(rate=3.0)})
    plain, _ = tx.update(grads, tx.init(params), params)
    found, state = wrapped.update(grads, wrapped.init(params), params)
    for name, factor in {"encoder": 1.0, "predictor": 0.25, "last": 3.0}.items():
        close(found[name], jax.tree.map(lambda u, f=factor: u * np.float32(f), plain[name]), 0)
    assert jax.tree.structure(state[0]) == jax.tree.structure(tx.init(params))
    assert optim.by_group(tx, part, {"predictor": Group(), "last": Group()}) is tx


def test_layer_decay_of_a_vit():
    """facebookresearch/mae: patches, class token and positions .65^13, block k .65^(12 - k), last norm and head 1."""
    encoder = ViT(4, 8, 12, 2, cls_token=True, positions="learned")
    params = jax.eval_shape(lambda key: models.init(encoder, key, jnp.zeros((1, 8, 8, 3)))[0], jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.ones(a.shape), {"encoder": params, "classifier": {"kernel": jnp.ones(2)}})
    tx = methods.get("supervised")(encoder, plan=testing.plan_of(), layer_decay=0.65).wrap_tx(optax.sgd(1.0))
    updates, _ = tx.update(params, tx.init(params), params)
    want = {"stem": 0.65**13, **{f"stage{k + 1}": 0.65 ** (12 - k) for k in range(12)}, "kernel": 1.0}
    want["stage12_norm"] = 1.0
    seen = set()
    for path, update in jax.tree_util.tree_flatten_with_path(updates)[0]:
        name = path[1].key if path[1].key in want else next(w for w in path[1].key.split("_") if w)
        np.testing.assert_allclose(update, -want[name], rtol=1e-6)
        seen.add(name)
    assert seen == set(want)


VIT = {"name": "vit", "patch_size": 4, "width": 8, "depth": 2, "heads": 2, "cls_token": True, "pool": "cls"}


def parts_of(method, model=None, **keys):
    config = config_of(name="sgd", momentum=0.0, weight_decay=0.1, learning_rate=0.2, scale="none", **keys)
    config.method, config.model = ConfigDict(method), ConfigDict(model or VIT)
    configs.check(config)
    plan = Plan(40, 10, 1280, (8, 8, 1), 128, num_classes=3)
    parts = experiment.make_parts(config, plan)
    batch = {"views": (jnp.zeros((2, 8, 8, 1)),) * 2, "label": jnp.zeros(2, jnp.int32)}
    params = jax.eval_shape(parts.method.init, jax.random.key(0), batch).params
    check_rates(config, params)
    return parts, jax.tree.map(lambda a: jnp.ones(a.shape), params)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "simsiam", "projector_dim": 8, "predictor_hidden": 8},
        {"name": "dino", "out_dim": 16, "hidden": 8, "bottleneck": 8},
    ],
)
def test_rates_by_depth_reach_every_method(method):
    """Also where it makes the optimizer again for a part of its own: SimSiam's predictor, DINO's frozen last layer."""
    keys = {"schedule": "constant", "warmup_epochs": 0.0, "layer_decay": 0.5, "patch_rate": 0.2}
    parts, params = parts_of(method, **keys)
    plain, _ = parts_of(method, schedule="constant", warmup_epochs=0.0)

    def updates(made):
        tx = made.method.wrap_tx(made.tx)
        return jax.jit(lambda params: tx.update(params, tx.init(params), params)[0])(params)

    seen = set()

    def check(path, found, without):
        part, _, name = path.partition("/")
        word = name.split("_")[0] if part == "encoder" else part
        factor = {"stem": 0.5**3, "stage1": 0.5**2, "stage2": 0.5}.get(word, 1.0)
        factor = 1.0 if name.startswith("stage2_norm/") else factor  # behind the last block
        factor *= 0.2 if name.startswith("stem_patches") else 1.0
        np.testing.assert_allclose(found, factor * np.asarray(without), rtol=1e-6, err_msg=path)
        seen.add(word)

    optim.by_path(check)(updates(parts), updates(plain))
    assert {"stem", "stage1", "stage2", "projector"} < seen


@pytest.mark.parametrize(
    ("method", "model", "keys", "words"),
    [
        ("simclr", None, {"layer_decay": 1.5}, r"config.optim.layer_decay=1.5 must be in \(0, 1\]"),
        ("supervised", None, {"layer_decay": 0.5}, "config.optim.layer_decay=0.5 is method.layer_decay of supervised"),
        ("simclr", None, {"patch_rate": 0.0}, "config.optim.patch_rate=0.0 must be positive"),
        ("simclr", {"name": "convnet"}, {"patch_rate": 0.2}, "optim.patch_rate=0.2 is of a ViT's patch embedding"),
        ("simclr", None, {"rates": "encoder/stm=0"}, "begins with 'encoder/stm'; did you mean 'encoder/stem"),
        ("simclr", None, {"rates": "projecter=2"}, "begins with 'projecter'; did you mean 'projector'"),
        ("simclr", None, {"rates": "projector=2,heads"}, "'heads' is not the start of a path and a factor from 0 on"),
        ("simclr", None, {"rates": "projector=-1"}, "'projector=-1' is not the start of a path and a factor"),
    ],
)
def test_rates_that_nothing_has_are_refused(method, model, keys, words):
    with pytest.raises(ValueError, match=words):
        parts_of({"name": method}, model, **keys)


def test_rates_by_path():
    """On top of rates by depth; 0 leaves what begins so as it is, weight decay and all."""
    method = {"name": "simsiam", "projector_dim": 8, "predictor_hidden": 8}
    keys = {"schedule": "constant", "warmup_epochs": 0.0}
    by_depth, params = parts_of(method, layer_decay=0.5, **keys)
    parts, _ = parts_of(method, layer_decay=0.5, rates="encoder/stem=0, predictor=3", **keys)

    def updates(made):
        tx = made.method.wrap_tx(made.tx)
        return jax.jit(lambda params: tx.update(params, tx.init(params), params)[0])(params)

    def check(path, found, without):
        factor = 0.0 if path.startswith("encoder/stem") else 3.0 if path.startswith("predictor") else 1.0
        np.testing.assert_allclose(found, factor * np.asarray(without), rtol=1e-6, err_msg=path)
        seen.add(factor)

    seen = set()
    optim.by_path(check)(updates(parts), updates(by_depth))
    assert seen == {0.0, 1.0, 3.0}


def test_a_group_that_no_parameter_is_of_is_refused():
    tx = optim.by_group(optax.sgd(0.1), part, {"predictor": Group(rate=2.0), "last": Group(), "lst": Group(first=3)})
    with pytest.raises(ValueError, match=r"no parameter is of group 'lst'; there are encoder/bias, encoder/kernel, "):
        tx.init(tree(0))
    with pytest.raises(ValueError, match="no parameter is of group 'unit rows'; there are encoder/bias"):
        optim.unit_rows(optax.sgd(0.1), lambda path: path == "prototype/kernel").init(tree(0))


def test_rates_by_depth_take_parts_with_names():
    config = config_of(layer_decay=0.5)
    with pytest.raises(ValueError, match=r"takes an encoder whose parts are called stem_\* and .* has Dense_0; set it"):
        check_rates(config, {"encoder": {"Dense_0": {}}})


SOLO = {"barlow_twins": 0.3, "vicreg": 0.3, "swav": 0.6, "dino": 0.3, "moco_v3": 0.3, "nnclr": 0.4}


@pytest.mark.parametrize("name", SOLO)
def test_solo_learns_recipes_have_its_optimizer(name):
    """Before the data are known, too: a queue from epoch 50 on is not too late then."""
    config = configs.load(f"configs/{name}_cifar10.py")
    configs.check(config)
    experiment.make_method(config, experiment._plan_without_data(config))
    schedule, warmup, _ = experiment.make_schedule(config, Plan(195_000, 195, 50_000, (32, 32, 3), 256))
    rates = [float(schedule(t)) for t in (0, warmup, 195_000)]
    np.testing.assert_allclose(rates, [3e-5, SOLO[name], 0], rtol=1e-5, atol=1e-9)
    tx, w = experiment.make_tx(config, schedule), {"kernel": jnp.full((2, 2), 50.0), "bias": jnp.ones(2)}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, w), tx.init(w), w)
    # At 3e-5 the rate of the kernel, .02 * 100 / (2 + wd 100), is clipped to it; the bias has no decay.
    np.testing.assert_allclose(updates["kernel"], -3e-5 * (1 + config.optim.weight_decay * 50), rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -3e-5, rtol=1e-5)


# Clipping


def test_clipping_of_each_parameter_by_itself(x64):
    """Norms 6 and 1 at 3 become 3 and 1; together they would become 2.96 and 0.49."""
    grads = {"a": np.array([6.0, 0.0]), "b": np.array([0.6, 0.8])}
    start = jax.tree.map(np.zeros_like, grads)

    def update(**clip):
        found, _ = run(optim.make("sgd", learning_rate=1.0, momentum=0.0, **clip), start, [grads])
        return {k: float(np.linalg.norm(v)) for k, v in found.items()}

    assert update(clip_each=3.0) == pytest.approx({"a": 3 * 6 / (6 + 1e-6), "b": 1.0}, rel=1e-12)
    assert update(clip_norm=3.0) == pytest.approx({"a": 18 / math.sqrt(37), "b": 3 / math.sqrt(37)})


def test_the_norm_of_the_gradient_is_one_over_all_groups_that_learn(x64):
    tx = optim.make("sgd", learning_rate=1.0, momentum=0.0, clip_norm=1.0)
    groups = {"predictor": Group(rate="peak", decay=0.0), "last": Group(first=None)}
    grads, start = tree(1), jax.tree.map(np.zeros_like, tree(1))
    norm = math.sqrt(sum(np.sum(g**2) for p in ("encoder", "predictor") for g in grads[p].values()))
    found, _ = run(optim.by_group(tx, part, groups), start, [grads])
    close(found["encoder"], jax.tree.map(lambda g: -g / norm, grads["encoder"]))
    close(found["predictor"], jax.tree.map(lambda g: -g / norm, grads["predictor"]))
    close(found["last"], start["last"], 0)


# Unit length


def test_vectors_stay_on_the_sphere(x64):
    """After each step as SwAV has it: w / |w| of every prototype, here the columns of a kernel."""
    start = tree(0)
    start["last"]["kernel"] /= np.linalg.norm(start["last"]["kernel"], axis=0)
    tx = optim.make("sgd", learning_rate=0.5, momentum=0.9)
    tx = optim.by_group(tx, part, {"predictor": Group(), "last": Group(first=2)})
    tx = optim.unit_rows(tx, lambda path: path == "last/kernel")
    grads = [tree(t + 1) for t in range(4)]
    found, _ = run(tx, start, grads)
    w, v = start["last"]["kernel"], 0.0
    for grad in grads[2:]:
        v = 0.9 * v + grad["last"]["kernel"]
        w = w - 0.5 * v
        w = w / np.linalg.norm(w, axis=0)
    close(found["last"]["kernel"], w)
    frozen, _ = run(tx, start, grads[:2])
    close(frozen["last"]["kernel"], start["last"]["kernel"], 0)
    assert np.linalg.norm(found["encoder"]["kernel"], axis=0).max() > 2


# Errors


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(rate=-1.0), r"group 'last': rate=-1.0 is no factor"),
        (Group(rate=math.nan), r"rate=nan is no factor"),
        (Group(rate="top"), r"rate='top' is no factor; give a number from 0 on, a function, or 'peak'"),
        (Group(decay=-0.5), r"decay=-0.5 is no factor"),
        (Group(first=-1), r"first=-1 is no update; give a whole number from 0 on, or None: never"),
        (Group(first=0.5), r"first=0.5 is no update"),
        (
            Group(rate="peak"),
            r"'last' learns at the schedule's peak, which is not known; say optim.make\(peak=\)",
        ),
    ],
)
def test_what_a_group_cannot_mean_is_refused(group, words):
    tx = optim.make("sgd", learning_rate=optim.constant(0.1))
    with pytest.raises(ValueError, match=words):
        optim.by_group(tx, part, {"last": group})


@pytest.mark.parametrize("group", [Group(rate="peak"), Group(rate=optim.constant(0.5)), Group(decay=0.0)])
def test_what_needs_a_remake_is_refused_of_a_finished_optimizer(group):
    with pytest.raises(ValueError, match=r"group 'last'.*make it with ssl_jax.optim.make"):
        optim.by_group(optax.sgd(0.1), part, {"last": group})


def test_names_that_are_no_group_are_refused():
    tx = optim.by_group(optax.sgd(0.1), part, {"lost": Group(rate=0.5), "last": Group()})
    with pytest.raises(ValueError, match=r"predictor/bias is of group 'predictor', which is none of lost, last"):
        tx.update(tree(1), tx.init(tree(0)), tree(0))


# Config


def config_of(**optimizer):
    config = configs.load("configs/simclr_digits.py")
    config.optim.update(optimizer)
    return config


@pytest.mark.parametrize("schedule", ["cosine", "linear", "cosine_by_epoch", "step"])
def test_the_ends_of_the_schedule(x64, schedule):
    """Start and end are shares of the peak, here 0.2 * 128 / 256."""
    by_epoch = schedule == "cosine_by_epoch"
    keys = {"start": None if by_epoch else 0.1, "end": None if schedule == "step" else 0.01}
    keys |= {"schedule": schedule, "warmup_epochs": 0.0 if by_epoch else 1.0}
    config = config_of(learning_rate=0.2, scale="linear", **keys)
    config.data.global_batch_size = 128
    configs.check(config)
    rate, _, _ = experiment.make_schedule(config, Plan(40, 10, 1280, (8, 8, 1), 128))
    found = [float(rate(t)) for t in range(42)]

    def want(t):
        if t < 10 and not by_epoch:
            return 0.1 * (0.1 + 0.9 * t / 10)
        x = min((10 * (t // 10) if by_epoch else t - 10) / (40 if by_epoch else 30), 1)
        if schedule == "step":
            return 0.1 * 0.1 ** ((t >= 24) + (t >= 32))
        down = 1 - x if schedule == "linear" else (1 + math.cos(math.pi * x)) / 2
        return 0.1 * (0.01 + 0.99 * down)

    np.testing.assert_allclose(found, [want(t) for t in range(42)], rtol=1e-12)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"end": 1.5}, r"config.optim.end=1.5 is a share of the peak and must be in \[0, 1\]"),
        ({"start": -0.1}, r"config.optim.start=-0.1 is a share of the peak"),
        ({"clip_each": 0.0}, r"config.optim.clip_each=0.0 must be positive"),
        ({"start": 0.1, "warmup_epochs": 0.0}, r"optim.start=0.1 is where the warmup begins; set optim.warmup_epochs"),
        ({"end": 0.1, "schedule": "constant", "warmup_epochs": 0.0}, r"optim.end=0.1 is for optim.schedule=cosine, "),
        ({"clip_each": 3.0, "clip_norm": 1.0}, r"clip_norm=1.0 and clip_each=3.0 both clip the gradient"),
    ],
)
def test_keys_outside_their_meaning_are_refused(keys, words):
    def build(config):
        configs.check(config)
        experiment.make_parts(config, Plan(40, 10, 1280, (8, 8, 1), 128))

    with pytest.raises(ValueError, match=words):
        build(config_of(**keys))


def test_the_optimizer_of_a_config_knows_its_peak_and_clips():
    config = config_of(learning_rate=0.2, scale="linear", clip_each=3.0, name="sgd", momentum=0.0, weight_decay=0.0)
    config.data.global_batch_size = 64
    tx = experiment.make_tx(config, optim.constant(1.0))
    assert tx.peak == pytest.approx(0.05)
    w = {"w": jnp.array([6.0, 0.0])}
    np.testing.assert_allclose(tx.update(w, tx.init(w), w)[0]["w"], [-3, 0], rtol=1e-6)
