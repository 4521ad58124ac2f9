"""Fine-tuning: what is frozen stays bit for bit, rates by depth are exact, parts join when they should."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from sklearn.datasets import load_digits

import ssl_jax
from ssl_jax import configs, evaluation, experiment, models, optim
from ssl_jax.data.source import from_arrays
from ssl_jax.evals import Accuracy, Diverged, Fitted, finetune
from ssl_jax.evals.shared import protocols
from ssl_jax.methods import supervised
from ssl_jax.models.resnet import ResNet
from ssl_jax.parallel import make_mesh, place
from ssl_jax.run import open as opening
from ssl_jax.step import compile_step, init_state
from ssl_jax.types import Plan, Variables

ROWS, CLASSES = 32, 10
PLAN = Plan(20, 4, 4 * ROWS, (8, 8, 1), ROWS, CLASSES)
GROUPS = ("stem", "stage1", "stage2", "classifier")  # from the bottom up, depth 0 to 3
SGD = optim.make("sgd", learning_rate=0.05, weight_decay=0.01)


def make(dtype=None, **arguments):
    encoder = models.make("convnet", widths=(8, 16), residual=False, dtype=dtype)
    return supervised.make(encoder, plan=PLAN, mean=(0.5,), std=(0.3,), **arguments)


def batch_of(step):
    pixels, labels = load_digits(return_X_y=True)
    rows = slice(step * ROWS, (step + 1) * ROWS)
    images = (pixels[rows].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    return {"views": (images,), "label": labels[rows].astype(np.int32), "index": np.arange(ROWS, dtype=np.int32)}


def train(method, steps, tx=SGD, devices=1, mode="jit"):
    """({name: array} of parameters, the same of statistics) before the first step and after each."""
    mesh = make_mesh(devices)
    state = init_state(method, tx, jax.random.key(0), place(batch_of(0), mesh), mesh)
    step = compile_step(method, tx, mesh, mode=mode)
    found = [(named(state.params), named(state.model_state))]
    for t in range(steps):
        state, metrics = step(state, step.place(batch_of(t)))
        assert np.isfinite(metrics["loss"])
        found.append((named(state.params), named(state.model_state)))
    return found


def small_tree(seed=0):
    """Parameters of every depth."""
    rng = np.random.default_rng(seed)
    paths = ("encoder/stem_conv", "encoder/stage1_block0", "encoder/stage2_block0", "classifier/dense0")
    tree = {"encoder": {}, "classifier": {}}
    for part, name in (path.split("/") for path in paths):
        tree[part][name] = {"kernel": rng.normal(size=(3, 2)).astype(np.float32), "bias": np.ones(2, np.float32)}
    return tree


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf) for path, leaf in leaves}


def group_of(name):
    return next(group for group in GROUPS if group in name)


def moved(before, after):
    """The groups of which something has moved; all of the others is the same, bit for bit."""
    changed = {group_of(name) for name in after if before[name].tobytes() != after[name].tobytes()}
    return [group for group in GROUPS if group in changed]


# What is frozen


@pytest.mark.parametrize(
    ("frozen", "learns", "name"),
    [
        ("encoder", 3, "adamw"),
        pytest.param("stage1", 2, "larc", marks=pytest.mark.slow),
        *(pytest.param(*rest, "sgd", marks=pytest.mark.slow) for rest in (("encoder", 3), ("stem", 1))),
    ],
)
def test_what_is_frozen_stays_bit_for_bit(frozen, learns, name):
    rate = optim.warmup_cosine(0.05, 0, 10)
    tx = optim.make(name, learning_rate=rate, weight_decay=0.1, clip_norm=1.0)
    (params, stats), *_, (new_params, new_stats) = train(make(frozen=frozen), 10, tx)
    assert moved(params, new_params) == list(GROUPS[learns:])
    assert moved(stats, new_stats) == list(GROUPS[learns:3])
    for group in GROUPS[learns:]:  # not just some of it
        kernels = [k for k in params if group_of(k) == group and k.endswith("kernel")]
        assert all((params[k] != new_params[k]).any() for k in kernels)


@pytest.mark.parametrize(("devices", "mode"), [(8, "jit"), (8, "pmap")])
@pytest.mark.slow  # frozen parts are there in the test of those that join, too
def test_what_is_frozen_stays_on_eight_devices(devices, mode):
    (params, stats), *_, (new_params, new_stats) = train(make(frozen="stage1"), 3, devices=devices, mode=mode)
    assert moved(params, new_params) == ["stage2", "classifier"]
    assert moved(stats, new_stats) == ["stage2"]


@pytest.mark.slow
def test_a_frozen_trunk_is_that_of_the_pretraining_run(tmp_path):
    """Through the loop and checkpoints: pretrained weights go in, and come out as they were."""
    from ssl_jax.train import fit

    short = {"train__steps": 2, "eval__probe": False, "train__eval_every": 0}
    short |= {"model__residual": False, "data__recipe": "none", "data__augment": "device"}
    frozen = {"init_from": str(tmp_path / "before"), "method__frozen": "encoder", "method__head_init": 0.0}
    for name, arguments in (("before", {}), ("after", frozen)):
        fit(experiment.build(runs.config("supervised", **short, **arguments)), tmp_path / name, test=False)
    before, after = (ssl_jax.load(tmp_path / name)[0] for name in ("before", "after"))
    for part in ("params", "model_state"):
        was, now = (named(getattr(v, part)["encoder"]) for v in (before, after))
        assert {k: v.tobytes() for k, v in was.items()} == {k: v.tobytes() for k, v in now.items()}
    assert np.abs(after.params["classifier"]["dense0"]["kernel"]).max() > 0


def test_the_loss_of_a_frozen_encoder_is_that_of_its_features_in_inference_mode():
    method, batch = make(frozen="encoder"), batch_of(0)
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    stats = jax.tree.map(lambda a: a + 0.1, variables.model_state)  # not what the batch would give

    def loss(params):
        return method.loss(Variables(params, stats), batch, jax.random.key(1), jnp.int32(0), None)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(variables.params)
    encoder = models.make("convnet", widths=(8, 16), residual=False)
    images = (batch["views"][0] - 0.5) / 0.3
    out, _ = models.forward(encoder, variables.params["encoder"], stats["encoder"], images, train=False)
    h = np.asarray(out["features"], np.float64)
    assert (h > 0).mean() > 0.5  # dead features would agree with anything
    logits = h @ np.asarray(variables.params["classifier"]["dense0"]["kernel"], np.float64)  # the bias is 0
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    onehot = np.eye(CLASSES)[batch["label"]]
    assert float(value) == pytest.approx(-np.mean(np.log((p * onehot).sum(1))), rel=1e-5)
    np.testing.assert_allclose(grads["classifier"]["dense0"]["kernel"], h.T @ (p - onehot) / ROWS, atol=1e-5)
    assert all((g == 0).all() for g in named(grads["encoder"]).values())


@pytest.mark.parametrize("encoder", [
    ResNet(blocks=(1, 1), width=1 / 16, stem="cifar"),
    models.ConvNet(widths=(4, 6), residual=False),
])  # fmt: skip
def test_frozen_stages_run_in_inference_mode(encoder):
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    params, state = models.init(encoder, jax.random.key(0), x)
    stages = ("stem", "stage1", "stage2")
    assert encoder.stages == 2

    @jax.jit
    def forward(params, state):
        frozen = [encoder.clone(frozen_stages=k) for k in range(4)]
        runs = [models.forward(encoder, params, state, x, train=True) for encoder in frozen]
        return models.forward(encoder, params, state, x, train=False)[0], runs

    inferred, found = forward(params, state)
    for frozen, (out, new) in enumerate(found):
        changed = {k.split("/")[1].split("_")[0] for k, v in named(new).items() if (v != named(state)[k]).any()}
        assert changed == set(stages[frozen:])
        same = [name for name in stages if np.allclose(out[name], inferred[name], rtol=1e-5, atol=1e-6)]
        assert same == list(stages[:frozen])


# Rates by depth


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars_byol"])
def test_rates_by_depth_multiply_the_update(name):
    rates = dict(zip(GROUPS, (0.7**3, 0.7**2, 0.7, 5.0), strict=True))
    tx = optim.make(name, learning_rate=0.1, weight_decay=0.3)
    wrapped, params, grads = make(layer_decay=0.7, head_rate=5.0).wrap_tx(tx), small_tree(), small_tree(1)
    plain, scaled = (named(t.update(grads, t.init(params), params)[0]) for t in (tx, wrapped))
    assert plain.keys() == scaled.keys()
    for key, update in plain.items():
        np.testing.assert_array_equal(scaled[key], update * np.float32(rates[group_of(key)]), err_msg=key)


@pytest.mark.slow
def test_rates_by_depth_in_the_train_step():
    tx = optax.sgd(0.1)
    (params, _), (plain, _) = train(make(), 1, tx)
    _, (scaled, _) = train(make(layer_decay=0.5, head_rate=2.0), 1, tx)
    rates = dict(zip(GROUPS, (0.125, 0.25, 0.5, 2.0), strict=True))
    for key, start in params.items():
        want = rates[group_of(key)] * (plain[key].astype(np.float64) - start)
        np.testing.assert_allclose(scaled[key] - start, want, atol=3e-7, err_msg=key)  # a rounding of the weight


def test_without_options_the_optimizer_is_left_alone():
    assert make().wrap_tx(SGD) is SGD


# Gradual unfreezing


@pytest.mark.parametrize(
    ("devices", "mode"), [(1, "jit"), *(pytest.param(8, o, marks=pytest.mark.slow) for o in ("jit", "pmap"))]
)
def test_parts_join_one_by_one_from_the_top(devices, mode):
    found = train(make(unfreeze_every=0.5), 8, devices=devices, mode=mode)  # 2 steps
    for t, ((params, stats), (new_params, new_stats)) in enumerate(itertools.pairwise(found)):
        learns = max(0, 3 - t // 2)
        assert moved(params, new_params) == list(GROUPS[learns:]), t
        assert moved(stats, new_stats) == list(GROUPS[learns:3]), t


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param(None, marks=pytest.mark.slow)])
def test_what_is_frozen_never_joins(dtype):
    (params, stats), *_, (new_params, new_stats) = train(make(dtype, unfreeze_every=0.25, frozen="stage1"), 6)
    assert moved(params, new_params) == ["stage2", "classifier"]
    assert moved(stats, new_stats) == ["stage2"]
    assert all(a.dtype == np.float32 for a in (new_params | new_stats).values())


@pytest.mark.parametrize("name", ["adamw", "lars_simclr", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_part_that_joins_starts_anew_on_the_common_schedule(name):
    def tx(first):
        schedule = optim.warmup_cosine(0.1, 2, 12)
        return optim.make(name, learning_rate=lambda t: schedule(t + first), weight_decay=0.1)

    def run(tx, first):
        params = small_tree()
        state, update = tx.init(params), jax.jit(tx.update)
        for seed in range(first, 9):
            updates, state = update(small_tree(seed), state, params)
            params = optax.apply_updates(params, updates)
        return named(params)

    params = run(make(unfreeze_every=0.5).wrap_tx(tx(0)), 0)
    for depth, group in enumerate(GROUPS):
        first = 2 * (3 - depth)
        for key, want in run(tx(first), first).items():
            if group_of(key) == group:
                np.testing.assert_allclose(params[key], want, rtol=1e-5, atol=1e-6, err_msg=key)


# The classifier


def test_classify_is_the_classifier_on_features_of_raw_images():
    method, batch = make(), batch_of(0)
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    variables = variables._replace(model_state=jax.tree.map(lambda a: a + 0.2, variables.model_state))
    h = np.asarray(method.encode(variables, batch["views"][0])["features"], np.float64)
    assert (h > 0).mean() > 0.2
    weights = variables.params["classifier"]["dense0"]
    logits = method.hooks["classify"](variables, batch["views"][0])
    np.testing.assert_allclose(logits, h @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]), atol=1e-5)


def test_the_classifier_starts_as_told():

    @jax.jit
    def begun(key):
        made = [make(head_init=init).init(key, batch_of(0)) for init in (None, 0.0, 0.01)]
        return [variables.params["classifier"]["dense0"] for variables in made]

    heads = dict(zip((None, 0.0, 0.01), begun(jax.random.key(0)), strict=True))
    assert all((head["bias"] == 0).all() for head in heads.values())
    assert (heads[0.0]["kernel"] == 0).all()
    np.testing.assert_allclose(np.std(heads[0.01]["kernel"]), 0.01, rtol=0.2)
    np.testing.assert_allclose(np.std(heads[None]["kernel"]), 16**-0.5, rtol=0.2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frozen": "stage3"}, r"frozen='stage3' is no part of convnet.*stem, stage1, stage2, encoder"),
        ({"frozen": "encoder", "unfreeze_every": 1.0}, r"unfreeze_every=1.0 but method.frozen='encoder'"),
        ({"layer_decay": 0.0}, r"layer_decay=0.0 must be in \(0, 1\]"),
        ({"layer_decay": 1.5}, r"layer_decay=1.5"),
        ({"head_rate": 0.0}, r"head_rate=0.0 must be positive"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        make(**arguments)


# The evaluator


def source(n=100, unlabelled=7, seed=0):
    labels = np.arange(n) % 4
    labels[:unlabelled] = -1
    images = np.random.default_rng(seed).integers(0, 255, (n, 8, 8, 1), np.uint8)
    return from_arrays(images, labels, tuple("abcd"))


def evaluator(**options):
    calls = []

    def fit(name, splits, overrides):
        calls.append((name, splits, overrides))
        return Fitted(0.5, np.arange(len(splits.test)) % len(calls) == 0, 10, 1.0)

    arguments = {"train": source(), "test": source(50, seed=1), "fit": fit} | options
    return finetune.Evaluator(None, **arguments), calls


def test_the_modes_differ_in_what_learns_and_where_it_starts():
    found, calls = evaluator(modes="extract,tune,scratch", layer_decay=0.7, unfreeze_every=1.0, epochs=3, seed=5)
    results = dict(found.run(Variables({}, {})))
    assert list(results) == ["finetune_extract_top1", "finetune_tune_top1", "finetune_scratch_top1"]
    assert all(isinstance(value, Accuracy) for value in results.values())
    assert [name for name, _, _ in calls] == ["finetune_extract", "finetune_tune", "finetune_scratch"]
    np.testing.assert_allclose(list(results.values()), [1, 22 / 43, 15 / 43])
    extract, tune, scratch = (overrides for _, _, overrides in calls)
    assert extract["method.frozen"] == "encoder"
    assert "method.layer_decay" not in extract | scratch
    assert (tune["method.layer_decay"], tune["method.unfreeze_every"], tune["train.epochs"]) == (0.7, 1.0, 3)
    assert "method.frozen" not in tune | scratch
    assert "init_from" in scratch
    assert scratch["init_from"] is None
    assert "init_from" not in extract | tune
    assert {o["seed"] for o in (extract, tune, scratch)} == {5}
    assert {k: v for k, v in scratch.items() if k != "init_from"} == {
        k: v for k, v in tune.items() if not k.startswith("method.") or k == "method.name"
    }


def test_the_rate_is_chosen_on_validation_data():
    def fit(name, splits, overrides):
        rate = overrides["optim.learning_rate"]
        return Fitted({0.1: 0.5, 0.3: 0.7, 0.9: 0.2}[rate], np.full(len(splits.test), rate == 0.3), 10, 1.0)

    found, _ = evaluator(modes="tune", learning_rate=(0.1, 0.3, 0.9), fit=fit)
    assert dict(found.run(Variables({}, {}))) == {"finetune_tune_top1": 1.0}


def test_a_rate_that_diverges_is_left_out_and_said(capsys):
    def fit(name, splits, overrides):
        if overrides["optim.learning_rate"] > 0.2:
            raise Diverged(f"{name}: step 3 was not finite")
        return Fitted(0.1, np.ones(len(splits.test), bool), 10, 1.0)

    found, _ = evaluator(modes="tune", learning_rate=(0.9, 0.1, 0.3), fit=fit)
    assert dict(found.run(Variables({}, {}))) == {"finetune_tune_top1": 1.0}
    said = capsys.readouterr().out.splitlines()
    assert said == [f"learning rate {r} is left out: finetune_tune: step 3 was not finite" for r in (0.9, 0.3)]
    found, _ = evaluator(modes="tune", learning_rate=(0.9, 0.3), fit=fit)
    with pytest.raises(Diverged, match="step 3"):
        list(found.run(Variables({}, {})))


def test_all_modes_see_one_split_that_leaves_out_what_has_no_label():
    found, calls = evaluator(held_out=0.25)
    list(found.run(Variables({}, {})))
    (_, splits, _), (_, again, _) = calls
    assert splits is again
    assert [len(part) for part in splits] == [70, 23, 43]
    assert all((part.labels >= 0).all() for part in splits)
    assert np.ptp(np.bincount(splits.val.labels)) <= 1
    images = [{row.tobytes() for row in part.columns["image"]} for part in splits]
    assert not images[0] & images[1]
    other = evaluator(held_out=0.25, seed=1)[0].splits
    assert other.val.fingerprint != splits.val.fingerprint
    (settings,) = evaluator(batch_size=128)[0].overrides["tune"].values()
    assert settings["data.global_batch_size"] == 84  # all there is


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"modes": ("tuned",)},
            r"modes='tuned' is unknown; did you mean 'tune'\? known: extract, tune, scratch",
        ),
        ({"train": source(20, 20)}, "needs labels and the train split has none"),
        ({"test": from_arrays(np.zeros((4, 8, 8, 1), np.uint8))}, "needs labels and the test split has none"),
        ({"train": source(4, 2)}, "2 labelled examples, 1 of them held out, are too few"),
        ({"held_out": 1.0}, "finetune.held_out=1.0 must be between 0 and 1"),
        ({"epochs": 0}, "finetune.epochs=0"),
        ({"learning_rate": (0.1, 0.0)}, "finetune.learning_rate"),
        ({"layer_decay": 2.0}, "finetune.layer_decay=2.0"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        evaluator(**options)


# Protocols


@pytest.mark.parametrize("chosen", [
    *(pytest.param(protocols.overrides(name)[0], id=name) for name in protocols.PROTOCOLS),
    *(pytest.param(finetune.overrides(mode, epochs=2, batch_size=32), id=mode) for mode in finetune.MODES),
])  # fmt: skip
def test_overrides_are_keys_that_a_config_has_and_takes(chosen):
    config = runs.config("supervised")
    assert set(chosen) <= set(configs.known_keys(config))
    for key, value in chosen.items():
        parent, _, last = key.rpartition(".")
        (config[parent] if parent else config)[last] = value
    configs.check(config)
    plan = PLAN._replace(total_steps=100, steps_per_epoch=10)
    schedule, _, _ = experiment.make_schedule(config, plan)
    tx = experiment.make_method(config, plan).wrap_tx(experiment.make_tx(config, schedule))
    tx.init({"encoder": {"stem_conv": jnp.ones(3)}, "classifier": {"dense0": jnp.ones(3)}})


def test_protocols_are_those_of_the_papers():
    def peaks(name):
        return [
            pytest.approx(optim.peak_rate(o["optim.learning_rate"], o["data.global_batch_size"], o["optim.scale"]))
            for o in protocols.overrides(name)
        ]

    assert peaks("simclr") == [1.6]
    assert peaks("simclr_cifar") == [0.2]
    assert peaks("byol") == [1.6, 1.2, 0.8, 0.4, 0.2]
    assert peaks("moco") == [30.0]
    assert peaks("simsiam") == [1.6]
    short = protocols.overrides("moco", epochs=5, batch_size=64)[0]
    assert (short["train.epochs"], short["data.global_batch_size"], short["optim.learning_rate"]) == (5, 64, 30.0)
    with pytest.raises(ValueError, match=r"protocol='simsim' is unknown; did you mean 'simsiam'\? known: simclr"):
        protocols.overrides("simsim")
    with pytest.raises(ValueError, match="epochs=0 must be positive"):
        protocols.overrides("moco", epochs=0)


def test_what_belongs_to_another_optimizer_stays_behind(monkeypatch, tmp_path):
    """Of the run whose encoder is fine-tuned: ends of its schedule, clipping, weight decay at the end, b2."""
    built = []
    monkeypatch.setattr(evaluation, "build", lambda config, *_, **__: built.append(config) or 1 / 0)
    config = runs.config("simclr", optim__name="adamw", optim__b2=0.95, optim__weight_decay_end=0.4)
    config.optim.update({"start": 0.1, "end": 0.01, "clip_each": 3.0, "warmup_epochs": 1.0})
    config.optim.update({"eta": 0.02, "clip_rate": True, "layer_decay": 0.9, "patch_rate": 0.2})
    fit = evaluation.make_fit(SimpleNamespace(workdir=tmp_path, recipe=None), config, tmp_path, print)
    with pytest.raises(ZeroDivisionError):
        fit("finetune", SimpleNamespace(train=range(100)), finetune.overrides("extract", epochs=2, batch_size=32))
    schedule, _, _ = experiment.make_schedule(built[0], PLAN._replace(total_steps=100))
    tx = experiment.make_tx(built[0], schedule)
    configs.check(built[0])  # supervised has layer_decay of its own
    assert tx.clip is None
    assert not callable(tx.decay)
    assert [float(schedule(t)) for t in (0, 100)] == pytest.approx([tx.peak, 0])


def test_nesterov_reaches_the_optimizer():
    config = runs.config("supervised", optim__nesterov=True, optim__weight_decay=0.0)
    w = {"w": jnp.ones(3)}
    update = experiment.make_tx(config, optim.constant(0.1))
    found, _ = update.update(w, update.init(w), w)
    np.testing.assert_allclose(found["w"], -0.1 * (1 + 0.9), rtol=1e-6)


@pytest.mark.parametrize(("wait", "refused"), [(3.8, False), (3.9, True), (1e6, True)])
def test_a_run_shorter_than_the_first_wait_is_refused(wait, refused):
    """Of 20 steps, 5 an epoch: 3.8 epochs are 19 steps, so one step trains more than the classifier."""
    config = runs.config("supervised", method__unfreeze_every=wait, data__recipe="supervised_no_flip")
    if not refused:
        assert experiment.build(config).plan.total_steps == 20
        return
    with pytest.raises(ValueError, match="nothing but the classifier would ever learn") as error:
        experiment.build(config)
    assert f"unfreeze_every={wait:g} epochs are not shorter than the run of 20 steps, 4 epochs" in str(error.value)
    with pytest.raises(ValueError, match=f"finetune.unfreeze_every={wait} must be epochs from 0 to below epochs=3"):
        evaluator(unfreeze_every=wait, epochs=3)


def test_a_norm_behind_the_pooling_begins_anew():
    """MAE's fc_norm: what normed tokens does not norm their mean."""
    before, behind = (configs.load("configs/mae_cpu.py", words) for words in ([], ["model.norm_after_pool=True"]))
    norm = {"scale": np.full(3, 2.0, np.float32), "bias": np.ones(3, np.float32)}
    found = {"stem_cls": np.ones(3), "stage6_norm": norm, "stage6_block": {"norm1": norm}}, {}
    for theirs, config in ((before, behind), (behind, before)):
        (params, state), said = opening._last_norm(found, theirs, config)
        assert params["stage6_norm"]["scale"].tolist() == [1, 1, 1]
        assert params["stage6_norm"]["bias"].tolist() == [0, 0, 0]
        assert params["stage6_block"]["norm1"] is norm
        assert (params["stem_cls"] is found[0]["stem_cls"], state) == (True, {})
        assert "the last norm begins anew" in said
    assert opening._last_norm(found, before, before) == (found, "")
