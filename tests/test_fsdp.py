"""A state that lies in parts over groups of devices: which parts, how much of it a device holds, and a run of it."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import PartitionSpec as P

from ssl_jax import configs, methods, models, parallel, testing, train
from ssl_jax.experiment import build, make_parts
from ssl_jax.plan import cost, program
from ssl_jax.run import checkpoint
from ssl_jax.step import compile_step
from ssl_jax.types import TrainState


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parallel, "SPLIT_FROM", 500)


def state(params, **fields):
    fields = dict.fromkeys(TrainState.__dataclass_fields__) | {"params": params} | fields
    return TrainState(**fields)


@pytest.mark.parametrize(
    ("shape", "devices", "spec"),
    [
        ((64, 64), 4, P(None, "fsdp")),  # the last of equals
        ((128, 64), 4, P("fsdp")),
        ((3, 3, 64, 128), 4, P(None, None, None, "fsdp")),
        ((1001, 64), 4, P(None, "fsdp")),  # the longest is not divisible
        ((1001, 77), 4, P()),  # none is
        ((63, 64), 4, P()),  # less than 4,096 elements
        ((4096,), 4, P("fsdp")),
        ((64, 128), 3, P()),
    ],
)
def test_which_dimension_is_split(shape, devices, spec):
    mesh = parallel.make_mesh(2 * devices, devices)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert parallel.state_shardings(state({"w": leaf}), mesh).params["w"].spec == spec
    whole = parallel.state_shardings(state({"w": leaf}), parallel.make_mesh(2 * devices))
    assert whole.params["w"].spec == P()


def test_what_mirrors_a_parameter_lies_as_it_does():
    mesh = parallel.make_mesh(8, 4)
    params = {"encoder": {"w": jnp.zeros((64, 128)), "b": jnp.zeros(128)}, "head": {"w": jnp.zeros((128, 64))}}
    aux = {
        "target": params["encoder"] | {"head": params["head"]},  # ends in head/w; "w" alone is no parameter's path
        "copy": {"encoder": params["encoder"]},
        "queue": jnp.zeros((512, 128)),
        "head": {"w": jnp.zeros((64, 128))},  # a parameter's path, but another shape
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    given = state(params, aux=aux, opt_state=tx.init(params), model_state={"encoder": {"w": jnp.zeros((64, 128))}})
    given = given.replace(rows={"hidden": jnp.zeros((64, 128))}, probe=jnp.zeros((64, 128)), step=jnp.int32(0))
    got = jax.tree.map(lambda s: s.spec, parallel.state_shardings(given, mesh))
    in_parts = {"encoder": {"w": P(None, "fsdp"), "b": P()}, "head": {"w": P("fsdp")}}
    assert got.params == in_parts
    adam = got.opt_state[1][0]
    assert adam.mu == adam.nu == in_parts
    assert adam.count == P()
    assert got.aux["copy"]["encoder"] == in_parts["encoder"]
    assert got.aux["target"] == {"w": P(), "b": P(), "head": {"w": P("fsdp")}}
    assert got.aux["queue"] == got.aux["head"]["w"] == got.model_state["encoder"]["w"] == got.probe == got.step == P()
    assert got.rows["hidden"] == P(("data", "fsdp"))


@pytest.mark.parametrize("remat", [False, True])
def test_the_backward_pass_moves_parameters_again_and_leaves_checkpoints_alone(remat):
    """Of each layer four products of the forward pass and twice four of the backward pass, four more with remat."""

    def layer(w, x):
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return x

    def loss(params):
        x = parallel.my_rows(jnp.ones((16, 64)), None)
        for w in params:
            x = (jax.checkpoint(layer) if remat else layer)(w, x)
        return jnp.square(x).sum(), x

    params = [jax.random.normal(key, (64, 64)) / 8 for key in jax.random.split(jax.random.key(0), 3)]
    mesh = parallel.make_mesh(8, 8)
    in_parts = parallel.state_shardings(state(params), mesh).params
    jitted = jax.jit(lambda params: parallel.value_and_grad(loss, params), in_shardings=(in_parts,))
    with jax.set_mesh(mesh):
        lowered = jitted.lower(params)
        got = jitted(jax.device_put(params, in_parts))
    want = parallel.value_and_grad(loss, params)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-4)
    assert all(grad.sharding.spec == P(None, "fsdp") for grad in got[1])
    text = lowered.as_text()
    assert text.count("stablehlo.dot_general") == 3 * (16 if remat else 12) - 1  # the first x asks for no gradient
    assert lowered.compile().as_text().count(" all-gather(") == 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "fsdp", "products"), [(None, 8, 144), ("blocks", 1, 164), ("blocks", 8, 164)])
def test_products_of_a_step(remat, fsdp, products):
    changes = [*(("model.remat=blocks",) if remat else ()), "data.num_examples=50000", "data.augment=device"]
    lowered = program.lower_ahead(configs.load("configs/jepa_cpu.py", changes), parallel.make_mesh(8, fsdp))
    assert lowered.as_text().count("stablehlo.dot_general") == products


@pytest.mark.slow
@pytest.mark.parametrize(("method", "drop_path"), [("simclr", 0.0), ("jepa", 0.2)])
def test_what_is_computed_again_of_a_state_in_parts_is_what_was_kept(method, drop_path, small_parts):
    """In float64: three steps of SGD on eight devices that share the state, with and without remat."""
    mesh, arguments = parallel.make_mesh(8, 8), contract.CASES[method] | {"mean": (0.5,), "std": (0.25,)}
    states, products = [], []
    for remat in (None, "blocks"):
        encoder = models.make("vit", patch_size=2, width=32, depth=2, heads=2, drop_path=drop_path, remat=remat)
        made = methods.get(method)(encoder, plan=testing.plan_of(), **arguments)
        case = testing.Case(made, None, testing.batch_of)
        with testing.double():
            start = testing.initial(case)
            now = jax.device_put(start, parallel.state_shardings(start, mesh))
            now = now.replace(key=jax.random.wrap_key_data(now.key))
            step = compile_step(made, testing.TX, mesh)
            lowered = step.lower(now, step.place(case.batch(0)))
            compiled = lowered.compile()
            for t in range(3):
                now, _ = compiled(now, step.place(case.batch(t)))
        assert any(leaf.addressable_shards[0].data.size < leaf.size for leaf in jax.tree.leaves(now.params))
        products.append(lowered.as_text().count("stablehlo.dot_general"))
        states.append(jax.device_get(now.replace(key=None)))
    assert products[0] < products[1]
    for want, got in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * max(1, np.abs(want).max()))


@pytest.mark.slow
def test_a_device_holds_its_part_before_and_after_a_step(small_parts):
    config = runs.config("byol", parallel__devices=8, parallel__fsdp=8, data__augment="host")
    mesh = parallel.make_mesh(8, 8)
    compiled = program.compile_ahead(config, mesh)
    first = program.initial(config, mesh)
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(first.replace(key=None))]
    assert cost.of(compiled).arguments < 0.35 * sum(sizes)
    rng = np.random.default_rng(0)
    views = tuple(rng.random((32, 8, 8, 1), np.float32) for _ in range(2))
    batch = {"views": views, "label": np.zeros(32, np.int32), "index": np.arange(32, dtype=np.int32)}
    new, _ = compiled(first, parallel.place(batch, mesh))
    shares = []
    for leaf in jax.tree.leaves((new.params, new.aux["target"], new.opt_state)):
        shares.append(leaf.addressable_shards[0].data.size / leaf.size)
        assert shares[-1] == (1 / 8 if leaf.size >= parallel.SPLIT_FROM else 1)
    assert shares.count(1 / 8) >= 12


@pytest.mark.slow
def test_a_run_in_parts_goes_on_whole_and_ends_where_a_whole_one_does(small_parts, tmp_path):
    short = {"train__eval_every": 0, "train__steps": 10, "parallel__devices": 8, "eval__knn": False}

    def fit(name, upto=10, **changes):
        experiment = build(runs.config("byol", **short, **changes))
        experiment = experiment._replace(plan=experiment.plan._replace(total_steps=upto))
        train.fit(experiment, tmp_path / name, test=False)
        return checkpoint.restore_variables(tmp_path / name)[0]

    fit("parts", upto=5, parallel__fsdp=4)
    assert checkpoint.latest(tmp_path / "parts") == 5
    (tmp_path / "parts" / "summary.json").unlink()
    got, want = fit("parts"), fit("whole")
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel__fsdp": 0}, "config.parallel.fsdp=0 must be positive"),
        (
            {"parallel__fsdp": 2, "parallel__mode": "pmap"},
            "config.parallel.fsdp=2 is for parallel.mode=jit; set it to 1",
        ),
        ({"parallel__fsdp": 3, "parallel__devices": 8}, "parallel.fsdp=3 does not divide 8 device"),
    ],
)
def test_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(runs.config("simclr", **changes))
    assert "\n" not in str(caught.value)


def test_pmap_refuses_a_mesh_with_groups():
    parts = make_parts(config := runs.config("simclr"), program.plan_of(config))
    with pytest.raises(ValueError, match=r"parallel\.fsdp is for parallel\.mode=jit"):
        compile_step(parts.method, parts.tx, parallel.make_mesh(8, 4), mode="pmap")
