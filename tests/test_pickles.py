"""Pickles as data: the numbers of arrays, what is not built, and the steps that no file of weights takes."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import random

import hostile_files
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hostile_files import call, name, text, whole

from ssl_jax.interop import archives, pickles
from ssl_jax.interop.constructors import Global, Limits, Placeholder
from ssl_jax.interop.plain import Unreadable


def load(data, size=1 << 16):
    return pickles.load(io.BytesIO(data), Limits(size))


def built(data, size=1 << 16):
    limits = Limits(size)
    return pickles.tree(pickles.load(io.BytesIO(data), limits), limits)


PLAIN = {
    "text": "\u00e9\u4e2d" + "x" * 300,
    "numbers": [0, 1, -1, 255, 65536, -(1 << 40), 1 << 80, 2.5, -1e300, True, False, None],
    "bytes": [b"", b"abc", b"y" * 300, bytearray(b"abc")],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "deep": {"a": {"b": [{"c": [[]]}]}},
    3: "a whole number",
    "long": list(range(3000)),
    "wide": {str(i): i for i in range(3000)},
}


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_pythons(protocol, optimised):
    data = pickle.dumps(PLAIN, protocol)
    assert load(pickletools.optimize(data) if optimised else data) == pickle.loads(data)


@pytest.mark.parametrize("protocol", [2, 4])
def test_containers_of_pythons_library(protocol):
    ordered = collections.OrderedDict(a=1, b=[2])
    ordered.note = "an attribute"
    other = collections.defaultdict(list, {"x": [1]})
    values = [ordered, other, {3, 4}, frozenset([5]), collections.Counter("aab"), {None: 1, True: 2}]
    found = load(pickle.dumps(values, protocol))
    assert found[:2] == [{"a": 1, "b": [2]}, {"x": [1]}]
    assert [sorted(found[2]), list(found[3])] == [[3, 4], [5]]
    assert found[4] == {"a": 2, "b": 1}
    assert found[5] == {"<nothing 0>": 1, True: 2}


def test_the_pickle_that_old_torch_wrote():
    """An OrderedDict from a list of pairs, as Python 2 did."""
    pairs = b"](](" + text("a") + b"K\x01e](" + text("b") + b"K\x02ee"
    assert load(whole(call(name("collections", "OrderedDict"), pairs))) == {"a": 1, "b": 2}


def array_of_python_2(columns):
    """As NumPy under Python 2 pickled one: bytes are its kind of text."""
    dtype = (
        call(name("numpy", "dtype"), b"U\x02f4", b"K\0", b"K\x01")
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    empty = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"(K\0t", b"U\x01b")
    data = np.arange(6, dtype="<f4").tobytes()
    return whole(empty + b"(K\x01(K\x02K\x03t" + dtype + columns + b"U" + bytes([len(data)]) + data + b"tb")


@pytest.mark.parametrize(("columns", "order"), [(b"\x89", "C"), (b"\x88", "F"), (b"I01\n", "F"), (b"I00\n", "C")])
def test_arrays_of_python_2(columns, order):
    data = array_of_python_2(columns)
    want = np.arange(6, dtype=np.float32).reshape(2, 3, order=order)
    np.testing.assert_array_equal(pickle.loads(data, encoding="latin1"), want)
    np.testing.assert_array_equal(built(data).value, want, strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_numpys(protocol):
    half = np.array([1.5, -2], ml_dtypes.bfloat16)
    tree = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.arange(3, dtype=">i4"), "c": np.float32(2.5)}
    tree |= {"d": np.ones(2, bool), "e": np.array([1 + 2j]), "f": np.zeros((0, 2)), "g": np.array(7), "h": half}
    tree |= {"i": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1), "j": np.arange(9)[::2], "k": jnp.arange(3)}
    found = built(pickle.dumps(tree | {"text": np.array(["a"]), "date": np.datetime64("2020-01-01")}, protocol))
    assert isinstance(found.value["text"], Placeholder)
    assert isinstance(found.value["date"], Placeholder)
    assert found.arrays == len(tree)
    for key, array in tree.items():
        have = found.value[key]
        np.testing.assert_array_equal(have, np.asarray(array), strict=key != "b")
        assert have.dtype == np.asarray(array).dtype.newbyteorder("=")
        assert have.flags.c_contiguous


def test_haikus_pickle_as_dill_writes_it(tmp_path):
    array = pickle.dumps(np.float32([1, 2]), 2)[2:-1]
    words = b"(" + text("online_params") + text("step") + b"t"
    cls = call(name("dill._dill", "_create_namedtuple"), text("_ByolExperimentState"), words, text("byol"))
    inner = call(name("haiku._src.data_structures", "FlatMapping"), b"}" + text("w") + array + b"s")
    state = cls + b"(}" + text("res_net50/~/initial_conv") + inner + b"sK\x05t\x81"
    (tmp_path / "x").write_bytes(whole(b"}" + text("experiment_state") + state + b"s"))
    found = archives.read(tmp_path / "x")
    assert (found.kind, found.passed_over) == ("pickle", {})
    state = found.tree["experiment_state"]
    assert state["step"] == 5
    np.testing.assert_array_equal(state["online_params"]["res_net50/~/initial_conv"]["w"], np.float32([1, 2]))


class Thing:
    """Something of a user's."""


class Listed(list):
    pass


class Keyed(dict):
    pass


@pytest.mark.parametrize("protocol", [2, 4])
def test_other_objects_are_placeholders(protocol):
    thing = Thing()
    thing.value, thing.itself, thing.weights = [1, 2], thing, np.arange(3)
    listed, keyed = Listed([1, 2]), Keyed(a=1)
    found = built(
        pickle.dumps({"x": [thing, thing], "l": listed, "k": keyed, "f": built, "r": random.Random(0)}, protocol)
    )
    first, second = found.value["x"]
    assert first is second
    assert isinstance(first, Placeholder)
    assert first.name == f"{__name__}.Thing"
    assert repr(first) == f"<{__name__}.Thing: not built>"
    assert first.state["value"] == [1, 2]
    assert first.state["itself"] is first
    np.testing.assert_array_equal(first.state["weights"], np.arange(3))
    assert found.value["l"].items == [1, 2]
    assert found.value["k"].items == [["a", 1]]
    assert found.arrays == 0  # outside of what was not built
    names = {f"{__name__}.{kind}": 1 for kind in ("Thing", "Listed", "Keyed", "built")}
    assert found.passed_over == names | {"random.Random": 1}


def test_names_are_never_looked_up():
    assert load(whole(name("no_such_module", "Nothing"))) == Global("no_such_module.Nothing")
    assert load(whole(name("__builtin__", "eval"))) == Global("builtins.eval")
    assert load(b"\x80\x04" + text("a\nb") + text("c") + b"\x93.").name == "a?b.c"


def test_values_that_follow_each_other():
    file = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 4) + b"rest")
    limits = Limits(100)
    assert (pickles.load(file, limits), pickles.load(file, limits), file.read()) == (1, [2], b"rest")


def test_arrays_may_be_named_twice_and_not_often():
    array = np.zeros(1000)
    for times, fits in ((3, True), (5, False)):
        data = pickle.dumps([array] * times, 4)
        if fits:
            assert built(data, len(data)).arrays == times
        else:
            with pytest.raises(Unreadable, match="unpack to more than 4 times the file"):
                built(data, len(data))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "damaged or cut"),
        (b"0", "damaged or cut"),
        (b"h\x05", "damaged or cut"),
        (b"\x85", "takes what is not there"),
        (b"e", "damaged or cut"),
        (b"NNa", "what is no list"),
        (b"](NNu", "what is no dict"),
        (b"}(Nu", "a key without its value"),
        (b"NNR", "calls nothing"),
        (name("a", "b") + b"]R", "calls a.b"),
        (b"NN\x93", "a name that is no text"),
        (b"\xff", "damaged or cut"),
        (hostile_files.number(1 << 300), "a whole number of 301 bits"),
    ],
)
def test_steps_that_lead_nowhere(body, words):
    with pytest.raises(Unreadable, match=words) as error:
        load(whole(body))
    assert len(str(error.value).splitlines()) == 1
