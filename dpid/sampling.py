"""Which log-SNRs, which noise, which weights.

The integral over log-SNR λ becomes a sum over the levels that the network was trained at, Σ_t Δ_t g(λ_t) with
trapezoid widths Δ_t: the noise level and the timestep given to the network then agree exactly. A replicate is one
randomly shifted grid over that sum, an unbiased estimate of it; both signs of each noise are used (antithetic).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """N evaluation points; Σ over a replicate's samples of weight · g(λ, ε) estimates ∫ E_ε g dλ.

    Attributes
    ----------
    logsnr : [N] float64
    weight : [N] float32
    replicate : [N] int64
    sample_id : [N] int64, see :func:`dpid.ops.noisy_channel`
    """

    logsnr: Tensor
    weight: Tensor
    replicate: Tensor
    sample_id: Tensor

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.logsnr[part], self.weight[part], self.replicate[part], self.sample_id[part])

    def to(self, device: torch.device) -> Samples:
        """The same samples on ``device``."""
        return Samples(*(t.to(device) for t in (self.logsnr, self.weight, self.replicate, self.sample_id)))


def cells(grid: Tensor) -> Tensor:
    """Trapezoid widths Δ_t [T] of ascending log-SNRs ``grid`` [T]; they sum to the range."""
    half = grid.diff() / 2
    zero = half.new_zeros(1)
    return torch.cat((zero, half)) + torch.cat((half, zero))


def shifted_grid(
    grid: Tensor, per_replicate: int, replicates: int, generator: torch.Generator, first_id: int = 0
) -> Samples:
    """Independent, randomly shifted, antithetic grids: equal steps of log-SNR, snapped to the trained levels.

    Parameters
    ----------
    grid : [T] float64, ascending log-SNRs
    per_replicate : samples of one replicate; even, since each noise is used with both signs
    replicates : G, each with its own shift and its own noise
    first_id : the noise of the call is numbered from here on
    """
    points = per_replicate // 2
    shift = torch.rand(replicates, 1, generator=generator, dtype=torch.float64)
    u = (torch.arange(points, dtype=torch.float64) + shift) / points  # [G, points]
    widths = cells(grid)
    edges = widths.cumsum(0)
    level = torch.searchsorted(edges, u.flatten() * edges[-1]).clamp(max=len(grid) - 1)
    # Level t is drawn with probability Δ_t / Σ Δ, so every sample carries the same weight.
    weight = torch.full((replicates * points * 2,), float(edges[-1]) / per_replicate)
    noise = torch.arange(first_id, first_id + replicates * points)
    replicate = torch.arange(replicates).repeat_interleave(points)
    pair = torch.stack((noise, ~noise), -1).flatten()
    return Samples(grid[level].repeat_interleave(2), weight, replicate.repeat_interleave(2), pair)
