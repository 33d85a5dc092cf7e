"""The redundancy measure ``i_ccs_plugin``: Ince's (2017) formula without his distribution (docs/theory.md, eq. (41)).

c(α) = Σ_{∅ ≠ J ⊆ α} (-1)^(|J|+1) i(x; y_{∪J}), and r(α) = c where every i(x; y_S), S ∈ α, the i of their union, and c
have one sign, else 0. Ince takes these under the maximum-entropy distribution with the same pair marginals
(:mod:`dpid.pid.measures.i_ccs`), which one picture does not have: here they are the picture's own. Of distributions
the two agree on AND and COPY; they differ on RDNXOR, and on random ones by up to a quarter of a bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from dpid.pid.measures import Given, Redundancy, register
from dpid.pid.measures._unions import signed_unions


@register("i_ccs_plugin")
def i_ccs_plugin(given: Given) -> Redundancy:
    """The redundancy in nats, value by value; 0 where a term is within rounding of zero, since it then has no sign."""
    largest = reduce(torch.maximum, [f.abs() for f in given.f.values()])
    zero = 64 * torch.finfo(largest.dtype).eps * largest  # a few roundings of sums of up to 2^n terms
    return lambda sets: common_change(given.f, sets, zero)


def common_change(f: Mapping[int, Tensor], sets: tuple[int, ...], zero: Tensor | float) -> Tensor:
    """r(``sets``) of f(S), elementwise; values up to ``zero`` have no sign."""
    if len(sets) == 1:
        return f[sets[0]]

    def sign(value: Tensor) -> Tensor:
        return torch.where(value.abs() > zero, value.sign(), 0)

    common: Tensor = sum(count * f[u] for u, count in signed_unions(sets))  # type: ignore[assignment]
    union = reduce(int.__or__, sets)
    agree = [sign(f[s]) == sign(common) for s in (*sets, union)]
    return torch.where(reduce(torch.logical_and, agree), common, 0)
