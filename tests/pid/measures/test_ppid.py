"""``ppid``: its dependence on priors."""

import warnings
from math import log

import pytest
import torch

from dpid.pid import PriorWarning, decompose


@pytest.mark.parametrize(("h1", "h2", "r"), [(9.0, 9.0, 5.0), (7.0, 9.0, 3.0), (7.0, 8.5, 3.5), (9.0, 7.0, 5.0)])
def test_only_the_difference_of_the_priors_counts(h1, h2, r):
    """r = max(i1, i2 - (h2 - h1)) for h1 ≤ h2, and the other way round; equal priors: the maximum."""
    f = {("a",): 3.0, ("b",): 5.0, ("a", "b"): 7.0}
    got = decompose(f, "ppid", priors={("a",): h1, ("b",): h2})
    assert float(got.redundancy) == pytest.approx(r, abs=1e-12)  # float64 rounding
    # The prior of the pair falls out.
    same = decompose(f, "ppid", priors={("a",): h1, ("b",): h2, ("a", "b"): 17.0})
    assert float(same.redundancy) == float(got.redundancy)


def test_a_map_shares_the_prior_of_its_image():
    """With no information anywhere but 2 nats of the rarer word, r = -Σ min(h - i)… at each pixel with h / (h·w)."""
    f1, f2 = torch.zeros(4, 5, dtype=torch.float64), torch.full((4, 5), 0.1, dtype=torch.float64)
    f = {("a",): f1, ("b",): f2, ("a", "b"): f2}
    priors = {("a",): 7.0, ("b",): 8.0}
    whole = decompose({s: v.sum() for s, v in f.items()}, "ppid", priors)
    atoms = decompose(f, "ppid", priors)
    # Every pixel is alike, so the map sums to the image's number: max(0, 2 - 1) = 1.
    assert float(whole.redundancy) == pytest.approx(1, abs=1e-12)
    assert float(atoms.redundancy.sum()) == pytest.approx(1, abs=1e-12)
    # As images of their own the same values get the prior in full: max(0, 0.1 - 1) each.
    assert float(decompose(f, "ppid", priors, pixels=1).redundancy.sum()) == pytest.approx(0, abs=1e-12)


def test_a_word_that_tells_more_than_its_prior_is_warned_of():
    f = {("a",): 3.0, ("b",): 12.0, ("a", "b"): 13.0}
    with pytest.warns(PriorWarning, match="of b by up to 2 nats"):
        decompose(f, "ppid", priors={("a",): 10.0, ("b",): 10.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decompose(f, "ppid", priors={("a",): 10.0, ("b",): 12.0})


def test_one_concept_needs_its_prior():
    assert float(decompose({("a",): 1.0}, "ppid", {("a",): 2.0}).unique["a"]) == 1
    with pytest.raises(ValueError, match=r"priors: \('a',\) is missing"):
        decompose({("a",): 1.0}, "ppid", {})


def test_uniform_priors_leave_the_maximum():
    f = {("a",): 3.0, ("b",): 5.0, ("a", "b"): 7.0}
    assert float(decompose(f, "ppid", "uniform").redundancy) == pytest.approx(5, abs=1e-12)
    with pytest.warns(PriorWarning, match=f"a by up to {3 - log(10):.3g}, b by"):
        decompose(f, "ppid", "uniform:10")
