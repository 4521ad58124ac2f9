"""Kernels of a program counted by hand, and of programs whose operations are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import runs
from jax import lax

from ssl_jax.plan import cost, devices, hlo
from ssl_jax.plan.kernels import Kernel, by, launched, moved, unknown_turns

PROGRAM = (runs.ROOT / "tests" / "step_by_hand.hlo").read_text()

BY_HAND = [
    # kind, number, bytes, FLOP, precision, line
    ("convolution", 1, 2 * (384 + 432 + 2048), 2 * 2048 * 27, "bfloat16", "ssl_jax/step.py:10"),  # flax's line is none
    ("convolution", 1, 2 * (384 + 2048 + 432), 2 * 2048 * 27, "bfloat16", "ssl_jax/step.py:10"),
    ("fusion", 1, 32 + 8 + 32, 0, "bfloat16", "ssl_jax/step.py:10"),  # two rows of the table, their places, the result
    ("fusion", 1, 32 + 4 + 32, 0, "bfloat16", ""),  # the table itself is not read, and two rows are written
    ("reduction", 1, 4 * (128 + 16), 0, "bfloat16", "ssl_jax/models/norm.py:30"),
    ("gemm", 1, 4 * (128 + 64 + 32), 2 * 32 * 16, "float32", ""),
    ("gemm", 1, 4 * (128 + 64 + 32), 2 * 32 * 16, "tf32", ""),
    ("collective", 1, 64, 0, "bfloat16", ""),
    ("loop", 1, 0, 0, "bfloat16", ""),
    ("fusion", 5, 64, 0, "bfloat16", ""),
    ("conditional", 1, 0, 0, "bfloat16", ""),
    ("copy", 1, 64, 0, "bfloat16", ""),
]


def test_kernels_of_a_program_by_hand():
    found = launched(PROGRAM)
    assert [kernel[:6] for kernel in found] == BY_HAND
    assert [kernel.exchange for kernel in found if kernel.exchange] == [("all-reduce", 32)]
    assert moved(found) == sum(number * size for _, number, size, *_ in BY_HAND)
    assert unknown_turns(PROGRAM) == 0
    assert unknown_turns(PROGRAM.replace("known_trip_count", "other")) == 1


def test_kernels_added_up_take_the_longer_of_bytes_operations_and_exchange():
    chip = devices.Chip(1, flops=1000.0, bandwidth=100.0, network=1.0, tf32=100.0, float32=10.0)
    kernels = [
        Kernel("gemm", 2, 100, 5000.0, "bfloat16", "a"),  # 5 s by operations
        Kernel("gemm", 1, 100, 5000.0, "tf32", "a"),  # 50 s
        Kernel("fusion", 1, 900, 0.0, "bfloat16", "b"),  # 9 s by bytes
        Kernel("collective", 1, 100, exchange=("all-reduce", 10)),  # 2 * 1/2 * 10 s on two devices
    ]
    found = by("kind", kernels, lambda kernel: chip.seconds(kernel, 2))
    assert {kind: counted.seconds for kind, counted in found.items()} == {
        "gemm": 60.0,
        "collective": 10.0,
        "fusion": 9.0,
    }
    assert found["gemm"][:3] == (3, 300, 15000.0)
    assert list(by("line", kernels, lambda kernel: chip.seconds(kernel, 2))) == ["a", "", "b"]
    assert chip.computing(cost.Cost(1.0, 0, 0, 0, 0, 0, {}, kernels)) == 10.0 + 50.0
    assert chip._replace(tf32=None).computing(cost.Cost(500.0, 0, 0, 0, 0, 0, {}, kernels)) == 0.5


@pytest.mark.parametrize(("backward", "products", "space"), [("", 2, " "), ("Backward", 5, "")])
def test_operations_of_a_librarys_attention(backward, products, space):
    """Eight tokens see six, two examples of three heads of 16 channels."""
    text = f"""HloModule a, entry_computation_layout={{}}

ENTRY %main (q: bf16[2,8,3,16], k: bf16[2,6,3,16]) -> bf16[2,8,3,16] {{
  %q = bf16[2,8,3,16]{{3,2,1,0}} parameter(0)
  %k = bf16[2,6,3,16]{{3,2,1,0}} parameter(1)
  ROOT %a = bf16[2,8,3,16]{{3,2,1,0}} custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax{backward}", \
backend_config={{"intermediate_tensor_shape": {{"dimensions":{space}["2","3","8","6"]}}}}
}}
"""
    (found,) = launched(text)
    assert (found.kind, found.flops) == ("attention", products * 2 * (2 * 3 * 8 * 6) * 16)


def test_operations_of_compiled_programs():
    """Of a product in a loop every turn, which XLA's own analysis counts once; of a convolution what a sum takes."""

    def products(a):
        return lax.fori_loop(0, 7, lambda _, a: a @ a, a)

    def convolved(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for f, given, want in (
        (products, [jnp.ones((32, 32))], 7 * 2 * 32**3),
        (convolved, [jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 16))], 2 * (2 * 6 * 6 * 16) * (3 * 3 * 4)),
    ):
        found = launched(jax.jit(f).lower(*given).compile().as_text() or "")
        assert sum(kernel.number * kernel.flops for kernel in found) == want


def test_bytes_of_an_elementwise_program():
    given = jnp.ones((64, 8))
    text = jax.jit(lambda a, b: jnp.sin(a) * b + 1).lower(given, given).compile().as_text()
    assert [(kernel.kind, kernel.bytes) for kernel in launched(text or "")] == [("fusion", 3 * 64 * 8 * 4)]


def test_where_xla_counts_nothing_the_text_is_counted():
    class ForAGPU:
        def cost_analysis(self):
            return None

        def memory_analysis(self):
            return jax.jit(lambda a: a).lower(1.0).compile().memory_analysis()

        def as_text(self):
            return PROGRAM

    found = cost.of(ForAGPU())
    assert found.accessed == moved(launched(PROGRAM))
    assert found.flops == 4 * 2048 * 27 + 4 * 32 * 16
    assert found.results == {"all-reduce": 32}


@pytest.mark.parametrize(
    ("shape", "size", "elements"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 4096, 1024),
        ("(bf16[2,3]{1,0}, /*index=1*/s32[])", 16, 7),
        ("pred[3]{0}", 3, 3),
        ("f8e4m3fn[4]{0}", 4, 4),
        ("token[]", 0, 0),
        ("c64[2]{0}", 16, 2),
    ],
)
def test_sizes_of_shapes(shape, size, elements):
    assert (hlo.size(shape), hlo.elements(shape)) == (size, elements)
