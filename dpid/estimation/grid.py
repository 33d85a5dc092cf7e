"""Cells of a grid of log-SNRs: the part of the integral that each trained level of a network represents."""

from __future__ import annotations

import torch
from torch import Tensor


def ends(grid: Tensor) -> Tensor:
    """The ends e [T+1] of the cells of ascending log-SNRs ``grid`` [T]; docs/theory.md, eq. (13)."""
    return torch.cat((grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]))


def cells(grid: Tensor) -> Tensor:
    """The widths Δ [T] of the cells of ascending log-SNRs ``grid`` [T]; docs/theory.md, eq. (13)."""
    return ends(grid).diff()


def shares(logsnr: Tensor, grid: Tensor, edges: Tensor) -> Tensor:
    """The share [N,L] of the cell of every level ``logsnr`` [N] of ``grid`` that lies in every bin of ``edges`` [L+1].

    A cell may reach into several bins: Stable Diffusion's highest levels are 0.7 apart.
    """
    level, bounds = torch.searchsorted(grid, logsnr), ends(grid)
    low, high = bounds[level, None], bounds[level + 1, None]
    return ((edges - low) / (high - low)).clamp(0, 1).diff(dim=1)
