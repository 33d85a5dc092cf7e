"""Atoms, their errors and their sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid.pid import decompose, jackknife, stderr


def replicates(f, g=4, spread=0.0, seed=0):
    noise = torch.randn(g, len(f), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(f, dtype=torch.float64) + spread * noise


@pytest.mark.parametrize(
    ("f", "r", "u1", "u2", "s"),
    [
        # theory §2.4 in bits, E[pw_min] of single realisations: RDN, UNQ1, COPY2, XOR
        ((1, 1, 1), 1, 0, 0, 0),
        ((1, 0, 1), 0, 1, 0, 0),
        ((1, 1, 2), 1, 0, 0, 1),
        ((0, 0, 1), 0, 0, 0, 1),
        # a misleading word: redundancy below zero
        ((-2, 3, 4), -2, 0, 5, 1),
    ],
)
def test_known_answers_without_noise(f, r, u1, u2, s):
    atoms = decompose(replicates(f))
    assert [float(t) for t in (atoms.redundancy, *atoms.unique, atoms.synergy)] == [r, u1, u2, s]
    assert float(atoms.stderr_redundancy) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(1e-3, 1e3))
def test_atoms_sum_to_the_whole(seed, g, scale):
    f = scale * torch.randn(g, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a = decompose(f)
    total = a.redundancy + a.unique[0] + a.unique[1] + a.synergy
    # A handful of float64 additions of numbers up to g times larger than the mean.
    torch.testing.assert_close(total, f[:, 2].mean(0), rtol=1e-12, atol=1e-12 * scale)
    for i in (0, 1):
        torch.testing.assert_close(a.redundancy + a.unique[i], f[:, i].mean(0), rtol=1e-12, atol=1e-12 * scale)


def test_jackknife_of_a_mean_is_the_textbook_error():
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left_out, mean = jackknife(x)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(stderr(left_out), x.std(0) / 7**0.5)


def test_correction_removes_bias_of_the_minimum_as_theory_says():
    """f1 = f2 = 1 with noise of sd σ: E min of two means of G is 1 - σ / √(πG) (normal order statistics). The
    jackknife, G b(G) - (G-1) b(G-1), leaves σ/√π (√G - √(G-1)) of it: 54 % at G = 4, the worst case, an exact tie."""
    g, sigma = 4, 1.0
    f = torch.randn(g, 3, 40000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * sigma + 1
    left = sigma / torch.pi**0.5
    # 4 standard errors of the mean over 40000 draws, each of sd below 1.
    assert abs(f.mean(0)[:2].amin(0).mean() - (1 - left / g**0.5)) < 0.02
    assert abs(decompose(f).redundancy.mean() - (1 - left * (g**0.5 - (g - 1) ** 0.5))) < 0.02


def test_refusals():
    with pytest.raises(ValueError, match="measure: found 'max'"):
        decompose(replicates((1, 1, 1)), "max")
    with pytest.raises(ValueError, match="at least 2"):
        decompose(replicates((1, 1, 1), g=1))
