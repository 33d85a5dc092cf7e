"""The inclusion–exclusion principle over the sets of an antichain, for measures that need it."""

from __future__ import annotations

from collections import Counter
from functools import cache


@cache
def signed_unions(sets: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs (U, c): c ≠ 0 the sum of (-1)^(|J|+1) over the non-empty families J ⊆ ``sets`` whose union is U."""
    counts: Counter[int] = Counter()
    for s in sets:
        # Every family found so far gives another one with s added, of opposite sign.
        for union, count in [*counts.items(), (0, -1)]:
            counts[union | s] -= count
    return tuple((u, c) for u, c in sorted(counts.items()) if c)
