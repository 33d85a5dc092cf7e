"""The probability with which each rule draws a level of log-SNR, and the learnt density of rule "adaptive"."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor

from dpid.estimation.grid import cells, ends

_LOCATION, _SCALE = 1.0, 2.0  # of the logistic density of ITD (Kong et al., 2023)


def proposal(rule: str, grid: Tensor, widths: Tensor, density: Tensor | None) -> Tensor:
    """Probability q [T] with which ``rule`` draws every level of ``grid`` [T]; docs/theory.md, eq. (14) and its table.

    ``widths`` [T] are those of the levels' cells. ``density`` [T] is for "adaptive"; ``ValueError`` if it is missing,
    not positive, or of the wrong length.
    """
    if rule == "logistic":
        return logistic_density(grid)
    if rule != "adaptive":
        return widths / widths.sum()
    if density is None or density.shape != grid.shape or not (density > 0).all() or not density.isfinite().all():
        found = None if density is None else tuple(density.shape)
        raise ValueError(f"density: found {found}, expected {len(grid)} positive numbers, one a level")
    q = density.double() * widths
    return q / q.sum()


def checksum_of(density: Tensor) -> str:
    """A checksum of a learnt density, 8 hex digits."""
    return f"{crc32(density.detach().double().cpu().numpy().tobytes()):08x}"


def logistic_density(grid: Tensor) -> Tensor:
    """Probability [T] of the levels of ``grid`` under ITD's logistic density, cut off at the ends of the grid."""
    mass = ((ends(grid) - _LOCATION) / _SCALE).sigmoid().diff()
    return mass / mass.sum()


def learn_density(profiles: Sequence[Tensor], edges: Tensor, grid: Tensor, even: float) -> Tensor:
    """The density [T] of rule "adaptive" at the levels of ``grid`` that minimises the variance on pictures seen before.

    docs/theory.md, eq. (17). It integrates to one over log-SNR.

    Parameters
    ----------
    profiles : i(x; y_S) in L bins of log-SNR, nats, for every picture and estimator: [A,S,L], A groups of replicates
    edges : of the bins, [L+1]
    grid : the log-SNRs of the model, ascending [T]
    even : κ of eq. (17), the share of samples spread evenly; the less reliable the profiles, the larger it should be
    """
    squares = [f.double().var(0) for f in profiles]
    size = torch.stack([(s / (s.mean(1, keepdim=True) + 1e-24)).mean(0) for s in squares]).mean(0).sqrt()
    padded = torch.cat((size[:1], size, size[-1:]))
    size = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4 + 1e-12
    q = size[torch.bucketize(grid, edges[1:-1])]
    return (1 - even) * q / (q * cells(grid)).sum() + even / (grid[-1] - grid[0])
