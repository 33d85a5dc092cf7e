"""From accumulated squares to the set function f(S) = i(x; y_S), by three estimators (nats per latent pixel).

With g(i, j) = ½∫E(ε̂_i - ε̂_j)² dλ and h(k) = ½∫E(ε - ε̂_k)² dλ, ∅ the null and F the condition of all concepts:

- ``standard``       iˢ(S) = h(∅) - h(S): the exact pointwise log-density ratio at the optimum; noisy.
- ``orthogonal``     i°(S) = g(∅, S): low variance, ≥ 0, equal to iˢ only on average (Kong et al., 2023, eq. 3).
- ``rao-blackwell``  iʳ(S) = g(F, ∅) - g(F, S): iˢ with the raw noise integrated out under F. Signed, obeys the chain
  rule, nearly as quiet as i°. If ε̂_F = E[ε | x_λ, F], the conditional variance of ε cancels in
  E[½(‖ε-ε̂_∅‖² - ‖ε-ε̂_S‖²) | x_λ, F] = ½(‖ε̂_F-ε̂_∅‖² - ‖ε̂_F-ε̂_S‖²), so both have one mean over p(x | F).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.conditions import Plan
from dpid.engine import Accumulator

ESTIMATORS = ("rao-blackwell", "standard", "orthogonal")


def needed_pairs(plan: Plan) -> Tensor:
    """Pairs of condition indices [P,2] whose gaps the estimators need: (∅, S) and (F, S), each once."""
    null, full = plan.index[0], plan.index[-1]
    wanted = {tuple(sorted((end, k))) for end in (null, full) for k in plan.index if k != end}
    return torch.tensor(sorted(wanted) or [(null, full)])


def set_function(sums: Accumulator, plan: Plan, rounds: int = 1) -> dict[str, Tensor]:
    """f(S) of every estimator: float64 [G, S, B, H, W], S over the non-empty subsets in the order of ``plan``.

    ``rounds`` divides the sums: how many times every replicate was sampled.
    """
    gaps, residuals = sums.gaps.double() / rounds, sums.residuals.double() / rounds
    at = {tuple(pair): p for p, pair in enumerate(sums.pairs.tolist())}

    def gap(i: int, j: int) -> Tensor:
        return torch.zeros_like(gaps[:, 0]) if i == j else gaps[:, at[min(i, j), max(i, j)]]

    null, full = plan.index[0], plan.index[-1]
    rows = {
        "rao-blackwell": [gap(full, null) - gap(full, k) for k in plan.index[1:]],
        "standard": [residuals[:, null] - residuals[:, k] for k in plan.index[1:]],
        "orthogonal": [gap(null, k) for k in plan.index[1:]],
    }
    return {name: torch.stack(f, 1) for name, f in rows.items()}
