"""Interaction information: whether redundancy or synergy prevails, without a redundancy measure."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dpid.pid.decomposition import read
from dpid.prompts.plan import Subset


def co_information(information: Mapping[Subset, Tensor | float]) -> Tensor:
    """The co-information [*] in nats (docs/theory.md, eq. (36)); for two concepts redundancy less synergy.

    ``information`` and errors as for :func:`dpid.pid.decompose`.
    """
    _, f = read(information)
    signed = [value if s.bit_count() % 2 else -value for s, value in f.items()]
    total: Tensor = sum(signed[1:], signed[0])
    return total


def o_information_gradient(information: Mapping[Subset, Tensor | float]) -> Tensor:
    """The gradient of the O-information [*] in nats: what x adds to that of the concepts (docs/theory.md, eq. (37)).

    Positive where redundancy prevails, negative where synergy does; for two concepts the co-information.
    ``information`` and errors as for :func:`dpid.pid.decompose`.
    """
    concepts, f = read(information)
    n, top = len(concepts), max(f)
    total = (1 - n) * f[top]
    for j in range(n):
        if top ^ (1 << j):
            total = total + f[top ^ (1 << j)]
    return total
