"""The redundancy measure ``i_min``: expected minimum of specific information (Williams & Beer, 2010).

The values of Y_S are a vocabulary of candidates with a prior (docs/theory.md, eq. (40)); with a single candidate the
measure is ``min``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.pid.measures import Given, Minima, register


@register("i_min", priors="candidates", axis="candidates")
def i_min(given: Given) -> Minima:
    """The minimum of specific information in nats, image by image; Williams & Beer's number is its mean over images.

    The leading axis of f, [V_S, *], runs over the candidates for y_S.
    """

    def specific(f: Tensor, h: Tensor) -> Tensor:
        posterior = (f - h).softmax(0)
        # An impossible candidate, i = -inf, contributes 0, not 0 · inf.
        return torch.where(posterior > 0, posterior * f, 0).sum(0)

    return Minima(((1, {s: specific(f, given.h[s]) for s, f in given.f.items()}),))
