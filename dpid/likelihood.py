"""The log-density log p(x | y) of latents, from denoising errors (Kong et al., 2023); docs/theory.md, eq. (55)."""

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
from dpid.prompts.plan import Plan, check_condition
from dpid.results.intervals import Estimate, estimates
from dpid.results.profile import tail_share
from dpid.run import Progress


@dataclass(frozen=True)
class Likelihood:
    """An estimate of log p(x | condition).

    Attributes
    ----------
    nats : log p(x | condition); the part of the integral outside the trained log-SNRs is missing
    bits_per_dimension : -log₂ p / d, where d is the number of latent values, not of pixels
    tails : orders of magnitude of the missing parts below and above the trained log-SNRs, nats; see
        :meth:`dpid.results.profile.Profile.tails`
    """

    nats: Estimate
    bits_per_dimension: Estimate
    tails: tuple[Estimate, Estimate]


def log_likelihood(
    denoiser: Denoiser, x: Tensor, condition: Any, options: Options, progress: Progress | None = None
) -> list[Likelihood]:
    """log p(x | condition) of each of the latents ``x`` [B,C,H,W], estimated from one round of samples.

    "shifted-grid" replaces the rules "auto", "adaptive" and "learning", whose density is learnt from differences
    between conditions. ``TypeError`` for a condition that is a tensor or not hashable.
    """
    condition = check_condition("condition", condition)
    grid, repeats = denoiser.logsnr_grid, options.repeats
    rule = "shifted-grid" if options.rule in ("auto", "adaptive", "learning") else options.rule
    samples = draw(
        rule, grid, options.per_replicate, repeats, torch.Generator().manual_seed(options.seed),
        antithetic=options.antithetic,
    )  # fmt: skip
    sums = evaluate(
        denoiser, x, (plan_of(condition),), samples, seed=options.seed,
        max_batch_size=options.max_batch_size, edges=profile_edges(grid, options.points, repeats), progress=progress,
    )  # fmt: skip
    return [_likelihood(sums.image(b), samples, grid, x[0].numel()) for b in range(len(x))]


def plan_of(condition: Any) -> Plan:
    """The plan that evaluates ``condition`` alone."""
    return Plan((), ((),), (condition,), (0,), 0)


def _likelihood(sums: Accumulator, samples: Samples, grid: Tensor, d: int) -> Likelihood:
    """That of one image of ``d`` latent values, from its ``sums`` over ``samples``."""
    residuals = sums.residuals[:, 0, 0].double().sum((-2, -1))
    # Summed over the same levels as the residuals, so that the discretisation error cancels.
    gaussian = d / 2 * float((cells(grid) * grid.sigmoid()).sum())
    density = -d / 2 * math.log(2 * math.pi * math.e) - (residuals - gaussian)
    nats, bits = estimates(torch.stack((density, -density / (d * math.log(2))), 1))
    return Likelihood(nats, bits, _tails(sums, samples, shares(samples.logsnr, grid, sums.edges.cpu()), d))


def _tails(sums: Accumulator, samples: Samples, spread: Tensor, d: int) -> tuple[Estimate, Estimate]:
    """Orders of magnitude of the parts below and above the trained log-SNRs, nats; docs/theory.md, eq. (55).

    They come from the outermost bins of the residual profile minus that of a standard Gaussian at the same ``samples``.
    ``spread`` [N,L]: the share of every sample in every bin; ``d``: the number of latent values.
    """
    profile = sums.residual_profile[..., 0, 0].double().cpu()  # [A, L]
    groups, repeats = len(profile), len(sums.residuals)
    gaussian = (d / 2 * samples.weight * samples.logsnr.sigmoid())[:, None] * spread
    excess = profile - torch.zeros_like(profile).index_add_(0, samples.replicate % groups, gaussian)
    outermost = excess[:, [0, -1]] * groups / repeats * tail_share(sums.edges)
    below, above = estimates(-outermost)
    return below, above
