"""The redundancy measure ``mmi``: minimum of mutual informations (Barrett, 2015; docs/theory.md, eq. (39))."""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.pid.measures import Given, Minima, register


@register("mmi", axis="images")
def mmi(given: Given) -> Minima:
    """The minimum of the means of i(x; y_S) over the images, the leading axis; a number is such a mean already."""

    def average(f: Tensor) -> Tensor:
        if not f.ndim:
            return f
        return f.mean(0) if given.weight is None else torch.tensordot(given.weight, f, 1)

    return Minima(((1, {s: average(f) for s, f in given.f.items()}),))
