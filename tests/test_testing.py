"""``ssl_jax.testing``: a method of one's own is proven in one line, and a broken one is told which rule it broke."""

from __future__ import annotations

from pathlib import Path

import contract
import flax.linen as nn
import jax
import numpy as np
import pytest

from ssl_jax import models, testing
from ssl_jax.names import own
from ssl_jax.testing import check_method

VICREG = Path(__file__).with_name("own") / "vicreg.py"


class Flat(nn.Module):
    """The quickest network there is, with statistics of a batch."""

    @nn.compact
    def __call__(self, x, train, axis=None):
        x = nn.Dense(16)(x.reshape(len(x), -1))
        return nn.relu(models.BatchNorm()(x, train=train, axis=axis))


ENCODER = models.from_module(Flat(), dim=16)


def test_a_method_from_a_file_outside_the_package():
    check_method(str(VICREG), encoder=ENCODER, modes=("pmap",), dim=16)


@pytest.mark.slow
def test_the_same_with_a_convolutional_network_under_jit_and_pmap():
    check_method(own(str(VICREG), "method.name").value, dim=8)


GATHERED, RETURN = 'all_rows(out["projector"], axis)', "return value, Loss"
BROKEN = {
    "ranks": (GATHERED, f"jnp.ones(dim) * {GATHERED}", r"v.py line \d+: .*jnp.ones\(dim\).*rule: shapes are not"),
    "types": (
        RETURN,
        f'value += 0 * batch["index"].sum()\n        {RETURN}',
        r"v.py line \d+: value \+= .*; rule: types",
    ),
    "labels": (
        RETURN,
        f'value += batch["label"][0].astype(value.dtype) * one.mean()\n        {RETURN}',
        "is another when labels are permuted; rule: labels are for the probe",
    ),
    "float32": (
        GATHERED,
        'out["projector"].astype(jnp.float32)',
        r"v.py line \d+ makes float32 of float64; rule: everything is computed in the type of the inputs",
    ),
    "float32 of all rows": (
        RETURN,
        f"value = value.astype(jnp.float32)\n        {RETURN}",
        r"v.py line \d+ makes float32 of float64",
    ),
    "bfloat16 in a scan": (
        RETURN,
        f"low = __import__('jax').lax.map(lambda a: a.astype(jnp.bfloat16), one)\n        "
        f"value += low.sum().astype(value.dtype)\n        {RETURN}",
        r"v.py line \d+ makes bfloat16 of float64",
    ),
    "numpy's draws": (
        RETURN,
        f"value *= 1 + __import__('numpy').random.rand()\n        {RETURN}",
        r"v.py line \d+ has other numbers whenever the loss is traced; rule: numpy.random, .*parallel.row_keys",
    ),
    "numpy's draws of rows": (
        RETURN,
        f"drawn = __import__('numpy').random.normal(size=one.shape)\n        "
        f"value += (jnp.asarray(drawn, one.dtype) * one).mean()\n        {RETURN}",
        r"v.py line \d+ has other numbers whenever the loss is traced",
    ),
    "rows": (
        GATHERED,
        'out["projector"]',
        r"8 devices under pmap: .* differs .* rule: what rows share goes through parallel.all_rows",
    ),
    "still": (RETURN, "return 0 * value, Loss", "the loss does not move"),
    "tuple": ("return Method(", "return (", r"make gives a tuple and no ssl_jax.types.Method"),
}
COMPILED = ("rows", "still")  # on one device and on eight


@pytest.mark.parametrize("rule", [pytest.param(r, marks=pytest.mark.slow if r in COMPILED else ()) for r in BROKEN])
def test_a_broken_rule_is_named(rule, tmp_path):
    right, wrong, words = BROKEN[rule]
    text = VICREG.read_text()
    assert right in text
    (tmp_path / "v.py").write_text(text.replace(right, wrong, 1))
    with pytest.raises(AssertionError, match=words) as error:
        check_method(str(tmp_path / "v.py"), encoder=ENCODER, dim=16, modes=("pmap",) if rule == "rows" else ("jit",))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_statistics_of_one_device_alone_are_told():
    class Alone(Flat):
        @nn.compact
        def __call__(self, x, train, axis=None):
            return nn.relu(models.BatchNorm()(nn.Dense(16)(x.reshape(len(x), -1)), train=train, axis=None))

    with pytest.raises(AssertionError, match=r"8 devices under pmap: model_state/.*; rule: statistics leave the loss"):
        check_method(str(VICREG), encoder=models.from_module(Alone(), dim=16), dim=16, modes=("pmap",))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in contract.VARIANTS else ()) for c in contract.ALL]
)
def test_ours_stay_in_the_type_of_their_inputs_and_draw_from_keys(case):
    with testing.double():
        testing.check_trace(contract.tried(case))


def trained(flops=1.0, **leaves):
    return testing.Trained({k: np.asarray(v) for k, v in leaves.items()}, [1.0, 0.5], flops)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"model_state/a": 1.1}, "model_state/a differs .*rule: statistics leave the loss global"),
        ({"aux/queue": 2.0}, "rule: LossOut.carry leaves the loss global"),
        ({"params/a": 1 + 2e-8}, "by 2.0e-08 .*rule: a difference of this size is float32 in float64: everything"),
        ({"params/a": np.nan}, "params/a differs from one device's by inf"),
        ({"params/b": 1.0}, r"\['params/a', 'params/b'\] are not in both"),
    ],
)
def test_the_rule_belongs_to_the_part_of_the_state(leaves, words):
    ((name, value),) = leaves.items()
    reference = trained(**{name if name != "params/b" else "params/a": 1.0})
    with pytest.raises(AssertionError, match=words):
        testing.compare(trained(1 / 8, **{name: value * 1.0}), reference, "here")


def test_work_that_is_not_shared_is_told():
    testing.compare(trained(1.1 / 8, a=1.0), trained(1.0, a=1.0), "here")
    with pytest.raises(AssertionError, match=r"here: each computes 1.60 times its share \(at most 1.15\); re-indexed"):
        testing.compare(trained(0.2, a=1.0), trained(1.0, a=1.0), "here")
    testing.compare(trained(0.2, a=1.0), trained(1.0, a=1.0), "here", work=None)


def test_without_eight_devices_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with pytest.raises(RuntimeError, match=r'begun with 1; put jax.config.update\("jax_num_cpu_devices", 8\)'):
        check_method("simclr")
