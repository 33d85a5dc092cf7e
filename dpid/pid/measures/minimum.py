"""The redundancy measure ``min``, the default: pointwise minimum (docs/theory.md, eq. (38))."""

from __future__ import annotations

from dpid.pid.measures import Given, Minima, register


@register("min")
def minimum(given: Given) -> Minima:
    """The minimum of i(x; y_S) over the sets of an antichain, value by value; negative where a concept misleads."""
    return Minima(((1, given.f),))
