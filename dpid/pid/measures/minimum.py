"""``min``: the pointwise minimum, r(α) = min_{S ∈ α} i(x; y_S) (pointwise form of Barrett, 2015)."""

from __future__ import annotations

from dpid.pid.measures import Given, Minima, register


@register("min")
def minimum(given: Given) -> Minima:
    """Elementwise: image by image, pixel by pixel. Negative where a concept misleads."""
    return Minima(((1, given.f),))
