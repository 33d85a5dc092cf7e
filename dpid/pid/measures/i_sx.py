"""``i_sx``: shared exclusions (Makkeh, Gutknecht & Wibral, 2021).

r(α) = log p(x | ∨_{S ∈ α} y_S)/p(x) = log [Σ_J (-1)^(|J|+1) p(y_{∪J}) e^{i(x; y_{∪J})} / Σ_J (-1)^(|J|+1) p(y_{∪J})],
J over the non-empty subsets of α. Differentiable; for rare concepts that exclude each other a prior-weighted soft
maximum.
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
    """Elementwise.

    The probability of a union lies between the largest and the sum of its members' (Boole, Fréchet). Estimates that
    break this, i(x; y2 | y1) > h(y2 | y1), are held at the bound, so that the logarithm exists.
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
    # A conjunction is at most as probable as its parts: a larger one is held at theirs, and cannot overflow.
    total: Tensor = sum(count * (log_p[u] - largest).clamp(max=0).exp() for u, count in signed_unions(sets))  # type: ignore[assignment]
    return largest + torch.minimum(total.clamp(min=1), most).log()
