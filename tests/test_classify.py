"""A network's own classifier against the labels: the columns that are meant, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_jax.data.source import from_arrays
from ssl_jax.evals import classify
from ssl_jax.evals.shared.encode import LOGITS

LOGIT = np.array([[3, 1, 2, 0, 0, 0, 9], [0, 5, 1, 0, 0, 0, -1], [0, 1, 5, 0, 0, 0, -1], [4, 3, 2, 1, 0, 0, -9]], float)


def source(labels):
    return from_arrays(np.zeros((len(labels), 4, 4, 3), np.uint8), np.array(labels))


def encode(wide=7):
    def features(variables, source, *, layers=(), views=0):
        return {LOGITS: LOGIT[:, :wide], "label": np.asarray(source.labels)}

    features.layers = {"features": 3} | ({LOGITS: wide} if wide else {})
    return features


def found(labels, **options):
    data = source(labels)
    return dict(classify.Evaluator(encode(), train=data, test=data, **options).run(None))


def test_the_columns_that_are_meant():
    values = found([0, 1, 2, 1], columns=(6, 1, 2))
    assert values["classify_top1"] == 0.75  # rows: 6 right, 1 right, 2 right, 0 where 1 was asked
    assert values["classify_top5"] == 1.0
    np.testing.assert_array_equal(values["classify_top1"].hits, [True, True, True, False])


def test_among_the_named_columns_alone():
    values = found([0, 1, 2, 1], columns=(0, 1, 2), among="named")
    assert values == {"classify_top1": 0.75}  # and of three columns no top 5
    np.testing.assert_array_equal(values["classify_top1"].hits, [True, True, True, False])
    assert found([0, 1, 2, 1], columns=(0, 1, 2))["classify_top1"] == 0.5  # the first is taken for a fourth class
    assert found([2, 0, 1, 1], columns=(1, 2, 0), among="named")["classify_top1"] == 0.75


def test_it_is_said_among_which_logits_the_greatest_is_sought():
    data = source([0, 1, 2, 1])

    def notes(wide=7, **options):
        return classify.Evaluator(encode(wide), train=data, test=data, **options).notes

    (said,) = notes(columns=(6, 1, 2)).values()
    assert said.startswith("logits 6, 1, 2 stand for the 3 classes of the data, and the greatest of all 7 counts")
    (said,) = notes(columns=(6, 1, 2), among="named").values()
    assert said.endswith("and the greatest of these alone counts, of 7 that there are")
    assert notes(3) == notes(3, columns=(2, 1, 0)) == {}  # there are no others


def test_classes_as_they_are():
    data = source([0, 1, 2, 0])
    evaluator = classify.Evaluator(encode(3), train=data, test=data)
    assert dict(evaluator.run(None)) == {"classify_top1": 1.0}  # and of three logits no top 5


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "tells 7 classes apart and the data have 3.* of 0 to 6 .*columns=0,1,2 if they are its first 3"),
     ({"columns": (1, 2)}, "each of the 3 classes"),
     ({"columns": (1, 1, 2)}, "another logit"), ({"among": "these"}, "'these' is unknown; known: all, named"),
     ({"columns": (1, 2, 7)}, "of 0 to 6")],
)  # fmt: skip
def test_what_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        found([0, 1, 2, 1], **options)


def test_an_example_is_one_that_is_possible():
    data = source([0, 1, 2, 1])
    with pytest.raises(ValueError, match=r"tells 2 classes apart and the data have 3; so it cannot name them all"):
        classify.Evaluator(encode(2), train=data, test=data)


def test_a_network_without_a_classifier():
    data = source([0, 1, 2, 1])
    with pytest.raises(ValueError, match="no classifier of its own"):
        classify.Evaluator(encode(0), train=data, test=data)
