"""Partial information decomposition of a discrete joint distribution: the pointwise atoms of its points, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpid.checks import found, nats_in
from dpid.pid.atoms import Atoms
from dpid.pid.decomposition import check_count, find, solve
from dpid.pid.joint import marginal, others, points
from dpid.pid.measures import Given
from dpid.prompts.plan import check_concepts


def discrete(
    joint: Any,
    measure: str = "min",
    unit: str = "bits",
    *,
    concepts: Sequence[str] | None = None,
    coarse: bool = False,
) -> Atoms:
    """The atoms of the mutual information I(X; Y_1, …, Y_n): means of the pointwise atoms over p(y, x).

    A measure that needs priors gets those of ``joint``.

    Parameters
    ----------
    joint : probabilities p(y_1, …, y_n, x), an array with an axis for each variable, x last
    measure : a name of ``MEASURES``. "min" is the mean of pointwise minima, "mmi" the minimum of means over all points,
        "i_min" the mean over x of the minimum of means given x; "i_ccs" is Ince's, under the distribution of maximum
        entropy with the same pair marginals, and "i_ccs_plugin" its formula under ``joint`` itself
    unit : "bits" or "nats"
    concepts : names of y_1 … y_n; "y1", "y2", … by default
    coarse : as for :func:`dpid.pid.decompose`

    Raises
    ------
    ValueError
        ``joint`` is not a probability distribution of x and one to eight y; an unknown measure or unit; a wrong number
        of names, or one twice.
    TypeError
        ``joint`` is no array of real numbers, or ``concepts`` no sequence of texts.
    FloatingPointError
        "i_ccs" did not find the distribution of maximum entropy.
    """
    chosen, nats = find(measure), nats_in(unit)
    p = _distribution(joint)
    n = p.ndim - 1
    names = check_concepts(concepts) if concepts is not None else tuple(f"y{k + 1}" for k in range(n))
    if len(set(names)) != n:
        raise ValueError(f"concepts: found {names!r}, expected {n} different names, one for every axis but the last")
    if chosen.axis == "candidates":
        given, weight = _candidates(p)
    else:
        f, h, weight = points(p)
        given = Given(f, h)
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    if chosen.axis == "images":  # the measure itself averages: to one value
        given, weight = Given({s: v.unsqueeze(1) for s, v in given.f.items()}, {}, weight), one
    elif chosen.axis == "distribution":
        given, weight = Given({s: (weight @ v)[None] for s, v in given.f.items()}, {}, joint=p), one
    return solve(chosen, names, given, coarse=coarse).average(weight, 1 / nats, unit)


def _distribution(joint: Any) -> Tensor:
    """``joint`` as a float64 tensor; ``ValueError`` or ``TypeError`` unless it is a probability distribution."""
    try:
        kept = joint.cpu() if isinstance(joint, Tensor) else np.ascontiguousarray(joint)
        values = kept if isinstance(kept, Tensor) or np.iscomplexobj(kept) else kept.astype(np.float64)
        p = torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError) as error:
        raise TypeError(f"joint: found {found(joint)}, expected an array of probabilities") from error
    if p.is_complex():
        raise TypeError(f"joint: found {p.dtype}, expected an array of probabilities")
    p = p.double()
    if p.ndim < 2:
        raise ValueError(f"joint: found {p.ndim} dimension(s), expected one for every y and, last, one for x")
    check_count(p.ndim - 1)
    if not p.isfinite().all() or (p < 0).any():
        raise ValueError("joint: found a negative probability, NaN or infinity")
    if abs(float(p.sum()) - 1) > 1e-6:  # probabilities written with six digits
        raise ValueError(f"joint: the probabilities sum to {float(p.sum()):.6g}, expected 1")
    return p / p.sum()


def _candidates(p: Tensor) -> tuple[Given, Tensor]:
    """i(x; y_S) [V_S, X] and h(y_S) [V_S, 1] in nats of all values of y_S, and p(x) [X]."""
    n = p.ndim - 1
    p_x = p.sum(list(range(n)))
    f, h = {}, {}
    for s in range(1, 2**n):
        table = marginal(p, others(n, s)).reshape(-1, len(p_x))[:, p_x > 0]
        table = table[table.sum(1) > 0]
        p_y = table.sum(1, keepdim=True)
        h[s] = -p_y.log()
        f[s] = table.log() + h[s] - p_x[p_x > 0].log()  # -inf where y and x exclude each other
    return Given(f, h), p_x[p_x > 0]
