"""``mmi``: the minimum of the averages, r(α) = min_{S ∈ α} E_x i(x; y_S) (Barrett, 2015, for Gaussians)."""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.pid.measures import Given, Minima, register


@register("mmi", axis="images")
def mmi(given: Given) -> Minima:
    """The average is over the leading axis, the images; a number is taken to be the average already."""

    def average(f: Tensor) -> Tensor:
        if not f.ndim:
            return f
        return f.mean(0) if given.weight is None else torch.tensordot(given.weight, f, 1)

    return Minima(((1, {s: average(f) for s, f in given.f.items()}),))
