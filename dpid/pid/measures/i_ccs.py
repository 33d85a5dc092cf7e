"""The redundancy measure ``i_ccs``: common change in surprisal (Ince, 2017; docs/theory.md, eq. (41)).

Ince averages under the maximum-entropy distribution with the same pair marginals; this plug-in form uses the given
distribution instead. The two agree on the AND, XOR and SUM gates, and differ on RDNXOR.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from dpid.pid.measures import Given, Redundancy, register
from dpid.pid.measures._unions import signed_unions


@register("i_ccs")
def i_ccs(given: Given) -> Redundancy:
    """The redundancy in nats, value by value; 0 where a term is within rounding of zero, since it then has no sign."""
    largest = reduce(torch.maximum, [f.abs() for f in given.f.values()])
    zero = 64 * torch.finfo(largest.dtype).eps * largest  # a few roundings of sums of up to 2^n terms

    def sign(value: Tensor) -> Tensor:
        return torch.where(value.abs() > zero, value.sign(), 0)

    def redundancy(sets: tuple[int, ...]) -> Tensor:
        if len(sets) == 1:
            return given.f[sets[0]]
        union = 0
        for s in sets:
            union |= s
        common: Tensor = sum(count * given.f[u] for u, count in signed_unions(sets))  # type: ignore[assignment]
        side = sign(common)
        agree = sign(given.f[union]) == side
        for s in sets:
            agree = agree & (sign(given.f[s]) == side)
        return torch.where(agree, common, 0)

    return redundancy
