"""Grids of log-SNRs: which part of the integral each of a network's trained levels stands for."""

from __future__ import annotations

import torch
from torch import Tensor


def ends(grid: Tensor) -> Tensor:
    """Where the cells of ascending log-SNRs ``grid`` [T] end, [T+1]: midway between two, and at the outermost two."""
    return torch.cat((grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]))


def cells(grid: Tensor) -> Tensor:
    """Trapezoid widths Δ_t [T] of ascending log-SNRs ``grid`` [T]; they sum to the range."""
    return ends(grid).diff()


def shares(logsnr: Tensor, grid: Tensor, edges: Tensor) -> Tensor:
    """What part of the cells of ``logsnr`` [N], levels of ``grid``, lies between neighbours of ``edges`` [L+1], [N,L].

    Trained levels are sparse at one end (Stable Diffusion's highest are 0.7 apart): a level stands for all of its cell.
    """
    level, bounds = torch.searchsorted(grid, logsnr), ends(grid)
    low, high = bounds[level, None], bounds[level + 1, None]
    return ((edges - low) / (high - low)).clamp(0, 1).diff(dim=1)
