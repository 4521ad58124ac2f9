"""Optimizers and schedules against NumPy and optax; the meanings of LARS and where they part."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import configs, experiment, optim
from ssl_jax.models.context import GRUContext
from ssl_jax.types import Plan

STEPS = 8
DECAY, MOMENTUM, ETA = 1e-2, 0.9, 1e-3


@pytest.fixture
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def close(a, b, tol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), a, b)


def difference(a, b):
    """Relative distance of two trees."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def parameters():
    rng = np.random.default_rng(0)
    return {
        "conv": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)},
        "norm": {"scale": rng.normal(size=3), "bias": rng.normal(size=3)},
    }


def gradients():
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda w: rng.normal(size=w.shape), parameters()) for _ in range(STEPS)]


def cosine(t):
    return 2.0 * 0.5 * (1 + math.cos(math.pi * t / STEPS))


RATES = {"constant": lambda t: 0.7, "cosine": cosine}
SCHEDULES = {"constant": 0.7, "cosine": optax.cosine_decay_schedule(2.0, STEPS)}
any_rate = pytest.mark.parametrize("rate", RATES)


def run(tx, params=None, grads=None):
    params = jax.tree.map(jnp.asarray, parameters() if params is None else params)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for grad in gradients() if grads is None else grads:
        updates, state = update(jax.tree.map(jnp.asarray, grad), state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(step):
    """Trains every parameter with ``step(w, g, v, t, is_weight) -> (w, v)``, v starting at 0."""
    params, slots = parameters(), jax.tree.map(np.zeros_like, parameters())
    for t, grad in enumerate(gradients()):
        for part, name in (("conv", "kernel"), ("conv", "bias"), ("norm", "scale"), ("norm", "bias")):
            w, v = step(params[part][name], grad[part][name], slots[part][name], t, name == "kernel")
            params[part][name], slots[part][name] = w, v
    return params


def adapted(w, g, is_weight):
    if not is_weight:
        return g
    g = g + DECAY * w
    return ETA * np.linalg.norm(w) / np.linalg.norm(g) * g


# LARS


@any_rate
def test_lars_simclr_has_the_rate_inside_the_momentum(x64, rate):
    def step(w, g, v, t, is_weight):
        v = MOMENTUM * v + RATES[rate](t) * adapted(w, g, is_weight)
        return w - v, v

    got = run(optim.lars_simclr(SCHEDULES[rate], weight_decay=DECAY))
    close(got, by_hand(step))
    is_weight = {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False}}
    oracle = optax.lars(SCHEDULES[rate], DECAY, is_weight, ETA, 0.0, is_weight, MOMENTUM)
    close(got, run(oracle))


@any_rate
def test_lars_byol_has_the_rate_outside_the_momentum(x64, rate):
    def step(w, g, v, t, is_weight):
        v = MOMENTUM * v + adapted(w, g, is_weight)
        return w - RATES[rate](t) * v, v

    got = run(optim.lars_byol(SCHEDULES[rate], weight_decay=DECAY))
    close(got, by_hand(step))
    is_weight = {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False}}
    oracle = optax.chain(
        optax.add_decayed_weights(DECAY, is_weight),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=ETA), is_weight),
        optax.trace(MOMENTUM),
        optax.scale_by_learning_rate(SCHEDULES[rate]),
    )
    close(got, run(oracle))


def test_the_two_lars_part_when_the_rate_varies(x64):
    a, b = (
        {name: run(make(rate, weight_decay=DECAY)) for name, rate in SCHEDULES.items()}
        for make in (optim.lars_simclr, optim.lars_byol)
    )
    close(a["constant"], b["constant"])
    moved = [jax.tree.map(lambda new, old: new - old, x["cosine"], parameters()) for x in (a, b)]
    assert difference(*moved) > 0.2
    kernels = [tree["conv"]["kernel"] for tree in moved]
    assert difference(*kernels) > 0.05  # the adapted ones too


@pytest.mark.parametrize("make", [optim.lars_simclr, optim.lars_byol])
def test_lars_takes_a_plain_step_where_a_norm_is_zero(x64, make):
    kernel = np.ones((4, 3))
    params = {"zero": {"kernel": 0 * kernel}, "one": {"kernel": kernel}}
    grads = {"zero": {"kernel": kernel}, "one": {"kernel": 0 * kernel}}
    got = run(make(0.5, weight_decay=0.0), params, [grads])
    close(got, {"zero": {"kernel": -0.5 * kernel}, "one": {"kernel": kernel}})
    oracle = optax.lars(0.5, 0.0, True, ETA, 0.0, True, MOMENTUM)
    close(got, run(oracle, params, [grads]))


@pytest.mark.parametrize("make", [optim.lars_simclr, optim.lars_byol])
def test_lars_without_a_mask_adapts_everything(x64, make):
    def step(w, g, v, t, is_weight):
        v = MOMENTUM * v + adapted(w, g, True)
        return w - 0.7 * v, v

    close(run(make(0.7, weight_decay=DECAY, mask=None)), by_hand(step))


@any_rate
@pytest.mark.parametrize("everything", [True, False])
def test_larc_is_its_formula(x64, rate, everything):
    """apex, LARC.step with clip=False, then torch's SGD."""

    def step(w, g, v, t, is_weight):
        if everything or is_weight:
            norm = np.linalg.norm(w)
            g = ETA * norm / (np.linalg.norm(g) + DECAY * norm + 1e-8) * (g + DECAY * w)
        v = MOMENTUM * v + g
        return w - RATES[rate](t) * v, v

    mask = None if everything else optim.not_bias_or_norm
    got = run(optim.larc(SCHEDULES[rate], weight_decay=DECAY, mask=mask))
    close(got, by_hand(step))
    other = run(optim.lars_byol(SCHEDULES[rate], weight_decay=DECAY, mask=mask))
    start = parameters()["conv"]["kernel"]
    assert difference(*(tree["conv"]["kernel"] - start for tree in (got, other))) > 1e-3  # a sum of norms


@pytest.mark.parametrize("rate", [*RATES, "warmup"])
def test_larc_clips_the_rate_as_solo_learns_lars_does(x64, rate):
    """vturrisi/solo-learn, LARS.step with clip_lr and exclude_bias_n_norm: q / lr, at most 1; no decay of biases."""
    at, schedule = (lambda t: 0.01 * t, lambda t: 0.01 * t) if rate == "warmup" else (RATES[rate], SCHEDULES[rate])
    factors = []

    def step(w, g, v, t, is_weight):
        if is_weight:
            norm = np.linalg.norm(w)
            q = 0.02 * norm / (np.linalg.norm(g) + DECAY * norm + 1e-8)
            factors.append(min(q / at(t), 1) if at(t) else 1)
            g = factors[-1] * (g + DECAY * w)
        v = MOMENTUM * v + g
        return w - at(t) * v, v

    keys = {"eta": 0.02, "clip_rate": True, "decay_bias_and_norm": False}
    close(run(optim.make("larc", learning_rate=schedule, weight_decay=DECAY, **keys)), by_hand(step))
    assert (max(factors) == 1) == (rate == "warmup")  # there some rates are clipped and some are not
    assert min(factors) < 1


def test_larc_takes_a_plain_step_where_a_norm_is_zero(x64):
    kernel = np.ones((4, 3))
    params = {"zero": {"kernel": 0 * kernel}, "one": {"kernel": kernel}}
    grads = {"zero": {"kernel": kernel}, "one": {"kernel": 0 * kernel}}
    got = run(optim.larc(0.5, weight_decay=DECAY), params, [grads])
    close(got, {"zero": {"kernel": -0.5 * kernel}, "one": {"kernel": kernel}})  # no weight decay either


# SGD and AdamW


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("everything", [True, False])
def test_sgd_is_its_formula(x64, nesterov, everything):
    def step(w, g, v, t, is_weight):
        g = g + DECAY * w if everything or is_weight else g
        v = MOMENTUM * v + g
        return w - cosine(t) * (g + MOMENTUM * v if nesterov else v), v

    mask = None if everything else optim.not_bias_or_norm
    close(
        run(optim.sgd(SCHEDULES["cosine"], weight_decay=DECAY, nesterov=nesterov, mask=mask)),
        by_hand(step),
    )


def test_adamw_is_its_formula(x64):
    def step(w, g, v, t, is_weight):
        first, second = v if isinstance(v, tuple) else (v, v)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        ratio = first / (1 - 0.9 ** (t + 1)) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        return w - cosine(t) * (ratio + (DECAY * w if is_weight else 0)), (first, second)

    close(run(optim.adamw(SCHEDULES["cosine"], weight_decay=DECAY)), by_hand(step))


# The builder


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_may_change(x64, name):
    """Without gradients a weight only shrinks: by lr wd in adamw, the same in sgd without momentum."""
    tx = optim.make(name, learning_rate=0.5, weight_decay=optim.cosine(0.04, 0.4, STEPS), momentum=0.0)
    start = {"kernel": np.array([1.0, -2.0])}
    params = run(tx, start, [{"kernel": np.zeros(2)}] * STEPS)
    shrunk = np.prod([1 - 0.5 * (0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * t / STEPS)) / 2) for t in range(STEPS)])
    np.testing.assert_allclose(params["kernel"], shrunk * start["kernel"], rtol=1e-12)


def test_linear_and_cosine_go_from_first_to_last(x64):
    found = [[float(make(3.0, 1.0, 4)(t)) for t in (0, 1, 2, 4, 9)] for make in (optim.linear, optim.cosine)]
    np.testing.assert_allclose(found, [[3, 2.5, 2, 1, 1], [3, 2 + math.sqrt(0.5), 2, 1, 1]], rtol=1e-12)


def test_make_gives_the_named_optimizer(x64):
    rate = SCHEDULES["cosine"]
    for name, direct in {
        "sgd": optim.sgd(rate, weight_decay=DECAY, momentum=0.8, nesterov=False),
        "adamw": optim.adamw(rate, weight_decay=DECAY, b1=0.8),
        "lars_simclr": optim.lars_simclr(rate, weight_decay=DECAY, momentum=0.8),
        "lars_byol": optim.lars_byol(rate, weight_decay=DECAY, momentum=0.8),
        "larc": optim.larc(rate, weight_decay=DECAY, momentum=0.8),
    }.items():
        made = optim.make(name, learning_rate=rate, weight_decay=DECAY, momentum=0.8)
        close(run(made), run(direct), 0)


def test_make_can_move_the_mask(x64):
    made = optim.make("sgd", learning_rate=0.7, weight_decay=DECAY, decay_bias_and_norm=False)
    close(run(made), run(optim.sgd(0.7, weight_decay=DECAY, mask=optim.not_bias_or_norm)), 0)
    made = optim.make("larc", learning_rate=0.7, weight_decay=DECAY, decay_bias_and_norm=False)
    close(run(made), run(optim.larc(0.7, weight_decay=DECAY, mask=optim.not_bias_or_norm)), 0)
    made = optim.make("lars_byol", learning_rate=0.7, weight_decay=DECAY, decay_bias_and_norm=True)
    close(run(made), run(optim.lars_byol(0.7, weight_decay=DECAY, mask=None)), 0)


def test_clipping_bounds_the_global_norm_before_weight_decay(x64):
    params, grad = parameters(), gradients()[0]
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grad)))

    def one_step(clip_norm):
        tx = optim.make("sgd", learning_rate=1.0, weight_decay=DECAY, momentum=0.0, clip_norm=clip_norm)
        return run(tx, params, [grad])

    close(one_step(norm / 4), jax.tree.map(lambda w, g: w - (g / 4 + DECAY * w), params, grad))
    close(one_step(norm * 4), jax.tree.map(lambda w, g: w - (g + DECAY * w), params, grad))
    close(one_step(None), one_step(norm * 4))


def test_make_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"'lars'; did you mean 'larc'.*sgd, adamw, lars_simclr, lars_byol, larc"):
        optim.make("lars", learning_rate=1.0)
    with pytest.raises(ValueError, match=r"nesterov=True.*'adamw'"):
        optim.make("adamw", learning_rate=1.0, nesterov=True)
    with pytest.raises(ValueError, match=r"clip_norm=0.0 is not positive"):
        optim.make("sgd", learning_rate=1.0, clip_norm=0.0)
    with pytest.raises(ValueError, match=r"clip_rate=True.*'lars_byol'"):
        optim.make("lars_byol", learning_rate=1.0, clip_rate=True)
    for name, eta in {"sgd": 0.02, "larc": 0.0}.items():
        with pytest.raises(ValueError, match=rf"eta={eta} is a positive number of lars_simclr.*'{name}'"):
            optim.make(name, learning_rate=1.0, eta=eta)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_optimizers_run_in_float32_under_strict_promotion(name):
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), parameters())
    tx = optim.make(name, learning_rate=optim.warmup_cosine(1.0, 0, 9), weight_decay=DECAY, clip_norm=1.0)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(params, state, params)
    assert all(u.dtype == jnp.float32 for u in jax.tree.leaves(updates))
    # The state keeps its types, so that a scan or a donated buffer takes it back.
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)


# Masks


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False, name="stem")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x).mean(axis=(1, 2))
        token = self.param("cls_token", nn.initializers.normal(), (4,))
        x = nn.LayerNorm(name="ln")(x + token[None, :])
        return nn.Dense(3, name="scale")(x)  # a layer of that name, to show that only the last key counts


def test_masks_by_path():
    params = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    mask = jax.tree_util.tree_flatten_with_path(optim.not_bias_or_norm(params))[0]
    assert {jax.tree_util.keystr(path, simple=True, separator="/"): kept for path, kept in mask} == {
        "cls_token": True,
        "ln/bias": False,
        "ln/scale": False,
        "norm/bias": False,
        "norm/scale": False,
        "scale/bias": False,
        "scale/kernel": True,
        "stem/kernel": True,
    }


def test_a_bias_of_another_name_is_a_weight():
    context = jax.eval_shape(GRUContext(4).init, jax.random.key(0), jnp.zeros((1, 3, 1, 2)), train=False)["params"]
    mask = optim.not_bias_or_norm(context)
    assert mask["bias_n"] is True
    assert mask["input"] == {"bias": False, "kernel": True}


# Schedules


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_warmup_cosine_is_optax(x64, warmup):
    ours, total = jax.vmap(optim.warmup_cosine(4.8, warmup, 40)), 40
    steps = np.arange(total + 5)
    oracle = [optax.warmup_cosine_decay_schedule(0.0, 4.8, warmup, total)(t) for t in steps]
    if warmup == 0:
        oracle = [optax.cosine_decay_schedule(4.8, total)(t) for t in steps]
    got = np.asarray(ours(steps))
    close(got, np.array(oracle))
    close(got[[0, warmup, total, -1]], [4.8 if warmup == 0 else 0.0, 4.8, 0.0, 0.0])


@pytest.mark.parametrize(("warmup", "total"), [(10, 10), (11, 10), (-1, 10), (0, 0)])
def test_warmup_cosine_refuses_a_warmup_that_does_not_fit(warmup, total):
    with pytest.raises(ValueError, match=f"warmup_steps={warmup} .*total_steps={total}"):
        optim.warmup_cosine(1.0, warmup, total)


@pytest.mark.parametrize("first", [0, 1])
def test_cosine_by_epoch_is_constant_within_an_epoch(x64, first):
    schedule = optim.cosine_by_epoch(0.06, 5, 4, first_epoch=first)
    want = [0.06 * 0.5 * (1 + math.cos(math.pi * (first + epoch) / 4)) for epoch in range(4) for _ in range(5)]
    close(np.array([schedule(t) for t in range(20)]), np.array(want))
    close(schedule(25), 0.0)


def test_step_decay_is_optax(x64):
    schedule = optim.step_decay(0.03, 200 * 7, at=(120 / 200, 160 / 200))
    oracle = optax.piecewise_constant_schedule(0.03, {120 * 7: 0.1, 160 * 7: 0.1})
    for t in (0, 839, 840, 1119, 1120, 1399):
        close(schedule(t), [0.03, 0.003, 0.0003][(t >= 840) + (t >= 1120)])
        close(schedule(t), oracle(t))
    with pytest.raises(ValueError, match=r"120.* is not a fraction"):
        optim.step_decay(0.03, 200, at=(120, 160))


@pytest.mark.parametrize("name", ["relative_patch", "jigsaw", "triplet"])
def test_pretext_rates_drop_as_published(x64, name):
    """Kolesnikov et al.: a linear warmup, then a tenth at 15 and again at 25 of 35 epochs, decay of kernels alone."""
    config = configs.load(f"configs/{name}.py")
    plan = Plan(35 * 40, 40, 40 * 256, (32, 32, 3), config.data.global_batch_size)
    schedule, warmup, _ = experiment.make_schedule(config, plan)
    peak = 0.1 * config.data.global_batch_size / 256
    assert warmup == 5 * 40
    for t in (0, 1, 199, 200, 599, 600, 999, 1000, 1399):
        want = peak * t / 200 if t < 200 else peak * 0.1 ** ((t >= 600) + (t >= 1000))
        close(schedule(t), want)
    assert config.optim.decay_bias_and_norm is False


def test_steps_are_for_the_schedule_of_steps():
    config = configs.load("configs/simclr_digits.py")
    config.optim.step_at = (0.5,)
    with pytest.raises(ValueError, match=r"optim.step_at=\(0.5,\) is for optim.schedule='step', not 'cosine'"):
        experiment.make_schedule(config, Plan(40, 10, 100, (8, 8, 1), 10))
    with pytest.raises(ValueError, match="warmup_steps=40 is not in"):
        optim.step_decay(1.0, 40, warmup_steps=40)


def test_tau_rises_from_tau0_to_one(x64):
    tau = optim.tau_schedule(0.996, 50)
    want = [1 - (1 - 0.996) * (1 + math.cos(math.pi * k / 50)) / 2 for k in range(51)]
    close(np.array([tau(k) for k in range(51)]), np.array(want))
    assert tau(0) == 0.996
    assert tau(50) == 1.0
    assert tau(60) == 1.0
    close(tau(25), 0.998)
    for tau0, total in ((1.1, 5), (-0.1, 5), (0.9, 0)):
        with pytest.raises(ValueError, match=rf"{tau0} and {total}"):
            optim.tau_schedule(tau0, total)


@pytest.mark.parametrize(
    "schedule",
    [
        optim.constant(0.3),
        optim.warmup_cosine(1.0, 3, 10),
        optim.cosine_by_epoch(1.0, 2, 5),
        optim.step_decay(1.0, 10),
        optim.tau_schedule(0.99, 10),
    ],
)
def test_schedules_are_float32_of_any_kind_of_step(schedule):
    values = [schedule(5), schedule(np.int64(5)), schedule(jnp.int32(5)), jax.jit(schedule)(jnp.int32(5))]
    assert all(v.dtype == jnp.float32 and v.shape == () for v in values)
    close(values, [values[0]] * 4, 1e-6)


# EMA


def test_ema_is_optax_and_follows_the_new_parameters(x64):
    target, online = parameters(), gradients()[0]
    close(optim.ema(target, online, 0.9), optax.incremental_update(online, target, 0.1), 1e-15)
    close(optim.ema(target, online, 1.0), target, 0)
    close(optim.ema(target, online, 0.0), online, 0)
    xi = {"w": jnp.array(0.0)}
    for theta in (1.0, 2.0, 3.0):
        xi = optim.ema(xi, {"w": jnp.array(theta)}, 0.5)
    close(xi, {"w": 0.5 * 3 + 0.25 * 2 + 0.125 * 1})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ema_keeps_the_type_of_the_target(dtype):
    ones = {"w": jnp.ones(3, dtype)}
    moved = jax.jit(lambda k: optim.ema(ones, {"w": jnp.zeros(3, dtype)}, optim.tau_schedule(0.5, 10)(k)))(jnp.int32(0))
    assert moved["w"].dtype == dtype
    close(moved["w"].astype(jnp.float32), np.full(3, 0.5), 1e-6)


# The peak and the warmup


def test_peak_rate():
    assert optim.peak_rate(0.3, 4096, "linear") == pytest.approx(4.8)  # SimCLR v1
    assert optim.peak_rate(0.1, 4096, "sqrt") == pytest.approx(6.4)  # SimCLR v2
    assert optim.peak_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)  # the same as 0.3 linear at this size
    assert optim.peak_rate(0.3, 4096, "none") == 0.3
    with pytest.raises(ValueError, match=r"'cubic'.*linear.*sqrt.*none"):
        optim.peak_rate(0.3, 4096, "cubic")


def test_a_warmup_that_does_not_fit_is_cut_to_a_tenth():
    assert optim.cut_warmup(99, 100) == (99, None)
    steps, message = optim.cut_warmup(100, 100)
    assert steps == 10
    assert "100 steps" in message
    assert "using 10" in message
    for total in (1, 5, 20):
        optim.warmup_cosine(1.0, optim.cut_warmup(500, total)[0], total)


def test_slanted_triangular_is_the_closed_form(x64):
    total, cut, ratio = 200, 0.1, 32
    found = jax.vmap(optim.slanted_triangular(0.01, total))(np.arange(total + 5))
    top = int(np.floor(total * cut))
    for t in range(total + 1):  # Howard and Ruder 2018, equation 3
        p = t / top if t < top else 1 - (t - top) / (top * (1 / cut - 1))
        assert float(found[t]) == pytest.approx(0.01 * (1 + p * (ratio - 1)) / ratio, rel=1e-12)
    assert [float(found[t]) for t in (0, top, total, total + 4)] == pytest.approx(
        [0.01 / 32, 0.01, 0.01 / 32, 0.01 / 32]
    )
    with pytest.raises(ValueError, match=r"total_steps >= 2, got 0\.1, 32\.0, 1"):
        optim.slanted_triangular(0.01, 1)


def test_warmup_linear_is_optax(x64):
    found = jax.vmap(optim.warmup_linear(2.0, 8, 40))(np.arange(45))
    oracle = optax.join_schedules([optax.linear_schedule(0, 2.0, 8), optax.linear_schedule(2.0, 0, 32)], [8])
    np.testing.assert_allclose(found, [float(oracle(t)) for t in range(45)], rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match=r"warmup_steps=40 is not in \[0, total_steps=40\)"):
        optim.warmup_linear(1.0, 40, 40)
