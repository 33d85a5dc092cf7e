"""Inclusion and exclusion over the unions of an antichain's sets."""

from __future__ import annotations

from collections import Counter
from functools import cache


@cache
def signed_unions(sets: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(U, Σ (-1)^(|J|+1) over the non-empty J ⊆ ``sets`` whose union is U), where that is not zero."""
    counts: Counter[int] = Counter()
    for s in sets:
        # With s joined to every J so far: the sign flips.
        for union, count in [*counts.items(), (0, -1)]:
            counts[union | s] -= count
    return tuple((u, c) for u, c in sorted(counts.items()) if c)
