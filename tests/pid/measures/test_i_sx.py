"""``i_sx``, compared with its formula; its limits; estimates that no distribution has."""

from math import exp, log, log2

import pytest
import torch

from dpid.pid import PriorWarning, decompose, discrete


def test_three_concepts(joints, written):
    got = written(discrete(joints["DBLXOR"], "i_sx"))
    # Of the seven y that share a word with (y1, y2, y3) one has its x, p(x) = 1/4: log2 (1/7) / (1/4).
    assert got["1|2|3"] == pytest.approx(2 - log2(7), abs=1e-6)
    assert sum(got.values()) == pytest.approx(2, abs=1e-6)


def test_the_formula_for_two():
    i1, i2, i12, h1, h2, h12 = 1.0, 2.0, 2.5, 4.0, 5.0, 8.0
    priors = {("a",): h1, ("b",): h2, ("a", "b"): h12}
    p1, p2, p12 = exp(-h1), exp(-h2), exp(-h12)
    expected = log((p1 * exp(i1) + p2 * exp(i2) - p12 * exp(i12)) / (p1 + p2 - p12))
    got = decompose({("a",): i1, ("b",): i2, ("a", "b"): i12}, "i_sx", priors)
    assert float(got.redundancy) == pytest.approx(expected, abs=1e-12)  # float64 rounding


def test_rare_words_give_the_log_mean_exp():
    """p(y1, y2) → 0 with equal priors: log of the mean of e^i."""
    f = {("a",): 1.0, ("b",): 3.0, ("a", "b"): 3.5}
    got = decompose(f, "i_sx", "uniform:1000000000")
    assert float(got.redundancy) == pytest.approx(log((exp(1) + exp(3)) / 2), abs=1e-8)  # p12/p1 = 1e-9


def test_estimates_beyond_their_priors_stay_finite():
    """Tens of nats against a prior of three: the union is held between its largest member and their sum."""
    f = {("a",): torch.tensor(90.0), ("b",): torch.tensor(80.0), ("a", "b"): torch.tensor(400.0)}
    f = {s: v.requires_grad_() for s, v in f.items()}
    with pytest.warns(PriorWarning, match="exceeds the prior"):
        atoms = decompose(f, "i_sx", "uniform:20")
    # max of both, less log of p1 + p2 - p12 over p1.
    assert float(atoms.redundancy.detach()) == pytest.approx(90 - log(2 - 1 / 20), abs=1e-4)  # float32 near 400
    atoms.redundancy.backward()
    assert [float(v.grad) for s, v in f.items() if len(s) == 1] == pytest.approx([1, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (None, "priors: found None, expected"),
        ("bert", "priors: found 'bert', expected"),
        ("uniform:no", "priors: found 'uniform:no'"),
        ("mlm:bert", "prompt: found None, but priors 'mlm:bert' need"),
        ({("a",): 1.0, ("b",): 1.0}, r"priors: \('a', 'b'\) is missing"),
        ({("a",): 1.0, ("b",): -1.0, ("a", "b"): 2.0}, r"priors: h\(b\) is negative"),
        ({("a",): 1.0, ("b",): 3.0, ("a", "b"): 2.0}, r"priors: p\(a \+ b\) is larger than p\(b\)"),
        ({("a",): 0.1, ("b",): 0.1, ("a", "b"): 3.0}, "priors: they do not sum, the probability of no concept"),
        ({("a",): torch.zeros(3), ("b",): 3.0, ("a", "b"): 2.0}, r"priors: found shape \(3,\), expected one"),
        ({("a",): float("nan"), ("b",): 3.0, ("a", "b"): 2.0}, "priors: found NaN"),
    ],
)  # fmt: skip
def test_refusals(priors, message):
    with pytest.raises(ValueError, match=message):
        decompose({("a",): 0.5, ("b",): 0.5, ("a", "b"): 0.7}, "i_sx", priors)
