"""DINO and iBOT: the loss of a whole batch by hand, what is frozen and when, and how dead runs show."""

from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import methods, models, optim, parallel, testing
from ssl_jax.step import compile_step, init_state
from ssl_jax.tasks import masks
from ssl_jax.types import Variables

SMALL = {"tau": 0.9, "out_dim": 16, "hidden": 12, "bottleneck": 8}
VIT = {"patch_size": 2, "width": 16, "depth": 1, "heads": 2, "cls_token": True, "pool": "cls"}


def method_of(name, encoder=None, **arguments):
    encoder = encoder or models.make("vit", **VIT)
    return methods.get(name)(encoder, plan=testing.plan_of(), mean=(0.5,), std=(0.25,), **SMALL | arguments)


def batch_of(rows=6):
    first, more = (testing.batch_of(t, rows, np.float32)["views"] for t in (0, 1))
    return {"views": (*first, *(view[:, :4, :4] for view in more))}


def started(method, batch, centre=0.05):
    """Variables whose teacher is another network than the student, with a centre that is not zero."""
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    other = jax.jit(method.init)(jax.random.key(1), batch)
    centres = {
        k: jnp.asarray(np.random.default_rng(i).normal(size=v.shape) * centre, jnp.float32)
        for i, (k, v) in enumerate(variables.aux.items())
        if k != "target"
    }
    return variables._replace(aux={"target": other.params} | centres)


def run_loss(method, variables, batch, step=0):
    return jax.jit(lambda v, b: method.loss(v, b, jax.random.key(2), jnp.int32(step), None))(variables, batch)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class ByHand:
    """The networks of variables on views one by one."""

    def __init__(self, encoder, head="", out_dim=16, bottleneck=8):
        self.encoder, self.names = encoder, (head + "projector", head + "last_layer")
        parts = models.heads.dino_head(out_dim, hidden=12, bottleneck=bottleneck, learned_scale=True)
        self.head = dict(zip(self.names, parts.values(), strict=True))

    def __call__(self, params, view, patches=False, **inputs):
        """Logits, float64, of class tokens ``[b, k]`` or patches ``[b, n, k]``."""

        return np.asarray(self.run(params, (jnp.asarray(view) - 0.5) / 0.25, inputs, patches), np.float64)

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def run(self, params, x, inputs, patches):
        out, _ = models.forward(self.encoder, params["encoder"], {}, x, train=False, **inputs)
        tokens = out[self.encoder.last_stage]
        x = tokens.reshape(len(tokens), -1, tokens.shape[-1]) if patches else out["features"]
        for name in self.names:
            x, _ = models.forward(self.head[name], params[name], {}, x, train=False)
        return x


def test_dinos_loss_is_that_of_every_pair_of_views():
    batch, encoder = batch_of(), models.make("vit", **VIT)
    method, logits = method_of("dino", encoder, norm_last_layer=False), ByHand(encoder)
    variables = started(method, batch)
    value, out = run_loss(method, variables, batch)
    teacher = [logits(variables.aux["target"], view) for view in batch["views"][:2]]
    student = [logits(variables.params, view) for view in batch["views"]]
    centre, pairs = np.asarray(variables.aux["centre"], np.float64), []
    for g, t in enumerate(teacher):
        q = softmax((t - centre) / 0.04)
        pairs += [-(q * np.log(softmax(s / 0.1))).sum(1).mean() for v, s in enumerate(student) if v != g]
    assert len(pairs) == 6
    assert float(value) == pytest.approx(np.mean(pairs), rel=1e-5)
    q = softmax((np.stack(teacher) - centre) / 0.04)
    h = -(q * np.log(q)).sum(-1).mean()
    mean = q.mean((0, 1))
    assert float(out.metrics["teacher_entropy"]) == pytest.approx(h, rel=1e-4)
    assert float(out.metrics["kl"]) == pytest.approx(np.mean(pairs) - h, rel=1e-3)
    assert float(out.metrics["assignment_perplexity"]) == pytest.approx(np.exp(-(mean * np.log(mean)).sum()), rel=1e-4)
    np.testing.assert_allclose(out.carry["centre"], np.mean(teacher, (0, 1)), atol=1e-5)
    aux = method.update_aux(variables, out.carry, jnp.int32(0))
    np.testing.assert_allclose(aux["centre"], 0.9 * centre + 0.1 * np.mean(teacher, (0, 1)), atol=1e-5)
    new, old, online = (jax.tree.leaves(tree) for tree in (aux["target"], variables.aux["target"], variables.params))
    for a, b, c in zip(new, old, online, strict=True):
        np.testing.assert_allclose(a, 0.9 * b + 0.1 * c, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_ibots_patches_are_guessed_where_they_are_hidden(shared):
    batch, encoder = batch_of(), models.make("vit", **VIT)
    arguments = {"shared_head": shared, "patch_weight": 3.0, "mask_chance": 0.8, "warmup_teacher_epochs": 0}
    own = {"patch_out_dim": 10, "patch_bottleneck": 6}
    arguments |= {} if shared else {"patch_temperature": 0.05, **own}
    method = method_of("ibot", encoder, **arguments)
    patches = ByHand(encoder) if shared else ByHand(encoder, "patch_", *own.values())
    hot = 0.07 if shared else 0.05
    variables = started(method, batch)
    params = variables.params
    params["encoder"]["stem_mask"] = jnp.ones(16)
    value, out = run_loss(method, variables, batch)
    key, n = jax.random.key(2), 12
    shares = masks.random_shares(parallel.named_key(key, "shares"), n, chance=0.8)
    masked = np.asarray(masks.block_masks(parallel.named_key(key, "masks"), shares, (4, 4), least=1))
    assert 0 < masked.any(1).sum() < n
    per_view = masked.reshape(6, 2, 16).swapaxes(0, 1)  # views of an image stand side by side
    losses, centre = [], np.asarray(variables.aux["patch_centre"], np.float64)
    every = [patches(variables.aux["target"], view, patches=True) for view in batch["views"][:2]]
    for view, t, m in zip(batch["views"][:2], every, per_view, strict=True):
        s = patches(params, view, patches=True, masked=jnp.asarray(m))
        ce = -(softmax((t - centre) / hot) * np.log(softmax(s / 0.1))).sum(-1)
        losses.append(((ce * m).sum(1) / np.maximum(m.sum(1), 1)).mean())
    assert float(out.metrics["patch_loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    whole = float(out.metrics["cls_loss"]) + 3 * np.mean(losses)
    assert float(value) == pytest.approx(whole, rel=1e-5)
    np.testing.assert_allclose(out.carry["patch_centre"], np.mean(every, (0, 1, 2)), atol=1e-5)
    assert float(out.metrics["masked"]) == pytest.approx(masked.mean())
    assert ("patch_projector" in params) is not shared
    metrics = {name: float(out.metrics[name]) for name in ("teacher_temperature", "patch_teacher_temperature")}
    assert metrics == pytest.approx({"teacher_temperature": 0.07, "patch_teacher_temperature": hot})


@pytest.mark.slow
def test_dinov2s_masks_and_neighbours_reach_the_loss():
    batch = batch_of()
    how = {"mask_choice": "stratified", "block_least": 2, "block_most": 0.25, "mask_ratio": (0.4, 0.6)}
    method = method_of("ibot", koleo=0.1, koleo_group=2, **how)
    variables = started(method, batch)
    _, out = run_loss(method, variables, batch)
    key = jax.random.key(2)
    shares = masks.stratified_shares(parallel.named_key(key, "shares"), 12, low=0.4, high=0.6, chance=0.5)
    masked = masks.block_masks(parallel.named_key(key, "masks"), shares, (4, 4), least=2, most=4)
    assert float(out.metrics["masked"]) == pytest.approx(np.asarray(masked).mean())
    assert np.asarray(masked).any(1).sum() == 6
    whole = run_loss(method_of("ibot", koleo=0.1, **how), variables, batch)[1].metrics
    assert abs(float(out.metrics["koleo"] - whole["koleo"])) > 1e-3
    assert out.metrics["koleo_nearest"] >= whole["koleo_nearest"] > 0


@pytest.mark.slow
def test_sinkhorns_teacher_has_no_centre():
    batch, method = batch_of(), method_of("ibot", teacher="sinkhorn")
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    assert variables.aux.keys() == {"target"}
    _, out = run_loss(method, variables, batch)
    assert not any("centre" in name for name in out.metrics)
    assert method.update_aux(variables, out.carry, jnp.int32(0)).keys() == {"target"}


@pytest.mark.slow
def test_batchnorm_in_ibots_heads_is_the_students_and_the_teachers():
    batch, method = batch_of(), method_of("ibot", head_bn=True)
    variables = started(method, batch)
    _, out = run_loss(method, variables, batch)
    for new, old in (
        (out.model_state, variables.model_state),
        (out.model_state["target"], variables.model_state["target"]),
    ):
        for a, b in zip(*(jax.tree.leaves(state["projector"]) for state in (new, old)), strict=True):
            assert not np.allclose(a, b)
    assert jax.tree.structure(out.model_state) == jax.tree.structure(variables.model_state)
    features = jax.jit(method.encode)(variables, jnp.asarray(batch["views"][0]))
    assert np.isfinite(features["projections"]).all()


@pytest.mark.slow
def test_the_class_tokens_of_the_student_are_those_of_masked_global_views():
    batch, encoder = batch_of(), models.make("vit", **VIT)
    method, logits = method_of("ibot", encoder, mask_ratio=(0.5, 0.5), mask_chance=1.0, koleo=0.1), ByHand(encoder)
    variables = started(method, batch)
    variables.params["encoder"]["stem_mask"] = jnp.ones(16)
    _, out = run_loss(method, variables, batch)
    shares = jnp.full(12, 0.5)
    masked = masks.block_masks(parallel.named_key(jax.random.key(2), "masks"), shares, (4, 4), least=1)
    m = np.asarray(masked).reshape(6, 2, 16).swapaxes(0, 1)
    teacher = [logits(variables.aux["target"], view) for view in batch["views"][:2]]
    student = [
        logits(variables.params, view, **({"masked": jnp.asarray(m[v])} if v < 2 else {}))
        for v, view in enumerate(batch["views"])
    ]
    centre, pairs = np.asarray(variables.aux["centre"], np.float64), []
    for g, t in enumerate(teacher):
        q = softmax((t - centre) / 0.04)  # epoch 0 of 30
        pairs += [-(q * np.log(softmax(s / 0.1))).sum(1).mean() for v, s in enumerate(student) if v != g]
    assert float(out.metrics["cls_loss"]) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert np.isfinite(out.metrics["koleo"])


def test_the_product_is_the_teacher_without_its_mask_token():
    batch = batch_of()
    method = method_of("ibot")
    variables = started(method, batch)
    params, _ = method.trunk(variables)
    assert params.keys() == variables.aux["target"]["encoder"].keys() - {"stem_mask"}
    features = jax.jit(method.encode)(variables, jnp.asarray(batch["views"][0]))["features"]
    moved = variables._replace(params=jax.tree.map(jnp.zeros_like, variables.params))
    np.testing.assert_array_equal(jax.jit(method.encode)(moved, jnp.asarray(batch["views"][0]))["features"], features)
    given = jax.jit(method.init)(jax.random.key(3), batch, {"encoder": (params, {})})
    assert not np.any(given.params["encoder"]["stem_mask"])
    for tree in (given.params["encoder"], given.aux["target"]["encoder"]):
        np.testing.assert_array_equal(tree["stem_cls"], params["stem_cls"])


def test_the_temperature_of_the_teacher_rises_by_epochs():
    schedule = optim.linear_by_epoch(0.04, 0.07, 4, 10)
    np.testing.assert_allclose(schedule(np.array([0, 9, 10, 29, 30, 1000])), [0.04, 0.04, 0.05, 0.06, 0.07, 0.07])
    np.testing.assert_allclose(optim.linear_by_epoch(0.04, 0.07, 0, 10)(0), 0.07)
    np.testing.assert_allclose(optim.linear_by_epoch(0.04, 0.07, 1, 10)(np.array([0, 10])), [0.04, 0.07])


def test_the_last_layer_stays_for_an_epoch_and_is_not_decayed_then():
    method = method_of("ibot", shared_head=False)
    params = {name: {"v": jnp.ones(3)} for name in ("projector", "last_layer", "patch_last_layer")}
    tx = method.wrap_tx(optim.adamw(0.1, weight_decay=0.1))
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(6):  # an epoch has 4
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        late = [bool(np.any(updates[name]["v"])) for name in ("last_layer", "patch_last_layer")]
        assert np.any(updates["projector"]["v"])
        assert late == [step >= 4] * 2
        if step == 4:  # the first update of Adam, whose moments begin here: the sign of the gradient
            np.testing.assert_allclose(updates["last_layer"]["v"], -0.1 * (1 + 0.1), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("dino", {"tau": 1.5}, "method.tau=1.5 must be between 0 and 1; papers use 0.996"),
        ("dino", {"teacher_temperature": 0.0}, "method.teacher_temperature=0.0 must be positive"),
        ("dino", {"out_dim": 1}, "method.out_dim=1 must be 2 or more"),
        ("ibot", {"teacher": "mean"}, "method.teacher='mean' is not one of centre, sinkhorn"),
        ("ibot", {"mask_ratio": (0.01, 0.05)}, "hide none of 4 x 4 patches"),
        ("ibot", {"mask_ratio": (0.5, 0.1)}, r"method.mask_ratio=\(0.5, 0.1\)"),
        ("ibot", {"koleo": -1.0}, "method.koleo=-1.0 must be 0 or more"),
        ("ibot", {"koleo_group": 1}, "method.koleo_group=1 must be 2 or more; papers use 64"),
        ("ibot", {"koleo_group": 7}, "method.koleo_group=7 does not divide data.global_batch_size=64; use a divisor"),
        ("ibot", {"mask_ratio": 0.3}, "method.mask_ratio=0.3 is no pair"),
        ("ibot", {"mask_choice": "all"}, "method.mask_choice='all' is not one of random, stratified"),
        ("ibot", {"block_most": 0.2, "block_least": 4}, "method.block_least=4 patches and block_most=0.2 of 4 x 4"),
        ("ibot", {"patch_out_dim": 32}, "method.patch_out_dim=32 is of a head for patches alone; set method.shared_"),
        ("ibot", {"patch_temperature": 0.0}, "method.patch_temperature=0.0 must be positive"),
    ],
)
def test_wrong_arguments_are_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        method_of(name, **arguments)


def test_ibot_refuses_what_is_no_vision_transformer_or_has_no_class_token():
    with pytest.raises(ValueError, match=r"method.name='ibot' hides patches, which takes a ViT"):
        method_of("ibot", contract.convnet())
    with pytest.raises(ValueError, match=r"model.pool='mean': set pool='cls'"):
        method_of("ibot", models.make("vit", **VIT | {"pool": "mean"}))
    with pytest.raises(ValueError, match=r"'ibot' reads patches, which model.norm_after_pool=True leaves without"):
        method_of("ibot", models.make("vit", **VIT | {"norm_after_pool": True}))


@pytest.mark.parametrize("patch_size", [8, 4])
def test_a_grid_on_which_blocks_hide_too_little_is_refused(patch_size):
    side = testing.plan_of().input_shape[0] // patch_size
    words = f"blocks in a grid of {side} x {side} patches hide far less than method.mask_ratio=.*smaller model.patch_s"
    with pytest.raises(ValueError, match=words):
        method_of("ibot", models.make("vit", **VIT | {"patch_size": patch_size}), mask_ratio=(0.1, 1.0))


def dead(name, steps=24, **arguments):
    """Metrics of a short run's last step."""
    plan = testing.plan_of(total_steps=10 * steps)
    encoder = models.make("vit", **VIT | {"width": 32})
    settings = {"tau": 0.9, "out_dim": 64, "hidden": 64, "bottleneck": 16, "freeze_last_layer": 0}
    settings |= {"warmup_teacher_epochs": 0, "teacher_temperature": 0.04}
    method = methods.get(name)(encoder, plan=plan, mean=(0.5,), std=(0.25,), **settings | arguments)
    mesh, tx = parallel.make_mesh(1), optax.adam(3e-3)
    step = compile_step(method, tx, mesh)

    def batch(t):
        return step.place(testing.batch_of(t % 4, dtype=np.float32))

    with jax.numpy_dtype_promotion("standard"):  # optax's
        state = init_state(method, tx, jax.random.key(0), batch(0), mesh)
        for t in range(steps):
            state, metrics = step(state, batch(t))
    found = {name: float(metrics[name]) for name in metrics if name != "moments"}
    return found, method.hooks["collapse"](found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_dead_runs_show_in_the_metrics_within_a_tenth(name):
    """In 24 of 240 steps."""
    (healthy, silent), (one_hot, told_one) = dead(name), dead(name, centre_momentum=1.0)
    uniform, told_all = dead(name, teacher_temperature=1.0, centre_momentum=0.5)
    assert not silent
    assert "so few of 64 prototypes for all images; lower method.centre_momentum" in told_one
    assert "that of 64 prototypes all alike, 4.16; lower the teacher's temperature" in told_all
    for prefix in ("", "patch_") if name == "ibot" else ("",):
        entropy, perplexity = prefix + "teacher_entropy", prefix + "assignment_perplexity"
        assert one_hot[entropy] < 0.02
        assert one_hot[perplexity] < 1.05
        assert uniform[entropy] > 0.99 * np.log(64)
        assert uniform[prefix + "kl"] < 0.2
        assert 0.1 < healthy[entropy] < 0.98 * np.log(64)
        assert healthy[perplexity] > 1.5


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_a_teacher_that_tells_images_apart_is_sound_whatever_its_bottleneck(name):
    said = method_of(name).hooks["collapse"]
    sound = {"teacher_entropy": 2.0, "assignment_perplexity": float(np.exp(2.2))}
    sound |= {f"patch_{key}": value for key, value in sound.items()}
    assert said(sound) == ""
    for key in sound if name == "ibot" else ("teacher_entropy", "assignment_perplexity"):
        nearly = 2.15 if key.endswith("entropy") else float(np.exp(2.05))
        assert said(sound | {key: nearly}) is None
        assert said(sound | {key: float("nan")}) is None


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_how_far_the_teacher_is_behind_is_logged(name):
    batch, method = batch_of(), method_of(name)
    variables = started(method, batch)
    student, teacher = (
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])
        for tree in (variables.params, variables.aux["target"])
    )
    _, out = run_loss(method, variables, batch)
    wanted = np.linalg.norm(student - teacher) / np.linalg.norm(student)
    assert float(out.metrics["ema_distance"]) == pytest.approx(wanted, rel=1e-5)
    assert wanted > 0.1


@pytest.mark.parametrize("prefix", ["", "patch_"])
def test_a_teacher_of_few_prototypes_is_dead_unless_it_chooses_between_them(prefix):
    said = method_of("ibot", out_dim=64).hooks["collapse"]
    sound = {"teacher_entropy": 2.0, "assignment_perplexity": float(np.exp(2.2))}
    sound |= {f"patch_{key}": value for key, value in sound.items()}
    entropy, several = f"{prefix}teacher_entropy", f"{prefix}assignment_perplexity"
    few = said(sound | {entropy: 0.5, several: 2.2})  # what DINO without centring showed after a tenth
    assert few.startswith(f"{several} is 2.20: so few of 64 prototypes for all images")
    assert said(sound | {entropy: 0.1, several: 5.0}) == ""  # images of five kinds


def test_what_the_run_is_too_short_for_is_said():
    plan = testing.plan_of(steps_per_epoch=4, total_steps=8)
    said = methods.doubts({"name": "dino", "freeze_last_layer": 2, "warmup_teacher_epochs": 30}, plan)
    assert said == (
        "WARNING: method.freeze_last_layer=2 epochs are not shorter than the run of 2: the prototypes never learn",
        "WARNING: method.warmup_teacher_epochs=30 epochs are not shorter than the run of 2: the teacher's temperature "
        "does not reach method.teacher_temperature",
    )
    assert methods.doubts({"name": "dino", "freeze_last_layer": 1, "warmup_teacher_epochs": 0}, plan) == ()
    assert methods.doubts({"name": "simclr"}, plan) == ()
    lines = methods.doubts({"name": "swav"}, plan._replace(total_steps=4))  # by its defaults of an epoch and of 3000
    assert "method.freeze_prototypes=1 epochs" in lines[0]
    assert lines[1].startswith("WARNING: 64 rows of a batch cannot use method.prototypes=3000 alike")
    assert methods.doubts({"name": "swav", "queue_size": 640, "queue_from": 0}, plan._replace(total_steps=20)) == ()
    assert methods.doubts({"name": "swav", "prototypes": 64}, plan) == ()
    assert methods.doubts({"name": "swav", "prototypes": None}, plan) == ()  # another method may mean other things
    queue = {"name": "swav", "queue_size": 640, "queue_from": 0}
    assert methods.doubts(queue, plan._replace(total_steps=11)) == ()
    assert methods.doubts(queue, plan._replace(total_steps=10)) == (
        "WARNING: method.queue_size=640, filled from epoch queue_from=0 on, is full after step 10 and the run has 10: "
        "it is never used",
    )


def test_variables_hold_what_the_contract_says():
    variables = jax.jit(method_of("dino").init)(jax.random.key(0), batch_of())
    assert isinstance(variables, Variables)
    assert variables.params.keys() == {"encoder", "projector", "last_layer"}
    assert variables.aux.keys() == {"target", "centre"}
    for a, b in zip(jax.tree.leaves(variables.aux["target"]), jax.tree.leaves(variables.params), strict=True):
        np.testing.assert_array_equal(a, b)  # the teacher begins as the student
