"""The redundancy lattice of up to four concepts, its Möbius inversion, and the coarse-grained terms of any number.

A subset of the concepts is a bit mask, bit k for concept k. A node of the lattice is an antichain: a tuple of masks of
which none contains another. Order and atoms are those of docs/theory.md, eq. (30) and eq. (31).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

Sets = tuple[int, ...]
"""An antichain: a tuple of bit masks."""

Combinations = tuple[tuple[tuple[int, int], ...], ...]
"""Signed sums: every row lists its terms as (index, ±1)."""

FULL_LATTICE = 4
"""Most concepts whose lattice is listed: 1, 4, 18, 166 nodes; five concepts have 7579, six 7 828 352."""


def mask_of(subset: Iterable[str], concepts: Sequence[str]) -> int:
    """The bit mask of ``subset``, some of the names ``concepts``."""
    return sum(1 << concepts.index(c) for c in set(subset))


def members(mask: int) -> tuple[int, ...]:
    """Indices of the concepts in ``mask``, ascending."""
    return tuple(k for k in range(mask.bit_length()) if mask >> k & 1)


def ordered(sets: Iterable[int]) -> Sets:
    """``sets`` in the order in which antichains are written: by size, then by their concepts."""
    return tuple(sorted(sets, key=lambda mask: (mask.bit_count(), members(mask))))


def precedes(a: Sets, b: Sets) -> bool:
    """Whether a ⪯ b: every set of ``b`` contains a set of ``a`` (docs/theory.md, eq. (30))."""
    return all(any(small & large == small for small in a) for large in b)


def minimal(sets: Iterable[int]) -> Sets:
    """The antichain of those ``sets`` that contain no other of them."""
    distinct = set(sets)
    return ordered(s for s in distinct if not any(t & s == t != s for t in distinct))


@cache
def antichains(n: int) -> tuple[Sets, ...]:
    """All nodes of the lattice of ``n`` ≤ 4 concepts, by the number of nodes below: {1}…{n} first, {1…n} last."""
    found: list[Sets] = [()]
    for new in range(1, 2**n):
        found += [(*a, new) for a in found if not any(s & new in (s, new) for s in a)]
    nodes = [ordered(a) for a in found if a]
    below = {a: sum(precedes(b, a) for b in nodes) for a in nodes}
    return tuple(sorted(nodes, key=lambda a: (below[a], [(s.bit_count(), members(s)) for s in a])))


@cache
def mobius(n: int) -> Combinations:
    """The atoms as signed sums of r, both in the order of :func:`antichains`; ``n`` ≤ 4 (docs/theory.md, eq. (32))."""
    at = {a: i for i, a in enumerate(antichains(n))}
    rows = []
    for beta in antichains(n):
        outside = [s for s in range(1, 2**n) if not any(b & s == b for b in beta)]
        maximal = [s for s in outside if not any(s & t == s != t for t in outside)]
        added = [t for size in range(len(maximal) + 1) for t in combinations(maximal, size)]
        rows.append(tuple((at[minimal(beta + t)], (-1) ** len(t)) for t in added))
    return tuple(rows)


@cache
def singles(n: int) -> tuple[tuple[Sets, ...], Combinations]:
    """The 2^n - 1 antichains of single concepts, and from their r the uniqueness U_1 … U_n and R + Σ U as signed sums.

    R is the sum of the atoms such as {1}{2} and {1}{2}{3}, whose information two or more concepts carry, each of them
    alone; U_1 that of {1} and {1}{23}; synergy that of the rest, {12} and {12}{13}{23} (docs/theory.md, eq. (33)). For
    two concepts these are the four atoms. The lattice itself is not needed, so that n may be any number.
    """
    chosen = [t for size in range(1, n + 1) for t in combinations(range(n), size)]
    signs = [(t, (i, (-1) ** (len(t) + 1))) for i, t in enumerate(chosen)]
    rows = [tuple(term for t, term in signs if k in t) for k in range(n)]
    rows.append(tuple(term for _, term in signs))
    return tuple(tuple(1 << k for k in t) for t in chosen), tuple(rows)


def combine(combinations: Combinations, terms: Sequence[Tensor]) -> Tensor:
    """Signed sums of ``terms`` [*], stacked: one for each row of ``combinations``.

    Written as additions: of so few terms a matrix product takes longer, since it starts threads.
    """
    sums = []
    for row in combinations:
        total = terms[row[0][0]]  # the first sign is always +
        for i, sign in row[1:]:
            total = total + terms[i] if sign > 0 else total - terms[i]
        sums.append(total)
    return torch.stack(sums)
