"""Costs that are read off compiled programs, and programs that are compiled from shapes alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax import lax
from jax.sharding import PartitionSpec as P

from ssl_jax import experiment, parallel
from ssl_jax.plan import cost, devices, program
from ssl_jax.step import compile_step, init_state

HLO = """HloModule m

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]) parameter(0)
  %g = f32[4]{0} get-tuple-element(%t), index=1
  ROOT %r = f32[4]{0} all-reduce(%g), replica_groups={}, to_apply=%add
}

%condition (t: (s32[], f32[4])) -> pred[] {
  ROOT %p = pred[] constant(true)
}

%begun (b: s8[2]) -> s8[16] {
  ROOT %g1 = s8[16]{0} all-gather(%b), channel_id=7, dimensions={0}
}

%ended (b: s8[2]) -> s8[16] {
  ROOT %g2 = s8[16]{0} all-gather(%b), channel_id=7, dimensions={0}
}

ENTRY %main (a: f32[4], b: bf16[2,3]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %b = bf16[2,3]{1,0} parameter(1)
  %start = (bf16[2,3]{1,0}, bf16[16,3]{1,0}) all-gather-start(%b), dimensions={0}
  %done = bf16[16,3]{1,0} all-gather-done(%start)
  %first = s8[16]{0} fusion(%e), kind=kCustom, calls=%begun
  %second = s8[16]{0} fusion(%e), kind=kCustom, calls=%ended
  %two = (f32[4]{0}, f32[10]{0}) all-reduce(%a, %c), to_apply=%add
  %moved = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%d), source_target_pairs={{0,1}}
  %loop = (s32[], f32[4]) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[4]{0} get-tuple-element(%loop), index=1
}
"""


def test_collectives_of_a_program_by_hand():
    """Of a start the result alone; of a loop every turn; of several operands all; of a channel in two fusions once."""
    want = {"all-gather": 2 * 16 * 3 + 16, "all-reduce": 4 * 14 + 5 * 4 * 4, "collective-permute": 24}
    assert cost.collectives(HLO) == want


def test_bytes_of_a_ring():
    assert cost.sent({"all-reduce": 800}, 8) == 2 * 7 * 100
    assert cost.sent({"all-gather": 800, "all-to-all": 80}, 8) == 700 + 70
    assert cost.sent({"reduce-scatter": 100}, 8) == 700
    assert cost.sent({"collective-permute": 100}, 8) == 100
    assert cost.sent({"all-reduce": 800}, 1) == 0


def test_collectives_of_compiled_programs():
    mesh = parallel.make_mesh(8)

    def three_sums(x):  # float32 [2, 5] on each of eight devices, in a loop
        return lax.fori_loop(0, 3, lambda _, x: lax.psum(x, "data") / 8, x)

    def gathered(x):
        return lax.all_gather(x, "data", tiled=True)

    with jax.set_mesh(mesh):
        x = jnp.ones((16, 5))
        for f, spec, want in (
            (three_sums, P("data"), {"all-reduce": 3 * 2 * 5 * 4}),
            (gathered, P(), {"all-gather": 16 * 5 * 4}),
        ):
            mapped = jax.shard_map(f, in_specs=P("data"), out_specs=spec, check_vma=False)
            assert cost.of(jax.jit(mapped).lower(x).compile()).results == want


def test_memory_and_operations_of_a_product():
    f = jax.jit(lambda a, b: a @ b, donate_argnums=0)
    found = cost.of(f.lower(jnp.ones((64, 64)), jnp.ones((64, 64))).compile())
    assert found.flops == pytest.approx(2 * 64**3, rel=0.02)
    assert (found.arguments, found.outputs, found.donated) == (2 * 64 * 64 * 4, 64 * 64 * 4, 64 * 64 * 4)
    assert found.memory == found.arguments + found.temporaries


def config(**changes):
    settings = {"data__num_examples": 160, "parallel__devices": 8, "data__source": "digits", "data__augment": "host"}
    return runs.config("simclr", **(settings | changes))


@pytest.mark.slow
def test_compiled_from_shapes_it_is_the_step_of_the_run():
    """Operations, memory and what is exchanged are those of a step that is compiled for real arrays."""
    asked = config()
    mesh = parallel.make_mesh(8)
    built = experiment.build(asked)
    batch = parallel.place(experiment.zeros(built), mesh)
    state = init_state(built.method, built.tx, jax.random.key(0), batch, mesh, probe=built.probe)
    step = compile_step(built.method, built.tx, mesh, probe=built.probe)
    assert cost.of(program.compile_ahead(asked, mesh)) == cost.of(step.lower(state, batch).compile())


@pytest.mark.slow
def test_a_compiled_step_can_be_run():
    asked, mesh = config(parallel__devices=1), parallel.make_mesh(1)
    compiled = program.compile_ahead(asked, mesh)
    rng = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda a: rng.random(a.shape).astype(a.dtype) if a.dtype == np.float32 else np.zeros(a.shape, a.dtype),
        experiment.make_modality(asked, plan=program.plan_of(asked)).spec(32),
    )
    with jax.set_mesh(mesh):
        state, metrics = compiled(program.initial(asked, mesh), parallel.place(batch, mesh))
    assert int(state.step) == 1
    assert float(metrics["loss"]) == pytest.approx(np.log(63), abs=2.5)


def test_other_platforms_programs_are_not_this_machines():
    assert parallel.platform() == "cpu"
    with parallel.compiling_for("tpu"):
        assert parallel.platform() == "tpu"
    assert parallel.platform() == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__num_examples": None, "data__source": "npz:mine.npz"}, "set --config.data.num_examples"),
        ({"data__num_examples": 10}, "global_batch_size=32 is larger than the 10 examples"),
        ({"data__global_batch_size": 36}, "global_batch_size=36 is not divisible by 8 devices"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        program.compile_ahead(config(**changes), parallel.make_mesh(8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "not of the form"),
        ("cpu:9", "8 cpu device"),
        ("../x:1", "not of the form"),
        ("v9z:2x2", "is none that libtpu knows|needs libtpu"),
    ],
)
def test_no_such_topology(name, message):
    with pytest.raises(ValueError, match=message):
        devices.topology(name)
