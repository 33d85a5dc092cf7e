"""``ppid``: pointwise partial information (Finn & Lizier, 2018), specificity minus ambiguity.

r(α) = r⁺ - r⁻, r⁺ = min_{S ∈ α} h(y_S), r⁻ = min_{S ∈ α} h(y_S | x), h(y_S | x) = h(y_S) - i(x; y_S). With equal
priors of two concepts it is max(i(x; y1), i(x; y2)), not their minimum; in general max(i1, i2 - (h2 - h1)) for h1 ≤ h2.
"""

from __future__ import annotations

from dpid.pid.measures import Given, Minima, register


@register("ppid", priors="subsets")
def ppid(given: Given) -> Minima:
    """Elementwise. The prior of all concepts together falls out: only the top of the lattice holds it."""
    ambiguity = {s: given.h[s] - f for s, f in given.f.items()}
    specificity = {s: h.expand_as(ambiguity[s]) for s, h in given.h.items()}
    return Minima(((1, specificity), (-1, ambiguity)))
