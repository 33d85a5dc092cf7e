"""The redundancy measure ``ppid``: specificity less ambiguity (Finn & Lizier, 2018; docs/theory.md, eq. (42)).

With equal priors of two concepts it is the maximum of i(x; y1) and i(x; y2), not their minimum.
"""

from __future__ import annotations

from dpid.pid.measures import Given, Minima, register


@register("ppid", priors="subsets")
def ppid(given: Given) -> Minima:
    """Specificity less ambiguity in nats, value by value.

    The prior of all concepts together cancels: it occurs in the top node alone, in both terms.
    """
    ambiguity = {s: given.h[s] - f for s, f in given.f.items()}
    specificity = {s: h.expand_as(ambiguity[s]) for s, h in given.h.items()}
    return Minima(((1, specificity), (-1, ambiguity)))
