"""Interaction informations: functions of f(S) = i(x; y_S) that need no redundancy measure."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dpid.pid.decomposition import read
from dpid.prompts.plan import Subset


def co_information(information: Mapping[Subset, Tensor | float]) -> Tensor:
    """c = Σ_{∅ ≠ S} (-1)^(|S|+1) f(S), [*] (McGill, 1954); for two concepts r - s.

    ``information`` as for :func:`dpid.pid.decompose`, whose errors are raised.
    """
    _, f = read(information)
    signed = [value if s.bit_count() % 2 else -value for s, value in f.items()]
    total: Tensor = sum(signed[1:], signed[0])
    return total


def o_information_gradient(information: Mapping[Subset, Tensor | float]) -> Tensor:
    """ΔΩ = (1 - n) f([n]) + Σ_j f([n] \\ j), [*]: what x adds to the O-information of the concepts.

    Positive where redundancy prevails, negative for synergy; for two concepts the co-information (Scagliarini et al.,
    2023). ``information`` as for :func:`dpid.pid.decompose`, whose errors are raised.
    """
    concepts, f = read(information)
    n, whole = len(concepts), max(f)
    total = (1 - n) * f[whole]
    for j in range(n):
        if whole ^ (1 << j):
            total = total + f[whole ^ (1 << j)]
    return total
