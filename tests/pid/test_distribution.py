"""Discrete distributions: units, names, errors; their numbers are in the tests of the measures."""

from math import log

import numpy as np
import pytest
import torch

from dpid.pid import discrete

UNQ1 = np.array([[[1, 0], [1, 0]], [[0, 1], [0, 1]]]) / 4


def test_units_and_names():
    bits, nats = discrete(UNQ1), discrete(UNQ1, unit="nats", concepts=("cow", "giraffe"))
    assert (bits.unit, nats.unit) == ("bits", "nats")
    assert float(bits.unique["y1"]) == pytest.approx(1)
    assert float(nats.unique["cow"]) == pytest.approx(log(2))
    assert float(nats[("cow",),]) == pytest.approx(log(2))
    # An x that never comes, another memory order and a tensor change nothing.
    wider = np.concatenate((UNQ1, np.zeros((2, 2, 1))), 2)
    for measure in ("i_min", "i_sx"):
        assert float(discrete(wider, measure).redundancy) == pytest.approx(float(discrete(UNQ1, measure).redundancy))
    assert float(discrete(UNQ1[::-1]).unique["y1"]) == pytest.approx(1)
    assert float(discrete(torch.tensor(UNQ1)).unique["y1"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("joint", "options", "message"),
    [
        (UNQ1 * 2, {}, "joint: the probabilities sum to 2, expected 1"),
        (UNQ1 - 0.1, {}, "joint: found a negative probability, NaN or infinity"),
        (np.full((2, 2), np.nan), {}, "joint: found a negative probability, NaN"),
        (np.ones(1), {}, r"joint: found 1 dimension\(s\), expected one for every y"),
        (np.full((1,) * 10, 1.0), {}, "concepts: found 9, allowed are 1…8"),
        (UNQ1, {"measure": "broja"}, "measure: found 'broja', allowed are i_ccs"),
        (UNQ1, {"unit": "bans"}, "unit: found 'bans', allowed are nats, bits"),
        (UNQ1, {"concepts": ("a",)}, r"concepts: found \('a',\), expected 2 different names"),
        (UNQ1, {"concepts": ("a", "a")}, "expected 2 different names"),
    ],
)
def test_refusals(joint, options, message):
    with pytest.raises(ValueError, match=message):
        discrete(joint, **options)


@pytest.mark.parametrize(
    ("joint", "options", "message"),
    [
        ("x", {}, "joint: found 'x', expected an array of probabilities"),
        (UNQ1 * 1j, {}, "joint: found torch.complex128, expected an array of probabilities"),
        (UNQ1, {"concepts": 3}, "concepts: found int, expected a sequence of texts"),
    ],
)
def test_refusals_of_other_kinds(joint, options, message):
    with pytest.raises(TypeError, match=message):
        discrete(joint, **options)
