"""The log-density itself, by the pointwise I-MMSE relation (Kong et al., 2023, eq. 8).

log p(x | y) = -(d/2) ln(2πe) - ½ ∫ (E_ε‖ε - ε̂_λ(x_λ | y)‖² - d σ(λ)) dλ
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.estimation.engine import Accumulator, profile_edges
from dpid.estimation.estimators import evaluate
from dpid.estimation.grid import cells, shares
from dpid.estimation.sampling import Samples, draw
from dpid.options import Options
from dpid.pid import mean_stderr
from dpid.prompts.plan import Plan, check_condition
from dpid.results.intervals import Estimate
from dpid.results.profile import tail_share


@dataclass(frozen=True)
class Likelihood:
    """log p(x | condition).

    Attributes
    ----------
    nats : of all latents; the part of the integral outside the trained log-SNRs is not in it
    bits_per_dimension : -log₂ p / d, of a latent's dimensions, not of a picture's pixels
    tails : about what lies below and above those log-SNRs would add, nats; taken from the ends as by
        :meth:`dpid.results.profile.Profile.tails`, an order of magnitude
    """

    nats: Estimate
    bits_per_dimension: Estimate
    tails: tuple[Estimate, Estimate]


def log_likelihood(denoiser: Denoiser, x: Tensor, condition: Any, options: Options) -> Likelihood:
    """log p(x | condition) of latents ``x`` [1,C,H,W]: one round of samples, of a grid where no rule is asked for.

    There is no gap between conditions for "adaptive" to adapt to.
    """
    condition = check_condition("condition", condition)
    grid, repeats = denoiser.logsnr_grid, options.repeats
    rule = "shifted-grid" if options.rule in ("auto", "adaptive", "pilot") else options.rule
    samples = draw(
        rule, grid, options.per_replicate, repeats, torch.Generator().manual_seed(options.seed),
        antithetic=options.antithetic,
    )  # fmt: skip
    sums = evaluate(
        denoiser, x, (Plan((), ((),), (condition,), (0,), 0),), samples, seed=options.seed,
        max_batch_size=options.max_batch_size, edges=profile_edges(grid, options.points, repeats),
    )  # fmt: skip
    d, residuals = x[0].numel(), sums.residuals[:, 0, 0].double().sum((-2, -1))
    # The Gaussian's part by the same trapezoid, so that its error cancels.
    gaussian = d / 2 * float((cells(grid) * grid.sigmoid()).sum())
    mean, error = (float(t) for t in mean_stderr(-d / 2 * math.log(2 * math.pi * math.e) - (residuals - gaussian)))
    bits = 1 / (d * math.log(2))
    return Likelihood(
        Estimate(mean, error, repeats - 1), Estimate(-mean * bits, error * bits, repeats - 1),
        _tails(sums, samples, shares(samples.logsnr, grid, sums.edges.cpu()), d),
    )  # fmt: skip


def _tails(sums: Accumulator, samples: Samples, spread: Tensor, d: int) -> tuple[Estimate, Estimate]:
    """From the outermost bins of the profile, over those of a white Gaussian at the very same ``samples``."""
    profile = sums.residual_profile[..., 0, 0].double().cpu()  # [A, L]
    groups, repeats = len(profile), len(sums.residuals)
    gaussian = (d / 2 * samples.weight * samples.logsnr.sigmoid())[:, None] * spread
    excess = profile - torch.zeros_like(profile).index_add_(0, samples.replicate % groups, gaussian)
    outermost = excess[:, [0, -1]] * groups / repeats * tail_share(sums.edges)
    below, above = (
        Estimate(-float(mean), float(error), groups - 1) for mean, error in zip(*mean_stderr(outermost), strict=True)
    )
    return below, above
