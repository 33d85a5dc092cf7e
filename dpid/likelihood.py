"""The log-density itself, by the pointwise I-MMSE relation (Kong et al., 2023, eq. 8).

log p(x | y) = -(d/2) ln(2πe) - ½ ∫ (E_ε‖ε - ε̂_λ(x_λ | y)‖² - d σ(λ)) dλ
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dpid.engine import Accumulator
from dpid.estimates import Estimate, beyond
from dpid.pid import mean_stderr
from dpid.sampling import cells


@dataclass(frozen=True)
class Likelihood:
    """log p(x | condition).

    Attributes
    ----------
    nats : of all latents; the part of the integral outside the trained log-SNRs is not in it
    bits_per_dimension : -log₂ p / d, of a latent's dimensions, not of a picture's pixels
    tails : about what lies below and above those log-SNRs would add, nats; taken from the ends as by
        :meth:`dpid.estimates.Profile.tails`, an order of magnitude
    """

    nats: Estimate
    bits_per_dimension: Estimate
    tails: tuple[Estimate, Estimate]


def likelihood(sums: Accumulator, dimensions: int, grid: Tensor) -> Likelihood:
    """From ½∫E(ε - ε̂)² dλ under one condition, of latents of ``dimensions`` numbers, on the log-SNRs ``grid`` [T]."""
    residuals, edges = sums.residuals[:, 0, 0].double(), sums.edges
    groups = len(sums.residual_profile)
    profile = sums.residual_profile[..., 0, 0].double() * groups / len(residuals)  # [A, L]
    # The Gaussian's part by the same trapezoid, so that its error cancels.
    gaussian = dimensions / 2 * float((cells(grid) * grid.sigmoid()).sum())
    value = -dimensions / 2 * math.log(2 * math.pi * math.e) - (residuals.sum((-2, -1)) - gaussian)
    mean, error = (float(t) for t in mean_stderr(value))
    scale = 1 / (dimensions * math.log(2))
    dof = len(residuals) - 1
    excess = profile - dimensions / 2 * torch.nn.functional.softplus(edges).diff()  # σ is the derivative of softplus
    below, above = (
        Estimate(-float(m), float(e), groups - 1)
        for m, e in zip(*mean_stderr(excess[:, [0, -1]] * beyond(edges)), strict=True)
    )
    return Likelihood(Estimate(mean, error, dof), Estimate(-mean * scale, error * scale, dof), (below, above))
