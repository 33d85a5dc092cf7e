"""``i_min``: the expected minimum of specific information (Williams & Beer, 2010).

r(α; x) = min_{S ∈ α} I(x; Y_S), I(x; Y_S) = Σ_y p(y | x) log p(x | y)/p(x) = E_{p(y_S | x)} i(x; y_S). The values
of Y_S are a vocabulary of candidates with prior p(y), and p(y | x) ∝ p(y) e^{i(x; y)}. With one candidate it is
``min``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.pid.measures import Given, Minima, register


@register("i_min", priors="candidates", axis="candidates")
def i_min(given: Given) -> Minima:
    """The leading axis [V_S] runs over the candidates of y_S; Williams & Beer's number is the mean over images x."""

    def specific(f: Tensor, h: Tensor) -> Tensor:
        posterior = (f - h).softmax(0)
        # An impossible candidate, i = -inf, counts nothing.
        return torch.where(posterior > 0, posterior * f, 0).sum(0)

    return Minima(((1, {s: specific(f, given.h[s]) for s, f in given.f.items()}),))
