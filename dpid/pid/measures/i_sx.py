"""The redundancy measure ``i_sx``: shared exclusions (Makkeh, Gutknecht & Wibral, 2021; docs/theory.md, eq. (43)).

It is differentiable. For rare concepts that exclude each other it is a soft maximum weighted by the priors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from dpid.pid.measures import Given, Redundancy, register
from dpid.pid.measures._unions import signed_unions


@register("i_sx", priors="joint")
def i_sx(given: Given) -> Redundancy:
    """The redundancy in nats, value by value.

    The probability of a union lies between the largest of its members' and their sum (Boole, Fréchet). Estimates
    outside this range, i(x; y2 | y1) > h(y2 | y1), are clamped to it, so that the logarithm exists.
    """
    prior = {s: -h for s, h in given.h.items()}
    posterior = {s: f - given.h[s] for s, f in given.f.items()}

    def redundancy(sets: tuple[int, ...]) -> Tensor:
        if len(sets) == 1:
            return given.f[sets[0]]
        return _log_union(posterior, sets) - _log_union(prior, sets)

    return redundancy


def _log_union(log_p: Mapping[int, Tensor], sets: tuple[int, ...]) -> Tensor:
    """log p(∨ y_S) from log p(y_S), relative to the most probable set of ``sets``."""
    members = [log_p[s] for s in sets]
    largest = reduce(torch.maximum, members)
    most = reduce(torch.add, [(m - largest).exp() for m in members])
    # A conjunction is at most as probable as its parts. Clamping enforces that, and keeps exp from overflowing.
    total: Tensor = sum(count * (log_p[u] - largest).clamp(max=0).exp() for u, count in signed_unions(sets))  # type: ignore[assignment]
    return largest + torch.minimum(total.clamp(min=1), most).log()
