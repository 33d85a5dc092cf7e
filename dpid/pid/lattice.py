"""The redundancy lattice of n ≤ 4 concepts (Williams & Beer, 2010), and its coarse graining for any n.

A subset of the concepts is a bit mask, bit k for concept k. A node is an antichain: a tuple of masks none of which
holds another. α ⪯ β iff every B ∈ β holds some A ∈ α; r(α) = Σ_{β ⪯ α} π(β) defines the atoms π.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

Sets = tuple[int, ...]
"""An antichain of masks."""

Combinations = tuple[tuple[tuple[int, int], ...], ...]
"""Rows of (index, sign): integer combinations."""

FULL_LATTICE = 4
"""Most concepts whose lattice is held in full: 1, 4, 18, 166 nodes; five have 7579, six 7 828 352."""


def members(mask: int) -> tuple[int, ...]:
    """The concepts of ``mask``, ascending."""
    return tuple(k for k in range(mask.bit_length()) if mask >> k & 1)


def ordered(sets: Iterable[int]) -> Sets:
    """``sets`` in the order in which antichains are written: small sets first, then by their concepts."""
    return tuple(sorted(sets, key=lambda mask: (mask.bit_count(), members(mask))))


def precedes(a: Sets, b: Sets) -> bool:
    """α ⪯ β: every set of ``b`` holds a set of ``a``."""
    return all(any(small & large == small for small in a) for large in b)


def minimal(sets: Iterable[int]) -> Sets:
    """The antichain of the smallest sets among ``sets``."""
    distinct = set(sets)
    return ordered(s for s in distinct if not any(t & s == t != s for t in distinct))


@cache
def antichains(n: int) -> tuple[Sets, ...]:
    """All nodes of the lattice of ``n`` ≤ 4 concepts, by size of down-set: the bottom {1}…{n} first, {1…n} last."""
    found: list[Sets] = [()]
    for new in range(1, 2**n):
        found += [(*a, new) for a in found if not any(s & new in (s, new) for s in a)]
    nodes = [ordered(a) for a in found if a]
    below = {a: sum(precedes(b, a) for b in nodes) for a in nodes}
    return tuple(sorted(nodes, key=lambda a: (below[a], [(s.bit_count(), members(s)) for s in a])))


@cache
def mobius(n: int) -> Combinations:
    """π from r, both in the order of :func:`antichains`, ``n`` ≤ 4.

    The lattice is distributive: the interval under β that counts is the Boolean one spanned by β's lower covers, each
    of which adds one maximal set that holds no B ∈ β. π(β) = Σ_{T ⊆ those sets} (-1)^|T| r(minimal sets of β ∪ T).
    """
    at = {a: i for i, a in enumerate(antichains(n))}
    rows = []
    for beta in antichains(n):
        outside = [s for s in range(1, 2**n) if not any(b & s == b for b in beta)]
        covers = [s for s in outside if not any(s & t == s != t for t in outside)]
        added = [t for size in range(len(covers) + 1) for t in combinations(covers, size)]
        rows.append(tuple((at[minimal(beta + t)], (-1) ** len(t)) for t in added))
    return tuple(rows)


@cache
def singles(n: int) -> tuple[tuple[Sets, ...], Combinations]:
    """Coarse graining: the 2^n - 1 antichains of single concepts; from their r, U_1 … U_n and R + Σ U.

    R: two or more concepts tell it, each alone (atoms {1}{2}, {1}{2}{3}). U_k: k alone tells it and no other alone
    ({1}, {1}{23}). S, the rest: no concept alone tells it ({12}, {12}{13}{23}). For three concepts this is the coarse
    graining of Faes et al. (2025); for two, the four atoms. The atoms under {i}{j}… are those that each of i, j, …
    tells alone; so by inclusion and exclusion U_i = Σ_{T ∋ i} (-1)^(|T|+1) r(T) and R + Σ U = Σ_T (-1)^(|T|+1) r(T), T
    over sets of concepts. No lattice is needed, at any n.
    """
    chosen = [t for size in range(1, n + 1) for t in combinations(range(n), size)]
    signs = [(t, (i, (-1) ** (len(t) + 1))) for i, t in enumerate(chosen)]
    rows = [tuple(term for t, term in signs if k in t) for k in range(n)]
    rows.append(tuple(term for _, term in signs))
    return tuple(tuple(1 << k for k in t) for t in chosen), tuple(rows)


def combine(combinations: Combinations, terms: Sequence[Tensor]) -> Tensor:
    """Signed sums of ``terms`` [*], one a row of ``combinations``, stacked.

    Additions: with so few terms a matrix product spends more on waking its threads.
    """
    sums = []
    for row in combinations:
        total = terms[row[0][0]]  # the first sign is always +
        for i, sign in row[1:]:
            total = total + terms[i] if sign > 0 else total - terms[i]
        sums.append(total)
    return torch.stack(sums)
