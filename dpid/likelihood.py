"""The log-density itself, by the pointwise I-MMSE relation (Kong et al., 2023, eq. 8).

log p(x | y) = -(d/2) ln(2πe) - ½ ∫ (E_ε‖ε - ε̂_λ(x_λ | y)‖² - d σ(λ)) dλ
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dpid.estimates import Estimate
from dpid.pid import mean_stderr
from dpid.sampling import cells


@dataclass(frozen=True)
class Likelihood:
    """log p(x | condition).

    Attributes
    ----------
    nats : of all latents; the part of the integral outside the trained log-SNRs is not in it
    bits_per_dimension : -log₂ p / d, of a latent's dimensions, not of a picture's pixels
    """

    nats: Estimate
    bits_per_dimension: Estimate


def likelihood(residuals: Tensor, dimensions: int, grid: Tensor) -> Likelihood:
    """From replicates of ½∫E(ε - ε̂)² dλ per pixel, [G, h, w], on the log-SNRs ``grid`` [T]."""
    # The Gaussian's part by the same trapezoid, so that its error cancels.
    gaussian = dimensions / 2 * float((cells(grid) * grid.sigmoid()).sum())
    value = -dimensions / 2 * math.log(2 * math.pi * math.e) - (residuals.double().sum((-2, -1)) - gaussian)
    mean, error = (float(t) for t in mean_stderr(value))
    scale = 1 / (dimensions * math.log(2))
    dof = len(residuals) - 1
    return Likelihood(Estimate(mean, error, dof), Estimate(-mean * scale, error * scale, dof))
