"""From accumulated squares to the set function f(S) = i(x; y_S), by three estimators (nats per latent pixel).

With g(i, j) = ½∫E(ε̂_i - ε̂_j)² dλ and h(k) = ½∫E(ε - ε̂_k)² dλ, ∅ the null and F the reference
(by default the condition of all concepts):

- ``standard``       iˢ(S) = h(∅) - h(S): the exact pointwise log-density ratio at the optimum; noisy.
- ``orthogonal``     i°(S) = g(∅, S): low variance, ≥ 0, equal to iˢ only on average (Kong et al., 2023, eq. 3).
- ``rao-blackwell``  iʳ(S) = g(F, ∅) - g(F, S): iˢ with the raw noise integrated out under F. Signed, obeys the chain
  rule, nearly as quiet as i°. If ε̂_F = E[ε | x_λ, F], the conditional variance of ε cancels in
  E[½(‖ε-ε̂_∅‖² - ‖ε-ε̂_S‖²) | x_λ, F] = ½(‖ε̂_F-ε̂_∅‖² - ‖ε̂_F-ε̂_S‖²), so both have one mean over p(x | F).

A mix iʳ + w (iˢ - iʳ) has that mean as well, and the less the network knows of F, the better it is for maps. No one w
serves all models: the noise of iˢ - iʳ is uncorrelated with that of iʳ and goes as ε̂_∅ - ε̂_S, that of iʳ as its square.
Maps therefore take w from the picture's own replicates (:func:`dpid.results.maps.shrunk`); sums are those of iʳ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.estimation.engine import Accumulator, integrate
from dpid.estimation.sampling import Samples
from dpid.prompts.plan import Plan

ESTIMATORS = ("rao-blackwell", "standard", "orthogonal")
SIGNED = ESTIMATORS[:2]  # those that obey the chain rule


def are_squares(estimator: str, conditions: Sequence[Any], full: Any) -> list[bool]:
    """Which f(S) are integrals of squares, given the condition of every S and F: i°, and iʳ where the two agree."""
    return [estimator == "orthogonal" or (estimator == "rao-blackwell" and c == full) for c in conditions]


def needed_pairs(plans: Sequence[Plan]) -> Tensor:
    """Pairs of condition indices [P,2] whose gaps the estimators need: (∅, S) and (F, S) of every plan, each once."""
    wanted = {
        tuple(sorted((end, k))) for p in plans for end in (p.index[0], p.full) for k in p.index if k != end
    }  # fmt: skip
    return torch.tensor(sorted(wanted) or [(0, 0)])


def evaluate(
    denoiser: Denoiser, x: Tensor, plans: Sequence[Plan], samples: Samples, *, seed: int,
    max_batch_size: int | None = None, edges: Tensor | None = None,
) -> Accumulator:  # fmt: skip
    """What one pass over ``samples`` accumulates for ``plans``, which share their texts, on latents ``x`` [B,C,H,W].

    Raises as :func:`dpid.estimation.engine.integrate`.
    """
    replicates, texts = int(samples.replicate.max()) + 1, plans[0].texts
    sums = Accumulator.empty(x, replicates, len(texts), needed_pairs(plans), edges)
    encoded = denoiser.encode_conditions(texts)
    integrate(denoiser, x, encoded, samples, sums, seed=seed, max_batch_size=max_batch_size)
    return sums


def set_function(sums: Accumulator, plan: Plan, rounds: int = 1) -> dict[str, Tensor]:
    """f(S) of every estimator: float64 [G, S, B, H, W], S over the non-empty subsets in the order of ``plan``.

    ``rounds`` divides the sums: how many times every replicate was sampled.
    """
    return _estimators(sums.gaps.double() / rounds, sums.residuals.double() / rounds, sums.pairs, plan)


def set_profile(sums: Accumulator, plan: Plan, rounds: int = 1) -> dict[str, Tensor]:
    """f(S) of the image in every bin of log-SNR, by every estimator: float64 [A, S, B, L]; its sum over L is f(S).

    A as of :func:`dpid.estimation.engine.profile_groups`.
    """
    rounds *= len(sums.gaps) // len(sums.gap_profile)
    gaps, residuals = (t.double().permute(0, 2, 3, 1) / rounds for t in (sums.gap_profile, sums.residual_profile))
    return _estimators(gaps, residuals, sums.pairs, plan)


def _estimators(gaps: Tensor, residuals: Tensor, pairs: Tensor, plan: Plan) -> dict[str, Tensor]:
    """``gaps`` [G, P, *] and ``residuals`` [G, K, *] -> {estimator: [G, S, *]}."""
    at = {tuple(pair): p for p, pair in enumerate(pairs.tolist())}

    def gap(i: int, j: int) -> Tensor:
        return torch.zeros_like(gaps[:, 0]) if i == j else gaps[:, at[min(i, j), max(i, j)]]

    null, full = plan.index[0], plan.full
    rows = {
        "rao-blackwell": [gap(full, null) - gap(full, k) for k in plan.index[1:]],
        "standard": [residuals[:, null] - residuals[:, k] for k in plan.index[1:]],
        "orthogonal": [gap(null, k) for k in plan.index[1:]],
    }
    return {name: torch.stack(f, 1) for name, f in rows.items()}
