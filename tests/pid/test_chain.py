"""Chains of atoms, compared with the inverted lattice for few concepts and with the definition for more."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid.pid import chain, decompose, discrete, lattice
from dpid.prompts.plan import subsets_of


def monotone(n, seed, pixels=7):
    f = torch.randn(2**n - 1, pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    # Ties, and flat stretches, as for words that add nothing.
    return chain.closure((2 * f).round() / 2 if seed % 2 else f)


def named(n, f):
    concepts = tuple("abcdefgh"[:n])
    at = {c: k for k, c in enumerate(concepts)}
    return {s: f[sum(1 << at[c] for c in s) - 1] for s in subsets_of(concepts)[1:]}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_chain_is_the_inverted_lattice_for_monotone_f(n, seed):
    f = monotone(n, seed)
    nodes, sparse = chain.collect([chain.chain(f)], n, f.shape[1])
    values = sparse.to_dense()
    at = {a: i for i, a in enumerate(lattice.antichains(n))}
    rows = [f[[s - 1 for s in a]].amin(0) for a in at]
    expected = lattice.combine(lattice.mobius(n), rows)
    got = torch.zeros_like(expected)
    got[[at[a] for a in nodes]] = values
    # float64: sums of up to 64 terms of order 1.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    # At most 2^n - 1 atoms a pixel, on one chain; only the bottom may be below zero.
    for p in range(f.shape[1]):
        here = [a for a, v in zip(nodes, values[:, p].tolist(), strict=True) if v]
        assert len(here) <= 2**n - 1
        assert all(lattice.precedes(a, b) or lattice.precedes(b, a) for a in here for b in here)
        assert all(v >= 0 for a, v in zip(nodes, values[:, p].tolist(), strict=True) if a != lattice.antichains(n)[0])


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 8), st.integers(0, 10**6))
def test_every_redundancy_is_the_sum_of_the_atoms_below(n, seed):
    """r(α) = min over α of f, for random antichains of up to eight concepts."""
    f = monotone(n, seed)
    nodes, sparse = chain.collect([chain.chain(f)], n, f.shape[1])
    values = sparse.to_dense()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(10):
        alpha = lattice.minimal((torch.randint(1, 2**n, (4,), generator=generator)).tolist())
        below = values[[i for i, a in enumerate(nodes) if lattice.precedes(a, alpha)]].sum(0)
        torch.testing.assert_close(below, f[[s - 1 for s in alpha]].amin(0), rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(5, 7), st.integers(0, 10**6), st.sampled_from(["min", "ppid"]))
def test_where_f_is_not_monotone_the_sum_is_kept_and_the_rest_reported(n, seed, measure):
    f = torch.rand(2**n - 1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    information = named(n, f)
    atoms = decompose(information, measure, "uniform" if measure == "ppid" else None)
    total = sum(atoms.values())
    torch.testing.assert_close(total, information[atoms.concepts], rtol=0, atol=1e-12)  # float64, h of 10 to 90
    dense = atoms.flat.to_dense()
    for subset, residual in atoms.residual.items():
        mask = sum(1 << atoms.concepts.index(c) for c in subset)
        below = [i for i, a in enumerate(atoms.nodes) if lattice.precedes(a, (mask,))]
        got = dense[below].sum(0).reshape(3, 2)
        torch.testing.assert_close(got - information[subset], residual, rtol=0, atol=1e-11)
    # R, U and S are exact whatever f: what the atoms sum to and what the measure's own r says.
    coarse = decompose(information, measure, "uniform" if measure == "ppid" else None, coarse=True)
    alone = [sum(1 for s in node if s.bit_count() == 1) for node in atoms.nodes]
    redundancy = dense[[i for i, k in enumerate(alone) if k > 1]].sum(0).reshape(3, 2)
    torch.testing.assert_close(redundancy, coarse.redundancy, rtol=0, atol=1e-11)
    if measure == "min":
        singles = torch.stack([information[c,] for c in atoms.concepts]).sort(0).values
        torch.testing.assert_close(coarse.redundancy, singles[-2])
        torch.testing.assert_close(coarse.synergy, information[atoms.concepts] - singles[-1])


def test_discrete_parity_of_five():
    joint = torch.zeros(2, 2, 2, 2, 2, 2, dtype=torch.float64)
    for y in range(32):
        bits = [y >> k & 1 for k in range(5)]
        joint[(*bits, sum(bits) % 2)] = 1 / 32
    atoms = discrete(joint, "min", concepts=tuple("abcde"))
    assert {a: pytest.approx(float(v), abs=1e-12) for a, v in atoms.items() if abs(v) > 1e-9} == {(tuple("abcde"),): 1}
    assert float(atoms.synergy) == pytest.approx(1)
    with pytest.raises(ValueError, match="found 5; this measure has all atoms of up to 4"):
        discrete(joint, "i_sx")
    assert float(discrete(joint, "i_ccs", coarse=True).synergy) == pytest.approx(1)
