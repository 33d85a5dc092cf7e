"""``i_ccs``, Ince's own, of distributions whose one of maximum entropy is known."""

import numpy as np
import pytest
import torch

from dpid.pid import discrete
from dpid.pid.measures._maximum_entropy import maximum_entropy


@pytest.mark.parametrize("x", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_what_the_marginals_do_not_show_changes_no_redundancy(seed, x):
    """Of y independent given x the distribution is the one of maximum entropy; a parity changes no pair's marginal."""
    rng = np.random.default_rng(seed)
    y1, y2 = rng.dirichlet(np.ones(2), x).T, rng.dirichlet(np.ones(2), x).T
    plain = y1[:, None] * y2 * rng.dirichlet(np.ones(x))
    parity = np.zeros_like(plain)
    parity[..., :2] = 0.9 * plain[..., :2].min() * (-1.0) ** np.indices((2, 2, 2)).sum(0)
    found, expected = discrete(plain + parity, "i_ccs"), discrete(plain, "i_ccs_plugin")
    assert float(found.redundancy) == pytest.approx(float(expected.redundancy), abs=1e-9)  # 1e-10 of q, and its logs


@pytest.mark.parametrize("scale", [1, 1e-9])
def test_maximum_entropy(scale):
    """Its marginals are those asked for, and its logarithm is a sum of functions of them."""
    p = np.random.default_rng(3).dirichlet(np.ones(24)).reshape(2, 3, 4)
    p[0, 0, 0] = p[1, 2, 1] = 0
    p[:, :, 3] *= scale
    p /= p.sum()
    q = maximum_entropy(torch.from_numpy(p), [{0, 1}, {0, 2}, {1, 2}]).numpy()
    for axis in range(3):
        np.testing.assert_allclose(q.sum(axis), p.sum(axis), rtol=0, atol=1e-11)  # its own aim is 1e-12
    third = np.log(q[:1]) - np.log(q)  # differences over the three axes in turn: of a sum of functions of pairs, zero
    third = third - third[:, :1]
    assert np.abs(third - third[..., :1]).max() < 1e-6  # relative 1e-12 of q over its smallest parts


def test_points_that_no_distribution_can_have_are_zero(joints):
    """No marginal of AND is zero where q(1, 1, 0) must be: q(0, 1, 1) = 0 has fixed it."""
    p = torch.from_numpy(np.asarray(joints["AND"], float))
    q = maximum_entropy(p, [{0, 1}, {0, 2}, {1, 2}])
    assert q[1, 1, 0] == 0
    torch.testing.assert_close(q, p, rtol=0, atol=1e-12)
