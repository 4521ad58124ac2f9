"""The contract of every method: device layouts agree, labels do not leak, targets get no gradient, encoders freeze."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import methods, models, testing
from ssl_jax.parallel import replicated
from ssl_jax.run import checkpoint
from ssl_jax.run.saver import open_saver
from ssl_jax.types import Variables


@pytest.fixture(autouse=True)
def double():
    with contract.double():
        yield


def test_every_method_has_a_case():
    assert set(contract.CASES) == set(methods.names()) - set(methods.UNTRAINED)


# One of each kind: an all-gather, a queue with a shuffle and an EMA target, state by row. The others, and
# variants, are in `make test-all`.
KINDS = ["simclr", "moco", "language_model"]
OTHERS = [case for case in contract.CASES if case not in KINDS]


def each(cases):
    """One case after the other through all tests, so that the programs of one can go before those of the next."""
    return pytest.mark.parametrize("case", cases, scope="module")


def some(cases, others):
    """``cases`` in `make test`, ``others`` in `make test-all`: each is seconds of compilation."""
    return [*cases, *(pytest.param(case, marks=pytest.mark.slow) for case in others)]


def assert_computes_what_one_device_does(case, mode):
    found, reference = contract.run(case, 8, mode), contract.run(case, 1, "jit")
    testing.compare(found, reference, f"8 devices under {mode}")


# What these change is of one row, or of a network.
OF_ROWS = {"simclr-v1", "supervised-frozen", "relative_patch-control", "byol-joint", "bert-whole_word"}
OF_ROWS |= {"triplet-random", "moco_v3-vit", "language_model-transformer"}


@each(some(KINDS, [*OTHERS, *(case for case in contract.VARIANTS if case not in OF_ROWS)]))
def test_eight_devices_compute_what_one_does(case):
    assert_computes_what_one_device_does(case, "jit")


# Under pmap every method, and of the variants those that meet across devices otherwise.
MEETING = ["ibot-v2", "moco-symmetric", "lejepa-crops", "triplet-all", "inpainting-adversarial"]
UNDER_PMAP = ["moco"]


@each(some(UNDER_PMAP, [case for case in [*contract.CASES, *MEETING] if case not in UNDER_PMAP]))
def test_eight_devices_under_pmap_compute_what_one_does(case):
    assert_computes_what_one_device_does(case, "pmap")


IN_PARTS = ["moco"]  # an EMA target and a queue
OTHERS_IN_PARTS = ["jepa", "simclr", "inpainting-adversarial", "supervised-unfreezing", "uda"]


@each(some(IN_PARTS, OTHERS_IN_PARTS))
def test_a_state_in_parts_computes_what_a_whole_one_does(case):
    assert_computes_what_one_device_does(case, "fsdp")


TWO_PROCESSES = ["moco"]  # a queue, a shuffle of all rows, statistics in groups
OTHERS_IN_TWO = [case for case in contract.CASES if case not in TWO_PROCESSES]


@pytest.mark.parametrize(
    "cases",
    [pytest.param(TWO_PROCESSES, id="some"), pytest.param(OTHERS_IN_TWO, id="others", marks=pytest.mark.slow)],
)
def test_two_processes_of_four_devices_compute_what_one_does(cases, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("contract.py")
    out = tmp_path / "two.npz"
    command = [sys.executable, "-W", "ignore", str(script)]
    workers = [
        subprocess.Popen([*command, str(rank), "2", str(port), str(out), *cases], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=1800)[1] for worker in workers]
    assert [w.returncode for w in workers] == [0, 0], "\n".join(e[-2000:] for e in errors)
    with np.load(out) as found:
        for case in cases:
            leaves = {k.split("|", 1)[1]: found[k] for k in found.files if k.startswith(f"{case}|")}
            losses = leaves.pop("losses")
            reference, reference_losses, _ = contract.run(case, 1, "jit")
            testing.same_leaves(leaves, reference, "two processes")
            np.testing.assert_allclose(losses, reference_losses, rtol=testing.TOLERANCE)


@each(some([c for c in KINDS if c not in contract.FROM_LABELS], [c for c in OTHERS if c not in contract.FROM_LABELS]))
def test_labels_never_reach_the_method(case):
    leaves, _, _ = contract.run(case, 1, "jit")
    permuted, _, _ = contract.run(case, 1, "jit", permuted=True)
    for name, leaf in leaves.items():
        if not name.startswith("probe/"):
            assert leaf.tobytes() == permuted[name].tobytes(), name
    weights, moved = (found["probe/params/kernel"] for found in (leaves, permuted))
    assert np.abs(weights - moved).max() > 1e-4  # the probe itself did see the labels


# Whose probes look at features of other kinds: of a teacher, of a part of the patches, of text, of a classifier.
PROBED = ["simclr", "dino", "mae", "cpc", "split_brain", "language_model", "bert", "supervised", "uda"]


@each(some(["moco"], PROBED))
def test_the_probe_never_reaches_the_method(case):
    """Without it the program is another one, which XLA may round otherwise."""
    leaves, _, _ = contract.run(case, 1, "jit")
    without, _, _ = contract.run(case, 1, "jit", with_probe=False)
    kept = {name: leaf for name, leaf in leaves.items() if not name.startswith("probe/")}
    testing.same_leaves(without, kept, "without a probe")


@each(some(KINDS, OTHERS))
def test_saved_and_restored_a_run_goes_on_as_if_nothing_had_happened(case, tmp_path):
    step, compiled, begin = contract.program(case, 1, "jit")

    def train(state, steps):
        for t in steps:
            state, _ = compiled(state, step.place(contract.batch_of(t, dtype=np.float64, case=case)))
        return state

    state = train(begin(), range(3))
    saver = open_saver(tmp_path)
    saver.save(state, {})
    saver.close()
    restored, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state), sharding=replicated(step.mesh))
    end = train(restored, range(3, contract.STEPS))
    assert int(end.step) == contract.STEPS
    found, (want, _, _) = contract.leaves_of(end), contract.run(case, 1, "jit")
    assert found.keys() == want.keys()
    for name in want:
        assert found[name].tobytes() == want[name].tobytes(), name


def variables_and_batch(case):
    state = jax.tree.map(jnp.asarray, contract.initial(case))
    variables = Variables(state.params, state.model_state, state.aux, state.rows)
    return contract.make(case)[0], variables, contract.batch_of(0, dtype=np.float64, case=case)


def run_loss(method, variables, batch, seed=2, step=0):
    """(value, LossOut), compiled: op by op it takes many times as long."""
    loss = jax.jit(lambda *arguments: method.loss(*arguments, None))
    return loss(variables, batch, jax.random.key(seed), jnp.int32(step))


@pytest.mark.parametrize("case", some(["moco"], ["byol", "jepa", "moco_v3"]))
def test_the_target_gets_no_gradient(case):
    method, variables, batch = variables_and_batch(case)

    def loss(target):
        aux = variables.aux | {"target": target}
        return method.loss(variables._replace(aux=aux), batch, jax.random.key(2), jnp.int32(0), None)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables.aux["target"])
    assert float(value) > 0
    assert all(bool((g == 0).all()) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("case", some(["byol", "moco"], ["jepa", "moco_v3"]))
def test_the_target_follows_the_new_parameters(case):
    method, variables, _ = variables_and_batch(case)
    online = jax.tree.map(lambda a: a + 1, variables.params)
    keys = jnp.ones((contract.ROWS, 16)) / 4 if case == "moco" else None
    aux = method.update_aux(Variables(online, variables.model_state, variables.aux), keys, jnp.int32(0))
    # tau_0 and m are 0.9 in the cases; targets start as copies, so they move by a tenth of the way
    for name, old in variables.aux["target"]["encoder"].items():
        moved = jax.tree.map(lambda new, was: np.asarray(new - was), aux["target"]["encoder"][name], old)
        for change in jax.tree.leaves(moved):
            np.testing.assert_allclose(change, 0.1, rtol=1e-4)


@pytest.mark.slow
def test_byol_tau_reaches_one_at_the_end_of_the_run():
    method, variables, batch = variables_and_batch("byol")
    taus = [run_loss(method, variables, batch, step=k)[1].metrics["tau"] for k in (0, 10, 20)]
    np.testing.assert_allclose(taus, [0.9, 0.95, 1.0], atol=1e-6)


@pytest.mark.slow
def test_byol_starts_from_another_target_when_asked():
    joint = contract.make("byol-joint")[0].init(jax.random.key(1), contract.batch_of(0))
    kernels = [t["encoder"]["stem_conv"]["kernel"] for t in (joint.params, joint.aux["target"])]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2


def first_loss(case):
    """(value, LossOut, variables) of a case at its start."""
    method, variables, batch = variables_and_batch(case)
    value, out = run_loss(method, variables, batch)
    return float(value), out, variables


@pytest.mark.slow
def test_simclr_official_scale_is_twice_the_papers(monkeypatch):
    for scale in ("paper", "official"):
        monkeypatch.setitem(contract.ALL, scale, ("simclr", {"projector_layers": 2, "loss_scale": scale}))
    assert first_loss("official")[0] == pytest.approx(2 * first_loss("paper")[0], rel=1e-6)


def test_moco_queue_is_written_in_order_and_wraps():
    method, variables, _ = variables_and_batch("moco")
    queue = np.asarray(variables.aux["queue"])
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
    aux, expected = variables.aux, queue.copy()
    for t in range(5):  # 256 rows hold 4 batches of 64
        keys = np.random.default_rng(t).normal(size=(64, 16)).astype(np.float32)
        aux = method.update_aux(variables._replace(aux=aux), jnp.asarray(keys), jnp.int32(t))
        expected[(64 * t) % 256 : (64 * t) % 256 + 64] = keys
        assert int(aux["pointer"]) == 64 * (t + 1) % 256
        np.testing.assert_array_equal(aux["queue"], expected)


def test_moco_enqueues_the_keys_of_its_batch_in_order(monkeypatch):
    """With BatchNorm over the whole batch the shuffle changes nothing: keys come back in the order of the images."""
    found = []
    for shuffle in (True, False):
        arguments = contract.CASES["moco"] | {"bn_groups": 1, "shuffle": shuffle}
        monkeypatch.setitem(contract.ALL, "global", ("moco", arguments))
        found.append(first_loss("global"))
    (shuffled, out, _), (plain, reference, _) = found
    assert shuffled == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(out.carry, reference.carry, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(out.carry, axis=1), 1, rtol=1e-5)


def test_moco_shuffle_changes_which_images_share_statistics():
    method, variables, batch = variables_and_batch("moco")
    keys = [run_loss(method, variables, batch, seed)[1].carry for seed in (1, 2)]
    assert np.abs(keys[0] - keys[1]).max() > 1e-3


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_moco_loss_is_the_cross_entropy_of_its_queries_keys_and_queue():
    value, out, variables = first_loss("moco")
    q, k, queue = unit(out.outputs["projections"]), unit(out.carry), np.asarray(variables.aux["queue"], np.float64)
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], axis=1) / 0.2
    assert value == pytest.approx(np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0]), rel=1e-5)


@pytest.mark.parametrize("case", ["byol", "simclr"])
def test_symmetric_losses_are_the_formulas_of_both_views(case):
    """``outputs`` shows view 1 only; with the views swapped it shows view 2."""
    method, variables, batch = variables_and_batch(case)
    v1, v2 = batch["views"]
    run = [run_loss(method, variables, {"views": v}) for v in ((v1, v2), (v2, v1))]
    (value, one), (swapped, two) = run
    assert float(value) == pytest.approx(float(swapped), rel=1e-5)
    z1, z2 = (unit(out.outputs["projections"]) for out in (one, two))
    if case == "simclr":
        z = np.concatenate([z1, z2])
        logits = z @ z.T / 0.2
        np.fill_diagonal(logits, -np.inf)
        n = len(z1)
        positives = logits[np.arange(2 * n), np.r_[n : 2 * n, :n]]
        expected = np.mean(np.log(np.exp(logits).sum(1)) - positives)
    else:  # the target is a copy of the online network, so z' = z
        predictor = contract.byol_predictor()
        p1, p2 = (
            unit(models.forward(predictor, variables.params["predictor"], variables.model_state["predictor"],
                                out.outputs["projections"], train=True)[0])
            for out in (one, two)
        )  # fmt: skip
        expected = np.mean(2 - 2 * (p1 * z2).sum(1) + 2 - 2 * (p2 * z1).sum(1))
        not_crossed = np.mean(2 - 2 * (p1 * z1).sum(1) + 2 - 2 * (p2 * z2).sum(1))
        assert abs(expected - not_crossed) > 1e-4
    assert float(value) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_supervised_loss_leaves_unlabelled_rows_out():
    method, variables, batch = variables_and_batch("supervised")
    value, _ = run_loss(method, variables, batch)
    x = np.delete(np.arange(contract.ROWS), 3)  # row 3 has no label: wrong ones there must not count
    for wrong in (0, 1):
        label = batch["label"].copy()
        label[3] = -1 - wrong
        again, _ = run_loss(method, variables, batch | {"label": label})
        assert float(again) == float(value)
    out, _ = models.forward(
        contract.convnet(),
        variables.params["encoder"],
        variables.model_state["encoder"],
        (batch["views"][0] - 0.5) / 0.25,
        train=True,
    )
    weights = variables.params["classifier"]["dense0"]
    logits = np.asarray(out["features"] @ weights["kernel"] + weights["bias"][None], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.9 * np.eye(contract.CLASSES)[batch["label"]] + 0.1 / contract.CLASSES
    assert float(value) == pytest.approx(-(targets * log_p).sum(1)[x].mean(), rel=1e-5)


OTHER_NETWORKS = ["dino-crops", "moco_v3-vit", "cpc-sequence", "language_model-transformer", "supervised-frozen"]


@each(some(KINDS, [*OTHERS, *OTHER_NETWORKS]))
def test_encode_gives_every_stage_and_uses_no_batch_statistics(case):
    method, variables, batch = variables_and_batch(case)
    encode = jax.jit(method.encode)
    view = batch["views"][0]
    other = [v for v in batch["views"] if v.shape == view.shape][-1][::-1]
    out = encode(variables, jnp.asarray(view))
    last = set() if case.partition("-")[0] in ("word2vec", "glove") else {"stage2"}  # a table has one stage
    assert {"stem", "stage1", "features", *last} <= set(out)
    assert all(a.ndim == 2 and len(a) == contract.ROWS for a in out.values())
    among_others = encode(variables, jnp.asarray(np.concatenate([view[:1], other[1:]])))
    np.testing.assert_allclose(among_others["features"][:1], out["features"][:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", some(["simclr", "byol", "moco"], ["jepa", "moco_v3"]))
def test_an_encoder_from_elsewhere_goes_in_before_the_target_is_copied(case):
    method, variables, batch = variables_and_batch(case)
    trunk = jax.tree.map(lambda a: a + 1, method.trunk(variables))
    started = jax.jit(method.init)(jax.random.key(7), batch, {"encoder": trunk})
    for got, want in zip(jax.tree.leaves(method.trunk(started)), jax.tree.leaves(trunk), strict=True):
        np.testing.assert_array_equal(got, want)
    if started.aux:
        for got, want in zip(jax.tree.leaves(started.aux["target"]["encoder"]), jax.tree.leaves(trunk[0]), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("case", "arguments", "words"),
    [
        ("simclr", {"temperature": 0.0}, "temperature=0.0 must be positive"),
        ("simclr", {"loss_scale": "double"}, "loss_scale='double'"),
        ("byol", {"tau": 1.5}, "tau=1.5"),
        ("byol", {"head_init": "he"}, "head_init='he' is not one of lecun, haiku"),
        ("byol", {"tau_schedule": "linear"}, "tau_schedule='linear'"),
        ("moco", {"queue_size": 100}, "queue_size=100 is not a multiple of the 64 keys"),
        ("moco", {"bn_groups": 5}, "bn_groups=5"),
        ("moco", {"momentum": -1.0}, "momentum=-1.0"),
        ("supervised", {"label_smoothing": 1.0}, "label_smoothing=1.0"),
    ],
)
def test_wrong_hyper_parameters_are_refused(case, arguments, words, monkeypatch):
    monkeypatch.setitem(contract.ALL, "wrong", (case, contract.CASES[case] | arguments))
    with pytest.raises(ValueError, match=words):
        contract.make("wrong")


def test_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'simclr'"):
        methods.get("simclrr")
