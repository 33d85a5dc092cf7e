"""The redundancy measure ``i_ccs``: common change in surprisal (Ince, 2017), of a joint distribution.

r(α) = E_q c(α), with c(α), the co-information of the sets of α and x where all changes of surprisal have one sign, as
in :mod:`dpid.pid.measures.i_ccs_plugin`. q(y_{∪α}, x) has the largest entropy of those with p's marginals of
(y_S, x) for every S ∈ α, and of y_{∪α}.
"""

from __future__ import annotations

from functools import reduce

from torch import Tensor

from dpid.pid.joint import marginal, others, points
from dpid.pid.lattice import members
from dpid.pid.measures import Given, Redundancy, register
from dpid.pid.measures._maximum_entropy import maximum_entropy
from dpid.pid.measures.i_ccs_plugin import common_change

_ZERO = 1e-8  # nats; q is found to 1e-10, and what p makes zero must stay without a sign


@register("i_ccs", axis="distribution")
def i_ccs(given: Given) -> Redundancy:
    """The redundancy in nats [1], on average over the distribution ``given.joint``."""
    p = given.joint
    assert p is not None
    n = p.ndim - 1

    def redundancy(sets: tuple[int, ...]) -> Tensor:
        if len(sets) == 1:
            return given.f[sets[0]]
        union = reduce(int.__or__, sets)
        of_sets = marginal(p, others(n, union))
        q = maximum_entropy(of_sets, [{*members(union)}, *({*members(s), n} for s in sets)])
        f, _, weight = points(q)
        return (weight @ common_change(f, sets, _ZERO)).reshape(given.f[sets[0]].shape)

    return redundancy
