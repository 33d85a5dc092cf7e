"""Estimators of the set function f(S) = i(x; y_S) from accumulated squares, in nats per latent pixel.

- ``standard`` iˢ, docs/theory.md, eq. (7): at the optimum the pointwise log-density ratio; noisy.
- ``orthogonal`` i°, docs/theory.md, eq. (9): never negative, of low variance, equal to iˢ on average only.
- ``rao-blackwell`` iʳ, docs/theory.md, eq. (11): iˢ with the noise averaged out under the reference F, by default the
  condition of all concepts. Signed, obeys the chain rule, of nearly as low variance as i°.

- ``shrinkage`` iʳ + w (iˢ - iʳ), docs/theory.md, eq. (12a), the default. iʳ counts out what the network has not
  learned of F; iˢ does not, but is noisy. No fixed weight w suits all models: the noise of iˢ - iʳ is uncorrelated with
  that of iʳ and proportional to ε̂_∅ - ε̂_S, that of iʳ to its square. So w is estimated from the replicates of each
  picture, by :mod:`dpid.results.shrinkage`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.estimation.engine import Accumulator, encoded, integrate
from dpid.estimation.sampling import Samples
from dpid.prompts.plan import Plan

MEASURED = ("rao-blackwell", "standard", "orthogonal")  # those that one pass accumulates
SIGNED = MEASURED[:2]  # those of them that obey the chain rule
ESTIMATORS = ("shrinkage", *MEASURED)  # the default first; it is a mix of the signed ones


def are_squares(estimator: str, conditions: Sequence[Any], full: Any) -> list[bool]:
    """Whether ``estimator`` of every f(S) is an integral of squares: so is i°, and iʳ if S has the condition F.

    ``conditions`` are those of every S, ``full`` is F.
    """
    return [estimator == "orthogonal" or (estimator == "rao-blackwell" and c == full) for c in conditions]


def needed_pairs(plans: Sequence[Plan]) -> Tensor:
    """The pairs of condition indices [P,2] of all g that the estimators need, without repetition: (∅, S) and (F, S)."""
    wanted = {
        tuple(sorted((end, k))) for p in plans for end in (p.index[0], p.full) for k in p.index if k != end
    }  # fmt: skip
    return torch.tensor(sorted(wanted) or [(0, 0)])


def evaluate(
    denoiser: Denoiser, x: Tensor, plans: Sequence[Plan], samples: Samples, *, seed: int,
    max_batch_size: int | None = None, edges: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Accumulator:  # fmt: skip
    """The sums of one pass over ``samples`` for latents ``x`` [B,C,H,W] and all conditions of ``plans``.

    The plans share one list of texts. ``edges`` [L+1] are those of the profile's bins; ``progress`` is called with
    (evaluations done, evaluations planned) after every call of the denoiser. Other arguments and errors are those of
    :func:`dpid.estimation.engine.integrate`.
    """
    replicates, texts = int(samples.replicate.max()) + 1, plans[0].texts
    sums = Accumulator.empty(x, replicates, len(texts), needed_pairs(plans), edges)
    conditions = encoded(denoiser, texts)

    def told() -> None:
        if progress:
            progress(sums.evaluations * len(x), len(samples.logsnr) * len(texts) * len(x))

    integrate(denoiser, x, conditions, samples, sums, seed=seed, max_batch_size=max_batch_size, on_batch=told)
    return sums


def set_function(sums: Accumulator, plan: Plan, rounds: int = 1) -> dict[str, Tensor]:
    """f(S) by every estimator, {name: float64 [G,S,B,H,W]} in nats, S over the non-empty subsets in order of ``plan``.

    ``rounds``: how many times every replicate was sampled; the sums are divided by it.
    """
    return _estimators(sums.gaps.double() / rounds, sums.residuals.double() / rounds, sums.pairs, plan)


def set_profile(sums: Accumulator, plan: Plan, rounds: int) -> dict[str, Tensor]:
    """f(S) of the image in every bin of log-SNR, {estimator: float64 [A,S,B,L]} in nats; summed over L it is f(S).

    A is :func:`dpid.estimation.engine.profile_groups`, ``rounds`` as for :func:`set_function`.
    """
    rounds *= len(sums.gaps) // len(sums.gap_profile)
    gaps, residuals = (t.double().permute(0, 2, 3, 1) / rounds for t in (sums.gap_profile, sums.residual_profile))
    return _estimators(gaps, residuals, sums.pairs, plan)


def integrands(squares: tuple[Tensor, Tensor], pairs: Tensor, plan: Plan) -> dict[str, Tensor]:
    """The integrand of f(S) of the image at every sample, {estimator: float64 [N,S,B]} in nats a unit of log-SNR.

    ``squares`` [N,P,B] and [N,K,B] are those of :func:`dpid.estimation.engine.integrate`, of ``pairs`` [P,2].
    """
    return _estimators(squares[0].double(), squares[1].double(), pairs, plan)


def orthogonality(sums: Accumulator, plan: Plan, rounds: int) -> Tensor:
    """½ E ε̂·(ε - ε̂) and ½ E ‖ε - ε̂‖² under F, integrated over every bin of log-SNR: float64 [A,2,B,L].

    Their ratio is zero for a posterior mean; docs/theory.md, eq. (64). A and ``rounds`` are those of
    :func:`set_profile`.
    """
    rounds *= len(sums.gaps) // len(sums.gap_profile)
    parts = (sums.product_profile, sums.residual_profile)
    return torch.stack([part[:, :, plan.full].double() for part in parts], 1).transpose(2, 3) / rounds


def _estimators(gaps: Tensor, residuals: Tensor, pairs: Tensor, plan: Plan) -> dict[str, Tensor]:
    """{estimator: f(S) [G,S,*]} from ``gaps`` [G,P,*] of ``pairs`` [P,2] and ``residuals`` [G,K,*]."""
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
